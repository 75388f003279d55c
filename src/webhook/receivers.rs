//! How many deliveries a receiver gets at once, and how many of one token's jobs there are. A receiver that answers slowly, or
//! not at all, keeps only its own deliveries waiting, and a token those of its jobs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::keyed_semaphore::{KeyedPermit, KeyedSemaphore};
use crate::time::Instant;

/// Maximum number of concurrent deliveries to a receiver: a quarter of all.
const MAX_OF_RECEIVER: u32 = 8;
/// The same for the jobs of one token, whatever their receivers: half of all.
const MAX_OF_OWNER: usize = 16;
/// Minimum time by which a delivery is put off. Each costs some commands of Redis.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Maximum time by which a delivery is put off.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The receivers with deliveries, by the host and the port of their addresses, and the tokens whose jobs they are about.
pub(super) struct Receivers {
    start: Instant,
    known: Mutex<HashMap<String, Receiver>>,
    of_owner: KeyedSemaphore<String>,
}

#[derive(Debug, Default)]
struct Receiver {
    in_flight: u32,
    /// How long answers take: the last one, or half of what they took before, if that is more.
    answers_after: Duration,
    /// When the last delivery that was put off is to be tried, counted from the start.
    last_turn: Duration,
}

/// A delivery that is on its way to a receiver.
pub(super) struct InFlight<'a> {
    receivers: &'a Receivers,
    receiver: String,
    since: Instant,
    _of_owner: Option<KeyedPermit<String>>,
}

impl Default for Receivers {
    fn default() -> Self {
        Self { start: Instant::now(), known: Mutex::default(), of_owner: KeyedSemaphore::new(MAX_OF_OWNER) }
    }
}

impl Receivers {
    /// Begins a delivery about a job of the token `owner`, if it has one.
    ///
    /// # Errors
    /// If the receiver or the token has as many as it may have: after which time this one is to be tried again. Those that are
    /// put off get turns one after the other, so that a long queue is not looked at over and over.
    pub(super) fn begin(&self, receiver: String, owner: Option<String>) -> Result<InFlight<'_>, Duration> {
        self.begin_at(self.start.elapsed(), receiver, owner)
    }

    fn begin_at(
        &self,
        now: Duration,
        receiver: String,
        owner: Option<String>,
    ) -> Result<InFlight<'_>, Duration> {
        let of_owner = match owner {
            Some(owner) => Some(self.of_owner.try_acquire(owner).ok_or(SHORTEST_PAUSE * 5)?),
            None => None,
        };
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, known| known.in_flight > 0 || known.last_turn > now);
        let known = all.entry(receiver.clone()).or_default();
        if known.in_flight < MAX_OF_RECEIVER {
            known.in_flight += 1;
            known.last_turn = now;
            drop(all);
            return Ok(InFlight { receivers: self, receiver, since: Instant::now(), _of_owner: of_owner });
        }
        let turn = known.last_turn.max(now + SHORTEST_PAUSE) + known.answers_after / MAX_OF_RECEIVER;
        known.last_turn = turn.min(now + LONGEST_PAUSE);
        Err(known.last_turn - now)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut all = self.receivers.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get_mut(&self.receiver) {
            known.in_flight = known.in_flight.saturating_sub(1);
            known.answers_after = self.since.elapsed().max(known.answers_after / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn receiver_gets_a_quarter_of_all_deliveries_and_the_others_wait_for_a_turn_each() {
        let receivers = Receivers::default();
        let begin = |now: Duration, name: &str| receivers.begin_at(now, name.to_owned(), None);
        let mut under_way: Vec<_> = (0..8).map(|_| begin(NOW, "slow.example:443").ok().unwrap()).collect();
        let set = |answers_after| {
            let mut known = receivers.known.lock().unwrap();
            known.get_mut("slow.example:443").unwrap().answers_after = answers_after;
        };
        set(Duration::from_secs(16));
        // After a second, and then one after the other, at most a minute later.
        for turn in 1..=20 {
            assert_eq!(begin(NOW, "slow.example:443").err(), Some(Duration::from_secs(1 + 2 * turn)));
        }
        let later: Vec<_> = (0..20).filter_map(|_| begin(NOW, "slow.example:443").err()).collect();
        assert_eq!((later.len(), later.last()), (20, Some(&LONGEST_PAUSE)));
        // Quick answers do not make it busy work.
        set(Duration::from_millis(4));
        let soon = begin(NOW + LONGEST_PAUSE, "slow.example:443").err().unwrap();
        assert!(soon >= SHORTEST_PAUSE, "{soon:?}");

        let other = begin(NOW, "quick.example:443");
        assert!(other.is_ok());
        // With a place free, the queue before it is forgotten.
        under_way.pop();
        assert!(begin(NOW, "slow.example:443").is_ok());
        drop((other, under_way));
        assert!(begin(NOW + LONGEST_PAUSE, "b:1").is_ok());
        assert!(!receivers.known.lock().unwrap().contains_key("slow.example:443"));
    }

    #[test]
    fn token_gets_half_of_all_deliveries_whatever_their_receivers() {
        let receivers = Receivers::default();
        let begin = |host: usize, owner: &str| {
            receivers.begin_at(NOW, format!("host-{host}.example:443"), Some(owner.to_owned()))
        };
        let under_way: Vec<_> = (0..40).filter_map(|host| begin(host, "films").ok()).collect();
        assert_eq!(under_way.len(), MAX_OF_OWNER);
        assert!(begin(0, "news").is_ok());
        drop(under_way);
        assert!(begin(0, "films").is_ok());
    }
}
