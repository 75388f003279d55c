//! Interprets the events of a machine. Times are by Fly's clock.

use std::time::Duration;

use super::machine::{ExitEvent, MachineEvent};
use crate::controller::fleet::Start;
use crate::job::Millis;

/// The newest exit of a machine's process, and its time.
pub(super) fn newest_exit(events: &[MachineEvent]) -> Option<(i64, ExitEvent)> {
    let exits = events.iter().filter_map(|event| Some((event.timestamp, event.exit()?)));
    exits.max_by_key(|(at, _)| *at)
}

/// When the machine last became `started`, and how long after the first event of that run; `None` if the
/// events do not show it. A run begins after the exit that ended the previous one.
pub(super) fn newest_start(events: &[MachineEvent]) -> Option<Start> {
    let started = events.iter().filter(|e| e.status == "started").map(|e| e.timestamp).max()?;
    let exits = events.iter().filter(|e| e.exit().is_some()).map(|e| e.timestamp);
    let before = exits.filter(|at| *at < started).max();
    let this_life = events.iter().map(|e| e.timestamp).filter(|at| before.is_none_or(|exit| exit < *at));
    let asked_for = this_life.min().filter(|at| *at < started)?;
    let took = Duration::from_millis(u64::try_from(started.saturating_sub(asked_for)).ok()?);
    Some(Start { at: Millis(started), took })
}

/// Total seconds that it ran before its current run, and when the current run began. A run begins with an
/// event of the status `started` and ends with the next event of a resting state.
pub(super) fn run_times(events: &[MachineEvent]) -> (f64, Option<Millis>) {
    let mut events: Vec<(i64, &str)> = events.iter().map(|e| (e.timestamp, e.status.as_str())).collect();
    events.sort_by_key(|(at, _)| *at);
    let (mut ran, mut since) = (0_i64, None);
    for (at, status) in events {
        match (status, since) {
            ("started", None) => since = Some(at),
            ("stopped" | "suspended" | "failed" | "destroyed", Some(began)) => {
                ran = at.saturating_sub(began).saturating_add(ran);
                since = None;
            }
            _ => {}
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a life fit")]
    let seconds = ran as f64 / 1000.0;
    (seconds, since.map(Millis))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine(events: &[(&str, &str, i64, Option<i32>)]) -> Vec<MachineEvent> {
        let event = |(kind, status, at, code): &(&str, &str, i64, Option<i32>)| {
            let request = code.map(|code| json!({"exit_event": {"exit_code": code}}));
            let event = json!({"type": kind, "status": status, "timestamp": at, "request": request});
            serde_json::from_value(event).unwrap()
        };
        events.iter().map(event).collect()
    }

    fn started(at: i64, took: u64) -> Option<Start> {
        Some(Start { at: Millis(at), took: Duration::from_millis(took) })
    }

    #[test]
    fn newest_start_includes_the_image_pull() {
        let slow = machine(&[("start", "started", 260_000, None), ("launch", "created", 60_000, None)]);
        assert_eq!(newest_start(&slow), started(260_000, 200_000));
    }

    #[test]
    fn newest_start_is_measured_from_its_own_request() {
        let again = machine(&[
            ("start", "started", 900_500, None),
            ("start", "starting", 900_000, None),
            ("exit", "stopped", 300_000, Some(0)),
            ("start", "started", 2_000, None),
            ("launch", "created", 1_000, None),
        ]);
        assert_eq!(newest_start(&again), started(900_500, 500));
        assert_eq!(newest_exit(&again).map(|(at, exit)| (at, exit.exit_code)), Some((300_000, 0)));
    }

    #[test]
    fn newest_start_and_exit_are_absent_for_incomplete_events() {
        for events in [&[][..], &[("start", "started", 5, None)], &[("launch", "created", 5, None)]] {
            assert_eq!(newest_start(&machine(events)), None, "{events:?}");
            assert_eq!(newest_exit(&machine(events)), None);
        }
    }

    fn events(list: &[(i64, &str)]) -> Vec<MachineEvent> {
        let event = |(at, status): &(i64, &str)| MachineEvent {
            kind: "x".into(),
            status: (*status).into(),
            timestamp: *at,
            ..MachineEvent::default()
        };
        list.iter().map(event).collect()
    }

    #[test]
    fn run_times_accepts_either_order_and_missing_events() {
        let life =
            [(0, "created"), (100, "starting"), (400, "started"), (1400, "stopped"), (5000, "started")];
        let mut newest_first = life;
        newest_first.reverse();
        for list in [life, newest_first] {
            assert_eq!(run_times(&events(&list)), (1.0, Some(Millis(5000))));
        }
        assert_eq!(run_times(&[]), (0.0, None));
        // The oldest events are missing.
        assert_eq!(
            run_times(&events(&[(900, "stopped"), (1000, "started"), (3500, "stopped")])),
            (2.5, None)
        );
        assert_eq!(run_times(&events(&[(1, "started"), (2, "started")])), (0.0, Some(Millis(1))));
    }
}
