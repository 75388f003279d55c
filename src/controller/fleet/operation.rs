//! The next steps, and what a person should know.

use std::fmt;
use std::time::Duration;

use super::classify::MachineView;
use super::desired::Desired;
use super::observation::ListFailure;
use super::slot::Slot;
use crate::flyprovider::{MachineId, MachineState};
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
    /// Tell a machine's workers to leave; costs no call to Fly. Refused while one holds a lease.
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
    /// Fly (or, for a retire, Redis) did it; of a create, with the machine.
    Done(Option<MachineId>),
    /// The answer was lost or made no sense: it may or may not have happened. Server errors on writes
    /// belong here.
    Unknown,
    /// The name belongs to a machine already; its id, if Fly said so.
    NameTaken(Option<MachineId>),
    /// The host, or the region, has no room.
    NoCapacity,
    /// The organisation's quota is reached.
    Quota,
    /// The machine is in a state that does not allow this.
    Precondition,
    /// 429.
    RateLimited {
        /// What Fly asked for.
        retry_after: Option<Duration>,
    },
    /// 401 or 403.
    Unauthorized,
    /// Fly refuses until the organisation's payment is in order.
    Billing,
    /// 404.
    NotFound,
    /// Any other refusal: Fly did not accept what was asked.
    Rejected,
    /// A worker of the machine holds a lease.
    Refused,
    /// Nothing was sent: this reconciler is no longer the leader.
    Fenced,
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
    /// Fly refused a write.
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
    /// The organisation's quota is reached.
    Quota,
    /// Fly refuses machines until the organisation's payment is in order.
    Billing,
    /// More machines would cost more than allowed.
    Budget {
        /// So many may run.
        affordable: u32,
    },
    /// Fly asked for slower calls, or fails.
    BackingOff,
    /// Hosts of this many machines cannot be reached.
    Unreachable(u32),
    /// A machine in a state not known here; it is left alone.
    UnknownMachineState(MachineId, MachineState),
    /// Heartbeat and Fly contradict each other.
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

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueUnknown => f.write_str("Redis cannot be read; nothing is changed until it can"),
            Self::ListUnknown(ListFailure::Unauthorized) => f.write_str(
                "Fly refuses the token; set FLY_API_TOKEN to one made by `fly tokens create deploy`",
            ),
            Self::ListUnknown(ListFailure::NoSuchApp) => {
                f.write_str("Fly knows no such app; check FLY_WORKER_APP, or make it with `fly apps create`")
            }
            Self::ListUnknown(ListFailure::Billing) | Self::Billing => f.write_str(
                "Fly refuses until the organisation's payment is in order; see Billing in Fly's dashboard (fly dashboard)",
            ),
            Self::ListUnknown(ListFailure::NotYet) => f.write_str("the machines were not listed yet"),
            Self::ListUnknown(ListFailure::Failed) => {
                f.write_str("Fly's list of machines cannot be had; nothing is changed until it can")
            }
            Self::Paused => {
                f.write_str("paused; `tcoder fleet resume` goes on, where FLEET_PAUSED is not set")
            }
            Self::Unauthorized => f.write_str(
                "Fly refuses to change machines with this token; set FLY_API_TOKEN to one that may deploy",
            ),
            Self::SuddenDrop { missing, of } => {
                write!(
                    f,
                    "{missing} of {of} machines are suddenly missing from Fly's list; nothing is changed until it is certain"
                )
            }
            Self::LaunchesFailing { failures } => write!(
                f,
                "{failures} launches in a row brought no worker; check FLY_WORKER_IMAGE and `fly logs`"
            ),
            Self::WorkersNotRegistering { failures } => write!(
                f,
                "{failures} launches in a row brought a machine that runs and no worker in this Redis; compare the \
                 line \"connected to Redis\" in `fly logs` with the controller's, and set REDIS_URL and \
                 REDIS_KEY_PREFIX of the app to the same with `fly secrets set`; if that line is missing, the \
                 worker never reached Redis, and its log says why"
            ),
            Self::NoCapacity => f.write_str("no region has room now; add regions to FLY_WORKER_REGIONS"),
            Self::Quota => f.write_str(
                "the Fly organisation's quota is reached; ask Fly for more, or lower MAX_MACHINES",
            ),
            Self::Budget { affordable } => {
                write!(f, "FLEET_BUDGET_USD_PER_HOUR pays for {affordable} machines and no more")
            }
            Self::BackingOff => f.write_str("Fly asked for fewer calls, or fails; waiting before the next"),
            Self::Unreachable(n) => write!(f, "the hosts of {n} machines cannot be reached by Fly"),
            Self::UnknownMachineState(machine, state) => {
                write!(f, "machine {machine} is in the state {state}, unknown here; it is left alone")
            }
            Self::Disputed(machine) => {
                write!(f, "machine {machine} is at rest says Fly, alive says its heartbeat; it is left alone")
            }
        }
    }
}
