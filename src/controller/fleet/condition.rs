//! What a person should know of the fleet.

use super::machine::{MachineId, Phase};
use super::observation::ListFailure;
use super::provider::ProviderWords;

/// What a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Redis cannot be read.
    QueueUnknown,
    /// The machines cannot be listed.
    ListUnknown(ListFailure),
    /// The operator said so.
    Paused,
    /// The provider refused a write.
    Unauthorized,
    /// Many machines are suddenly missing from the list.
    SuddenDrop {
        /// So many.
        missing: u32,
        /// Of so many.
        of: u32,
    },
    /// Launch after launch brought no worker: the last machine could not be run, or its process failed.
    LaunchesFailing {
        /// In a row.
        failures: u32,
    },
    /// Launch after launch brought no worker: the last machine ran, and no worker registered in this Redis.
    WorkersNotRegistering {
        /// In a row.
        failures: u32,
    },
    /// No region has room.
    NoCapacity,
    /// The account's quota is reached.
    Quota,
    /// The provider refuses machines until the account's payment is in order.
    Billing,
    /// More machines would cost more than allowed.
    Budget {
        /// So many may run.
        affordable: u32,
    },
    /// The provider asked for slower calls, or fails.
    BackingOff,
    /// Hosts of this many machines cannot be reached.
    Unreachable(u32),
    /// A machine in a state not known here; it is left alone.
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
            Self::Paused => "Paused",
            Self::SuddenDrop { .. } => "SuddenDrop",
            Self::LaunchesFailing { .. } => "LaunchesFailing",
            Self::WorkersNotRegistering { .. } => "WorkersNotRegistering",
            Self::NoCapacity => "NoCapacity",
            Self::Quota => "Quota",
            Self::Budget { .. } => "Budget",
            Self::BackingOff => "BackingOff",
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
                format!("{name}'s list of machines cannot be had; nothing is changed until it can")
            }
            Self::Paused => "paused; `tcoder fleet resume` goes on, where FLEET_PAUSED is not set".to_owned(),
            Self::Unauthorized => words.writes_refused.to_owned(),
            Self::SuddenDrop { missing, of } => format!(
                "{missing} of {of} machines are suddenly missing from {name}'s list; nothing is changed until it is \
                 certain"
            ),
            Self::LaunchesFailing { failures } => {
                format!("{failures} launches in a row brought no worker; {}", words.launches_failing)
            }
            Self::WorkersNotRegistering { failures } => format!(
                "{failures} launches in a row brought a machine that runs and no worker in this Redis; {}",
                words.workers_not_registering
            ),
            Self::NoCapacity => format!("no region has room now; {}", words.no_capacity),
            Self::Quota => words.quota.to_owned(),
            Self::Budget { affordable } => {
                format!("FLEET_BUDGET_USD_PER_HOUR pays for {affordable} machines and no more")
            }
            Self::BackingOff => {
                format!("{name} asked for fewer calls, or fails; waiting before the next")
            }
            Self::Unreachable(n) => format!("the hosts of {n} machines cannot be reached by {name}"),
            Self::UnknownMachineState(machine, phase) => {
                format!("machine {machine} is in the state {phase}, unknown here; it is left alone")
            }
            Self::Disputed(machine) => format!(
                "machine {machine} is at rest says {name}, alive says its heartbeat; it is left alone"
            ),
        }
    }
}
