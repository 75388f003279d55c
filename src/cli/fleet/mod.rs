//! `tcoder fleet`: shows the machines and the next operations; pauses and resumes scaling.

mod format;

use super::CliError;
use super::args::{FleetArgs, FleetCommand};
use super::client::ApiClient;
use super::output::{self, outln};
use crate::api::{FleetAnswer, PauseFleet};
use crate::queue::FleetStatus;

pub(crate) async fn run(args: FleetArgs) -> Result<(), CliError> {
    let client = ApiClient::new(&args.server)?;
    let (answer, show): (FleetAnswer, fn(&FleetAnswer)) = match &args.command {
        FleetCommand::Status => (client.fleet().await?, status),
        FleetCommand::Plan => (client.fleet().await?, plan),
        FleetCommand::Pause { reason } => {
            (client.fleet_pause(&PauseFleet { reason: reason.clone() }).await?, paused)
        }
        FleetCommand::Resume => (client.fleet_resume().await?, resumed),
    };
    if args.json {
        return output::json(&answer);
    }
    show(&answer);
    if matches!(args.command, FleetCommand::Status) {
        lines(format::sandboxes(&client.system().await?.workers));
    }
    Ok(())
}

fn lines(lines: impl IntoIterator<Item = String>) {
    for line in lines {
        outln!("{line}");
    }
}

fn status(answer: &FleetAnswer) {
    lines(format::warnings(answer));
    for fleet in answer.fleets() {
        lines(format::title(answer, fleet));
        machines(answer, fleet);
    }
}

fn machines(answer: &FleetAnswer, fleet: &FleetStatus) {
    outln!("{}", format::headline(fleet));
    if !fleet.machines.is_empty() {
        outln!("");
        output::machines(fleet.machines.iter().map(|m| format::row(m, fleet.price_of(m), answer.now)));
        outln!("");
    }
    outln!("{}", format::bill(fleet, answer.now));
    outln!("{}", format::source(fleet, answer.now));
    lines(format::conditions(fleet));
}

fn plan(answer: &FleetAnswer) {
    lines(format::warnings(answer));
    for fleet in answer.fleets() {
        lines(format::title(answer, fleet));
        operations(answer, fleet);
    }
}

fn operations(answer: &FleetAnswer, fleet: &FleetStatus) {
    if fleet.plan.is_empty() {
        outln!("{}", format::nothing_to_do(fleet));
    } else {
        outln!("{}", format::headline(fleet));
        outln!("");
        output::steps(fleet.plan.iter().zip(1..).map(|(step, number)| format::step(number, step)));
        outln!("");
        outln!("{}", format::when(answer, fleet));
    }
    lines(format::conditions(fleet));
}

fn paused(answer: &FleetAnswer) {
    lines(format::paused(answer));
}

fn resumed(answer: &FleetAnswer) {
    lines(format::resumed(answer));
}
