//! How many deliveries a receiver gets at once. A receiver that answers slowly, or not at all, keeps only its own deliveries
//! waiting.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::time::Instant;

/// Maximum number of concurrent deliveries to a receiver: a quarter of all.
const MAX_OF_RECEIVER: u32 = 8;
/// How long a receiver is assumed to take until its first answer.
const FIRST_ANSWER: Duration = Duration::from_millis(250);
/// Maximum time by which a delivery is put off.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The receivers with deliveries, by the host and the port of their addresses.
pub(super) struct Receivers {
    start: Instant,
    known: Mutex<HashMap<String, Receiver>>,
}

#[derive(Debug)]
struct Receiver {
    in_flight: u32,
    /// How long the last answer took.
    answers_after: Duration,
    /// When the last delivery that was put off is to be tried, counted from the start.
    last_turn: Duration,
}

/// A delivery that is on its way to a receiver.
pub(super) struct InFlight<'a> {
    receivers: &'a Receivers,
    receiver: String,
    since: Instant,
}

impl Default for Receivers {
    fn default() -> Self {
        Self { start: Instant::now(), known: Mutex::default() }
    }
}

impl Receivers {
    /// Begins a delivery.
    ///
    /// # Errors
    /// If the receiver has as many as it may have: after which time this one is to be tried again. Each that is put off gets
    /// a turn of its own, so that a long queue is not looked at over and over.
    pub(super) fn begin(&self, receiver: String) -> Result<InFlight<'_>, Duration> {
        self.begin_at(self.start.elapsed(), receiver)
    }

    fn begin_at(&self, now: Duration, receiver: String) -> Result<InFlight<'_>, Duration> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, known| known.in_flight > 0 || known.last_turn > now);
        let known = all.entry(receiver.clone()).or_insert(Receiver {
            in_flight: 0,
            answers_after: FIRST_ANSWER,
            last_turn: now,
        });
        if known.in_flight < MAX_OF_RECEIVER {
            known.in_flight += 1;
            drop(all);
            return Ok(InFlight { receivers: self, receiver, since: Instant::now() });
        }
        let turn = known.last_turn.max(now) + known.answers_after / MAX_OF_RECEIVER;
        known.last_turn = turn.min(now + LONGEST_PAUSE);
        Err(known.last_turn - now)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut all = self.receivers.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get_mut(&self.receiver) {
            known.in_flight = known.in_flight.saturating_sub(1);
            known.answers_after = self.since.elapsed();
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
        let begin = |name: &str| receivers.begin_at(NOW, name.to_owned());
        let mut on_their_way: Vec<_> = (0..8).map(|_| begin("slow.example:443").ok().unwrap()).collect();
        // An eighth of the time of an answer, and then one after the other.
        let eighth = FIRST_ANSWER / 8;
        for turn in 1..=20 {
            assert_eq!(begin("slow.example:443").err(), Some(eighth * turn));
        }
        let other = begin("quick.example:443");
        assert!(other.is_ok());
        on_their_way.pop();
        assert!(begin("slow.example:443").is_ok());
        drop((other, on_their_way));
    }

    #[test]
    fn pause_is_limited_and_receivers_without_deliveries_are_forgotten() {
        let receivers = Receivers::default();
        let begin = |now: Duration, name: &str| receivers.begin_at(now, name.to_owned());
        let kept: Vec<_> = (0..8).map(|_| begin(NOW, "a:1").ok().unwrap()).collect();
        receivers.known.lock().unwrap().get_mut("a:1").unwrap().answers_after = Duration::from_secs(15);
        let pauses: Vec<_> = (0..3000).filter_map(|_| begin(NOW, "a:1").err()).collect();
        assert_eq!((pauses.len(), pauses.last()), (3000, Some(&LONGEST_PAUSE)));
        drop(kept);
        assert!(begin(NOW + LONGEST_PAUSE, "b:1").is_ok());
        assert!(!receivers.known.lock().unwrap().contains_key("a:1"));
    }
}
