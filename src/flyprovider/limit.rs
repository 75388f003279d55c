//! The shared limit, for those who wait for their turn. The rule itself stands in the queue's script
//! `rate_limit.lua`, since only Redis sees every process.

use std::fmt;
use std::time::Duration;

use crate::job::Millis;
use crate::queue::{Permit, Queue, QueueError, RequestClass, RequestRate};
use crate::time::{Instant, sleep};

/// One request to Fly per interval, over every process that uses the same Redis and prefix.
#[derive(Clone)]
pub struct Limit {
    queue: Queue,
    rate: RequestRate,
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl Limit {
    /// The limit kept in this Redis. Every process must use the same rate.
    #[must_use]
    pub const fn new(queue: Queue, rate: RequestRate) -> Self {
        Self { queue, rate }
    }

    /// The rate.
    #[must_use]
    pub const fn rate(&self) -> RequestRate {
        self.rate
    }

    /// Whether Fly may be asked now; see [`Queue::acquire_permit`].
    ///
    /// # Errors
    /// When Redis fails. Then Fly must not be asked.
    pub async fn slot(&self, priority: RequestClass, budget: Duration) -> Result<Permit, QueueError> {
        self.queue.acquire_permit_at(self.rate, priority, budget).await
    }

    /// Waits for a turn; nothing when none comes `timeout` this time. Says when it was granted.
    ///
    /// # Errors
    /// When Redis fails. Then Fly must not be asked.
    pub async fn pass(
        &self,
        priority: RequestClass,
        timeout: Duration,
    ) -> Result<Option<Millis>, QueueError> {
        let began = Instant::now();
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            match self.slot(priority, left).await? {
                Permit::Go { at } => return Ok(Some(at)),
                Permit::Wait(wait) if wait > left => return Ok(None),
                Permit::Wait(wait) => sleep(wait).await,
            }
        }
    }

    /// Fly said that there were too many requests; see [`Queue::report_throttled`].
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn penalty(&self, retry_after: Option<Duration>) -> Result<(), QueueError> {
        self.queue.report_throttled_at(self.rate, retry_after).await
    }
}
