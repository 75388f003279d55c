//! A machine as its provider lists it, in terms that fit every provider.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{AsRefStr, Display};

use super::size::MachineSize;
use crate::job::{Millis, WorkerClasses};

/// The id that the provider assigned to a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MachineId(pub String);

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The phase of a machine in its provider's list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, AsRefStr, Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// It is being created.
    Creating,
    /// It exists, but has not been started yet.
    Created,
    /// It exists, but no host has room for it. It starts by itself as soon as one has.
    Unschedulable,
    /// It is about to become `Started`.
    Starting,
    /// It runs, and is charged for CPU and memory.
    Started,
    /// Its configuration is being replaced, which may copy an image.
    Updating,
    /// It is about to become `Stopped`.
    Stopping,
    /// Its process has ended.
    Stopped,
    /// It could not be launched. The provider destroys it by itself.
    LaunchFailed,
    /// It could not be kept running.
    Failed,
    /// It is being destroyed.
    Destroying,
    /// It no longer exists.
    #[strum(serialize = "destroyed")]
    Gone,
    /// A phase that this version does not know, by the provider's name.
    #[strum(transparent)]
    Unknown(String),
}

impl Phase {
    /// The name that logs and the published status use.
    #[must_use]
    pub fn name(&self) -> &str {
        self.as_ref()
    }

    /// Whether the machine no longer exists.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone)
    }
}

/// A machine in the provider's list.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The provider's id of the machine.
    pub id: MachineId,
    /// Its name, unique in the fleet.
    pub name: String,
    /// Its phase.
    pub phase: Phase,
    /// Its region.
    pub region: String,
    /// The version of the machine, if the provider counts versions.
    pub instance: Option<String>,
    /// Whether it carries the fleet's label, whatever its name is.
    pub labelled: bool,
    /// How it was created; unknown while its host is unreachable.
    pub launch: Option<Launch>,
    /// Its size, where the list shows one that this version knows.
    pub size: Option<MachineSize>,
    /// Whether the provider can reach its host.
    pub host_reachable: bool,
    /// Why it does not run, in the provider's words, if the provider says so.
    pub message: Option<String>,
    /// When it was created, RFC 3339 by the provider's clock; empty if the provider does not report it.
    pub created_at: String,
    /// When it last became `Started`.
    pub last_start: Option<Start>,
    /// How its process last ended.
    pub last_exit: Option<Exit>,
    /// Total seconds that it ran before its current run, as far as the provider reports it.
    pub ran_seconds: f64,
    /// When its current or latest run began, by the provider's clock.
    pub running_since: Option<Millis>,
}

/// The event that a machine became `Started`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// When, by the provider's clock, which may be wrong: compare it only with the time of an [`Exit`].
    pub at: Millis,
    /// How long the start took from the request on, including finding a host and pulling the image.
    pub took: Duration,
}

/// The event that a machine's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// When, by the provider's clock.
    pub at: Millis,
    /// The exit code; 128 plus the signal number if a signal ended it.
    pub code: i32,
    /// Whether it exceeded the machine's memory.
    pub out_of_memory: bool,
    /// Whether a stop was requested.
    pub requested: bool,
}

/// How a machine is made, as far as another one is wanted where it differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The worker image.
    pub image: String,
    /// Its disk, where that was asked for.
    pub disk: Option<MachineDisk>,
    /// The revision of what only its provider knows of it, such as a template, where the provider counts revisions.
    pub revision: Option<String>,
    /// Its worker never leaves by itself.
    pub stays: bool,
    /// The classes of the jobs that its worker takes.
    pub classes: WorkerClasses,
}

/// The disk of a machine, which stores the files of a job, and the inputs that fit on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDisk {
    /// Size in gigabytes, as the provider counts them.
    pub size_gb: u32,
    /// The largest input that its worker accepts, in bytes.
    pub max_input: u64,
}
