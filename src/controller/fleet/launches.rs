//! What Fly's events say of a machine's launch.

use std::time::Duration;

use super::observation::Moment;
use crate::flyprovider::{ExitEvent, Machine};

/// The newest end of a machine's process, and when it was: milliseconds by Fly's clock.
pub(super) fn newest_exit(machine: &Machine) -> Option<(i64, ExitEvent)> {
    let exits = machine.events.iter().filter_map(|event| Some((event.timestamp, event.exit()?)));
    exits.max_by_key(|(at, _)| *at)
}

/// When a machine that was launched at `launched` became `started`; nothing where its events do not tell.
/// Only the time between two events of the life after `last_exit` counts, so Fly's clock may show anything.
pub(super) fn began(machine: &Machine, launched: Moment, last_exit: Option<i64>) -> Option<Moment> {
    let this_life = || machine.events.iter().filter(|e| last_exit.is_none_or(|exit| exit < e.timestamp));
    let started = this_life().filter(|e| e.status == "started").map(|e| e.timestamp).max()?;
    let asked_for = this_life().map(|e| e.timestamp).min().filter(|at| *at < started)?;
    Some(launched + Duration::from_millis(u64::try_from(started - asked_for).ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine(events: &[(&str, &str, i64, Option<i32>)]) -> Machine {
        let events: Vec<_> = events
            .iter()
            .map(|(kind, status, at, code)| {
                let request = code.map(|code| json!({"exit_event": {"exit_code": code}}));
                json!({"type": kind, "status": status, "timestamp": at, "request": request})
            })
            .collect();
        serde_json::from_value(json!({"id": "m1", "state": "started", "events": events})).unwrap()
    }

    const LAUNCHED: Moment = Duration::from_secs(1000);

    #[test]
    fn the_pull_of_the_image_comes_before_the_start() {
        let slow = machine(&[("start", "started", 260_000, None), ("launch", "created", 60_000, None)]);
        assert_eq!(began(&slow, LAUNCHED, None), Some(Duration::from_secs(1200)));
    }

    #[test]
    fn a_start_is_measured_from_its_own_life() {
        let again = machine(&[
            ("start", "started", 900_500, None),
            ("start", "starting", 900_000, None),
            ("exit", "stopped", 300_000, Some(0)),
            ("start", "started", 2_000, None),
            ("launch", "created", 1_000, None),
        ]);
        assert_eq!(began(&again, LAUNCHED, Some(300_000)), Some(LAUNCHED + Duration::from_millis(500)));
        assert_eq!(newest_exit(&again).map(|(at, exit)| (at, exit.exit_code)), Some((300_000, 0)));
        // The list is older than the start: it tells nothing of the new life.
        assert_eq!(began(&again, LAUNCHED, Some(900_500)), None);
    }

    #[test]
    fn events_that_tell_nothing_are_no_ground_for_a_guess() {
        for events in [&[][..], &[("start", "started", 5, None)], &[("launch", "created", 5, None)]] {
            assert_eq!(began(&machine(events), LAUNCHED, None), None, "{events:?}");
            assert_eq!(newest_exit(&machine(events)), None);
        }
    }
}
