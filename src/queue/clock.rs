//! Redis's clock, extrapolated with a monotonic clock.

use std::sync::{Arc, Mutex, PoisonError};

use crate::job::Millis;
use crate::time::Instant;

/// Estimates Redis's current time from the last time that Redis returned. Clones are cheap and share the state.
#[derive(Clone, Debug)]
pub struct ServerClock(Arc<Mutex<(Millis, Instant)>>);

impl ServerClock {
    /// A clock that shows `now` at this moment.
    #[must_use]
    pub fn at(now: Millis) -> Self {
        Self(Arc::new(Mutex::new((now, Instant::now()))))
    }

    /// Sets the clock to a time that Redis has just returned.
    pub fn set(&self, now: Millis) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (now, Instant::now());
    }

    /// The estimate of Redis's current time.
    #[must_use]
    pub fn now(&self) -> Millis {
        let (base, at) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        base.plus(i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}
