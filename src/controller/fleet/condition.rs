//! Conditions of the fleet that an operator should know of.

use super::machine::{MachineId, Phase};
use super::observation::ListFailure;
use super::provider::ProviderWords;
use crate::job::WorkerClasses;

/// A condition of the fleet that an operator should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Redis cannot be read.
    QueueUnknown,
    /// The machines cannot be listed.
    ListUnknown(ListFailure),
    /// The fleet is paused.
    Paused {
        /// Whether a WorkerPool configures the fleet.
        has_pool: bool,
    },
    /// The provider refused a write.
    Unauthorized,
    /// Many machines are suddenly missing from the list.
    SuddenDrop {
        /// Number of missing machines.
        missing: u32,
        /// Number of known machines.
        of: u32,
    },
    /// Consecutive launches started no worker: the last machine could not run, or its process failed.
    LaunchesFailing {
        /// Consecutive failed launches.
        failures: u32,
        /// What the provider said of the last of them, if anything.
        said: Option<String>,
    },
    /// Consecutive launches started no worker: the last machine ran, but no worker registered in this Redis.
    WorkersNotRegistering {
        /// Consecutive failed launches.
        failures: u32,
    },
    /// Consecutive launches brought a worker that does not take the jobs of all classes of the fleet, as those of an image
    /// from before classes.
    WorkersWithoutClasses {
        /// Consecutive failed launches.
        failures: u32,
        /// The classes of the fleet.
        classes: WorkerClasses,
    },
    /// No region has capacity.
    NoCapacity {
        /// What the provider said last, if anything.
        said: Option<String>,
    },
    /// The quota is reached.
    Quota {
        /// What the provider said last, if anything.
        said: Option<String>,
    },
    /// The provider refuses machines until the account's payment is in order.
    Billing,
    /// More machines would cost more than allowed.
    Budget {
        /// Number of machines of the size for jobs that the budget allows.
        affordable: u32,
        /// Whether a WorkerPool configures the fleet.
        has_pool: bool,
    },
    /// The provider throttles requests or fails.
    BackingOff {
        /// What it said last, if anything.
        said: Option<String>,
    },
    /// The provider cannot reach the hosts of this many machines.
    Unreachable(u32),
    /// A machine is in an unknown state; it is not changed.
    UnknownMachineState(MachineId, Phase),
    /// Heartbeat and list contradict each other.
    Disputed(MachineId),
}

impl Condition {
    /// One word for programs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::QueueUnknown => "QueueUnknown",
            Self::ListUnknown(ListFailure::Unauthorized) | Self::Unauthorized => "Unauthorized",
            Self::ListUnknown(ListFailure::Billing) | Self::Billing => "Billing",
            Self::ListUnknown(ListFailure::NoSuchApp) => "NoSuchApp",
            Self::ListUnknown(ListFailure::NotYet) => "NotListedYet",
            Self::ListUnknown(ListFailure::Failed) => "ListFailed",
            Self::Paused { .. } => "Paused",
            Self::SuddenDrop { .. } => "SuddenDrop",
            Self::LaunchesFailing { .. } => "LaunchesFailing",
            Self::WorkersNotRegistering { .. } => "WorkersNotRegistering",
            Self::WorkersWithoutClasses { .. } => "WorkersWithoutClasses",
            Self::NoCapacity { .. } => "NoCapacity",
            Self::Quota { .. } => "Quota",
            Self::Budget { .. } => "Budget",
            Self::BackingOff { .. } => "BackingOff",
            Self::Unreachable(_) => "Unreachable",
            Self::UnknownMachineState(..) => "UnknownMachineState",
            Self::Disputed(_) => "Disputed",
        }
    }
}

impl Condition {
    /// What is wrong and what to do about it, in the words of the provider.
    #[must_use]
    pub fn message(&self, words: &ProviderWords) -> String {
        let name = words.name;
        match self {
            Self::QueueUnknown => "Redis cannot be read; nothing is changed until it can".to_owned(),
            Self::ListUnknown(ListFailure::Unauthorized) => words.list_refused.to_owned(),
            Self::ListUnknown(ListFailure::NoSuchApp) => words.no_such_app.to_owned(),
            Self::ListUnknown(ListFailure::Billing) | Self::Billing => words.billing.to_owned(),
            Self::ListUnknown(ListFailure::NotYet) => "the machines were not listed yet".to_owned(),
            Self::ListUnknown(ListFailure::Failed) => {
                format!("{name}'s list of machines cannot be read; nothing is changed until it can")
            }
            Self::Paused { has_pool: false } => {
                "paused; `tcoder fleet resume` resumes scaling unless FLEET_PAUSED is set".to_owned()
            }
            Self::Paused { has_pool: true } => "paused; set spec.paused of the WorkerPool to false to resume scaling, or \
                                                run `tcoder fleet resume` if all fleets are paused; FLEET_PAUSED of the \
                                                controller pauses all, too"
                .to_owned(),
            Self::Unauthorized => words.writes_refused.to_owned(),
            Self::SuddenDrop { missing, of } => format!(
                "{missing} of {of} machines are suddenly missing from {name}'s list; nothing is changed until it is \
                 certain"
            ),
            Self::LaunchesFailing { failures, said } => {
                let why = said.as_ref().map_or_else(String::new, |said| format!(": {said}"));
                format!("{failures} launches in a row started no worker{why}; {}", words.launches_failing)
            }
            Self::WorkersNotRegistering { failures } => format!(
                "{failures} launches in a row started a machine, but no worker registered in this Redis; {}",
                words.workers_not_registering
            ),
            Self::WorkersWithoutClasses { failures, classes } => format!(
                "{failures} launches in a row brought a worker that does not take the jobs of all classes of this fleet \
                 ({classes}): its image is too old for classes of workers; {}",
                words.workers_without_classes
            ),
            Self::NoCapacity { said } => with(words.no_capacity.to_owned(), said.as_ref()),
            Self::Quota { said } => with(words.quota.to_owned(), said.as_ref()),
            Self::Budget { affordable, has_pool } => {
                let name = if *has_pool {
                    "spec.budgetUsdPerHour of the WorkerPool (or FLEET_BUDGET_USD_PER_HOUR of the controller, if it is not set)"
                } else {
                    "FLEET_BUDGET_USD_PER_HOUR"
                };
                format!("{name} allows at most {affordable} machines of the smallest size")
            }
            Self::BackingOff { said } => with(
                format!("{name} throttles requests or fails; waiting before the next request"),
                said.as_ref(),
            ),
            Self::Unreachable(n) => format!("the hosts of {n} machines cannot be reached by {name}"),
            Self::UnknownMachineState(machine, phase) => {
                format!("machine {machine} is in the unknown state {phase}; it is left alone")
            }
            Self::Disputed(machine) => format!(
                "{name} reports machine {machine} as stopped, but its worker sends heartbeats; it is left alone"
            ),
        }
    }
}

/// A message, and after it what the provider said.
fn with(message: String, said: Option<&String>) -> String {
    match said {
        Some(said) => format!("{message} ({said})"),
        None => message,
    }
}
