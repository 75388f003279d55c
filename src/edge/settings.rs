//! Variables and secrets of the Worker -> typed values. All that is wrong is said at once: whoever deploys
//! sets a dozen of them, and does not want to hear of them one by one.

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::config::{ApiConfig, ConfigError, Env, FlyConfig, StorageConfig, webhook_secret};
use crate::controller::fleet::FleetPolicy;
use crate::flyprovider;
use crate::webhook::Key;

/// Subrequests of an invocation on the free plan.
const FREE: u32 = 50;
/// Least that makes sense: an upload's event, and a step of the fleet.
const LEAST: u32 = 20;

/// The next minute's invocation begins after this one has ended.
const LONGEST_STAY: u64 = 50;
/// What stands for a variable that is missing, so that the next one is looked at too.
const ANYTHING: &str = "x";

/// What the Worker is set to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Redis's REST interface.
    pub redis_url: Url,
    /// Its token.
    pub redis_token: SecretString,
    /// Stands before every key.
    pub prefix: String,
    /// The buckets, as clients and workers reach them.
    pub storage: StorageConfig,
    /// Who may call.
    pub api: ApiConfig,
    /// Signs webhooks; without it none is accepted.
    pub webhook: Option<SecretString>,
    /// The machines; nothing where somebody else looks after them.
    pub fleet: Option<Fleet>,
    /// Subrequests an invocation may make.
    pub subrequests: u32,
    /// How long the clock's invocation stays while there is something to wait for.
    pub stay: Duration,
}

/// The machines, and how they are asked for.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Fly.
    pub fly: FlyConfig,
    /// What is wanted.
    pub policy: FleetPolicy,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// All that is missing or wrong, by name; never a value.
    pub fn read(env: &Env<'_>) -> Result<Self, Vec<ConfigError>> {
        let mut wrong = Vec::new();
        let redis_url = all(redis_url, env, &mut wrong);
        let redis_token = all(redis_token, env, &mut wrong);
        let storage = all(StorageConfig::read, env, &mut wrong);
        let api = all(api, env, &mut wrong);
        let webhook = all(webhook, env, &mut wrong);
        let fleet = match env.text("EDGE_FLEET").as_deref() {
            None | Some("enabled") => {
                let fly = all(FlyConfig::read, env, &mut wrong);
                let policy = all(flyprovider::policy::read, env, &mut wrong);
                fly.zip(policy).map(|(fly, policy)| Fleet { fly, policy })
            }
            Some("disabled") => None,
            Some(_) => {
                let why =
                    "it must be `enabled`, or `disabled` where a `tcoder controller` manages the machines";
                wrong.push(ConfigError::Invalid { name: "EDGE_FLEET", why: why.into() });
                None
            }
        };
        let subrequests = all(subrequests, env, &mut wrong);
        let stay = all(stay, env, &mut wrong);
        let read = (redis_url, redis_token, storage, api, webhook, subrequests, stay);
        match read {
            (
                Some(redis_url),
                Some(redis_token),
                Some(storage),
                Some(mut api),
                Some(webhook),
                Some(subrequests),
                Some(stay),
            ) if wrong.is_empty() => {
                let prefix = env.text("REDIS_KEY_PREFIX").unwrap_or_default();
                let of_machines =
                    fleet.as_ref().and_then(|fleet| fleet.policy.disk).map(|disk| disk.max_input);
                api.max_input_bytes = of_machines.or(api.max_input_bytes);
                Ok(Self { redis_url, redis_token, prefix, storage, api, webhook, fleet, subrequests, stay })
            }
            _ => Err(wrong),
        }
    }
}

/// What `read` makes of the variables; all that it finds missing or wrong goes to `wrong`, once.
fn all<T>(
    read: impl Fn(&Env<'_>) -> Result<T, ConfigError>,
    env: &Env<'_>,
    wrong: &mut Vec<ConfigError>,
) -> Option<T> {
    let mut error = match read(env) {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let named = |wrong: &[ConfigError], name: &str| wrong.iter().any(|w| w.name() == name);
    let mut seen = Vec::new();
    // A reader stops at the first: it is given something there and asked again.
    while !seen.contains(&error.name()) {
        seen.push(error.name());
        if !named(wrong, error.name()) {
            wrong.push(error);
        }
        let patched = |name: &str| if seen.contains(&name) { Some(ANYTHING.into()) } else { env.text(name) };
        match read(&Env::of(patched)) {
            Ok(_) => return None,
            Err(next) => error = next,
        }
    }
    None
}

fn redis_token(env: &Env<'_>) -> Result<SecretString, ConfigError> {
    let hint = "the token beside it; `wrangler secret put UPSTASH_REDIS_REST_TOKEN` sets it";
    env.required("UPSTASH_REDIS_REST_TOKEN", hint).map(Into::into)
}

fn stay(env: &Env<'_>) -> Result<Duration, ConfigError> {
    const NAME: &str = "EDGE_CRON_MAX_SECONDS";
    let what = "a whole number of seconds up to 50";
    match env.parsed(NAME, what)?.unwrap_or(LONGEST_STAY) {
        seconds if seconds <= LONGEST_STAY => Ok(Duration::from_secs(seconds)),
        _ => Err(ConfigError::Invalid { name: NAME, why: format!("it must be {what}") }),
    }
}

fn redis_url(env: &Env<'_>) -> Result<Url, ConfigError> {
    const NAME: &str = "UPSTASH_REDIS_REST_URL";
    let hint = "the REST address of the Redis that the workers use, such as https://name.upstash.io";
    env.url(NAME)?.ok_or(ConfigError::Missing { name: NAME, hint })
}

/// The whole internet can call a Worker.
fn api(env: &Env<'_>) -> Result<ApiConfig, ConfigError> {
    let api = ApiConfig::read(env)?;
    if api.tokens.is_empty() {
        let hint = "the whole internet could start machines at your cost; `openssl rand -hex 32` makes a token, \
                    `wrangler secret put API_TOKENS` sets it";
        return Err(ConfigError::Missing { name: "API_TOKENS", hint });
    }
    Ok(api)
}

fn webhook(env: &Env<'_>) -> Result<Option<SecretString>, ConfigError> {
    let Some(secret) = webhook_secret(env) else { return Ok(None) };
    match Key::new(&secret) {
        Ok(_) => Ok(Some(secret)),
        Err(_) => {
            let why = "it must be `whsec_` and 24 to 64 bytes in base64; `echo whsec_$(openssl rand -base64 32)` \
                       makes one";
            Err(ConfigError::Invalid { name: "WEBHOOK_SECRET", why: why.into() })
        }
    }
}

fn subrequests(env: &Env<'_>) -> Result<u32, ConfigError> {
    let what = "a whole number from 20 on; 50 on Cloudflare's free plan, up to 1000 on the paid one";
    let wrong = || ConfigError::Invalid { name: "EDGE_SUBREQUESTS", why: format!("it must be {what}") };
    match env.parsed("EDGE_SUBREQUESTS", what)?.unwrap_or(FREE) {
        enough if enough >= LEAST => Ok(enough),
        _ => Err(wrong()),
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

    fn read(change: impl Fn(&str) -> Option<Option<&'static str>>) -> Result<Settings, Vec<ConfigError>> {
        let env = Env::of(|name| {
            let set = || ALL.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
            change(name).unwrap_or_else(set).map(str::to_owned)
        });
        Settings::read(&env)
    }

    fn without(missing: &[&str]) -> Vec<&'static str> {
        let read = read(|name| missing.contains(&name).then_some(None));
        read.err().unwrap_or_default().iter().map(ConfigError::name).collect()
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
            assert_eq!(wrong.iter().map(ConfigError::name).collect::<Vec<_>>(), [name]);
            assert!(!wrong[0].to_string().contains("hush"), "{}", wrong[0]);
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
