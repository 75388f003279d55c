//! Redis's clock, carried on by a monotonic one.

use std::sync::{Arc, Mutex, PoisonError};
#[cfg(not(target_arch = "wasm32"))]
use std::time::Instant;

use crate::job::Millis;

/// An isolate's clock stands still while it computes, and has no monotonic kin; it lives too briefly for
/// that to matter.
#[cfg(target_arch = "wasm32")]
#[derive(Clone, Copy, Debug)]
struct Instant(jiff::Timestamp);

#[cfg(target_arch = "wasm32")]
impl Instant {
    fn now() -> Self {
        Self(jiff::Timestamp::now())
    }

    fn elapsed(self) -> std::time::Duration {
        std::time::Duration::try_from(jiff::Timestamp::now().duration_since(self.0)).unwrap_or_default()
    }
}

/// Says what time it is at Redis, from the last time Redis said it. Cheap to clone; clones agree.
#[derive(Clone, Debug)]
pub struct ServerClock(Arc<Mutex<(Millis, Instant)>>);

impl ServerClock {
    /// A clock that stands at `now` at this moment.
    #[must_use]
    pub fn at(now: Millis) -> Self {
        Self(Arc::new(Mutex::new((now, Instant::now()))))
    }

    /// Redis just said it is `now`.
    pub fn set(&self, now: Millis) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (now, Instant::now());
    }

    /// Redis's time, as far as we know.
    #[must_use]
    pub fn now(&self) -> Millis {
        let (base, at) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        base.plus(i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}
