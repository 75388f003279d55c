//! The routes of leases, and the check that a lease permits a change.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::call::{Common, Params, call};
use super::faults::EmulatedCall;
use super::lease::{Lease, OWNER, TTL, nonce_of};
use super::reply::{Reply, ok, refuse};
use super::world::{EmulatedMachine, World, WorldState};
use crate::flyprovider::MachineId;

impl EmulatedMachine {
    fn current_lease(&mut self) -> Option<&mut Lease> {
        if self.lease.as_ref().is_some_and(|lease| lease.expires_at <= Timestamp::now()) {
            self.lease = None;
        }
        self.lease.as_mut()
    }

    /// Refuses a change with this nonce while a lease with another nonce is held.
    pub(crate) fn free_for(&mut self, nonce: Option<&str>) -> Result<(), Reply> {
        let id = self.machine.id.clone();
        match self.current_lease() {
            Some(lease) if nonce != Some(lease.nonce.as_str()) => {
                let until = lease.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ");
                let text = format!("machine ID {id} lease currently held by {OWNER}, expires at {until}");
                Err(refuse(409, "aborted", text))
            }
            _ => Ok(()),
        }
    }

    /// Acquires the lease, or extends it for its holder.
    pub(crate) fn take_lease(
        &mut self,
        nonce: Option<&str>,
        ttl: Option<u64>,
        description: String,
    ) -> Result<&Lease, Reply> {
        self.free_for(nonce)?;
        let version = self.machine.instance_id.clone().unwrap_or_default();
        let mut lease = Lease::for_seconds(ttl.unwrap_or(TTL), description, version);
        if let Some(held) = self.current_lease() {
            lease.nonce.clone_from(&held.nonce);
        }
        Ok(self.lease.insert(lease))
    }
}

impl WorldState {
    fn take_lease(&mut self, id: &MachineId, nonce: Option<&str>, request: Request) -> Result<Reply, Reply> {
        let entry = self.there(id)?;
        let lease = entry.take_lease(nonce, request.ttl, request.description)?;
        Ok((StatusCode::CREATED, lease.answer()))
    }

    fn show_lease(&mut self, id: &MachineId) -> Result<Reply, Reply> {
        let lease = self.there(id)?.current_lease().map(|lease| lease.answer());
        lease.map(ok).ok_or_else(no_lease)
    }

    fn release_lease(&mut self, id: &MachineId, nonce: Option<&str>) -> Result<Reply, Reply> {
        let entry = self.there(id)?;
        if entry.current_lease().is_none() {
            return Err(no_lease());
        }
        entry.free_for(nonce)?;
        entry.lease = None;
        Ok(ok(json!({ "status": "success", "data": { "ok": true } })))
    }
}

fn no_lease() -> Reply {
    refuse(404, "not_found", "lease not found")
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Request {
    ttl: Option<u64>,
    description: String,
}

/// `POST .../lease`: the time in the body (as documented) or in the query (as fly-go sends it).
pub(crate) async fn take(
    common: Common,
    Path((app, id)): Path<(String, String)>,
    Query(params): Params,
    body: Bytes,
) -> Response {
    let machine = MachineId(id.clone());
    let nonce = nonce_of(&common.2);
    let work = async |world: &Arc<World>, _| {
        let read = if body.is_empty() { Ok(Request::default()) } else { serde_json::from_slice(&body) };
        let mut request: Request = match read {
            Ok(request) => request,
            Err(error) => return refuse(400, "invalid_argument", error),
        };
        if let Some(ttl) = params.iter().find(|(name, _)| name == "ttl").map(|(_, ttl)| ttl.parse()) {
            match ttl {
                Ok(ttl) => request.ttl = Some(ttl),
                Err(error) => return refuse(400, "invalid_argument", format!("invalid ttl: {error}")),
            }
        }
        let taken = world.change(|state| state.take_lease(&machine, nonce.as_deref(), request));
        taken.unwrap_or_else(|reply| reply)
    };
    call(common, app, Some(id), EmulatedCall::Lease).carry_out(work).await
}

/// `GET .../lease`
pub(crate) async fn show(common: Common, Path((app, id)): Path<(String, String)>) -> Response {
    let machine = MachineId(id.clone());
    let work = async |world: &Arc<World>, _| {
        world.change(|state| state.show_lease(&machine)).unwrap_or_else(|reply| reply)
    };
    call(common, app, Some(id), EmulatedCall::Lease).carry_out(work).await
}

/// `DELETE .../lease`
pub(crate) async fn release(common: Common, Path((app, id)): Path<(String, String)>) -> Response {
    let machine = MachineId(id.clone());
    let nonce = nonce_of(&common.2);
    let work = async |world: &Arc<World>, _| {
        let released = world.change(|state| state.release_lease(&machine, nonce.as_deref()));
        released.unwrap_or_else(|reply| reply)
    };
    call(common, app, Some(id), EmulatedCall::Lease).carry_out(work).await
}
