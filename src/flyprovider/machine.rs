//! A machine as the Fly Machines API shows it.
//!
//! Only what tcoder reads is parsed; everything else, and every value not known yet, is let through.
//! Facts: <https://fly.io/docs/machines/api/machines-resource/>.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use strum::{AsRefStr, Display, EnumString};

use super::Guest;
use crate::controller::fleet::MachineId;

/// A field of no use to us must not cost us the list: `null`, or a shape not known yet, counts as absent.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, AsRefStr, Display, EnumString)]
#[serde(from = "String", into = "String")]
#[strum(serialize_all = "snake_case")]
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
    #[strum(default, transparent)]
    Unknown(String),
}

impl MachineState {
    /// Its name in the API.
    #[must_use]
    pub fn name(&self) -> &str {
        self.as_ref()
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
        Self::from(name.as_str())
    }
}

impl From<MachineState> for String {
    fn from(state: MachineState) -> Self {
        state.name().to_owned()
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
    #[serde(default, deserialize_with = "lenient")]
    pub name: String,
    /// Where it is in its life.
    pub state: MachineState,
    /// The region it is in.
    #[serde(default, deserialize_with = "lenient")]
    pub region: String,
    /// This version of it; a start makes a new one.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Whether its host can be reached.
    #[serde(default, deserialize_with = "lenient")]
    pub host_status: HostStatus,
    /// How it was made. Fly leaves it out while the host cannot be reached.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub config: Option<MachineConfig>,
    /// When it was made, RFC 3339.
    #[serde(default, deserialize_with = "lenient")]
    pub created_at: String,
    /// When its state last changed, RFC 3339.
    #[serde(default, deserialize_with = "lenient")]
    pub updated_at: String,
    /// What happened to it, newest first.
    #[serde(default, deserialize_with = "lenient")]
    pub events: Vec<MachineEvent>,
}

/// How a machine is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineConfig {
    /// The worker image.
    #[serde(deserialize_with = "lenient")]
    pub image: String,
    /// Its size.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
    /// Environment of its process.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Labels; lists can be filtered by them.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether it is destroyed when it stops.
    #[serde(deserialize_with = "lenient")]
    pub auto_destroy: bool,
    /// What happens when its process exits.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// How it is stopped.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub stop_config: Option<StopConfig>,
    /// Its root file system.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Rootfs>,
}

/// The largest root file system that Fly gives a machine, gigabytes. Its documents do not say so; users were refused
/// more (2026).
pub const ROOTFS_MAX_GB: u32 = 50;

/// A machine's root file system. What is written there is gone when the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Gigabytes; 8 where nothing is asked for.
    pub size_gb: u32,
}

/// What happens when a machine's process exits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// `no`, `on-failure`, `always`.
    pub policy: String,
}

/// How a machine is stopped. In a text left empty, Fly's default holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopConfig {
    /// First this signal,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub signal: String,
    /// and after this long (`"300s"`) SIGKILL.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub timeout: String,
}

/// Something that happened to a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineEvent {
    /// Its id. Later events have greater ones.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// `start`, `exit`, `launch`, ...
    #[serde(rename = "type", default, deserialize_with = "lenient")]
    pub kind: String,
    /// The state after it.
    #[serde(default, deserialize_with = "lenient")]
    pub status: String,
    /// Who caused it: `user`, or Fly itself (`flyd`).
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Milliseconds since 1970.
    #[serde(default, deserialize_with = "lenient")]
    pub timestamp: i64,
    /// Details; [`MachineEvent::exit`] reads those of an exit.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub request: Option<serde_json::Value>,
}

/// How a machine's process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitEvent {
    /// Its exit code; 128 and the signal where one ended it.
    #[serde(deserialize_with = "lenient")]
    pub exit_code: i32,
    /// Whether it used more memory than the machine has.
    #[serde(deserialize_with = "lenient")]
    pub oom_killed: bool,
    /// Whether somebody asked for it.
    #[serde(deserialize_with = "lenient")]
    pub requested_stop: bool,
}

impl MachineEvent {
    /// How the process ended, if this event tells that it did. Fly says so in `MonitorEvent.exit_event` or in
    /// `exit_event`; where it does in both, the former counts, as for Fly's own client (fly-go,
    /// `MachineRequest.GetExitCode`).
    #[must_use]
    pub fn exit(&self) -> Option<ExitEvent> {
        let request = self.request.as_ref()?;
        let monitored = request.get("MonitorEvent").and_then(|event| event.get("exit_event"));
        let exit = [monitored, request.get("exit_event")].into_iter().flatten().find(|e| e.is_object())?;
        Some(serde_json::from_value(exit.clone()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_agree_in_text_and_json_and_unknown_ones_pass() {
        let names = "created starting started stopping stopped suspending suspended restarting updating replacing \
                     creating launch_failed failed destroying destroyed replaced migrated";
        for name in names.split(' ') {
            let state = MachineState::from(name);
            assert!(!matches!(state, MachineState::Unknown(_)), "{name}");
            assert_eq!((state.to_string().as_str(), state.name()), (name, name));
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

    #[test]
    fn what_is_null_or_of_a_new_shape_costs_only_itself() {
        let json = r#"{"id":"x","state":"started","name":null,"region":null,"events":null,"host_status":null,
            "config":{"image":"i","env":null,"metadata":null,"auto_destroy":null,"guest":{"cpu_kind":"a100"},
            "restart":{},"stop_config":{"timeout":300000000000}}}"#;
        let machine: Machine = serde_json::from_str(json).unwrap();
        let config = machine.config.unwrap();
        assert_eq!((config.image.as_str(), config.guest, config.restart), ("i", None, None));
        assert_eq!(config.stop_config, Some(StopConfig { signal: String::new(), timeout: String::new() }));
        assert!(serde_json::from_str::<Machine>(r#"{"state":"started"}"#).is_err(), "a machine has an id");
    }

    #[test]
    fn an_exit_is_read_from_its_event() {
        let event = |json: &str| serde_json::from_str::<MachineEvent>(json).unwrap().exit();
        let json =
            r#"{"type":"exit","request":{"exit_event":{"exit_code":137,"oom_killed":true,"guest":1}}}"#;
        let exit = ExitEvent { exit_code: 137, oom_killed: true, requested_stop: false };
        assert_eq!(event(json), Some(exit.clone()));
        let monitored = r#"{"type":"exit","request":{"MonitorEvent":{"exit_event":{"exit_code":137,"oom_killed":true}},
            "restart_count":0}}"#;
        assert_eq!(event(monitored), Some(exit.clone()));
        let both = r#"{"type":"exit","request":{"MonitorEvent":{"exit_event":{"exit_code":137,"oom_killed":true}},
            "exit_event":{"exit_code":0}}}"#;
        assert_eq!(event(both), Some(exit));
        let other =
            r#"{"type":"exit","request":{"MonitorEvent":{"exit_event":null},"exit_event":{"exit_code":3}}}"#;
        assert_eq!(event(other).map(|exit| exit.exit_code), Some(3));
        assert_eq!(event(r#"{"type":"start","request":null}"#), None);
        assert_eq!(event(r#"{"type":"exit","request":{"exit_event":null}}"#), None);
    }
}
