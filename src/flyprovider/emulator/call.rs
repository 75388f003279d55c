//! What every request goes through before and after its work: Fly's checks, injected faults, the answer's headers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Request;
use super::faults::{EmulatedCall, Fault};
use super::reply::{Reply, refuse};
use super::world::World;
use crate::flyprovider::MachineId;

/// Breaks the connection a request came over.
#[derive(Clone, Default)]
pub(crate) struct Hangup(pub CancellationToken);

/// A query, in which a name may come more than once.
pub(crate) type Params = Query<Vec<(String, String)>>;

/// What every request brings along.
pub(crate) struct Call {
    world: Arc<World>,
    hangup: Hangup,
    headers: HeaderMap,
    app: String,
    action: EmulatedCall,
    machine: Option<MachineId>,
}

impl World {
    pub(crate) fn lets_in(&self, headers: &HeaderMap) -> bool {
        let token = self.options.token.expose_secret();
        let scheme = if token.starts_with("fm") { "FlyV1" } else { "Bearer" };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        given.and_then(|given| given.strip_prefix(scheme)).is_some_and(|given| given.trim() == token)
    }
}

impl Call {
    /// Performs `work` after Fly's checks and applies the fault of this call. `work` receives a fault that affects it.
    pub(crate) async fn carry_out(
        self,
        work: impl AsyncFnOnce(&Arc<World>, Option<Fault>) -> Reply,
    ) -> Response {
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
        let mut response = match reply {
            (status @ StatusCode::NO_CONTENT, _) => status.into_response(),
            (status, body) => (status, Json(body)).into_response(),
        };
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
            Some(Fault::HostClosed) => plain(refuse(
                503,
                "unavailable",
                "deploys to this host are temporarily disabled, please try again later or check the status page",
            )),
            Some(Fault::Billing) => plain((
                StatusCode::FORBIDDEN,
                json!({ "error": "To create more than 1 machine per app please add a payment method. https://fly.io/dashboard/personal/billing" }),
            )),
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

pub(crate) type Common = (Shared<Arc<World>>, Extension<Hangup>, HeaderMap);

pub(crate) fn call(common: Common, app: String, machine: Option<String>, action: EmulatedCall) -> Call {
    let (Shared(world), Extension(hangup), headers) = common;
    Call { world, hangup, headers, app, action, machine: machine.map(MachineId) }
}
