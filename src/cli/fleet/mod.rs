//! `tcoder fleet`: the machines, what becomes of them next, and stopping and resuming that.

mod words;

use super::CliError;
use super::args::{FleetArgs, FleetCommand};
use super::client::Client;
use super::show::{self, say};
use crate::api::{FleetAnswer, PauseFleet};

pub async fn run(args: FleetArgs) -> Result<(), CliError> {
    let client = Client::new(&args.server)?;
    let (answer, show): (FleetAnswer, fn(&FleetAnswer)) = match args.command {
        FleetCommand::Status => (client.fleet().await?, status),
        FleetCommand::Plan => (client.fleet().await?, plan),
        FleetCommand::Pause { reason } => (client.fleet_pause(&PauseFleet { reason }).await?, paused),
        FleetCommand::Resume => (client.fleet_resume().await?, resumed),
    };
    if args.json {
        return show::json(&answer);
    }
    show(&answer);
    Ok(())
}

fn lines(lines: impl IntoIterator<Item = String>) {
    for line in lines {
        say!("{line}");
    }
}

fn status(answer: &FleetAnswer) {
    lines(words::warnings(answer));
    let Some(fleet) = &answer.fleet else { return };
    say!("{}", words::headline(fleet));
    if !fleet.machines.is_empty() {
        say!("");
        show::machines(fleet.machines.iter().map(|m| words::row(m, fleet.machine_usd_per_hour, answer.now)));
        say!("");
    }
    say!("{}", words::bill(fleet, answer.now));
    say!("{}", words::source(fleet, answer.now));
    lines(words::conditions(fleet));
}

fn plan(answer: &FleetAnswer) {
    lines(words::warnings(answer));
    let Some(fleet) = &answer.fleet else { return };
    if fleet.plan.is_empty() {
        say!("{}", words::nothing_to_do(fleet));
    } else {
        say!("{}", words::headline(fleet));
        say!("");
        show::steps(fleet.plan.iter().zip(1..).map(|(step, number)| words::step(number, step)));
        say!("");
        say!("{}", words::when(answer));
    }
    lines(words::conditions(fleet));
}

fn paused(answer: &FleetAnswer) {
    lines(words::paused(answer));
}

fn resumed(answer: &FleetAnswer) {
    lines(words::resumed(answer));
}
