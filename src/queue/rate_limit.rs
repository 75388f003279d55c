//! The right to ask the provider of machines, shared by every process of an installation: one request a second in all.

use std::time::Duration;

use super::{Queue, QueueError, Reply, scripts};
use crate::job::Millis;

/// What is asked of the provider; the first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestClass {
    /// To look. Without it everything else is guesswork.
    List,
    /// To start a machine that exists.
    Start,
    /// To make one.
    Create,
    /// To stop one.
    Stop,
    /// To destroy one.
    Destroy,
}

/// How often the provider is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRate {
    /// From one request to the next.
    pub interval: Duration,
    /// How much longer a request waits than one of the class before it, at most.
    pub age: Duration,
}

impl Default for RequestRate {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), age: Duration::from_secs(5) }
    }
}

/// Whether the provider may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Now, once.
    Go {
        /// Redis's time.
        at: Millis,
    },
    /// Not yet; ask again after this long. The place in line is kept until shortly after, if the wait
    /// is within the caller's budget.
    Wait(Duration),
}

impl Queue {
    /// Whether the caller may ask the provider now. If not, and if the wait is within its `budget`, it stands in
    /// line: those of lower priority let it go first. One that would have to wait longer than its
    /// budget holds up nobody.
    ///
    /// # Errors
    /// When Redis fails. Then the provider must not be asked.
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

    /// The provider said that there were too many requests: everybody waits, as long as it asked for or for a
    /// pause that grows with each time, and goes more slowly for a while.
    ///
    /// # Errors
    /// When Redis fails.
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
        let mut all = vec![micros(rate.interval), micros(rate.age)];
        all.extend(args);
        self.eval(&scripts::RATE_LIMIT, all).await
    }
}

pub(super) fn parse_permit(reply: &Reply) -> Option<Permit> {
    let parts = reply.list()?;
    match (parts.first()?.text()?, parts.get(1)?.int()?) {
        ("GO", now) => Some(Permit::Go { at: Millis(now / 1000) }),
        // Rounded up: a caller that comes a moment early asks twice.
        ("WAIT", wait) => {
            Some(Permit::Wait(Duration::from_millis(u64::try_from(wait).unwrap_or(0).div_ceil(1000))))
        }
        _ => None,
    }
}

/// At most a day: beyond, Lua's numbers and sense end.
pub(super) fn micros(duration: Duration) -> String {
    duration.min(Duration::from_secs(86_400)).as_micros().to_string()
}
