//! The metadata of a machine: labels that can be changed without a new version of the machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Common, call};
use super::faults::EmulatedCall;
use super::reply::{Reply, ok, refuse};
use super::world::{World, WorldState};
use crate::flyprovider::MachineId;

fn done() -> Reply {
    (StatusCode::NO_CONTENT, Value::Null)
}

impl WorldState {
    fn metadata(&mut self, id: &MachineId) -> Result<BTreeMap<String, String>, Reply> {
        let config = self.there(id)?.machine.config.as_ref();
        Ok(config.map(|config| config.metadata.clone()).unwrap_or_default())
    }

    /// Sets these keys, and removes those without a value.
    fn set_metadata(
        &mut self,
        id: &MachineId,
        values: BTreeMap<String, Option<String>>,
    ) -> Result<(), Reply> {
        let mut metadata = self.metadata(id)?;
        for (key, value) in values {
            match value.filter(|value| !value.is_empty()) {
                Some(value) => drop(metadata.insert(key, value)),
                None => drop(metadata.remove(&key)),
            }
        }
        let entry = self.there(id)?;
        if let Some(fields) = entry.config.as_object_mut() {
            fields.insert("metadata".to_owned(), json!(metadata));
        }
        if let Some(config) = &mut entry.machine.config {
            config.metadata = metadata;
        }
        Ok(())
    }
}

/// `GET .../metadata`
pub(crate) async fn show(common: Common, Path((app, id)): Path<(String, String)>) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| match world.look().metadata(&machine) {
        Ok(metadata) => ok(json!(metadata)),
        Err(reply) => reply,
    };
    call(common, app, Some(id), EmulatedCall::Metadata).carry_out(work).await
}

#[derive(Deserialize)]
struct Update {
    #[serde(default)]
    metadata: BTreeMap<String, Option<String>>,
    machine_version: Option<String>,
}

/// `PATCH .../metadata`
pub(crate) async fn update(common: Common, Path((app, id)): Path<(String, String)>, body: Bytes) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| {
        let update: Update = match serde_json::from_slice(&body) {
            Ok(update) => update,
            Err(error) => return refuse(400, "invalid_argument", error),
        };
        world.change(|state| {
            let current = match state.there(&machine) {
                Ok(entry) => entry.machine.instance_id.clone(),
                Err(reply) => return reply,
            };
            if update.machine_version.is_some_and(|version| Some(version) != current) {
                return refuse(412, "failed_precondition", "machine version does not match");
            }
            state.set_metadata(&machine, update.metadata).map_or_else(|reply| reply, |()| done())
        })
    };
    call(common, app, Some(id), EmulatedCall::Metadata).carry_out(work).await
}

/// `GET .../metadata/{key}`
pub(crate) async fn show_key(
    common: Common,
    Path((app, id, key)): Path<(String, String, String)>,
) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| match world.look().metadata(&machine) {
        Ok(metadata) => match metadata.get(&key) {
            Some(value) => ok(json!({ "value": value })),
            None => refuse(404, "not_found", "metadata key not found"),
        },
        Err(reply) => reply,
    };
    call(common, app, Some(id), EmulatedCall::Metadata).carry_out(work).await
}

#[derive(Deserialize)]
struct Upsert {
    value: String,
}

/// `POST .../metadata/{key}`
pub(crate) async fn set_key(
    common: Common,
    Path((app, id, key)): Path<(String, String, String)>,
    body: Bytes,
) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| {
        let Upsert { value } = match serde_json::from_slice(&body) {
            Ok(upsert) => upsert,
            Err(error) => return refuse(400, "invalid_argument", error),
        };
        let values = BTreeMap::from([(key.clone(), Some(value))]);
        let set = world.change(|state| state.set_metadata(&machine, values));
        set.map_or_else(|reply| reply, |()| done())
    };
    call(common, app, Some(id), EmulatedCall::Metadata).carry_out(work).await
}

/// `DELETE .../metadata/{key}`
pub(crate) async fn delete_key(
    common: Common,
    Path((app, id, key)): Path<(String, String, String)>,
) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| {
        let values = BTreeMap::from([(key.clone(), None)]);
        let set = world.change(|state| state.set_metadata(&machine, values));
        set.map_or_else(|reply| reply, |()| done())
    };
    call(common, app, Some(id), EmulatedCall::Metadata).carry_out(work).await
}
