//! The rate limit of requests to the provider of machines, shared by all processes that manage a fleet.

use std::time::Duration;

use super::{Queue, QueueError, Reply, scripts};
use crate::job::Millis;

/// The class of a request to the provider, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestClass {
    /// List the machines. All other operations depend on it.
    List,
    /// Start an existing machine.
    Start,
    /// Create a machine.
    Create,
    /// Stop a machine.
    Stop,
    /// Destroy a machine.
    Destroy,
}

/// The rate of requests to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRate {
    /// Minimum time between two requests.
    pub interval: Duration,
    /// Maximum extra time that a request waits compared to the next more urgent class, which prevents
    /// starvation.
    pub age: Duration,
}

impl Default for RequestRate {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), age: Duration::from_secs(5) }
    }
}

/// The answer to a request for a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The request may be sent now, once.
    Go {
        /// Redis's time.
        at: Millis,
    },
    /// The request has to wait; ask again after this time. If the wait is within the caller's budget, its
    /// place in the queue is kept until shortly after.
    Wait(Duration),
}

impl Queue {
    /// Asks for a permit to send a request to the provider. If there is none now and the wait is within
    /// `budget`, the request is queued, and less urgent ones let it go first. A request that would have to
    /// wait longer than its budget delays nobody.
    ///
    /// # Errors
    /// If Redis fails. Then the request must not be sent.
    pub async fn acquire_permit(
        &self,
        rate: RequestRate,
        priority: RequestClass,
        budget: Duration,
    ) -> Result<Permit, QueueError> {
        let class = priority as u8;
        let reply = self.rate_limit(rate, ["slot".into(), class.to_string(), micros(budget)]).await?;
        parse_permit(&reply).ok_or_else(|| QueueError::data(format!("the limit answered {reply:?}")))
    }

    /// Reports that the provider returned 429: all requests wait for the time it asked for, or for a time
    /// that grows with each report, and the rate is reduced for a while.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn report_throttled(
        &self,
        rate: RequestRate,
        retry_after: Option<Duration>,
    ) -> Result<(), QueueError> {
        let asked = retry_after.map_or_else(|| "-1".to_owned(), micros);
        let jitter = super::backoff::draw(1000).to_string();
        self.rate_limit(rate, ["penalty".into(), asked, jitter]).await.map(drop)
    }

    async fn rate_limit(&self, rate: RequestRate, args: [String; 3]) -> Result<Reply, QueueError> {
        let rate = [micros(rate.interval), micros(rate.age)];
        self.eval(&scripts::RATE_LIMIT, self.fleet_args(rate.into_iter().chain(args))).await
    }
}

pub(super) fn parse_permit(reply: &Reply) -> Option<Permit> {
    let parts = reply.list()?;
    match (parts.first()?.text()?, parts.get(1)?.int()?) {
        ("GO", now) => Some(Permit::Go { at: Millis(now / 1000) }),
        // Rounded up, because a caller that comes a moment early has to ask twice.
        ("WAIT", wait) => {
            Some(Permit::Wait(Duration::from_millis(u64::try_from(wait).unwrap_or(0).div_ceil(1000))))
        }
        _ => None,
    }
}

/// Microseconds, at most a day. Lua's numbers are exact only to 2^53.
pub(super) fn micros(duration: Duration) -> String {
    duration.min(Duration::from_secs(86_400)).as_micros().to_string()
}
