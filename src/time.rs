//! Timeouts, pauses and instants on both kinds of host: a process with tokio, and Cloudflare Workers, where JavaScript
//! has the timers.

use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use std::time::Instant;

/// The output of `call`, or `None` if it is not ready within `limit`; then it is dropped.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) async fn timeout<T>(limit: Duration, call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, call).await.ok()
}

/// Waits for `time`.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The output of `call`, or `None` if it is not ready within `limit`; then it is dropped, which aborts its `fetch`.
/// reqwest's own timeout is not enough here: a response that stalled in the middle outlived it.
///
/// Every request of an isolate goes through here, and JavaScript's values are not [`Send`] by themselves.
#[cfg(target_arch = "wasm32")]
pub(crate) fn timeout<T>(
    limit: Duration,
    call: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> + Send {
    use futures::future::{Either, select};
    // An isolate has one thread.
    worker::send::SendFuture::new(async move {
        match select(std::pin::pin!(call), std::pin::pin!(worker::Delay::from(limit))).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    })
}

/// Waits for `time`.
#[cfg(target_arch = "wasm32")]
pub(crate) fn sleep(time: Duration) -> impl Future<Output = ()> + Send {
    worker::send::SendFuture::new(worker::Delay::from(time))
}

/// An instant. An isolate has no monotonic clock, and its clock stands still while it computes; its life is too short
/// for that to matter.
#[cfg(target_arch = "wasm32")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instant(jiff::Timestamp);

#[cfg(target_arch = "wasm32")]
impl Instant {
    /// The present instant.
    #[must_use]
    pub(crate) fn now() -> Self {
        Self(jiff::Timestamp::now())
    }

    /// The time since this instant.
    #[must_use]
    pub(crate) fn elapsed(self) -> Duration {
        Duration::try_from(jiff::Timestamp::now().duration_since(self.0)).unwrap_or_default()
    }
}
