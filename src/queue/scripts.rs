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

/// Calls a script as the function `script`. If it fails, undoes what it wrote, and fails with the same error: Redis puts
/// positions in front of the error's code.
macro_rules! call_script {
    () => {
        "
end
local done, answer = pcall(script)
if done then return answer end
for i = #undo, 1, -1 do undo[i]() end
local text = type(answer) == 'table' and answer.err or tostring(answer)
text = string.gsub(text, '^.*user_script:%s*%d+:%s*', '')
return { err = string.match(text, '^%u+ ') and text or 'ERR ' .. text }
"
    };
}

macro_rules! scripts {
    ($($name:ident $file:literal)*) => {$(
        pub(crate) static $name: Script = {
            const TEXT: &str = concat!(
                include_str!("scripts/lib.lua"),
                "local function script()\n",
                include_str!(concat!("scripts/", $file)),
                call_script!()
            );
            Script::new(TEXT, || hex(&Sha1::digest(TEXT)))
        };
    )*};
}

/// Completes a part of a job and claims the worker's next task, in one call.
pub(crate) static COMPLETE_PART: Script = {
    const TEXT: &str = concat!(
        include_str!("scripts/lib.lua"),
        "local function claim(ARGV)\n",
        include_str!("scripts/claim.lua"),
        "end\nlocal function script()\n",
        include_str!("scripts/complete_part.lua"),
        call_script!()
    );
    Script::new(TEXT, || hex(&Sha1::digest(TEXT)))
};

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
    SPLIT "split.lua"
    AWAIT_SEGMENT "await_segment.lua"
    SOUND "sound.lua"
    ABANDON_SPLIT "abandon_split.lua"
    DROP_PART "drop_part.lua"
    GIVE_UP_PART "give_up_part.lua"
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
    AUTHENTICATE "authenticate.lua"
    PUT_TOKEN "put_token.lua"
    DELETE_TOKEN "delete_token.lua"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_in_scripts_are_those_of_the_format() {
        let version = format!("local VERSION = {}\n", crate::job::FORMAT_VERSION);
        let split = format!("local SPLIT_VERSION = {}\n", crate::job::SPLIT_VERSION);
        let class = format!("local CLASS_VERSION = {}\n", crate::job::CLASS_VERSION);
        let default = format!("local DEFAULT_CLASS = '{}'\n", crate::job::WorkerClass::DEFAULT);
        for constant in [version, split, class, default] {
            assert!(SUBMIT.text().contains(&constant), "{constant}");
        }
    }
}
