//! The planned operations, their outcomes, and the conditions to report.

use std::time::Duration;

use super::classify::MachineView;
use super::desired::Desired;
use super::launch::Slot;
use super::machine::{MachineId, Phase};
use super::observation::ListFailure;
use super::provider::ProviderWords;
use crate::job::WorkerId;

/// The result of planning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The desired number of machines, with the counts behind it.
    pub desired: Desired,
    /// The operations, most urgent first. The caller carries out the first and plans again, which drops the
    /// operations that it made unnecessary.
    pub actions: Vec<PlannedOperation>,
    /// Conditions that the operator of the installation should know about.
    pub conditions: Vec<Condition>,
    /// The machines with their roles, by slot; empty while the machines are unknown.
    pub units: Vec<MachineView>,
    /// When to observe again: zero means to list the machines now, a duration means to plan again after that
    /// time even without an event of the queue, `None` means to wait for an event.
    pub next_look: Option<Duration>,
}

/// An operation with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedOperation {
    /// The operation.
    pub act: Operation,
    /// The reason, as a sentence.
    pub reason: String,
}

/// An operation on a machine.
///
/// Before a stop or a destroy, the caller retires the machine's workers in one atomic step that also checks
/// their leases. If one of them holds a lease, the operation is dropped ([`Outcome::Refused`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Start a stopped machine.
    Start {
        /// The machine's id.
        machine: MachineId,
    },
    /// Create a machine and start it.
    Create {
        /// The slot it fills.
        slot: Slot,
        /// The name of the slot.
        name: String,
        /// The region, or [`super::ANY_REGION`].
        region: String,
    },
    /// Make the workers of a machine exit. Needs no request to the provider. It is refused while one of them
    /// holds a lease.
    Retire {
        /// The machine's id.
        machine: MachineId,
        /// Its workers.
        workers: Vec<WorkerId>,
    },
    /// Stop a machine.
    Stop {
        /// The machine's id.
        machine: MachineId,
    },
    /// Destroy a machine.
    Destroy {
        /// The machine's id.
        machine: MachineId,
        /// Destroy it even if it is running.
        force: bool,
    },
}

impl Operation {
    /// The machine that the operation is about; `None` for a create.
    #[must_use]
    pub const fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::Start { machine }
            | Self::Retire { machine, .. }
            | Self::Stop { machine }
            | Self::Destroy { machine, .. } => Some(machine),
            Self::Create { .. } => None,
        }
    }

    /// Operations that bring machines up come first. A retire costs no request and delays nothing.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Start { .. } => 0,
            Self::Create { .. } => 1,
            Self::Retire { .. } => 2,
            Self::Stop { .. } => 3,
            Self::Destroy { .. } => 4,
        }
    }

    /// The name that logs and metrics use.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Create { .. } => "create",
            Self::Retire { .. } => "retire",
            Self::Stop { .. } => "stop",
            Self::Destroy { .. } => "destroy",
        }
    }
}

/// The outcome of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider carried it out (for a retire, Redis did). For a create, with the id of the machine.
    Done(Option<MachineId>),
    /// The answer was lost or unintelligible: it may or may not have been carried out. Server errors on
    /// writes belong here.
    Unknown,
    /// A machine with this name already exists; with its id if the provider reported it.
    NameTaken(Option<MachineId>),
    /// The host or the region has no capacity.
    NoCapacity,
    /// The quota of the account is exhausted.
    Quota,
    /// The machine is in a state that does not allow the operation.
    Precondition,
    /// 429: too many requests.
    RateLimited {
        /// The delay that the provider asked for.
        retry_after: Option<Duration>,
    },
    /// 401 or 403.
    Unauthorized,
    /// The provider refuses requests until the account is paid.
    Billing,
    /// 404: the machine, or for a create the app, does not exist.
    NotFound,
    /// Any other refusal: the provider rejected the request.
    Rejected,
    /// A worker of the machine holds a lease.
    Refused,
    /// Not sent: this reconciler no longer holds the fleet lock.
    Fenced,
}

impl Outcome {
    /// The word that logs and metrics use.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Unknown => "unknown",
            Self::NameTaken(_) => "name_taken",
            Self::NoCapacity => "no_capacity",
            Self::Quota => "quota",
            Self::Precondition => "precondition",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Billing => "billing",
            Self::NotFound => "not_found",
            Self::Rejected => "rejected",
            Self::Refused => "busy",
            Self::Fenced => "fenced",
        }
    }
}

/// A condition that the operator of the installation should know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Redis cannot be read.
    QueueUnknown,
    /// The machines cannot be listed.
    ListUnknown(ListFailure),
    /// The fleet is paused by configuration.
    Paused,
    /// The provider rejected the token for a write.
    Unauthorized,
    /// Many machines are suddenly missing from the list.
    SuddenDrop {
        /// The number of missing machines.
        missing: u32,
        /// The number of machines before.
        of: u32,
    },
    /// Consecutive launches brought no worker: the last machine could not be run, or its process failed.
    LaunchesFailing {
        /// The number of consecutive failures.
        failures: u32,
    },
    /// Consecutive launches brought no worker: the last machine ran, but no worker registered in this Redis.
    WorkersNotRegistering {
        /// The number of consecutive failures.
        failures: u32,
    },
    /// No region has capacity.
    NoCapacity,
    /// The quota of the account is exhausted.
    Quota,
    /// The provider refuses machines until the account is paid.
    Billing,
    /// More machines would exceed the budget.
    Budget {
        /// The number of machines that the budget allows.
        affordable: u32,
    },
    /// The provider asked for fewer requests, or fails.
    BackingOff,
    /// The hosts of this many machines are unreachable.
    Unreachable(u32),
    /// The machine is in a phase that this version does not know, and is left alone.
    UnknownMachineState(MachineId, Phase),
    /// The heartbeat and the list contradict each other.
    Disputed(MachineId),
}

impl Condition {
    /// The reason in CamelCase, for programs.
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
    /// What is wrong and what to do about it, in the provider's terms.
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
