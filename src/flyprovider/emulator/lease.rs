//! Leases: who holds one alone may change a machine.
//!
//! Facts are those of Fly's documentation ("Create a Machine lease") and of its clients (fly-go, `MachineLease`).
//! Its OpenAPI document shows the bare lease where Fly answers it as `data`, beside a `status`; the clients are
//! believed.

use axum::http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

/// The header that holder of a lease shows.
const HEADER: &str = "fly-machine-lease-nonce";
/// For how long a lease is where nothing is said, in seconds.
pub const TTL: u64 = 60;
const TTL_MAX: u64 = 3600;

/// Who alone may change a machine, and until when.
#[derive(Clone, Debug)]
pub struct Lease {
    pub(super) nonce: String,
    pub(super) expires_at: Timestamp,
    description: String,
    version: String,
}

/// Whose token this emulator knows.
pub const OWNER: &str = "emulator@tokens.fly.io";

impl Lease {
    pub fn for_seconds(ttl: u64, description: String, version: String) -> Self {
        let ttl = SignedDuration::from_secs(i64::try_from(ttl.clamp(1, TTL_MAX)).unwrap_or(1));
        let expires_at = Timestamp::now().saturating_add(ttl).unwrap_or(Timestamp::MAX);
        let nonce = Uuid::new_v4().simple().to_string()[..12].to_owned();
        Self { nonce, expires_at, description, version }
    }

    /// Without the nonce, for others.
    pub fn stripped(&self) -> Value {
        json!({ "owner": OWNER, "description": self.description, "expires_at": self.expires_at.as_second() })
    }

    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    pub fn answer(&self) -> Value {
        let mut data = self.stripped();
        data["nonce"] = json!(self.nonce);
        data["version"] = json!(self.version);
        json!({ "status": "success", "data": data })
    }
}

/// What the caller's header says.
pub fn nonce_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(HEADER)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}
