//! The paths, and what is asked for behind them.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::call::{Common, Params, call};
use super::faults::{EmulatedCall, Fault, FaultOrder};
use super::lease::nonce_of;
use super::life::Fate;
use super::reply::{no_machine, ok, refuse};
use super::world::{DEFAULT_SIGNAL, DEFAULT_STOP, EventSource, ProcessSignal, World};
use super::{lease_routes, metadata, order, show, wait};
use crate::flyprovider::{MachineId, MachineState};

fn value<'a>(params: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = params.iter().find(|(n, value)| n == name && !value.is_empty());
    found.map(|(_, value)| value.as_str())
}

fn flag(params: &[(String, String)], name: &str) -> bool {
    value(params, name) == Some("true")
}

pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/v1/apps/{app}/machines", get(list).post(create))
        .route("/v1/apps/{app}/machines/{id}", get(get_one).post(update).delete(destroy))
        .route("/v1/apps/{app}/machines/{id}/start", post(start))
        .route("/v1/apps/{app}/machines/{id}/stop", post(stop))
        .route("/v1/apps/{app}/machines/{id}/restart", post(restart))
        .route("/v1/apps/{app}/machines/{id}/wait", get(wait::wait))
        .route("/v1/apps/{app}/machines/{id}/events", get(events))
        .route("/v1/apps/{app}/machines/{id}/versions", get(versions))
        .route(
            "/v1/apps/{app}/machines/{id}/lease",
            get(lease_routes::show).post(lease_routes::take).delete(lease_routes::release),
        )
        .route(
            "/v1/apps/{app}/machines/{id}/metadata",
            patch(metadata::update).put(metadata::update).get(metadata::show),
        )
        .route(
            "/v1/apps/{app}/machines/{id}/metadata/{key}",
            get(metadata::show_key).post(metadata::set_key).delete(metadata::delete_key),
        )
        .route("/_faults", post(faults))
        .with_state(world)
}

async fn list(common: Common, Path(app): Path<String>, Query(params): Params) -> Response {
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        if value(&params, "limit").or(value(&params, "cursor")).is_some() {
            return refuse(400, "unimplemented", "this emulator gives lists whole");
        }
        let one_of = |name: &str, is: &str| {
            value(&params, name).is_none_or(|wanted| wanted.split(',').any(|wanted| wanted.trim() == is))
        };
        let most = match fault {
            Some(Fault::PartialList { machines }) => machines,
            _ => usize::MAX,
        };
        let state = world.look();
        let shown = state.machines.values().filter(|entry| {
            let machine = &entry.machine;
            let labels = machine.config.as_ref().map(|config| &config.metadata);
            let labelled = params
                .iter()
                .filter_map(|(k, v)| Some((k.strip_prefix("metadata.")?, v)))
                .all(|(name, value)| labels.and_then(|labels| labels.get(name)).is_some_and(|l| l == value));
            let wanted = flag(&params, "include_deleted") || !machine.state.is_gone();
            wanted && labelled && one_of("region", &machine.region) && one_of("state", machine.state.name())
        });
        let machines = shown.take(most).map(|entry| {
            let machine = show::machine(entry, flag(&params, "include_leases"));
            if flag(&params, "summary") { show::summary(machine) } else { machine }
        });
        ok(Value::Array(machines.collect()))
    };
    call(common, app, None, EmulatedCall::List).carry_out(work).await
}

async fn create(common: Common, Path(app): Path<String>, body: Bytes) -> Response {
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        let made = world.change(|state| {
            let made = state.create(&world.options, &body)?;
            let answer = state.machines.get_mut(&made.id).map(|entry| {
                let mut answer = show::machine(entry, false);
                if let Some(nonce) = &made.nonce {
                    answer["nonce"] = json!(nonce);
                }
                if fault == Some(Fault::Stuck) {
                    entry.enter(MachineState::Creating, "launch", EventSource::Flyd, None);
                }
                answer
            });
            Ok((made, answer.unwrap_or_default()))
        });
        let (made, answer) = match made {
            Ok(made) => made,
            Err(reply) => return reply,
        };
        match fault {
            Some(Fault::NeverStarts | Fault::Stuck) => {}
            Some(Fault::ImagePull) => world.after_create(made.id, Fate::Fails),
            _ if made.launches => world.after_create(made.id, Fate::Launches),
            _ => world.after_create(made.id, Fate::Rests),
        }
        ok(answer)
    };
    call(common, app, None, EmulatedCall::Create).carry_out(work).await
}

async fn get_one(common: Common, Path((app, id)): Path<(String, String)>, Query(params): Params) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| {
        let state = world.look();
        let Some(entry) = state.machines.get(&machine) else { return no_machine() };
        let mut shown = show::machine(entry, flag(&params, "include_leases"));
        let other = value(&params, "version").filter(|v| entry.machine.instance_id.as_deref() != Some(v));
        if let Some(version) = other {
            let Some((_, config)) = entry.past.iter().find(|(past, _)| past == version) else {
                return refuse(404, "not_found", "machine version not found");
            };
            shown["state"] = json!(MachineState::Replaced);
            shown["instance_id"] = json!(version);
            shown["version"] = json!(version);
            shown["config"] = config.clone();
        }
        ok(shown)
    };
    call(common, app, Some(id), EmulatedCall::Get).carry_out(work).await
}

async fn update(common: Common, Path((app, id)): Path<(String, String)>, body: Bytes) -> Response {
    let machine = MachineId(id.clone());
    let nonce = nonce_of(&common.2);
    let work = async |world: &Arc<World>, _| {
        let updated = world.change(|state| {
            let launches = state.update(&machine, &body, nonce.as_deref())?;
            Ok((launches, state.machines.get(&machine).map(|entry| show::machine(entry, false))))
        });
        match updated {
            Err(reply) => reply,
            Ok((launches, answer)) => {
                world.after_exit(machine, MachineState::Replacing, launches);
                ok(answer.unwrap_or_default())
            }
        }
    };
    call(common, app, Some(id), EmulatedCall::Update).carry_out(work).await
}

async fn events(common: Common, Path((app, id)): Path<(String, String)>, Query(params): Params) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| {
        let limit = value(&params, "limit").map_or(Ok(20), str::parse);
        let Ok(limit @ 1..=50) = limit else {
            return refuse(400, "invalid_argument", "limit must be 1 to 50");
        };
        match world.look().machines.get(&machine) {
            Some(entry) => ok(json!(entry.machine.events.iter().take(limit).collect::<Vec<_>>())),
            None => no_machine(),
        }
    };
    call(common, app, Some(id), EmulatedCall::Events).carry_out(work).await
}

async fn versions(common: Common, Path((app, id)): Path<(String, String)>) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| match world.look().machines.get(&machine) {
        Some(entry) => {
            let current = entry.machine.instance_id.clone().unwrap_or_default();
            let current = (current, entry.config.clone());
            let all = std::iter::once(&current).chain(&entry.past);
            let shown = all.map(|(version, config)| json!({ "version": version, "user_config": config }));
            ok(Value::Array(shown.collect()))
        }
        None => no_machine(),
    };
    call(common, app, Some(id), EmulatedCall::Versions).carry_out(work).await
}

async fn start(common: Common, Path((app, id)): Path<(String, String)>) -> Response {
    let machine = MachineId(id.clone());
    let nonce = nonce_of(&common.2);
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        let (starts, before) = match world.change(|state| state.start(&machine, nonce.as_deref())) {
            Ok(done) => done,
            Err(reply) => return reply,
        };
        match fault {
            Some(Fault::Stuck) => {}
            Some(Fault::ImagePull) if starts => world.after_failed_start(machine),
            _ if starts => world.launch(machine),
            _ => {}
        }
        ok(json!({ "previous_state": before, "migrated": false, "new_host": "" }))
    };
    call(common, app, Some(id), EmulatedCall::Start).carry_out(work).await
}

async fn stop(common: Common, Path((app, id)): Path<(String, String)>, body: Bytes) -> Response {
    let machine = MachineId(id.clone());
    let nonce = nonce_of(&common.2);
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        let order = if body.is_empty() { Ok(order::Stop::default()) } else { serde_json::from_slice(&body) };
        let (signal, limit) = match order {
            Ok(order) => match order.read() {
                Ok(order) => order,
                Err(reply) => return reply,
            },
            Err(error) => return refuse(400, "invalid_argument", error),
        };
        world.change(|state| {
            match state.stop(&machine, nonce.as_deref()) {
                Err(reply) => return reply,
                Ok(true) if fault != Some(Fault::Stuck) => {
                    if let Some(entry) = state.machines.get(&machine) {
                        let (own_signal, own_limit) = entry.stop_config();
                        let signal = signal.or(own_signal).unwrap_or(DEFAULT_SIGNAL);
                        entry.order(ProcessSignal::Stop(signal, limit.or(own_limit).unwrap_or(DEFAULT_STOP)));
                    }
                }
                Ok(_) => {}
            }
            ok(json!({ "ok": true }))
        })
    };
    call(common, app, Some(id), EmulatedCall::Stop).carry_out(work).await
}

async fn restart(common: Common, Path((app, id)): Path<(String, String)>) -> Response {
    let machine = MachineId(id.clone());
    let nonce = nonce_of(&common.2);
    let work = async |world: &Arc<World>, _| {
        if let Err(reply) = world.change(|state| state.restart(&machine, nonce.as_deref())) {
            return reply;
        }
        world.after_exit(machine, MachineState::Restarting, true);
        ok(json!({ "ok": true }))
    };
    call(common, app, Some(id), EmulatedCall::Restart).carry_out(work).await
}

async fn destroy(common: Common, Path((app, id)): Path<(String, String)>, Query(params): Params) -> Response {
    let machine = MachineId(id.clone());
    let nonce = nonce_of(&common.2);
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        // Fly's own client sends `kill`.
        let force = flag(&params, "force") || flag(&params, "kill");
        if let Err(reply) = world.change(|state| state.destroy(&machine, force, nonce.as_deref())) {
            return reply;
        }
        if fault != Some(Fault::Stuck) {
            world.after_destroy(machine);
        }
        ok(json!({ "ok": true }))
    };
    call(common, app, Some(id), EmulatedCall::Destroy).carry_out(work).await
}

async fn faults(
    Shared(world): Shared<Arc<World>>,
    headers: HeaderMap,
    Json(order): Json<FaultOrder>,
) -> StatusCode {
    if !world.lets_in(&headers) {
        return StatusCode::UNAUTHORIZED;
    }
    world.change(|state| match order {
        FaultOrder::Calls { action, fault, times } => state.faults.add(action, fault, times),
        FaultOrder::Region { region, full: true } => drop(state.full_regions.insert(region)),
        FaultOrder::Region { region, full: false } => drop(state.full_regions.remove(&region)),
        FaultOrder::Machine { machine, happens } => drop(state.happens(&machine, happens)),
    });
    StatusCode::NO_CONTENT
}
