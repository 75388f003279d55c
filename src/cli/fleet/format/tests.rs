use super::*;
use crate::config::SandboxMode;
use crate::job::{WorkerClasses, WorkerId};
use crate::queue::{FleetCondition, FleetDesired, WorkerRecord, WorkerSandbox, WorkerState};

/// A time in 2025.
const NOW: Millis = Millis(1_750_000_000_000);
const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

fn machine(name: &str, role: &str) -> FleetMachine {
    FleetMachine {
        name: name.into(),
        id: None,
        region: None,
        state: None,
        role: role.into(),
        job_id: None,
        created_at: None,
        ran_seconds: 0.0,
        running_since: None,
        usd_per_hour: None,
    }
}

fn desired(machines: u32, busy: u32, idle: u32, booting: u32, waiting: u64) -> FleetDesired {
    let existing = busy + idle + booting;
    FleetDesired {
        machines,
        busy,
        idle,
        booting,
        waiting,
        existing,
        billed: existing,
        max: 10,
        ..FleetDesired::default()
    }
}

fn fleet(desired: FleetDesired) -> FleetStatus {
    FleetStatus {
        at: NOW.plus(-5 * MINUTE),
        reconciler: "controller-1".into(),
        epoch: 3,
        app: "films".into(),
        desired,
        ..FleetStatus::default()
    }
}

fn answer(fleet: Option<FleetStatus>) -> FleetAnswer {
    FleetAnswer { now: NOW, pending: 0, silent: false, pause: None, fleet, others: Vec::new() }
}

fn shown(answer: &FleetAnswer) -> &FleetStatus {
    answer.fleet.as_ref().unwrap()
}

fn pause(reason: Option<&str>) -> Option<Paused> {
    Some(Paused { since: NOW.plus(-2 * MINUTE), reason: reason.map(str::to_owned) })
}

fn has(lines: &[String], words: &[&str]) {
    let text = lines.join("\n");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn span_shows_two_units() {
    for (ms, text) in [
        (-5, "0 s"),
        (0, "0 s"),
        (999, "0 s"),
        (59 * SECOND + 999, "59 s"),
        (MINUTE, "1 min"),
        (HOUR - 1, "59 min"),
        (HOUR, "1 h 00 min"),
        (3 * HOUR + 5 * MINUTE, "3 h 05 min"),
        (24 * HOUR - 1, "23 h 59 min"),
        (24 * HOUR, "1 d 00 h"),
        (400 * 24 * HOUR + 7 * HOUR, "400 d 07 h"),
        (i64::MAX, "106751991167 d 07 h"),
        (i64::MIN, "0 s"),
    ] {
        assert_eq!(span(ms), text, "{ms}");
    }
    assert_eq!(since(Millis(i64::MIN), NOW), i64::MAX, "nothing overflows");
}

#[test]
fn headline_shows_desired_machines_and_the_reason() {
    for (wanted, line) in [
        (desired(0, 0, 0, 0, 0), "no machine wanted: 0 busy, no job waits; none exists; at most 10"),
        (desired(1, 0, 0, 0, 1), "1 machine wanted: 0 busy + 1 job waits; none exists; at most 10"),
        (desired(3, 2, 0, 1, 1), "3 machines wanted: 2 busy + 1 job waits; 2 run, 1 boots; at most 10"),
        (
            desired(5, 1, 2, 2, 4),
            "5 machines wanted: 1 busy + 4 jobs wait; 3 run (2 of them idle), 2 boot; at most 10",
        ),
        (desired(0, 0, 1, 0, 0), "no machine wanted: 0 busy, no job waits; 1 runs idle; at most 10"),
        (desired(1, 1, 0, 0, 0), "1 machine wanted: 1 busy, no job waits; 1 runs; at most 10"),
    ] {
        assert_eq!(headline(&fleet(wanted)), line);
    }
    let least = fleet(FleetDesired { min: 2, ..desired(2, 0, 2, 0, 0) });
    assert_eq!(
        headline(&least),
        "2 machines wanted: 0 busy, no job waits; 2 run idle; at least 2, at most 10"
    );
}

#[test]
fn headline_counts_other_machines_by_role() {
    let mut some = fleet(FleetDesired { existing: 7, ..desired(1, 1, 0, 0, 0) });
    some.machines = ["busy", "rest", "zombie", "rest", "leaving"].map(|role| machine("m", role)).into();
    assert_eq!(there(&some), "1 runs, 2 at rest, 1 leaving, 1 zombie, 2 not listed here");
    some.desired.existing = 0;
    assert_eq!(
        there(&some),
        "1 runs, 2 at rest, 1 leaving, 1 zombie",
        "counts that do not fit break nothing"
    );
}

#[test]
fn machine_row_shows_all_columns() {
    let job = "01890a5d-ac96-774b-bcce-b302099a8057";
    let full = FleetMachine {
        id: Some("148ed123".into()),
        region: Some("fra".into()),
        state: Some("started".into()),
        job_id: Some(job.parse().unwrap()),
        created_at: Some("2025-06-15T14:06:40Z".into()),
        ran_seconds: 1800.0,
        running_since: Some(NOW.plus(-30 * MINUTE)),
        ..machine("films-worker-01", "busy")
    };
    let cells = ["films-worker-01", "started", "busy", "fra", job, "1 h 00 min", "30 min", "$0.0500"];
    assert_eq!(row(&full, Some(0.05), NOW), cells);
    assert_eq!(row(&full, None, NOW)[7], "-");
    let bare = machine("films-worker-02", "booting");
    assert_eq!(
        row(&bare, Some(0.05), NOW),
        ["films-worker-02", "-", "booting", "-", "-", "-", "-", "$0.0000"]
    );
    // Clocks differ, and Fly may change its states.
    let odd = FleetMachine {
        region: Some(String::new()),
        created_at: Some("yesterday".into()),
        running_since: Some(NOW.plus(MINUTE)),
        ran_seconds: -3.0,
        ..machine("x", "odd")
    };
    assert_eq!(row(&odd, Some(0.05), NOW), ["x", "-", "odd", "-", "-", "-", "0 s", "$0.0000"]);
    let ahead = FleetMachine { created_at: Some("2030-01-01T00:00:00+02:00".into()), ..bare };
    assert_eq!(row(&ahead, None, NOW)[5], "0 s");
}

#[test]
fn bill_adds_running_and_stopped_machines() {
    let mut some = fleet(desired(2, 2, 0, 0, 0));
    some.machines = vec![
        FleetMachine { ran_seconds: 3600.0, ..machine("a", "rest") },
        FleetMachine { running_since: Some(NOW.plus(-2 * HOUR)), ..machine("b", "busy") },
        FleetMachine {
            ran_seconds: 1800.0,
            running_since: Some(NOW.plus(-HOUR / 2)),
            ..machine("c", "busy")
        },
    ];
    let unknown = bill(&some, NOW);
    assert!(unknown.starts_with("cost so far -, per hour -") && unknown.contains("FLEET_PRICE_USD_PER_HOUR"));
    some.machine_usd_per_hour = Some(0.5);
    assert_eq!(
        bill(&some, NOW),
        "cost so far $2.0000, of the existing machines; per hour $1.0000, for 2 billed machines"
    );
    let summed: f64 = some.machines.iter().map(|m| cost(m, 0.5, NOW)).sum();
    assert!((summed - 2.0).abs() < 1e-9, "{summed}");
    some.desired.billed = 1;
    assert!(bill(&some, NOW).contains("$0.5000, for 1 billed machine"));
    // One of them is four times as large.
    some.machines[0].usd_per_hour = Some(2.0);
    some.billed_usd_per_hour = Some(2.5);
    assert_eq!(
        bill(&some, NOW),
        "cost so far $3.5000, of the existing machines; per hour $2.5000, for 1 billed machine"
    );
    some.billed_usd_per_hour = None;
    some.machine_usd_per_hour = Some(f64::INFINITY);
    assert!(bill(&some, NOW).starts_with("cost so far -"));
}

#[test]
fn conditions_are_sentences_and_omit_the_pause() {
    let mut some = fleet(desired(0, 0, 0, 0, 0));
    assert!(conditions(&some).is_empty());
    let condition =
        |reason: &str, message: &str| FleetCondition { reason: reason.into(), message: message.into() };
    some.conditions = vec![
        condition("Paused", "paused; `tcoder fleet resume` resumes scaling"),
        condition("Unauthorized", "Fly refuses the token; set FLY_API_TOKEN"),
        condition("Quota", "ask Fly for more. "),
    ];
    let told = ["Unauthorized: Fly refuses the token; set FLY_API_TOKEN.", "Quota: ask Fly for more."];
    assert_eq!(conditions(&some), told);
}

#[test]
fn warnings_without_a_status_say_what_to_start() {
    let words = ["No reconciler has reported yet", "`tcoder controller`", "`tcoder up`"];
    let none = answer(None);
    has(&warnings(&none), &words);
    has(&warnings(&none), &["no job waits"]);
    has(&warnings(&FleetAnswer { pending: 3, ..none.clone() }), &["3 jobs wait."]);
    has(&paused(&FleetAnswer { pause: pause(None), ..none.clone() }), &words);
    has(&resumed(&none), &words);
}

#[test]
fn warnings_for_a_healthy_fleet_are_empty() {
    assert!(warnings(&answer(Some(fleet(desired(1, 1, 0, 0, 0))))).is_empty());
}

#[test]
fn warnings_name_a_silent_reconciler() {
    let dead = FleetAnswer { silent: true, pending: 1, ..answer(Some(fleet(desired(1, 1, 0, 0, 0)))) };
    let said = warnings(&dead);
    assert_eq!(said.len(), 1);
    has(&said, &["1 job waits", "controller-1", "not reported for 5 min", "`tcoder controller`"]);
    assert!(when(&dead, shown(&dead)).contains("until a reconciler runs again"));
    has(&resumed(&dead), &["Not paused", "not reported for 5 min"]);
}

#[test]
fn warnings_show_age_and_reason_of_a_pause() {
    let with = |reason| FleetAnswer { pause: pause(reason), ..answer(Some(fleet(desired(0, 0, 0, 0, 0)))) };
    assert_eq!(
        warnings(&with(Some("a new image"))),
        ["Paused for 2 min (since 2025-06-15T15:04:40.000Z): a new image. \
          The fleet is left unchanged until `tcoder fleet resume`."]
    );
    assert_eq!(
        warnings(&with(None)),
        ["Paused for 2 min (since 2025-06-15T15:04:40.000Z). \
          The fleet is left unchanged until `tcoder fleet resume`."]
    );
    assert!(when(&with(None), shown(&with(None))).contains("until `tcoder fleet resume`"));
    has(
        &paused(&with(Some("why"))),
        &["Paused for 2 min", "why.", "continue with their jobs", "`tcoder fleet plan`"],
    );
    assert_eq!(paused(&with(None)).len(), 2, "a reconciler that heeds it needs no further word");
    let by_hand = Paused { since: Millis(0), reason: None };
    assert_eq!(pause_words(&by_hand, NOW), "Paused.");
    has(&paused(&answer(None)), &["resumed by another user"]);
    has(&resumed(&with(None)), &["paused again by another user"]);
}

#[test]
fn warnings_distinguish_fleet_paused_variable_from_a_pause() {
    let mut looks = fleet(desired(0, 0, 0, 0, 0));
    looks.paused = true;
    let own = answer(Some(looks));
    has(&warnings(&own), &["The reconciler changes nothing: FLEET_PAUSED"]);
    assert!(when(&own, shown(&own)).contains("while the reconciler is paused"));
    let both = FleetAnswer { pause: pause(None), ..own };
    assert_eq!(warnings(&both).len(), 1, "the pause explains it");
    assert!(when(&both, shown(&both)).contains("tcoder fleet resume"));
}

#[test]
fn steps_have_number_and_reason() {
    let made = |action: &str, machine: &str| FleetStep {
        action: action.into(),
        machine: machine.into(),
        reason: "2 jobs wait".into(),
    };
    assert_eq!(step(1, &made("create", "films-worker-02")), ["1. create films-worker-02", "2 jobs wait"]);
    assert_eq!(step(12, &made("list", "all")), ["12. list all machines", "2 jobs wait"]);
    assert_eq!(step(3, &made("stop", ""))[0], "3. stop");
    let runs = answer(Some(fleet(desired(0, 0, 0, 0, 0))));
    assert!(when(&runs, shown(&runs)).contains("at most one to Fly a second"));
}

#[test]
fn nothing_to_do_shows_the_reason() {
    for (wanted, why) in [
        (desired(0, 0, 0, 0, 0), "as many machines as wanted"),
        (desired(3, 1, 1, 1, 1), "as many machines as wanted"),
        (desired(0, 0, 2, 0, 0), "more machines than wanted; those without a job stop"),
        (desired(4, 1, 0, 0, 3), "fewer machines than wanted, but no operation is possible now"),
    ] {
        let said = nothing_to_do(&fleet(wanted));
        assert!(said.starts_with(&format!("nothing to do: {why}")) && said.contains(" wanted: "), "{said}");
    }
}

#[test]
fn source_names_app_age_and_reconciler() {
    let said = source(&fleet(desired(0, 0, 0, 0, 0)), NOW);
    assert_eq!(said, "app films; unchanged for 5 min, reported by the reconciler controller-1");
}

#[test]
fn sandboxes_tells_what_how_many_workers_lack() {
    let worker = |name: &str, missing: &[&str]| PoolEntry {
        record: WorkerRecord {
            worker_id: WorkerId(name.to_owned()),
            machine_id: name.to_owned(),
            version: "1".to_owned(),
            pid: 1,
            started_at: Millis(0),
            worker_classes: WorkerClasses::default(),
            sandbox: Some(WorkerSandbox::new(SandboxMode::Preferred, missing)),
        },
        state: WorkerState::Idle,
        job_id: None,
        alive_until: Millis(0),
    };
    assert!(sandboxes(&[]).is_empty() && sandboxes(&[worker("a", &[])]).is_empty());
    let workers = [worker("a", &["no Landlock", "no ports"]), worker("b", &["no ports"]), worker("c", &[])];
    assert_eq!(
        sandboxes(&workers),
        ["warning: on 1 of 3 workers no Landlock", "warning: on 2 of 3 workers no ports"]
    );
}

#[test]
fn fleets_have_titles_if_there_are_several_or_they_have_classes() {
    let fly = fleet(desired(0, 0, 0, 0, 0));
    let pods = FleetStatus { app: "base".into(), pool: Some("films/base".into()), ..fly.clone() };
    let one = answer(Some(fly.clone()));
    assert_eq!(title(&one, &fly), None);
    let both = FleetAnswer { others: vec![pods.clone()], ..one };
    let titles: Vec<_> = both.fleets().filter_map(|fleet| title(&both, fleet)).collect();
    assert_eq!(titles, ["app films", "\nWorkerPool films/base"]);
    assert!(source(&pods, NOW).starts_with("WorkerPool films/base;"), "{}", source(&pods, NOW));
    let large = FleetStatus { worker_classes: "large,huge".parse().unwrap(), ..pods };
    assert_eq!(title(&both, &large).unwrap(), "\nWorkerPool films/base, for jobs of huge,large");
    let alone = answer(Some(large.clone()));
    assert_eq!(title(&alone, &large).unwrap(), "WorkerPool films/base, for jobs of huge,large");
}
