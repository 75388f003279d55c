//! Time limits and pauses that work on both kinds of host: a process with tokio, and the edge, where
//! JavaScript has the timers.

use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
pub use std::time::Instant;

/// What comes of it in this time. What is not ready then is given up.
#[cfg(not(target_arch = "wasm32"))]
pub async fn timeout<T>(limit: Duration, call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, call).await.ok()
}

/// A pause.
#[cfg(not(target_arch = "wasm32"))]
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// What comes of it in this time. What is not ready then is given up, which aborts its `fetch`. The limit
/// that reqwest has does not do here: an answer that stops in the middle outlived it.
///
/// Whatever leaves an isolate goes through here, and what JavaScript holds is not [`Send`] by itself.
#[cfg(target_arch = "wasm32")]
pub fn timeout<T>(limit: Duration, call: impl Future<Output = T>) -> impl Future<Output = Option<T>> + Send {
    use futures::future::{Either, select};
    // An isolate has one thread.
    worker::send::SendFuture::new(async move {
        match select(std::pin::pin!(call), std::pin::pin!(worker::Delay::from(limit))).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    })
}

/// A pause.
#[cfg(target_arch = "wasm32")]
pub fn sleep(time: Duration) -> impl Future<Output = ()> + Send {
    worker::send::SendFuture::new(worker::Delay::from(time))
}

/// A moment. An isolate's clock stands still while it computes, and has no monotonic kin; it lives too
/// briefly for that to matter.
#[cfg(target_arch = "wasm32")]
#[derive(Clone, Copy, Debug)]
pub struct Instant(jiff::Timestamp);

#[cfg(target_arch = "wasm32")]
impl Instant {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now())
    }

    /// How long it is ago.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Duration::try_from(jiff::Timestamp::now().duration_since(self.0)).unwrap_or_default()
    }
}
