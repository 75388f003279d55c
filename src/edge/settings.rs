//! The Worker's variables and secrets as typed values.

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::config::registry::{
    API_TOKENS, EDGE_CRON_MAX_SECONDS, EDGE_FLEET, EDGE_SUBREQUESTS, REDIS_KEY_PREFIX,
    UPSTASH_REDIS_REST_TOKEN, UPSTASH_REDIS_REST_URL, WEBHOOK_SECRET,
};
use crate::config::{ApiConfig, ConfigError, ConfigErrors, Env, FlyConfig, Retention, StorageConfig};
use crate::controller::fleet::FleetPolicy;
use crate::flyprovider;
use crate::webhook::Key;

/// The settings of the Worker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The URL of Redis's REST interface.
    pub redis_url: Url,
    /// The access token of the REST interface.
    pub redis_token: SecretString,
    /// The prefix of every key in Redis.
    pub prefix: String,
    /// The buckets, with the addresses that clients and workers use.
    pub storage: StorageConfig,
    /// For how long what belongs to a job is kept.
    pub retention: Retention,
    /// The settings of the API, such as its tokens.
    pub api: ApiConfig,
    /// The key that signs webhooks; without it, requests with a webhook are rejected.
    pub webhook: Option<SecretString>,
    /// The fleet; `None` if a `tcoder controller` manages it.
    pub fleet: Option<FleetSettings>,
    /// Maximum number of subrequests per invocation.
    pub subrequests: u32,
    /// How long an invocation by the cron trigger runs while there is something to wait for.
    pub stay: Duration,
}

/// The settings of the fleet.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// The settings of Fly.
    pub fly: FlyConfig,
    /// The desired policy.
    pub policy: FleetPolicy,
}

impl Settings {
    /// Reads the settings.
    ///
    /// # Errors
    /// All missing or invalid settings by name, never with their values.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let redis_url = errors.keep(env.require(&UPSTASH_REDIS_REST_URL));
        let redis_token = errors.keep(env.require(&UPSTASH_REDIS_REST_TOKEN));
        let prefix = errors.keep(env.get(&REDIS_KEY_PREFIX)).flatten().unwrap_or_default();
        let storage = errors.keep(StorageConfig::read(env));
        let retention = errors.keep(Retention::read(env));
        let api = errors.keep(api(env));
        let webhook = errors.keep(webhook(env));
        let manages_machines = errors.keep(env.require(&EDGE_FLEET));
        let fleet = manages_machines.filter(|is| *is).and_then(|_| {
            let fly = errors.keep(FlyConfig::read(env));
            let policy = errors.keep(flyprovider::policy::read(env));
            fly.zip(policy).map(|(fly, policy)| FleetSettings { fly, policy })
        });
        let subrequests = errors.keep(env.require(&EDGE_SUBREQUESTS));
        let stay = errors.keep(env.require(&EDGE_CRON_MAX_SECONDS));
        let read = || {
            let mut api = api?;
            let of_machines = fleet.as_ref().and_then(|fleet| fleet.policy.disk).map(|disk| disk.max_input);
            api.max_input_bytes = of_machines.or(api.max_input_bytes);
            Some(Self {
                redis_url: redis_url?,
                redis_token: redis_token?,
                prefix,
                storage: storage?,
                retention: retention?,
                api,
                webhook: webhook?,
                fleet,
                subrequests: subrequests?,
                stay: stay?,
            })
        };
        errors.finish(read())
    }
}

/// Reads the settings of the API. Tokens are required, because everybody on the internet can call a Worker.
fn api(env: &Env<'_>) -> Result<ApiConfig, ConfigErrors> {
    let api = ApiConfig::read(env)?;
    if api.tokens.is_empty() {
        let hint = "the whole internet could start machines at your cost; `openssl rand -hex 32` makes a token, \
                    `wrangler secret put API_TOKENS` sets it";
        return Err(ConfigError::Missing { name: API_TOKENS.about.name, hint }.into());
    }
    Ok(api)
}

fn webhook(env: &Env<'_>) -> Result<Option<SecretString>, ConfigError> {
    let Some(secret) = env.get(&WEBHOOK_SECRET)? else { return Ok(None) };
    match Key::new(&secret) {
        Ok(_) => Ok(Some(secret)),
        Err(_) => {
            let why = "it must be `whsec_` and 24 to 64 bytes in base64; `echo whsec_$(openssl rand -base64 32)` \
                       makes one";
            Err(ConfigError::Invalid { name: WEBHOOK_SECRET.about.name, why: why.into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 13] = [
        ("UPSTASH_REDIS_REST_URL", "https://name.upstash.io"),
        ("UPSTASH_REDIS_REST_TOKEN", "hush-redis"),
        ("R2_ACCOUNT_ID", "abc"),
        ("R2_ACCESS_KEY_ID", "id"),
        ("R2_SECRET_ACCESS_KEY", "hush-r2"),
        ("R2_INPUT_BUCKET_NAME", "in"),
        ("R2_OUTPUT_BUCKET_NAME", "out"),
        ("API_TOKENS", "hush-token-0123456789"),
        ("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("FLY_API_TOKEN", "hush-fly"),
        ("FLY_WORKER_APP", "tcoder-workers"),
        ("FLY_WORKER_IMAGE", "registry.fly.io/tcoder-workers:latest"),
        ("MAX_MACHINES", "3"),
    ];

    fn read(change: impl Fn(&str) -> Option<Option<&'static str>>) -> Result<Settings, ConfigErrors> {
        let env = Env::of(|name| {
            let set = || ALL.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
            change(name).unwrap_or_else(set).map(str::to_owned)
        });
        Settings::read(&env)
    }

    fn without(missing: &[&str]) -> Vec<&'static str> {
        let read = read(|name| missing.contains(&name).then_some(None));
        read.err().unwrap_or_default().all().iter().map(ConfigError::name).collect()
    }

    #[test]
    fn all_of_them_make_settings_that_show_no_secret() {
        let settings = read(|_| None).unwrap();
        assert_eq!(settings.subrequests, 50);
        assert_eq!(settings.fleet.as_ref().unwrap().policy.max, 3);
        assert_eq!(settings.api.max_input_bytes, Some(10_000_000_000), "as the machines' disk has it");
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hush") && !shown.contains("whsec"), "{shown}");
    }

    #[test]
    fn each_missing_one_names_itself_and_all_are_named_at_once() {
        let needed = [
            "UPSTASH_REDIS_REST_URL",
            "UPSTASH_REDIS_REST_TOKEN",
            "R2_ACCOUNT_ID",
            "R2_ACCESS_KEY_ID",
            "R2_SECRET_ACCESS_KEY",
            "R2_INPUT_BUCKET_NAME",
            "R2_OUTPUT_BUCKET_NAME",
            "API_TOKENS",
            "FLY_API_TOKEN",
            "FLY_WORKER_APP",
            "FLY_WORKER_IMAGE",
        ];
        for missing in needed {
            assert_eq!(without(&[missing]), [missing]);
        }
        assert_eq!(without(&needed), needed);
        assert!(without(&["WEBHOOK_SECRET", "MAX_MACHINES"]).is_empty());
    }

    #[test]
    fn what_cannot_be_used_names_itself_without_its_value() {
        for (name, bad) in [
            ("UPSTASH_REDIS_REST_URL", "redis://hush"),
            ("API_TOKENS", "hush"),
            ("WEBHOOK_SECRET", "whsec_hush"),
            ("EDGE_FLEET", "hush"),
            ("EDGE_SUBREQUESTS", "hush"),
            ("EDGE_SUBREQUESTS", "19"),
            ("EDGE_CRON_MAX_SECONDS", "51"),
            ("MAX_MACHINES", "hush"),
        ] {
            let wrong = read(|n| (n == name).then_some(Some(bad))).unwrap_err();
            assert_eq!(wrong.all().iter().map(ConfigError::name).collect::<Vec<_>>(), [name]);
            assert!(!wrong.to_string().contains("hush"), "{wrong}");
        }
    }

    #[test]
    fn a_fleet_that_somebody_else_looks_after_needs_no_fly() {
        let fly = ["FLY_API_TOKEN", "FLY_WORKER_APP", "FLY_WORKER_IMAGE"];
        let settings = read(|name| match name {
            "EDGE_FLEET" => Some(Some("disabled")),
            _ => fly.contains(&name).then_some(None),
        });
        assert!(settings.unwrap().fleet.is_none());
    }
}
