//! The next steps, and what a person should know.

use std::time::Duration;

use super::classify::MachineView;
use super::desired::Desired;
use super::launch::Slot;
use super::machine::{MachineId, Phase};
use super::observation::ListFailure;
use super::provider::ProviderWords;
use crate::job::WorkerId;

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many machines there should be, and why.
    pub desired: Desired,
    /// The steps, the most urgent first. After each, plan anew: that is how superseded ones are dropped.
    pub actions: Vec<PlannedOperation>,
    /// What a person should know.
    pub conditions: Vec<Condition>,
    /// The machines as they were judged, in the order of their slots; none while that is unknown.
    pub units: Vec<MachineView>,
    /// Zero: list the machines now. Else plan again after this long even if the queue is silent.
    /// Nothing: not before the queue says something.
    pub next_look: Option<Duration>,
}

/// A step, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedOperation {
    /// The step.
    pub act: Operation,
    /// Why, in plain words.
    pub reason: String,
}

/// A step.
///
/// Before a stop or a destroy the shell retires whatever workers the machine has, atomically with a
/// look at their leases, and drops the step ([`Outcome::Refused`]) when one is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Start a machine at rest.
    Start {
        /// Which.
        machine: MachineId,
    },
    /// Make a machine and start it.
    Create {
        /// Its place.
        slot: Slot,
        /// Its name.
        name: String,
        /// Where.
        region: String,
    },
    /// Tell a machine's workers to leave; costs no request to the provider. Refused while one holds a lease.
    Retire {
        /// Which machine.
        machine: MachineId,
        /// Its workers.
        workers: Vec<WorkerId>,
    },
    /// Stop a machine.
    Stop {
        /// Which.
        machine: MachineId,
    },
    /// Destroy a machine.
    Destroy {
        /// Which.
        machine: MachineId,
        /// Even though it is not at rest.
        force: bool,
    },
}

impl Operation {
    /// The machine it is about, where there is one already.
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

    /// What brings machines up comes first. A retire costs no call and holds nothing up.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Start { .. } => 0,
            Self::Create { .. } => 1,
            Self::Retire { .. } => 2,
            Self::Stop { .. } => 3,
            Self::Destroy { .. } => 4,
        }
    }

    /// Its name, for logs and metrics.
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

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider (or, for a retire, Redis) did it; of a create, with the machine.
    Done(Option<MachineId>),
    /// The answer was lost or made no sense: it may or may not have happened. Server errors on writes
    /// belong here.
    Unknown,
    /// The name belongs to a machine already; its id, if the provider said so.
    NameTaken(Option<MachineId>),
    /// The host, or the region, has no room.
    NoCapacity,
    /// The account's quota is reached.
    Quota,
    /// The machine is in a state that does not allow this.
    Precondition,
    /// 429.
    RateLimited {
        /// What the provider asked for.
        retry_after: Option<Duration>,
    },
    /// 401 or 403.
    Unauthorized,
    /// The provider refuses until the account's payment is in order.
    Billing,
    /// 404.
    NotFound,
    /// Any other refusal: the provider did not accept what was asked.
    Rejected,
    /// A worker of the machine holds a lease.
    Refused,
    /// Nothing was sent: this reconciler is no longer the leader.
    Fenced,
}

impl Outcome {
    /// It in a word, for logs and metrics.
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
