//! What is left on this machine, and at the provider of machines, when all jobs have ended.

use std::path::Path;

use tcoder::flyprovider::{FlyMachine, MachineState};

use crate::support::process::{Process, processes};

/// The files and folders of jobs.
pub fn files(scratch: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(scratch).unwrap().flatten();
    entries.map(|entry| format!("{} is left", entry.path().display())).collect()
}

/// The processes that were started for this folder, which their environment or their command names.
pub fn processes_of(folder: &Path) -> Vec<Process> {
    let folder = folder.to_str().unwrap();
    let is_ours = |process: &Process| {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        process.command.contains(folder) || String::from_utf8_lossy(&environment).contains(folder)
    };
    processes().into_iter().filter(is_ours).collect()
}

/// The machines that are charged though there is nothing to do, and those beyond `most`.
pub fn machines(all: &[FlyMachine], most: usize) -> Vec<String> {
    let there: Vec<_> = all.iter().filter(|machine| !machine.state.is_gone()).collect();
    let awake = there.iter().filter(|machine| machine.state != MachineState::Stopped);
    let mut orphans: Vec<_> =
        awake.map(|machine| format!("machine {} is {}", machine.name, machine.state)).collect();
    if there.len() > most {
        orphans.push(format!("there are {} machines, and at most {most} were allowed", there.len()));
    }
    orphans
}
