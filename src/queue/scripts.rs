//! The Lua scripts, each with the shared part `lib.lua` in front.

use std::sync::LazyLock;

use sha1::{Digest, Sha1};

use crate::hex::hex;

/// A script and the hash by which Redis caches it.
pub(crate) struct Script {
    text: &'static str,
    sha1: LazyLock<String>,
}

impl Script {
    const fn new(text: &'static str, sha1: fn() -> String) -> Self {
        Self { text, sha1: LazyLock::new(sha1) }
    }

    pub(crate) fn text(&self) -> &'static str {
        self.text
    }

    pub(crate) fn sha1(&self) -> &str {
        &self.sha1
    }
}

macro_rules! scripts {
    ($($name:ident $file:literal)*) => {$(
        pub(crate) static $name: Script = {
            const TEXT: &str = concat!(include_str!("scripts/lib.lua"), include_str!(concat!("scripts/", $file)));
            Script::new(TEXT, || hex(&Sha1::digest(TEXT)))
        };
    )*};
}

/// The scripts of the lock and the rate limit, each as a function that `fleet_session.lua` calls with its own ARGV.
pub(crate) static FLEET_SESSION: Script = {
    const TEXT: &str = concat!(
        include_str!("scripts/lib.lua"),
        "local function fleet_lock(ARGV)\n",
        include_str!("scripts/fleet_lock.lua"),
        "end\nlocal function rate_limit(ARGV)\n",
        include_str!("scripts/rate_limit.lua"),
        "end\n",
        include_str!("scripts/fleet_session.lua")
    );
    Script::new(TEXT, || hex(&Sha1::digest(TEXT)))
};

scripts! {
    SUBMIT "submit.lua"
    UPLOADED "uploaded.lua"
    CLAIM "claim.lua"
    PROGRESS "progress.lua"
    COMPLETE "complete.lua"
    FAIL "fail.lua"
    RELEASE "release.lua"
    CANCEL "cancel.lua"
    REDRIVE "redrive.lua"
    EXPIRE "expire.lua"
    SWEEP "sweep.lua"
    PRUNE_INDEX "prune_index.lua"
    READ "read.lua"
    CLAIM_DELIVERIES "claim_deliveries.lua"
    RETRY_DELIVERY "retry_delivery.lua"
    RATE_LIMIT "rate_limit.lua"
    REGISTER "register.lua"
    RETIRE "retire.lua"
    FLEET_VIEW "fleet_view.lua"
    FLEET_LOCK "fleet_lock.lua"
    FLEET_PUBLISH "fleet_publish.lua"
}
