//! A machine as its provider lists it, in words that hold for every provider.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{AsRefStr, Display};

use crate::job::Millis;

/// The id that its provider gives a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MachineId(pub String);

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, AsRefStr, Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// Being made.
    Creating,
    /// Made, not started yet.
    Created,
    /// On its way to `Started`.
    Starting,
    /// Runs, and costs CPU and memory.
    Started,
    /// Gets another configuration, which may copy an image.
    Updating,
    /// On its way to `Stopped`.
    Stopping,
    /// At rest: its process has ended.
    Stopped,
    /// Could not be launched; the provider destroys it by itself.
    LaunchFailed,
    /// Could not be kept running.
    Failed,
    /// On its way out of existence.
    Destroying,
    /// Exists no more.
    #[strum(serialize = "destroyed")]
    Gone,
    /// A state not known here, in the provider's word.
    #[strum(transparent)]
    Unknown(String),
}

impl Phase {
    /// Its name, for people and for the published status.
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

/// A machine in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Its name, unique in the fleet.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// The region it is in.
    pub region: String,
    /// The version of it, where the provider counts versions.
    pub instance: Option<String>,
    /// It carries the fleet's label, whatever its name is.
    pub labelled: bool,
    /// How it was made; unknown while its host cannot be reached.
    pub launch: Option<Launch>,
    /// Whether its provider can reach the host it is on.
    pub host_reachable: bool,
    /// When it was made, RFC 3339, by the provider's clock; empty where it does not say.
    pub created_at: String,
    /// When it last became `Started`.
    pub last_start: Option<Start>,
    /// How its process last ended.
    pub last_exit: Option<Exit>,
    /// Seconds it ran in all before its present run, as far as the provider knows.
    pub ran_seconds: f64,
    /// Since when it runs, or when it last began to, by the provider's clock.
    pub running_since: Option<Millis>,
}

/// That a machine became `Started`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// When, by the provider's clock, which may show anything: to be compared with an [`Exit`]'s only.
    pub at: Millis,
    /// How long that took from when it was asked for: finding a host, pulling the image.
    pub took: Duration,
}

/// That a machine's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// When, by the provider's clock.
    pub at: Millis,
    /// Its exit code; 128 and the signal where one ended it.
    pub code: i32,
    /// It used more memory than the machine has.
    pub out_of_memory: bool,
    /// Somebody asked for it.
    pub requested: bool,
}

/// The size of a machine. Which sizes there are its provider knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MachineSize {
    /// Its CPUs are its own at all times; else they are shared with others.
    pub dedicated: bool,
    /// How many CPUs it has.
    pub cpus: u32,
    /// Its memory in MiB.
    pub memory_mb: u32,
}

/// Two whole CPUs: a shared one is throttled after a short burst, and an encode is no burst.
impl Default for MachineSize {
    fn default() -> Self {
        Self { dedicated: true, cpus: 2, memory_mb: 4096 }
    }
}

/// How a machine is made, as far as another one is wanted where it differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The worker image.
    pub image: String,
    /// Its disk, where that was asked for.
    pub disk: Option<MachineDisk>,
    /// Its worker never leaves by itself.
    pub stays: bool,
}

/// A machine's disk, on which a job's files lie, and the inputs that fit on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineDisk {
    /// Gigabytes, as the provider counts them.
    pub size_gb: u32,
    /// Bytes of the largest input that a worker on it takes.
    pub max_input: u64,
}
