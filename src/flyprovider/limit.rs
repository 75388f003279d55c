//! The shared limit, for those who wait for their turn. The rule itself stands in the queue's script
//! `fly_limit.lua`, since only Redis sees every process.

use std::fmt;
use std::time::Duration;

use crate::job::Millis;
use crate::pace::{Instant, sleep};
use crate::queue::{FlyPriority, FlyRate, FlySlot, Queue, QueueError};

/// One request to Fly per interval, over every process that uses the same Redis and prefix.
#[derive(Clone)]
pub struct Limit {
    queue: Queue,
    rate: FlyRate,
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl Limit {
    /// The limit kept in this Redis. Every process must use the same rate.
    #[must_use]
    pub const fn new(queue: Queue, rate: FlyRate) -> Self {
        Self { queue, rate }
    }

    /// The rate.
    #[must_use]
    pub const fn rate(&self) -> FlyRate {
        self.rate
    }

    /// Whether Fly may be asked now; see [`Queue::fly_slot`].
    ///
    /// # Errors
    /// When Redis fails. Then Fly must not be asked.
    pub async fn slot(&self, priority: FlyPriority, budget: Duration) -> Result<FlySlot, QueueError> {
        self.queue.fly_slot_at(self.rate, priority, budget).await
    }

    /// Waits for a turn; nothing when none comes `within` this time. Says when it was granted.
    ///
    /// # Errors
    /// When Redis fails. Then Fly must not be asked.
    pub async fn pass(&self, priority: FlyPriority, within: Duration) -> Result<Option<Millis>, QueueError> {
        let began = Instant::now();
        loop {
            let left = within.saturating_sub(began.elapsed());
            match self.slot(priority, left).await? {
                FlySlot::Go { at } => return Ok(Some(at)),
                FlySlot::Wait(wait) if wait > left => return Ok(None),
                FlySlot::Wait(wait) => sleep(wait).await,
            }
        }
    }

    /// Fly said that there were too many requests; see [`Queue::fly_penalty`].
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn penalty(&self, retry_after: Option<Duration>) -> Result<(), QueueError> {
        self.queue.fly_penalty_at(self.rate, retry_after).await
    }
}
