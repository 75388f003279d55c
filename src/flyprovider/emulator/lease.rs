//! Leases: only the holder of a lease may change the machine.
//!
//! The behaviour follows Fly's documentation ("Create a Machine lease") and its clients (fly-go,
//! `MachineLease`). The OpenAPI document shows the lease itself as the response, while the clients expect it
//! in `data` next to a `status`; the emulator follows the clients.

use axum::http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

/// The header with the nonce of a lease.
const HEADER: &str = "fly-machine-lease-nonce";
/// Default duration of a lease, seconds.
pub(crate) const TTL: u64 = 60;
const TTL_MAX: u64 = 3600;

/// A lease of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(super) nonce: String,
    pub(super) expires_at: Timestamp,
    description: String,
    version: String,
}

/// The owner of the token that this emulator accepts.
pub(crate) const OWNER: &str = "emulator@tokens.fly.io";

impl Lease {
    pub(crate) fn for_seconds(ttl: u64, description: String, version: String) -> Self {
        let ttl = SignedDuration::from_secs(i64::try_from(ttl.clamp(1, TTL_MAX)).unwrap_or(1));
        let expires_at = Timestamp::now().saturating_add(ttl).unwrap_or(Timestamp::MAX);
        let nonce = Uuid::new_v4().simple().to_string()[..12].to_owned();
        Self { nonce, expires_at, description, version }
    }

    /// The lease without the nonce, for other clients.
    pub(crate) fn stripped(&self) -> Value {
        json!({ "owner": OWNER, "description": self.description, "expires_at": self.expires_at.as_second() })
    }

    pub(crate) fn nonce(&self) -> &str {
        &self.nonce
    }

    pub(crate) fn answer(&self) -> Value {
        let mut data = self.stripped();
        data["nonce"] = json!(self.nonce);
        data["version"] = json!(self.version);
        json!({ "status": "success", "data": data })
    }
}

/// The nonce in the request's header.
pub(crate) fn nonce_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(HEADER)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}
