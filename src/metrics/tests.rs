use std::collections::BTreeMap;
use std::time::Duration;

use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{MetricNumber, OpenMetricsValue};
use proptest::prelude::*;

use super::jobs::{AttemptEnd, Heard};
use super::*;
use crate::job::{JobId, Millis, State, Transition};
use crate::queue::{FleetCondition, FleetDesired, FleetMachine};

fn id(n: u128) -> JobId {
    JobId::from_uuid(uuid::Uuid::from_u128(n + 1))
}

fn event(job: u128, ms: u64, n: u64, status: State) -> JobEvent {
    JobEvent { event_id: format!("{ms}-{n}"), job_id: id(job), status, progress: None, epoch: None }
}

/// Every series with its value, as a parser of the whole grammar reads it. A histogram is represented by its count
/// and its sum.
fn scrape(metrics: &Metrics) -> BTreeMap<String, f64> {
    let text = metrics.encode(ExpositionFormat::OpenMetrics);
    // This parser wrongly rejects the unit of a histogram.
    let text: String = text.lines().filter(|l| !l.starts_with("# UNIT")).map(|l| format!("{l}\n")).collect();
    let read = parse_openmetrics(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut series = BTreeMap::new();
    for family in read.families.values() {
        assert!(family.family_name.starts_with("tcoder_"), "{}", family.family_name);
        assert!(family.help.len() > 10 && family.help.ends_with('.'), "{family}");
        for sample in family.iter_samples() {
            let labels = sample.get_labelset().unwrap();
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let name = match &*labels {
                [] => family.family_name.clone(),
                labels => format!("{}{{{}}}", family.family_name, labels.join(",")),
            };
            let mut put = |name: String, value: f64| assert_eq!(series.insert(name, value), None);
            match &sample.value {
                OpenMetricsValue::Gauge(value) => put(name, value.as_f64()),
                OpenMetricsValue::Counter(counter) => put(format!("{name}_total"), counter.value.as_f64()),
                OpenMetricsValue::Histogram(histogram) => {
                    put(format!("{name}_sum"), histogram.sum.as_ref().map_or(0.0, MetricNumber::as_f64));
                    #[expect(clippy::cast_precision_loss)]
                    put(format!("{name}_count"), histogram.count.unwrap() as f64);
                }
                OpenMetricsValue::Info => put(name, 1.0),
                other => panic!("{other:?}"),
            }
        }
    }
    series
}

#[test]
fn metrics_count_a_job_with_the_times_of_its_events() {
    let metrics = Metrics::new();
    let life = [
        (1_000, State::Uploading),
        (2_000, State::Queued),
        (2_500, State::Running),
        (4_000, State::Queued),
        (9_000, State::Running),
        (12_250, State::Completed),
    ];
    for (ms, status) in life {
        metrics.job_event(&event(0, ms, 0, status));
        let progress = JobEvent { progress: Some(50.0), ..event(0, ms + 1, 0, State::Running) };
        metrics.job_event(&progress);
    }
    let seen = scrape(&metrics);
    for (name, value) in [
        ("tcoder_jobs_finished{outcome=completed}_total", 1.0),
        ("tcoder_jobs_finished{outcome=failed}_total", 0.0),
        ("tcoder_jobs_finished{outcome=cancelled}_total", 0.0),
        ("tcoder_job_attempts{outcome=completed}_total", 1.0),
        ("tcoder_job_attempts{outcome=requeued}_total", 1.0),
        ("tcoder_job_waiting_seconds_count", 2.0),
        ("tcoder_job_waiting_seconds_sum", 5.5),
        ("tcoder_job_running_seconds{outcome=requeued}_count", 1.0),
        ("tcoder_job_running_seconds{outcome=requeued}_sum", 1.5),
        ("tcoder_job_running_seconds{outcome=completed}_count", 1.0),
        ("tcoder_job_running_seconds{outcome=completed}_sum", 3.25),
    ] {
        assert_eq!(seen.get(name), Some(&value), "{name} in {seen:#?}");
    }
    assert!(
        !metrics.encode(ExpositionFormat::OpenMetrics).contains(&id(0).to_string()),
        "a job's id is no label"
    );
}

/// The expected information if the changes of a job arrive in order, by the state before.
fn expected(before: Option<State>, now: State) -> (bool, bool, Option<AttemptEnd>) {
    let attempt = match (before, now) {
        (_, State::Completed) => Some(AttemptEnd::Completed),
        (Some(State::Running), State::Failed) => Some(AttemptEnd::Failed),
        (Some(State::Running), State::Cancelled) => Some(AttemptEnd::Cancelled),
        (Some(State::Running), State::Queued | State::Running) => Some(AttemptEnd::Requeued),
        _ => None,
    };
    let waited = (before, now) == (Some(State::Queued), State::Running);
    (matches!(now, State::Completed | State::Failed | State::Cancelled), waited, attempt)
}

/// The states that begin or end an attempt. That a job can be played changes nothing about its attempts.
fn states() -> Vec<State> {
    State::ALL.iter().copied().filter(|state| *state != State::Playable).collect()
}

/// All sequences of `length` such states.
fn sequences(length: u32) -> impl Iterator<Item = Vec<State>> {
    let states = states();
    let base = states.len();
    (0..base.pow(length)).map(move |mut code| {
        let mut next = || {
            let state = states[code % base];
            code /= base;
            state
        };
        (0..length).map(|_| next()).collect()
    })
}

#[test]
fn ledger_learns_nothing_about_attempts_from_a_job_that_can_be_played() {
    let mut ledger = Ledger::new(10);
    ledger.hear(&event(0, 1_000, 0, State::Running));
    assert_eq!(ledger.hear(&event(0, 1_010, 0, State::Playable)), Heard::default());
    let ended = ledger.hear(&event(0, 1_030, 0, State::Completed));
    assert_eq!(ended.attempt, Some((AttemptEnd::Completed, Some(Duration::from_millis(30)))));
}

#[test]
fn ledger_reports_any_five_changes_once() {
    for states in sequences(5) {
        let mut ledger = Ledger::new(10);
        let events: Vec<JobEvent> =
            (0..).zip(&states).map(|(n, state)| event(0, 1_000 + n * 10, n % 2, *state)).collect();
        let mut before = None;
        for (n, now) in states.iter().enumerate() {
            let heard = ledger.hear(&events[n]);
            let (ended, waited, attempt) = expected(before, *now);
            assert_eq!(heard.ended, ended.then(|| now.name()), "{states:?} {n}");
            assert_eq!(heard.waited, waited.then(|| Duration::from_millis(10)), "{states:?} {n}");
            assert_eq!(heard.attempt.map(|a| a.0), attempt, "{states:?} {n}");
            let known = before == Some(State::Running) && *now != State::Running;
            let took = known.then(|| Duration::from_millis(10));
            assert_eq!(heard.attempt.and_then(|a| a.1), attempt.and(took), "{states:?} {n}");
            for old in &events[..=n] {
                assert_eq!(ledger.hear(old), Heard::default(), "{states:?} {n} {old:?}");
            }
            before = Some(*now);
        }
    }
}

#[test]
fn ledger_evicts_finished_jobs_before_waiting_ones() {
    let mut ledger = Ledger::new(3);
    ledger.hear(&event(0, 1_000, 0, State::Queued));
    for n in 1..50_u64 {
        ledger.hear(&event(n.into(), 1_000 + n, 0, State::Running));
        assert_eq!(ledger.hear(&event(n.into(), 1_000 + n, 1, State::Failed)).ended, Some("failed"));
    }
    let heard = ledger.hear(&event(0, 9_000, 0, State::Running));
    assert_eq!(heard.waited, Some(Duration::from_secs(8)));
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    let Some((first, rest)) = items.split_first() else { return vec![Vec::new()] };
    let mut all = Vec::new();
    for shorter in permutations(rest) {
        for at in 0..=shorter.len() {
            let mut longer = shorter.clone();
            longer.insert(at, *first);
            all.push(longer);
        }
    }
    all
}

#[test]
fn ledger_ignores_duplicates_and_late_events_in_any_order() {
    use State::{Failed, Queued, Running};
    let life = [Queued, Running, Queued, Running, Failed, Queued];
    let events: Vec<JobEvent> =
        (0..).zip(life).map(|(n, state)| event(0, 1_000 * (n + 1), 0, state)).collect();
    for order in permutations(&[0, 1, 2, 3, 4, 5]) {
        let mut ledger = Ledger::new(10);
        let (mut ends, mut newest) = (0, 0);
        // All of them are sent twice.
        for n in order.iter().chain(&order) {
            let heard = ledger.hear(&events[*n]);
            ends += usize::from(heard.ended.is_some());
            let late = *n < newest;
            assert!(!late || heard == Heard::default(), "{order:?} {n}");
            newest = newest.max(*n + 1);
            for time in heard.waited.into_iter().chain(heard.attempt.and_then(|a| a.1)) {
                assert!((1..=5).contains(&time.as_secs()), "{order:?} {n}: {heard:?}");
            }
        }
        assert!(ends <= 1, "{order:?}");
    }
}

/// Histories of a few jobs that the state machine permits, one change at a time.
fn lives() -> impl Strategy<Value = Vec<JobEvent>> {
    prop::collection::vec((0..6_u128, 0..Transition::ALL.len(), 0..3_u64, any::<bool>()), 1..120).prop_map(
        |steps| {
            let (mut states, mut at) = (BTreeMap::new(), (1_000, 0));
            let states_of_attempts = self::states();
            let mut events = Vec::new();
            for (job, how, later, upload) in steps {
                let born = if upload { State::Uploading } else { State::Queued };
                let next = match states.get(&job) {
                    None => Some(born),
                    Some(State::Completed) => Some(born), // its id is used again
                    Some(state) => {
                        let possible: Vec<State> = Transition::ALL
                            .iter()
                            .filter_map(|how| State::apply(*state, *how).ok())
                            .filter(|next| states_of_attempts.contains(next))
                            .collect();
                        possible.get(how % possible.len().max(1)).copied()
                    }
                };
                let Some(next) = next else { continue };
                at = if later == 0 { (at.0, at.1 + 1) } else { (at.0 + later * 100, 0) };
                states.insert(job, next);
                events.push(event(job, at.0, at.1, next));
            }
            events
        },
    )
}

fn ms(event: &JobEvent) -> u64 {
    event.event_id.split_once('-').unwrap().0.parse().unwrap()
}

proptest! {
    /// With any capacity and any number of repetitions.
    #[test]
    fn ledger_with_any_capacity_counts_each_end_once(
        events in lives(),
        limit in 1..8_usize,
        again in prop::collection::vec(any::<prop::sample::Index>(), 120),
    ) {
        let mut ledger = Ledger::new(limit);
        let mut before: BTreeMap<JobId, &JobEvent> = BTreeMap::new();
        for (n, event) in events.iter().enumerate() {
            let heard = ledger.hear(event);
            prop_assert_eq!(heard.ended, event.status.is_terminal().then(|| event.status.name()));
            let since = before.get(&event.job_id).map(|last| Duration::from_millis(ms(event) - ms(last)));
            for time in heard.waited.into_iter().chain(heard.attempt.and_then(|a| a.1)) {
                prop_assert_eq!(Some(time), since);
            }
            // There are six jobs: if all fit, no event is missed.
            if limit >= 6 {
                let last = before.get(&event.job_id).map(|last| last.status);
                let (_, waited, attempt) = expected(last, event.status);
                prop_assert_eq!(heard.waited.is_some(), waited);
                prop_assert_eq!(heard.attempt.map(|a| a.0), attempt);
                prop_assert_eq!(heard.attempt.map(|a| a.1.is_some()), attempt.map(|_| true));
            }
            before.insert(event.job_id, event);
            prop_assert_eq!(ledger.hear(again[n].get(&events[..=n])), Heard::default());
            prop_assert!(ledger.remembered() <= limit);
        }
    }

    /// With any events in any order, nothing is counted twice, and the text remains valid.
    #[test]
    fn metrics_text_is_valid_for_any_event_stream(
        events in prop::collection::vec((0..4_u128, 0..40_u64, 0..6_usize, ".{0,8}"), 0..80),
    ) {
        let metrics = Metrics::new();
        let mut ends = std::collections::BTreeSet::new();
        for (job, at, state, noise) in &events {
            metrics.job_event(&event(*job, *at, 0, State::ALL[*state]));
            metrics.job_event(&JobEvent { event_id: noise.clone(), ..event(*job, 0, 0, State::Failed) });
            if State::ALL[*state].is_terminal() {
                ends.insert((job, at));
            }
        }
        let seen = scrape(&metrics);
        let all = |name: &str| -> Vec<f64> {
            seen.iter().filter(|(series, _)| series.starts_with(name)).map(|(_, value)| *value).collect()
        };
        #[expect(clippy::cast_precision_loss)]
        let most = ends.len() as f64;
        prop_assert!(all("tcoder_jobs_finished").iter().sum::<f64>() <= most);
        prop_assert!(all("tcoder_job").iter().all(|value| *value >= 0.0));
    }
}

fn status() -> FleetStatus {
    let machine = |state: Option<&str>, role: &str| FleetMachine {
        name: "films-worker-07".into(),
        id: Some("148e123c4567".into()),
        region: None,
        state: state.map(str::to_owned),
        role: role.into(),
        job_id: Some(id(0)),
        created_at: None,
        ran_seconds: 0.0,
        running_since: None,
        usd_per_hour: None,
    };
    let condition = |reason: &str| FleetCondition { reason: reason.into(), message: "see to it".into() };
    FleetStatus {
        at: Millis(1_700_000_000_500),
        desired: FleetDesired {
            machines: 3,
            billed: 2,
            existing: 4,
            max: 10,
            waiting: 5,
            ..Default::default()
        },
        machines: vec![
            machine(Some("started"), "busy"),
            machine(Some("started"), "idle"),
            machine(Some("stopped"), "rest"),
            machine(None, "booting"),
        ],
        conditions: vec![condition("Unauthorized"), condition("Unauthorized"), condition("Quota")],
        machine_usd_per_hour: Some(0.25),
        ..Default::default()
    }
}

#[test]
fn gauges_are_absent_when_unknown() {
    let metrics = Metrics::new();
    let counters = scrape(&metrics);
    assert!(counters.keys().all(|name| !name.starts_with("tcoder_redis")), "{counters:#?}");

    let stats = Stats {
        pending: 7,
        scheduled: 2,
        running: 3,
        oldest_pending_ms: Some(1_500),
        workers: 4,
        pending_webhooks: 1,
        ..Default::default()
    };
    metrics.queue(&stats);
    metrics.fleet(Some(&status()));
    let seen = scrape(&metrics);
    for (name, value) in [
        ("tcoder_redis_up", 1.0),
        ("tcoder_jobs{state=pending}", 7.0),
        ("tcoder_jobs{state=scheduled}", 2.0),
        ("tcoder_jobs{state=running}", 3.0),
        ("tcoder_jobs{state=completed}", 0.0),
        ("tcoder_queue_oldest_pending_age_seconds", 1.5),
        ("tcoder_workers", 4.0),
        ("tcoder_webhook_deliveries_pending", 1.0),
        ("tcoder_fleet_machines{state=started}", 2.0),
        ("tcoder_fleet_machines{state=stopped}", 1.0),
        ("tcoder_fleet_machines{state=stopping}", 0.0),
        ("tcoder_fleet_machines{state=unknown}", 1.0),
        ("tcoder_fleet_machine_roles{role=busy}", 1.0),
        ("tcoder_fleet_machine_roles{role=leaving}", 0.0),
        ("tcoder_fleet_machine_roles{role=rest}", 1.0),
        ("tcoder_fleet_machines_desired", 3.0),
        ("tcoder_fleet_machines_min", 0.0),
        ("tcoder_fleet_machines_max", 10.0),
        ("tcoder_fleet_machines_billed", 2.0),
        ("tcoder_fleet_jobs_waiting", 5.0),
        ("tcoder_fleet_paused", 0.0),
        ("tcoder_fleet_condition{reason=Unauthorized}", 1.0),
        ("tcoder_fleet_condition{reason=Quota}", 1.0),
        ("tcoder_fleet_dollars_per_hour", 0.5),
        ("tcoder_fleet_status_timestamp_seconds", 1_700_000_000.5),
    ] {
        assert_eq!(seen.get(name), Some(&value), "{name} in {seen:#?}");
    }
    let text = metrics.encode(ExpositionFormat::OpenMetrics);
    assert!(!text.contains("worker-07") && !text.contains("148e123c4567"), "machines are no labels: {text}");

    metrics.fleet(Some(&FleetStatus { paused: true, conditions: Vec::new(), ..status() }));
    let seen = scrape(&metrics);
    assert_eq!(seen["tcoder_fleet_paused"], 1.0);
    assert!(!seen.keys().any(|name| name.starts_with("tcoder_fleet_condition")), "{seen:#?}");
    metrics.fleet(None);
    assert!(!scrape(&metrics).keys().any(|name| name.starts_with("tcoder_fleet_machine")));

    metrics.fleet(Some(&status()));
    metrics.redis_down();
    let mut down = counters.clone();
    down.insert("tcoder_redis_up".into(), 0.0);
    assert_eq!(scrape(&metrics), down);
    metrics.queue(&stats);
    assert_eq!(scrape(&metrics)["tcoder_redis_up"], 1.0);
}

#[test]
fn gauge_labels_from_redis_are_limited_and_sanitised() {
    let metrics = Metrics::new();
    let mut status = status();
    let machine = status.machines[0].clone();
    let states = (0..500).map(|n| format!("state-{n}")).chain(["\"}\n# EOF".into(), "x".repeat(41)]);
    status.machines = states.map(|state| FleetMachine { state: Some(state), ..machine.clone() }).collect();
    status.machine_usd_per_hour = Some(f64::NAN);
    metrics.fleet(Some(&status));
    let seen = scrape(&metrics);
    let states: Vec<f64> =
        seen.iter().filter(|(name, _)| name.starts_with("tcoder_fleet_machines{")).map(|(_, n)| *n).collect();
    assert!(states.len() <= 41, "{}", states.len());
    assert_eq!(states.iter().sum::<f64>(), 502.0);
    assert!(!seen.contains_key("tcoder_fleet_dollars_per_hour"));
}

#[test]
fn metrics_count_requests_for_segments_by_outcome() {
    let metrics = Metrics::new();
    metrics.segment_requests_held(3);
    for outcome in [SegmentRequest::Ready, SegmentRequest::Ready, SegmentRequest::TimedOut] {
        metrics.segment_request(outcome);
    }
    let seen = scrape(&metrics);
    for (name, value) in [
        ("tcoder_segment_requests_held", 3.0),
        ("tcoder_segment_requests{outcome=ready}_total", 2.0),
        ("tcoder_segment_requests{outcome=timed_out}_total", 1.0),
        ("tcoder_segment_requests{outcome=refused}_total", 0.0),
        ("tcoder_segment_requests{outcome=not_found}_total", 0.0),
        ("tcoder_segment_requests{outcome=failed}_total", 0.0),
        ("tcoder_segment_requests{outcome=abandoned}_total", 0.0),
    ] {
        assert_eq!(seen.get(name), Some(&value), "{name} in {seen:#?}");
    }
}

#[test]
fn metrics_count_requests_and_operations_on_fly() {
    let metrics = Metrics::new();
    metrics.provider_call("list", "ok", Duration::from_millis(200));
    metrics.provider_call("list", "ok", Duration::from_millis(300));
    metrics.provider_call("list", "unavailable", Duration::from_secs(90));
    metrics.provider_throttled();
    metrics.fleet_action("retire", "busy");
    for dollars in [0.25, 0.5, -1.0, f64::NAN, f64::INFINITY] {
        metrics.fleet_spent(dollars);
    }
    let seen = scrape(&metrics);
    for (name, value) in [
        ("tcoder_provider_requests{action=list,outcome=ok}_total", 2.0),
        ("tcoder_provider_requests{action=list,outcome=unavailable}_total", 1.0),
        ("tcoder_provider_request_duration_seconds{action=list}_count", 3.0),
        ("tcoder_provider_request_duration_seconds{action=list}_sum", 90.5),
        ("tcoder_provider_throttled_total", 1.0),
        ("tcoder_fleet_actions{kind=retire,outcome=busy}_total", 1.0),
        ("tcoder_fleet_spent_dollars_total", 0.75),
    ] {
        assert_eq!(seen.get(name), Some(&value), "{name} in {seen:#?}");
    }
    assert!(
        metrics.encode(ExpositionFormat::OpenMetrics).contains("\ntcoder_fleet_spent_dollars_total 0.75\n"),
        "{}",
        metrics.encode(ExpositionFormat::OpenMetrics)
    );
}
