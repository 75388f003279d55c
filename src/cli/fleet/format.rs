//! The texts and figures of `tcoder fleet`, computed from the API's response. Pure.

use std::collections::BTreeMap;

use crate::api::FleetAnswer;
use crate::job::{Millis, WorkerClasses};
use crate::queue::{FleetMachine, FleetStatus, FleetStep, Paused, PoolEntry, count};

/// `job waits` or `jobs wait`, with the number.
fn jobs_wait(n: u64) -> String {
    if n == 0 { "no job waits".to_owned() } else { count(n, "job waits", "jobs wait") }
}

/// A duration with two units: `45 s`, `12 min`, `3 h 05 min`, `2 d 04 h`.
fn span(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{} d {:02} h", hours / 24, hours % 24),
    }
}

const fn since(then: Millis, now: Millis) -> i64 {
    now.0.saturating_sub(then.0)
}

fn dollars(amount: Option<f64>) -> String {
    amount.filter(|a| a.is_finite()).map_or_else(|| "-".to_owned(), |a| format!("${a:.4}"))
}

/// The cost of a machine in dollars: all its runs in Fly's events, at its price.
fn cost(machine: &FleetMachine, usd_per_hour: f64, now: Millis) -> f64 {
    let runs = machine.running_since.map_or(0, |then| since(then, now).max(0));
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a life fit")]
    let seconds = machine.ran_seconds.max(0.0) + runs as f64 / 1000.0;
    seconds * usd_per_hour / 3600.0
}

/// The table row of a machine: name, Fly's state, role, region, job, age, up, cost so far.
pub(crate) fn row(machine: &FleetMachine, usd_per_hour: Option<f64>, now: Millis) -> [String; 8] {
    let or_none = |text: Option<String>| text.filter(|t| !t.is_empty()).unwrap_or_else(|| "-".to_owned());
    let made = machine.created_at.as_deref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let age = made.map(|at| span(since(Millis(at.as_millisecond()), now)));
    [
        machine.name.clone(),
        or_none(machine.state.clone()),
        machine.role.clone(),
        or_none(machine.region.clone()),
        or_none(machine.job_id.map(|id| id.to_string())),
        or_none(age),
        or_none(machine.running_since.map(|then| span(since(then, now)))),
        dollars(usd_per_hour.map(|price| cost(machine, price, now))),
    ]
}

/// What the sandboxes of the workers lack: a line for each protection, with the number of workers without it.
pub(crate) fn sandboxes(workers: &[PoolEntry]) -> Vec<String> {
    let mut without: BTreeMap<&str, u64> = BTreeMap::new();
    for missing in workers.iter().filter_map(|worker| worker.record.sandbox.as_ref()).flat_map(|s| &s.missing)
    {
        *without.entry(missing).or_default() += 1;
    }
    let of_all = workers.len();
    without.iter().map(|(missing, n)| format!("warning: on {n} of {of_all} workers {missing}")).collect()
}

/// What a fleet is called.
fn name(fleet: &FleetStatus) -> String {
    fleet.pool.as_ref().map_or_else(|| format!("app {}", fleet.app), |pool| format!("WorkerPool {pool}"))
}

/// The title of a fleet, if there are several or it takes jobs of other classes than the default one: its name, and these
/// classes.
pub(crate) fn title(answer: &FleetAnswer, fleet: &FleetStatus) -> Option<String> {
    let mut name = name(fleet);
    let has_classes = fleet.worker_classes != WorkerClasses::default();
    if has_classes {
        name.push_str(&format!(", for jobs of {}", fleet.worker_classes));
    }
    let space = if answer.fleet.as_ref() == Some(fleet) { "" } else { "\n" };
    (has_classes || !answer.others.is_empty()).then(|| format!("{space}{name}"))
}

/// The desired number of machines, why, and how many exist.
pub(crate) fn headline(fleet: &FleetStatus) -> String {
    let d = &fleet.desired;
    let wanted = if d.machines == 0 {
        "no machine wanted".to_owned()
    } else {
        format!("{} wanted", count(d.machines.into(), "machine", "machines"))
    };
    let why = match (d.busy, d.waiting) {
        (busy, 0) => format!("{busy} busy, no job waits"),
        (busy, _) => format!("{busy} busy + {}", d.waits()),
    };
    let least = if d.min > 0 { format!("at least {}, ", d.min) } else { String::new() };
    format!("{wanted}: {why}; {}; {least}at most {}", there(fleet), d.max)
}

/// For example `2 run (1 of them idle), 1 boots, 3 at rest`.
fn there(fleet: &FleetStatus) -> String {
    let d = &fleet.desired;
    let run = d.busy.saturating_add(d.idle);
    let mut parts = Vec::new();
    if run > 0 {
        let idle = match d.idle {
            0 => String::new(),
            idle if idle == run => " idle".to_owned(),
            idle => format!(" ({idle} of them idle)"),
        };
        parts.push(format!("{}{idle}", count(run.into(), "runs", "run")));
    }
    if d.booting > 0 {
        parts.push(count(d.booting.into(), "boots", "boot"));
    }
    let mut others: BTreeMap<&str, u32> = BTreeMap::new();
    for machine in fleet.machines.iter().filter(|m| !matches!(&*m.role, "busy" | "idle" | "booting")) {
        *others.entry(if machine.role == "rest" { "at rest" } else { &machine.role }).or_default() += 1;
    }
    parts.extend(others.iter().map(|(role, n)| format!("{n} {role}")));
    let told: u32 = others.values().sum();
    let more = d.existing.saturating_sub(run).saturating_sub(d.booting).saturating_sub(told);
    if more > 0 {
        parts.push(format!("{more} not listed here"));
    }
    if parts.is_empty() { "none exists".to_owned() } else { parts.join(", ") }
}

/// The cost so far and per hour.
pub(crate) fn bill(fleet: &FleetStatus, now: Millis) -> String {
    let Some(billed_price) = fleet.billed_price() else {
        return "cost so far -, per hour -: the price is unknown; set FLEET_PRICE_USD_PER_HOUR for `tcoder controller`"
            .to_owned();
    };
    // The sum of no numbers is -0.0.
    let costs = fleet.machines.iter().map(|m| cost(m, fleet.price_of(m).unwrap_or_default(), now));
    let so_far = costs.fold(0.0, |sum, cost| sum + cost);
    format!(
        "cost so far {}, of the existing machines; per hour {}, for {}",
        dollars(Some(so_far)),
        dollars(Some(billed_price)),
        count(fleet.desired.billed.into(), "billed machine", "billed machines"),
    )
}

/// Who published the status, and when it last changed.
pub(crate) fn source(fleet: &FleetStatus, now: Millis) -> String {
    let age = span(since(fleet.at, now));
    let name = name(fleet);
    format!("{name}; unchanged for {age}, reported by the reconciler {}", fleet.reconciler)
}

/// The conditions, one sentence each. The warnings contain the pause.
pub(crate) fn conditions(fleet: &FleetStatus) -> Vec<String> {
    let told = fleet.conditions.iter().filter(|c| c.reason != "Paused");
    told.map(|c| format!("{}: {}", c.reason, sentence(&c.message))).collect()
}

/// Appends a full stop if there is none.
fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// What the user must know first: no reconciler reports, or the fleet is paused.
pub(crate) fn warnings(answer: &FleetAnswer) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(pause) = &answer.pause {
        said.push(format!(
            "{} The fleet is left unchanged until `tcoder fleet resume`.",
            pause_words(pause, answer.now)
        ));
    }
    match &answer.fleet {
        None => said.push(format!(
            "No reconciler has reported yet, so nothing is known about machines; {}. `tcoder controller` runs one; \
             `tcoder up` has one, unless it runs with --max-machines 0.",
            jobs_wait(answer.pending)
        )),
        Some(fleet) => {
            if answer.silent {
                said.push(format!(
                    "{}, and the reconciler {} has not reported for {}: this status is out of date. Read its \
                     log, and restart `tcoder controller` (or `tcoder up`).",
                    jobs_wait(answer.pending),
                    fleet.reconciler,
                    span(since(fleet.at, answer.now))
                ));
            }
        }
    }
    let paused: Vec<&FleetStatus> =
        answer.fleets().filter(|fleet| fleet.paused && answer.pause.is_none()).collect();
    if !paused.is_empty() {
        let names: Vec<String> = paused.into_iter().map(name).collect();
        let whose =
            if answer.others.is_empty() { String::new() } else { format!(" of {}", names.join(", ")) };
        said.push(format!(
            "The reconciler{whose} changes nothing: FLEET_PAUSED or spec.paused of the WorkerPool is true, or it has not \
             read the resume yet."
        ));
    }
    said
}

fn pause_words(pause: &Paused, now: Millis) -> String {
    let why = pause.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    // The time is 0 if somebody set the key by hand.
    if pause.since.0 <= 0 {
        return sentence(&format!("Paused{why}"));
    }
    sentence(&format!("Paused for {} (since {}){why}", span(since(pause.since, now)), pause.since))
}

/// The table rows of an operation: its number and name, and its reason.
pub(crate) fn step(number: usize, step: &FleetStep) -> [String; 2] {
    let what = match &*step.machine {
        "" => step.action.clone(),
        // Listing concerns all machines at once.
        "all" => format!("{} all machines", step.action),
        machine => format!("{} {machine}", step.action),
    };
    [format!("{number}. {what}"), step.reason.clone()]
}

/// Why there is no operation to carry out.
pub(crate) fn nothing_to_do(fleet: &FleetStatus) -> String {
    let d = &fleet.desired;
    let there = d.busy.saturating_add(d.idle).saturating_add(d.booting);
    let why = match there.cmp(&d.machines) {
        std::cmp::Ordering::Equal => "as many machines as wanted",
        std::cmp::Ordering::Greater => {
            "more machines than wanted; those without a job stop when their idle timeout ends"
        }
        std::cmp::Ordering::Less => "fewer machines than wanted, but no operation is possible now",
    };
    format!("nothing to do: {why}\n{}", headline(fleet))
}

/// When the operations are carried out.
pub(crate) fn when(answer: &FleetAnswer, fleet: &FleetStatus) -> String {
    match (&answer.pause, fleet.paused) {
        (Some(_), _) => "nothing is carried out until `tcoder fleet resume`",
        (None, true) => "nothing is carried out while the reconciler is paused",
        (None, false) if answer.silent => "nothing is carried out until a reconciler runs again",
        (None, false) => {
            "the reconciler carries them out: one request after the other, at most one to Fly a second, and a new plan after each"
        }
    }
    .to_owned()
}

/// The output of `pause`.
pub(crate) fn paused(answer: &FleetAnswer) -> Vec<String> {
    let Some(pause) = &answer.pause else {
        return vec!["The fleet was resumed by another user in the meantime.".to_owned()];
    };
    let mut said = vec![
        pause_words(pause, answer.now),
        "Running machines continue with their jobs and stop by themselves; none is started, created, stopped or \
         destroyed until `tcoder fleet resume`. `tcoder fleet plan` shows the next operations."
            .to_owned(),
    ];
    said.extend(unheard(answer));
    said
}

/// The output of `resume`.
pub(crate) fn resumed(answer: &FleetAnswer) -> Vec<String> {
    if answer.pause.is_some() {
        return vec![
            "The fleet was paused again by another user in the meantime; see `tcoder fleet status`."
                .to_owned(),
        ];
    }
    let mut said = vec!["Not paused. `tcoder fleet plan` shows the next operations.".to_owned()];
    said.extend(unheard(answer));
    said
}

/// The warnings if no reconciler is running.
fn unheard(answer: &FleetAnswer) -> Vec<String> {
    let heeded = answer.fleet.is_some() && !answer.silent;
    if heeded { Vec::new() } else { warnings(&FleetAnswer { pause: None, ..answer.clone() }) }
}

#[cfg(test)]
mod tests;
