//! A step, and how it ended.

use std::time::Duration;

use super::machine::MachineId;
use super::slot::Slot;
use crate::job::WorkerId;

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
