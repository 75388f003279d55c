//! A machine as the Fly Machines API shows it.
//!
//! Only what tcoder reads is parsed; everything else, and every value not known yet, is let through.
//! Facts: <https://fly.io/docs/machines/api/machines-resource/>.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The id Fly gives a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MachineId(pub String);

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum MachineState {
    /// Made, never started.
    Created,
    /// On its way to `Started`.
    Starting,
    /// Runs, and costs CPU and memory.
    Started,
    /// On its way to `Stopped`.
    Stopping,
    /// At rest; costs its disk only.
    Stopped,
    /// On its way to `Suspended`.
    Suspending,
    /// At rest with its memory kept.
    Suspended,
    /// Stops and starts again.
    Restarting,
    /// Gets another configuration.
    Updating,
    /// Gives way to another version of itself.
    Replacing,
    /// Being made.
    Creating,
    /// Could not be launched; on its way out.
    LaunchFailed,
    /// Could not be kept running.
    Failed,
    /// On its way to `Destroyed`.
    Destroying,
    /// Gone.
    Destroyed,
    /// Gone: another version stands in its place.
    Replaced,
    /// Gone: it lives on another host.
    Migrated,
    /// A state this version does not know.
    Unknown(String),
}

impl MachineState {
    const NAMES: [(&'static str, Self); 17] = [
        ("created", Self::Created),
        ("starting", Self::Starting),
        ("started", Self::Started),
        ("stopping", Self::Stopping),
        ("stopped", Self::Stopped),
        ("suspending", Self::Suspending),
        ("suspended", Self::Suspended),
        ("restarting", Self::Restarting),
        ("updating", Self::Updating),
        ("replacing", Self::Replacing),
        ("creating", Self::Creating),
        ("launch_failed", Self::LaunchFailed),
        ("failed", Self::Failed),
        ("destroying", Self::Destroying),
        ("destroyed", Self::Destroyed),
        ("replaced", Self::Replaced),
        ("migrated", Self::Migrated),
    ];

    /// Its name in the API.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Unknown(name) => name,
            known => Self::NAMES.iter().find(|(_, s)| s == known).map_or("unknown", |(name, _)| name),
        }
    }

    /// Whether the machine no longer exists.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Destroyed | Self::Replaced | Self::Migrated)
    }

    /// Whether it is between two states in which it may stay.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Creating
                | Self::Starting
                | Self::Stopping
                | Self::Restarting
                | Self::Suspending
                | Self::Destroying
                | Self::Updating
                | Self::Replacing
                | Self::LaunchFailed
        )
    }
}

impl From<String> for MachineState {
    fn from(name: String) -> Self {
        let known = Self::NAMES.into_iter().find(|(n, _)| *n == name);
        known.map_or(Self::Unknown(name), |(_, state)| state)
    }
}

impl From<MachineState> for String {
    fn from(state: MachineState) -> Self {
        state.name().to_owned()
    }
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether Fly can reach the host a machine is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostStatus {
    /// Yes.
    #[default]
    Ok,
    /// No; the machine may or may not run.
    Unreachable,
    /// Fly does not know, or says something new.
    #[serde(other)]
    Unknown,
}

/// A machine in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Its name, unique in the app.
    #[serde(default)]
    pub name: String,
    /// Where it is in its life.
    pub state: MachineState,
    /// The region it is in.
    #[serde(default)]
    pub region: String,
    /// This version of it; a start makes a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Whether its host can be reached.
    #[serde(default)]
    pub host_status: HostStatus,
    /// How it was made. Fly leaves it out while the host cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<MachineConfig>,
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub created_at: String,
    /// When its state last changed, RFC 3339.
    #[serde(default)]
    pub updated_at: String,
    /// What happened to it, newest first.
    #[serde(default)]
    pub events: Vec<MachineEvent>,
}

/// How a machine is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineConfig {
    /// The worker image.
    pub image: String,
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
    /// Environment of its process.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Labels; lists can be filtered by them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether it is destroyed when it stops.
    pub auto_destroy: bool,
    /// What happens when its process exits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// How it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_config: Option<StopConfig>,
}

/// A machine's size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// `performance` or `shared`; shared ones are throttled to 6 %.
    pub cpu_kind: String,
    /// How many.
    pub cpus: u32,
    /// Memory.
    pub memory_mb: u32,
}

/// What happens when a machine's process exits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// `no`, `on-failure`, `always`.
    pub policy: String,
}

/// How a machine is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopConfig {
    /// First this signal,
    pub signal: String,
    /// and after this long (`"300s"`) SIGKILL.
    pub timeout: String,
}

/// Something that happened to a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineEvent {
    /// `start`, `exit`, `launch`, ...
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The state after it.
    #[serde(default)]
    pub status: String,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub timestamp: i64,
    /// Details; an exit's code stands in `exit_event`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_agree_in_text_and_json_and_unknown_ones_pass() {
        for (name, state) in MachineState::NAMES {
            assert_eq!(serde_json::to_value(&state).unwrap(), name);
            assert_eq!(serde_json::from_value::<MachineState>(name.into()).unwrap(), state);
        }
        let odd: MachineState = serde_json::from_str("\"hibernating\"").unwrap();
        assert_eq!(odd, MachineState::Unknown("hibernating".into()));
        assert_eq!(serde_json::to_value(&odd).unwrap(), "hibernating");
    }

    #[test]
    fn a_machine_of_an_unreachable_host_has_no_config() {
        let json = r#"{"id":"x","state":"started","host_status":"unreachable","name":"n","novel":{"a":1}}"#;
        let machine: Machine = serde_json::from_str(json).unwrap();
        assert_eq!((machine.config, machine.host_status), (None, HostStatus::Unreachable));
        let json = r#"{"id":"x","state":"started","host_status":"wobbly"}"#;
        assert_eq!(serde_json::from_str::<Machine>(json).unwrap().host_status, HostStatus::Unknown);
    }
}
