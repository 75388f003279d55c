//! `GET .../wait`: responds once the machine is in a state.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query};
use axum::response::Response;
use serde_json::json;
use strum::{EnumString, IntoStaticStr, VariantNames};

use super::call::{Common, Params, call};
use super::faults::EmulatedCall;
use super::reply::{Reply, no_machine, ok, refuse};
use super::world::{EmulatedMachine, World};
use crate::flyprovider::{MachineId, MachineState};

/// Maximum wait of one request, seconds, as at Fly.
const MAX_SECONDS: u64 = 60;

/// A state that a request can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "lowercase", const_into_str)]
enum WaitState {
    /// The machine runs.
    Started,
    /// The machine is stopped.
    Stopped,
    /// The machine is suspended with its memory preserved.
    Suspended,
    /// The machine no longer exists.
    Destroyed,
    /// The machine could not be kept running.
    Failed,
    /// The machine is in any state that is not transitional.
    Settled,
}

/// The parameters of a wait.
#[derive(Debug, PartialEq, Eq)]
struct WaitRequest {
    states: Vec<WaitState>,
    timeout: Duration,
    version: Option<String>,
    from_event: Option<String>,
}

impl WaitRequest {
    fn read(params: &[(String, String)]) -> Result<Self, Reply> {
        let of = |name: &'static str| {
            params
                .iter()
                .filter(move |(n, value)| n == name && !value.is_empty())
                .map(|(_, value)| value.as_str())
        };
        let mut states = Vec::new();
        for name in of("state").flat_map(|value| value.split(',')) {
            states.push(name.trim().parse().map_err(|_| {
                let names = WaitState::VARIANTS.join(", ");
                refuse(400, "invalid_argument", format!("invalid state {name:?}, must be one of {names}"))
            })?);
        }
        if states.is_empty() {
            states.push(WaitState::Started);
        }
        let seconds = of("timeout").next().map_or(Ok(MAX_SECONDS), str::parse);
        let Ok(seconds @ 1..=MAX_SECONDS) = seconds else {
            return Err(refuse(400, "invalid_argument", "timeout must be 1 to 60 seconds"));
        };
        let version = of("version").chain(of("instance_id")).next().map(str::to_owned);
        let from_event = of("from_event_id").next().map(str::to_owned);
        Ok(Self { states, timeout: Duration::from_secs(seconds), version, from_event })
    }

    fn accepts(&self, state: &MachineState) -> bool {
        self.states.iter().any(|wanted| match wanted {
            // A created machine is about to start, even before its state changes.
            WaitState::Settled => !state.is_transient() && *state != MachineState::Created,
            named => named.into_str() == state.name(),
        })
    }

    /// The response, if the state has been reached.
    fn reached(&self, entry: &EmulatedMachine) -> Option<Reply> {
        let machine = &entry.machine;
        let replaced =
            self.version.as_ref().is_some_and(|version| machine.instance_id.as_ref() != Some(version));
        let state = if replaced { MachineState::Replaced } else { machine.state.clone() };
        let event = match &self.from_event {
            Some(from) => machine
                .events
                .iter()
                .find(|event| event.id > *from && self.accepts(&MachineState::from(event.status.clone())))?,
            None if self.accepts(&state) => machine.events.first()?,
            None => return None,
        };
        Some(ok(json!({
            "ok": true,
            "state": self.from_event.as_ref().map_or(state.name(), |_| &event.status),
            "event_id": event.id,
            "version": machine.instance_id,
        })))
    }
}

pub(crate) async fn wait(
    common: Common,
    Path((app, id)): Path<(String, String)>,
    Query(params): Params,
) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| {
        let request = match WaitRequest::read(&params) {
            Ok(request) => request,
            Err(reply) => return reply,
        };
        let mut changed = world.changed.subscribe();
        let reached = async {
            loop {
                match world.look().machines.get(&machine) {
                    None => return Some(no_machine()),
                    Some(entry) => {
                        if let Some(reply) = request.reached(entry) {
                            return Some(reply);
                        }
                    }
                }
                if changed.changed().await.is_err() {
                    return None;
                }
            }
        };
        let late = || {
            let now = world.look().machines.get(&machine).map(|entry| entry.machine.state.clone());
            let now = now.map_or_else(|| "destroyed".to_owned(), |state| state.name().to_owned());
            let wanted: Vec<&str> = request.states.iter().map(|state| state.into_str()).collect();
            let text =
                format!("machine failed to reach desired state, {}, currently {now}", wanted.join(" or "));
            refuse(408, "deadline_exceeded", text)
        };
        tokio::time::timeout(request.timeout, reached).await.ok().flatten().unwrap_or_else(late)
    };
    call(common, app, Some(id), EmulatedCall::Wait).carry_out(work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(params: &[(&str, &str)]) -> Result<WaitRequest, u16> {
        let params: Vec<_> = params.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        WaitRequest::read(&params).map_err(|reply| reply.0.as_u16())
    }

    #[test]
    fn wait_states_accept_one_list_or_several_parameters() {
        let states = |params: &[(&str, &str)]| read(params).map(|request| request.states);
        assert_eq!(states(&[]), Ok(vec![WaitState::Started]));
        let both = Ok(vec![WaitState::Stopped, WaitState::Suspended]);
        assert_eq!(states(&[("state", "stopped,suspended")]), both);
        assert_eq!(states(&[("state", "stopped"), ("state", "suspended")]), both);
        assert_eq!(states(&[("state", "starting")]), Err(400));
        assert_eq!(read(&[("timeout", "61")]).err(), Some(400));
        assert_eq!(read(&[("timeout", "0")]).err(), Some(400));
        assert_eq!(read(&[("timeout", "1s")]).err(), Some(400));
    }

    #[test]
    fn wait_for_settled_accepts_only_states_without_pending_transition() {
        let request = read(&[("state", "settled")]).unwrap();
        for settled in
            [MachineState::Started, MachineState::Stopped, MachineState::Failed, MachineState::Destroyed]
        {
            assert!(request.accepts(&settled), "{settled}");
        }
        for moving in [MachineState::Created, MachineState::Starting, MachineState::Replacing] {
            assert!(!request.accepts(&moving), "{moving}");
        }
    }
}
