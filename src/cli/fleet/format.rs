//! The words and figures of `tcoder fleet`, from what the API answers. Pure.

use std::collections::BTreeMap;

use crate::api::FleetAnswer;
use crate::job::Millis;
use crate::queue::{FleetMachine, FleetStatus, FleetStep, Paused};

/// `1 machine`, `2 machines`.
fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// `jobs wait` in its numbers.
fn jobs_wait(n: u64) -> String {
    if n == 0 { "no job waits".to_owned() } else { count(n, "job waits", "jobs wait") }
}

/// How long something took, to two figures: `45 s`, `12 min`, `3 h 05 min`, `2 d 04 h`.
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

/// Dollars that a machine has cost: all its runs that Fly's events still tell of, at one price.
fn cost(machine: &FleetMachine, usd_per_hour: f64, now: Millis) -> f64 {
    let runs = machine.running_since.map_or(0, |then| since(then, now).max(0));
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a life fit")]
    let seconds = machine.ran_seconds.max(0.0) + runs as f64 / 1000.0;
    seconds * usd_per_hour / 3600.0
}

/// A machine as a table's line: name, state by Fly, role, region, job, age, up, cost so far.
pub fn row(machine: &FleetMachine, usd_per_hour: Option<f64>, now: Millis) -> [String; 8] {
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

/// How many machines are wanted, why, and how many there are.
pub fn headline(fleet: &FleetStatus) -> String {
    let d = &fleet.desired;
    let wanted = if d.machines == 0 {
        "no machine wanted".to_owned()
    } else {
        format!("{} wanted", count(d.machines.into(), "machine", "machines"))
    };
    let why = match (d.busy, d.waiting) {
        (busy, 0) => format!("{busy} busy, no job waits"),
        (busy, waiting) => format!("{busy} busy + {}", jobs_wait(waiting)),
    };
    let least = if d.min > 0 { format!("at least {}, ", d.min) } else { String::new() };
    format!("{wanted}: {why}; {}; {least}at most {}", there(fleet), d.max)
}

/// `2 run (1 of them idle), 1 boots, 3 at rest`.
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

/// What all of it has cost and costs.
pub fn bill(fleet: &FleetStatus, now: Millis) -> String {
    let Some(price) = fleet.machine_usd_per_hour else {
        return "cost so far -, an hour -: no price is known; FLEET_PRICE_USD_PER_HOUR gives `tcoder controller` one"
            .to_owned();
    };
    let so_far: f64 = fleet.machines.iter().map(|m| cost(m, price, now)).sum();
    let billed = fleet.desired.billed;
    format!(
        "cost so far {}, of the machines that exist; an hour {}, for {} at {}",
        dollars(Some(so_far)),
        dollars(Some(f64::from(billed) * price)),
        count(billed.into(), "machine that may run", "machines that may run"),
        dollars(Some(price)),
    )
}

/// Whose word it is, and how old.
pub fn source(fleet: &FleetStatus, now: Millis) -> String {
    let age = span(since(fleet.at, now));
    format!("app {}; unchanged for {age}, says the reconciler {}", fleet.app, fleet.reconciler)
}

/// What is wrong or waited for, a sentence each. That it is paused stands in the warnings.
pub fn conditions(fleet: &FleetStatus) -> Vec<String> {
    let told = fleet.conditions.iter().filter(|c| c.reason != "Paused");
    told.map(|c| format!("{}: {}", c.reason, sentence(&c.message))).collect()
}

/// With a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// What has to be said before anything else: nobody speaks, or nothing is done.
pub fn warnings(answer: &FleetAnswer) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(pause) = &answer.pause {
        said.push(format!(
            "{} Nothing is done about the fleet until `tcoder fleet resume`.",
            pause_words(pause, answer.now)
        ));
    }
    match &answer.fleet {
        None => said.push(format!(
            "No reconciler has spoken yet, so nothing is known of machines; {}. `tcoder controller` runs one; \
             `tcoder up` has one, unless it runs with --max-machines 0.",
            jobs_wait(answer.pending)
        )),
        Some(fleet) => {
            if answer.silent {
                said.push(format!(
                    "{}, and the reconciler {} has said nothing for {}: what stands here is old. Look at its \
                     log, and start `tcoder controller` (or `tcoder up`) again.",
                    jobs_wait(answer.pending),
                    fleet.reconciler,
                    span(since(fleet.at, answer.now))
                ));
            }
            if fleet.paused && answer.pause.is_none() {
                said.push(
                    "The reconciler only looks on: it was started with FLEET_PAUSED=true, or has not taken \
                     note of a resume yet."
                        .to_owned(),
                );
            }
        }
    }
    said
}

fn pause_words(pause: &Paused, now: Millis) -> String {
    let why = pause.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    // The time is 0 where somebody set the key by hand.
    if pause.since.0 <= 0 {
        return sentence(&format!("Paused{why}"));
    }
    sentence(&format!("Paused for {} (since {}){why}", span(since(pause.since, now)), pause.since))
}

/// A step as a table's line: number and step, and why.
pub fn step(number: usize, step: &FleetStep) -> [String; 2] {
    let what = match &*step.machine {
        "" => step.action.clone(),
        // Listing is for all machines at once.
        "all" => format!("{} all machines", step.action),
        machine => format!("{} {machine}", step.action),
    };
    [format!("{number}. {what}"), step.reason.clone()]
}

/// Why there is no step to take.
pub fn nothing_to_do(fleet: &FleetStatus) -> String {
    let d = &fleet.desired;
    let there = d.busy.saturating_add(d.idle).saturating_add(d.booting);
    let why = match there.cmp(&d.machines) {
        std::cmp::Ordering::Equal => "as many machines as wanted",
        std::cmp::Ordering::Greater => {
            "more machines than wanted; those without a job leave when their time is over"
        }
        std::cmp::Ordering::Less => "fewer machines than wanted, but no step can be taken now",
    };
    format!("nothing to do: {why}\n{}", headline(fleet))
}

/// When the steps are taken.
pub fn when(answer: &FleetAnswer) -> String {
    let looks_on = answer.fleet.as_ref().is_some_and(|fleet| fleet.paused);
    match (&answer.pause, looks_on) {
        (Some(_), _) => "none of it is done until `tcoder fleet resume`",
        (None, true) => "none of it is done while the reconciler only looks on",
        (None, false) if answer.silent => "none of it is done until a reconciler runs again",
        (None, false) => {
            "the reconciler is at it: one request to Fly a second, and a new plan after each step"
        }
    }
    .to_owned()
}

/// What `pause` has done.
pub fn paused(answer: &FleetAnswer) -> Vec<String> {
    let Some(pause) = &answer.pause else {
        return vec!["It was resumed by somebody else in the meantime.".to_owned()];
    };
    let mut said = vec![
        pause_words(pause, answer.now),
        "Machines that run go on with their jobs, and leave by themselves; none is started, made, stopped or \
         destroyed until `tcoder fleet resume`. `tcoder fleet plan` says what would be done."
            .to_owned(),
    ];
    said.extend(unheard(answer));
    said
}

/// What `resume` has done.
pub fn resumed(answer: &FleetAnswer) -> Vec<String> {
    if answer.pause.is_some() {
        return vec![
            "It was paused again by somebody else in the meantime; see `tcoder fleet status`.".to_owned(),
        ];
    }
    let mut said = vec!["Not paused. `tcoder fleet plan` says what is done next.".to_owned()];
    said.extend(unheard(answer));
    said
}

/// Whether anybody heeds it at all.
fn unheard(answer: &FleetAnswer) -> Vec<String> {
    let heeded = answer.fleet.is_some() && !answer.silent;
    if heeded { Vec::new() } else { warnings(&FleetAnswer { pause: None, ..answer.clone() }) }
}

#[cfg(test)]
mod tests;
