//! The paths, the checks in front of them, and the JSON.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use nix::sys::signal::Signal;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Request;
use super::faults::{Action, Fault, Order as FaultOrder};
use super::life::Fate;
use super::world::{Order, Reply, World, no_machine, ok, refuse};
use crate::flyprovider::{CreateMachine, MachineId, MachineState};

/// Breaks the connection a request came over.
#[derive(Clone, Default)]
pub struct Hangup(pub CancellationToken);

type Params = Query<HashMap<String, String>>;

/// Fly takes no longer stop than this, and waits no longer for a state in one request.
const STOP_MAX: Duration = Duration::from_secs(300);
const WAIT_MAX: u64 = 60;

pub fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/v1/apps/{app}/machines", get(list).post(create))
        .route("/v1/apps/{app}/machines/{id}", get(show).delete(destroy))
        .route("/v1/apps/{app}/machines/{id}/start", post(start))
        .route("/v1/apps/{app}/machines/{id}/stop", post(stop))
        .route("/v1/apps/{app}/machines/{id}/wait", get(wait))
        .route("/v1/apps/{app}/machines/{id}/events", get(events))
        .route("/_faults", post(faults))
        .with_state(world)
}

/// What every request brings along.
struct Call {
    world: Arc<World>,
    hangup: Hangup,
    headers: HeaderMap,
    app: String,
    action: Action,
    machine: Option<MachineId>,
}

impl World {
    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let token = self.options.token.expose_secret();
        let scheme = if token.starts_with("fm") { "FlyV1" } else { "Bearer" };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        given.and_then(|given| given.strip_prefix(scheme)).is_some_and(|given| given.trim() == token)
    }
}

impl Call {
    /// Fly's checks and the fault of this call around the work, which is told of a fault that shapes it.
    async fn carry_out(self, work: impl AsyncFnOnce(&Arc<World>, Option<Fault>) -> Reply) -> Response {
        let at = self.world.began.elapsed();
        let (reply, wait, lost) = self.decide(work).await;
        let status = if lost { 0 } else { reply.0.as_u16() };
        let request = Request { at, action: self.action, machine: self.machine, status };
        self.world.look().note(request);
        if lost {
            self.hangup.0.cancel();
            // The connection is dropped, and this with it.
            std::future::pending::<()>().await;
        }
        let mut response = (reply.0, Json(reply.1)).into_response();
        let id = uuid::Uuid::new_v4().simple().to_string();
        for (name, value) in [("fly-request-id", Some(id)), ("retry-after", wait.map(|s| s.to_string()))] {
            if let Some(value) = value.and_then(|value| value.parse().ok()) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    /// The answer, what `Retry-After` says, and whether the answer is lost.
    async fn decide(
        &self,
        work: impl AsyncFnOnce(&Arc<World>, Option<Fault>) -> Reply,
    ) -> (Reply, Option<u64>, bool) {
        let plain = |reply| (reply, None, false);
        if !self.world.lets_in(&self.headers) {
            return plain(refuse(401, "unauthorized", "the token is not accepted"));
        }
        if self.app != self.world.options.app {
            return plain((
                StatusCode::NOT_FOUND,
                json!({ "error": format!("Could not find App {:?}", self.app) }),
            ));
        }
        if self.world.too_soon(self.action, self.machine.as_ref()) {
            return plain(refuse(429, "resource_exhausted", "rate limit exceeded"));
        }
        match self.world.fault(self.action) {
            Some(Fault::RateLimited { retry_after }) => {
                (refuse(429, "resource_exhausted", "rate limit exceeded"), retry_after, false)
            }
            Some(Fault::Status { status }) => plain(refuse(status, "internal", "injected")),
            Some(Fault::HostFull) => {
                plain(refuse(409, "aborted", "could not reserve resource for machine: insufficient CPUs"))
            }
            Some(Fault::RegionFull) => {
                plain(refuse(422, "insufficient_capacity", "no capacity available in the region"))
            }
            Some(Fault::Quota) => plain((
                StatusCode::FORBIDDEN,
                json!({ "error": "your organization is over the allowed quota of machines" }),
            )),
            Some(Fault::LostReply) => (work(&self.world, None).await, None, true),
            Some(Fault::DoneThen { status }) => {
                work(&self.world, None).await;
                plain(refuse(status, "internal", "injected"))
            }
            Some(Fault::Slow { ms }) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                plain(work(&self.world, None).await)
            }
            shaping => plain(work(&self.world, shaping).await),
        }
    }
}

type Common = (Shared<Arc<World>>, Extension<Hangup>, HeaderMap);

fn call(common: Common, app: String, machine: Option<String>, action: Action) -> Call {
    let (Shared(world), Extension(hangup), headers) = common;
    Call { world, hangup, headers, app, action, machine: machine.map(MachineId) }
}

async fn list(common: Common, Path(app): Path<String>, Query(params): Params) -> Response {
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        let flag = |name: &str| params.get(name).is_some_and(|value| value == "true");
        let equals = |name: &str, value: &str| params.get(name).is_none_or(|wanted| wanted == value);
        let most = match fault {
            Some(Fault::PartialList { machines }) => machines,
            _ => usize::MAX,
        };
        let state = world.look();
        let shown = state.machines.values().filter(|entry| {
            let machine = &entry.machine;
            let labels = machine.config.as_ref().map(|config| &config.metadata);
            (flag("include_deleted") || !machine.state.is_gone())
                && equals("region", &machine.region)
                && equals("state", machine.state.name())
                && params.iter().filter_map(|(k, v)| Some((k.strip_prefix("metadata.")?, v))).all(
                    |(name, value)| labels.and_then(|labels| labels.get(name)).is_some_and(|l| l == value),
                )
        });
        let machines = shown.take(most).map(|entry| {
            let mut json = json!(entry.shown());
            if let (true, Some(fields)) = (flag("summary"), json.as_object_mut()) {
                fields.retain(|name, _| !matches!(name.as_str(), "config" | "events" | "host_status"));
            }
            json
        });
        ok(Value::Array(machines.collect()))
    };
    call(common, app, None, Action::List).carry_out(work).await
}

async fn create(common: Common, Path(app): Path<String>, body: Bytes) -> Response {
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        let order: CreateMachine = match serde_json::from_slice(&body) {
            Ok(order) => order,
            Err(error) => return refuse(400, "invalid_argument", error),
        };
        let made = world.change(|state| {
            let made = state.create(&world.options, order)?;
            let answer = state.machines.get_mut(&made.id).map(|entry| {
                let answer = json!(entry.shown());
                if fault == Some(Fault::Stuck) {
                    entry.enter(MachineState::Creating, "launch", None);
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
    call(common, app, None, Action::Create).carry_out(work).await
}

async fn show(common: Common, Path((app, id)): Path<(String, String)>) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| match world.look().machines.get(&machine) {
        Some(entry) => ok(json!(entry.shown())),
        None => no_machine(),
    };
    call(common, app, Some(id), Action::Get).carry_out(work).await
}

async fn events(common: Common, Path((app, id)): Path<(String, String)>) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| match world.look().machines.get(&machine) {
        Some(entry) => ok(json!(entry.machine.events)),
        None => no_machine(),
    };
    call(common, app, Some(id), Action::Events).carry_out(work).await
}

async fn start(common: Common, Path((app, id)): Path<(String, String)>) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        let (starts, before) = match world.change(|state| state.start(&machine)) {
            Ok(done) => done,
            Err(reply) => return reply,
        };
        match fault {
            Some(Fault::Stuck) => {}
            Some(Fault::ImagePull) if starts => world.after_failed_start(machine),
            _ if starts => world.launch(machine),
            _ => {}
        }
        ok(json!({ "previous_state": before }))
    };
    call(common, app, Some(id), Action::Start).carry_out(work).await
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StopOrder {
    signal: Option<String>,
    timeout: Option<String>,
}

async fn stop(common: Common, Path((app, id)): Path<(String, String)>, body: Bytes) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        let order = if body.is_empty() { Ok(StopOrder::default()) } else { serde_json::from_slice(&body) };
        let order = match order {
            Ok(order) => order,
            Err(error) => return refuse(400, "invalid_argument", error),
        };
        world.change(|state| {
            let own =
                state.machines.get(&machine).and_then(|e| e.machine.config.as_ref()?.stop_config.clone());
            let (own_signal, own_timeout) = own.map(|own| (own.signal, own.timeout)).unwrap_or_default();
            let said = |said: Option<String>, own: String, default: &str| {
                said.or(Some(own)).filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
            };
            let signal = said(order.signal, own_signal, "SIGINT").parse::<Signal>();
            let limit = go_duration(&said(order.timeout, own_timeout, "5s")).filter(|t| *t <= STOP_MAX);
            let (Ok(signal), Some(limit)) = (signal, limit) else {
                return refuse(400, "invalid_argument", "signal or timeout (at most 300s) cannot be used");
            };
            match state.stop(&machine) {
                Err(reply) => return reply,
                Ok(true) if fault != Some(Fault::Stuck) => {
                    if let Some(entry) = state.machines.get(&machine) {
                        entry.order(Order::Stop(signal, limit));
                    }
                }
                Ok(_) => {}
            }
            ok(json!({ "ok": true }))
        })
    };
    call(common, app, Some(id), Action::Stop).carry_out(work).await
}

async fn destroy(common: Common, Path((app, id)): Path<(String, String)>, Query(params): Params) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, fault: Option<Fault>| {
        let force = params.get("force").is_some_and(|value| value == "true");
        if let Err(reply) = world.change(|state| state.destroy(&machine, force)) {
            return reply;
        }
        if fault != Some(Fault::Stuck) {
            world.after_destroy(machine);
        }
        ok(json!({ "ok": true }))
    };
    call(common, app, Some(id), Action::Destroy).carry_out(work).await
}

async fn wait(common: Common, Path((app, id)): Path<(String, String)>, Query(params): Params) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| {
        let wanted = MachineState::from(params.get("state").cloned().unwrap_or_else(|| "started".into()));
        let seconds = params.get("timeout").map_or(Ok(WAIT_MAX), |text| text.parse());
        let Ok(seconds @ 1..=WAIT_MAX) = seconds else {
            return refuse(400, "invalid_argument", "timeout must be 1 to 60 seconds");
        };
        let mut changed = world.changed.subscribe();
        let reached = async {
            loop {
                match world.look().machines.get(&machine).map(|entry| entry.machine.state.clone()) {
                    None => return Some(no_machine()),
                    Some(state) if state == wanted => return Some(ok(json!({ "ok": true }))),
                    Some(_) => {}
                }
                if changed.changed().await.is_err() {
                    return None;
                }
            }
        };
        let limit = Duration::from_secs(seconds);
        tokio::time::timeout(limit, reached).await.ok().flatten().unwrap_or_else(|| {
            let text = format!("timeout reached waiting for machine's state to change to {wanted}");
            refuse(408, "deadline_exceeded", text)
        })
    };
    call(common, app, Some(id), Action::Wait).carry_out(work).await
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

/// Such as `1m30s`, `300s`, `500ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        sum = sum.checked_add(unit)?;
        rest = &rest[letters..];
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let ms = |text| go_duration(text).map(|d| d.as_millis());
        assert_eq!(
            [ms("300s"), ms("1m30s"), ms("500ms"), ms("1h")],
            [Some(300_000), Some(90_000), Some(500), Some(3_600_000)]
        );
        assert_eq!([ms(""), ms("5"), ms("s"), ms("-5s"), ms("99999999999999999999s")], [None; 5]);
    }
}
