//! A machine as the Fly Machines API returns it.
//!
//! Only the fields that tcoder needs are parsed; all others are ignored, and unknown values are accepted.
//! Documentation: <https://fly.io/docs/machines/api/machines-resource/>.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use strum::{AsRefStr, Display, EnumString};

use super::Guest;
use crate::controller::fleet::MachineId;

/// Treats `null` and unknown shapes of optional fields as absent, so that they do not make the whole list
/// unreadable.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// The state of a machine in Fly's API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, AsRefStr, Display, EnumString)]
#[serde(from = "String", into = "String")]
#[strum(serialize_all = "snake_case")]
pub enum MachineState {
    /// It was created and has never been started.
    Created,
    /// It is about to become `Started`.
    Starting,
    /// It runs, and is charged for CPU and memory.
    Started,
    /// It is about to become `Stopped`.
    Stopping,
    /// It is stopped, and only its disk is charged.
    Stopped,
    /// It is about to become `Suspended`.
    Suspending,
    /// It is suspended with its memory preserved.
    Suspended,
    /// It is being stopped and started again.
    Restarting,
    /// Its configuration is being replaced.
    Updating,
    /// It is being replaced by another version of itself.
    Replacing,
    /// It is being created.
    Creating,
    /// It could not be launched and is being destroyed.
    LaunchFailed,
    /// It could not be kept running.
    Failed,
    /// It is about to become `Destroyed`.
    Destroying,
    /// It no longer exists.
    Destroyed,
    /// It no longer exists: another version has replaced it.
    Replaced,
    /// It no longer exists here: it was moved to another host.
    Migrated,
    /// A state this version does not know.
    #[strum(default, transparent)]
    Unknown(String),
}

impl MachineState {
    /// The name in the API.
    #[must_use]
    pub fn name(&self) -> &str {
        self.as_ref()
    }

    /// Whether the machine no longer exists.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Destroyed | Self::Replaced | Self::Migrated)
    }

    /// Whether the state is transitional.
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

/// Whether Fly can reach the host of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostStatus {
    /// The host is reachable.
    #[default]
    Ok,
    /// The host is unreachable; the machine may or may not be running.
    Unreachable,
    /// Fly does not know, or returns a value that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A machine in the list of the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlyMachine {
    /// The id that Fly assigned.
    pub id: MachineId,
    /// Its name, unique in the app.
    #[serde(default, deserialize_with = "lenient")]
    pub name: String,
    /// Its state.
    pub state: MachineState,
    /// Its region.
    #[serde(default, deserialize_with = "lenient")]
    pub region: String,
    /// The id of its version; each update creates a new one.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Whether its host is reachable.
    #[serde(default, deserialize_with = "lenient")]
    pub host_status: HostStatus,
    /// Its configuration. Fly omits it while the host is unreachable.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub config: Option<MachineConfig>,
    /// When it was created, RFC 3339.
    #[serde(default, deserialize_with = "lenient")]
    pub created_at: String,
    /// When its state last changed, RFC 3339.
    #[serde(default, deserialize_with = "lenient")]
    pub updated_at: String,
    /// Its events, newest first.
    #[serde(default, deserialize_with = "lenient")]
    pub events: Vec<MachineEvent>,
}

/// The configuration of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineConfig {
    /// The worker image.
    #[serde(deserialize_with = "lenient")]
    pub image: String,
    /// Its size.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
    /// Environment variables of its process.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Labels, by which lists can be filtered.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether it is destroyed when it stops.
    #[serde(deserialize_with = "lenient")]
    pub auto_destroy: bool,
    /// Whether it is restarted when its process exits.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// How it is stopped.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub stop_config: Option<StopConfig>,
    /// Its root file system.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Rootfs>,
}

/// The largest root file system that Fly permits, gigabytes. It is not documented; users reported that larger
/// ones were refused (2026).
pub const ROOTFS_MAX_GB: u32 = 50;

/// The root file system of a machine. Its contents are lost when the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Size in gigabytes; 8 by default.
    pub size_gb: u32,
}

/// Whether a machine is restarted when its process exits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// The policy: `no`, `on-failure` or `always`.
    pub policy: String,
}

/// How a machine is stopped. Fly's default applies to an empty field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopConfig {
    /// The signal that is sent first.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub signal: String,
    /// The time until SIGKILL, such as `"300s"`.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub timeout: String,
}

/// An event of a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineEvent {
    /// The id of the event. Later events have greater ids.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The type, such as `start`, `exit` or `launch`.
    #[serde(rename = "type", default, deserialize_with = "lenient")]
    pub kind: String,
    /// The state of the machine after the event.
    #[serde(default, deserialize_with = "lenient")]
    pub status: String,
    /// What caused the event: `user`, or Fly itself (`flyd`).
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The time in milliseconds since 1970.
    #[serde(default, deserialize_with = "lenient")]
    pub timestamp: i64,
    /// Details; [`MachineEvent::exit`] parses those of an exit.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub request: Option<serde_json::Value>,
}

/// How a machine's process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitEvent {
    /// The exit code; 128 plus the signal number if a signal ended it.
    #[serde(deserialize_with = "lenient")]
    pub exit_code: i32,
    /// Whether it exceeded the machine's memory.
    #[serde(deserialize_with = "lenient")]
    pub oom_killed: bool,
    /// Whether a stop was requested.
    #[serde(deserialize_with = "lenient")]
    pub requested_stop: bool,
}

impl MachineEvent {
    /// How the process ended, if this event reports it. Fly reports it in `MonitorEvent.exit_event` or in
    /// `exit_event`; if both exist, the former takes precedence, as in Fly's own client (fly-go,
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
    fn machine_state_round_trips_and_keeps_unknown_states() {
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
    fn machine_on_an_unreachable_host_has_no_config() {
        let json = r#"{"id":"x","state":"started","host_status":"unreachable","name":"n","novel":{"a":1}}"#;
        let machine: FlyMachine = serde_json::from_str(json).unwrap();
        assert_eq!((machine.config, machine.host_status), (None, HostStatus::Unreachable));
        let json = r#"{"id":"x","state":"started","host_status":"wobbly"}"#;
        assert_eq!(serde_json::from_str::<FlyMachine>(json).unwrap().host_status, HostStatus::Unknown);
    }

    #[test]
    fn machine_with_null_or_unknown_fields_keeps_the_other_fields() {
        let json = r#"{"id":"x","state":"started","name":null,"region":null,"events":null,"host_status":null,
            "config":{"image":"i","env":null,"metadata":null,"auto_destroy":null,"guest":{"cpu_kind":"a100"},
            "restart":{},"stop_config":{"timeout":300000000000}}}"#;
        let machine: FlyMachine = serde_json::from_str(json).unwrap();
        let config = machine.config.unwrap();
        assert_eq!((config.image.as_str(), config.guest, config.restart), ("i", None, None));
        assert_eq!(config.stop_config, Some(StopConfig { signal: String::new(), timeout: String::new() }));
        assert!(serde_json::from_str::<FlyMachine>(r#"{"state":"started"}"#).is_err(), "a machine has an id");
    }

    #[test]
    fn machine_event_exit_is_parsed_from_both_forms() {
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
