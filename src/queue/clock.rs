//! Redis's clock, carried on by a monotonic one.

use std::sync::{Arc, Mutex, PoisonError};

use crate::job::Millis;
use crate::time::Instant;

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
