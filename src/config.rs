//! The environment, parsed once into typed values.
//!
//! All roles use the same names. An error names the variable and what to do. A secret is stored as a [`SecretString`]
//! and never appears in logs, errors or debug output.

mod base_url;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::job::space;
pub use base_url::{BaseUrl, InvalidBaseUrl};

/// A variable is missing or invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The variable is not set.
    #[error("{name} is not set: {hint}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What to set it to.
        hint: &'static str,
    },
    /// The variable is set to an invalid value. The error does not show the value, because it may be a secret in the
    /// wrong place.
    #[error("{name} cannot be used: {why}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Everybody could call the API.
    #[error(
        "{0} can be reached from other machines and API_TOKENS is not set; set it, \
         or listen on 127.0.0.1 only"
    )]
    Open(SocketAddr),
}

impl ConfigError {
    /// The name of the variable.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Missing { name, .. } | Self::Invalid { name, .. } => name,
            Self::Open(_) => "API_TOKENS",
        }
    }
}

type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The source of variables: the process's environment, or a map in tests and in the Worker.
pub struct Env<'a>(Box<Lookup<'a>>);

impl<'a> Env<'a> {
    /// The environment of the process.
    #[must_use]
    pub fn process() -> Self {
        Self(Box::new(|name| std::env::var(name).ok()))
    }

    /// Uses `lookup` as the source.
    pub fn of(lookup: impl Fn(&str) -> Option<String> + 'a) -> Self {
        Self(Box::new(lookup))
    }

    /// The trimmed text of `name`, or `None` if it is unset or empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
    }

    pub(crate) fn required(&self, name: &'static str, hint: &'static str) -> Result<String, ConfigError> {
        self.text(name).ok_or(ConfigError::Missing { name, hint })
    }

    pub(crate) fn parsed<T: FromStr>(
        &self,
        name: &'static str,
        what: &str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ConfigError::Invalid { name, why: format!("it must be {what}") })
    }

    pub(crate) fn seconds(&self, name: &'static str, default: u64) -> Result<Duration, ConfigError> {
        // Ten years. Adding more to a point in time may overflow.
        const MOST: u64 = 315_360_000;
        let what = "a whole number of seconds up to 315360000; 0 means never";
        match self.parsed(name, what)?.unwrap_or(default) {
            n if n <= MOST => Ok(Duration::from_secs(n)),
            _ => Err(ConfigError::Invalid { name, why: format!("it must be {what}") }),
        }
    }

    pub(crate) fn count(&self, name: &'static str, default: u32) -> Result<u32, ConfigError> {
        Ok(self.parsed(name, "a whole number; 0 means no limit")?.unwrap_or(default))
    }

    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, ConfigError> {
        match self.text(name).as_deref() {
            None | Some("0" | "false" | "no") => Ok(false),
            Some("1" | "true" | "yes") => Ok(true),
            Some(_) => Err(ConfigError::Invalid { name, why: "it must be true or false".into() }),
        }
    }

    pub(crate) fn url(&self, name: &'static str) -> Result<Option<Url>, ConfigError> {
        let url: Option<Url> = self.parsed(name, "an http or https address")?;
        match url {
            Some(url) if !matches!(url.scheme(), "http" | "https") => {
                Err(ConfigError::Invalid { name, why: "it must be an http or https address".into() })
            }
            url => Ok(url),
        }
    }

    pub(crate) fn base_url(&self, name: &'static str) -> Result<Option<BaseUrl>, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let parsed: Result<BaseUrl, InvalidBaseUrl> = text.parse();
        parsed.map(Some).map_err(|why| ConfigError::Invalid { name, why: why.to_string() })
    }
}

/// The connection to Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://`, `rediss://` or `redis+unix://`; may contain a password.
    pub url: SecretString,
    /// Prepended to every key, so that several installations can share a Redis. With braces, as in `{tcoder}:`, all
    /// keys belong to one slot of a Redis Cluster.
    pub prefix: String,
}

impl RedisConfig {
    /// Reads `REDIS_URL`, `REDIS_KEY_PREFIX`.
    ///
    /// # Errors
    /// Names the variable.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let url = env.required("REDIS_URL", "the address of Redis, such as redis://127.0.0.1:6379")?;
        let known = ["redis://", "rediss://", "redis+unix://", "unix://"];
        if !known.iter().any(|scheme| url.starts_with(scheme)) {
            let why = "it must start with redis://, rediss:// or redis+unix://".into();
            return Err(ConfigError::Invalid { name: "REDIS_URL", why });
        }
        Ok(Self { url: url.into(), prefix: env.text("REDIS_KEY_PREFIX").unwrap_or_default() })
    }

    /// The address for logs, without user, password and parameters.
    #[must_use]
    pub fn address(&self) -> String {
        let Ok(url) = Url::parse(self.url.expose_secret()) else { return "unreadable".into() };
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{host}{port}{}", url.scheme(), url.path())
    }
}

/// The connection to object storage.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// The S3 endpoint, without a bucket.
    pub endpoint: BaseUrl,
    /// The region for signatures; `auto` for R2.
    pub region: String,
    /// The id of the access key.
    pub access_key_id: String,
    /// The secret of the access key.
    pub secret_access_key: SecretString,
    /// The bucket for uploads.
    pub input_bucket: String,
    /// The bucket for results.
    pub output_bucket: String,
    /// The public address of the output bucket, if it has one.
    pub public_url: Option<Url>,
}

impl StorageConfig {
    /// Reads the `R2_*` variables.
    ///
    /// # Errors
    /// Names the variable.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let endpoint = match env.base_url("R2_ENDPOINT")? {
            Some(endpoint) => endpoint,
            None => {
                let account =
                    env.required("R2_ACCOUNT_ID", "the Cloudflare account id, or set R2_ENDPOINT")?;
                format!("https://{account}.r2.cloudflarestorage.com").parse().map_err(|_| {
                    ConfigError::Invalid { name: "R2_ACCOUNT_ID", why: "it is not an account id".into() }
                })?
            }
        };
        let config = Self {
            endpoint,
            region: env.text("R2_REGION").unwrap_or_else(|| "auto".into()),
            access_key_id: env.required("R2_ACCESS_KEY_ID", "the key id of an R2 API token")?,
            secret_access_key: env.required("R2_SECRET_ACCESS_KEY", "the secret of an R2 API token")?.into(),
            input_bucket: env.required("R2_INPUT_BUCKET_NAME", "the bucket that uploads go to")?,
            output_bucket: env.required("R2_OUTPUT_BUCKET_NAME", "the bucket that results go to")?,
            public_url: env.url("R2_PUBLIC_URL")?,
        };
        // Cloudflare's dashboard shows the S3 address of a bucket with the bucket's name in the path.
        let path = config.endpoint.as_url().path().trim_matches('/');
        if [&config.input_bucket, &config.output_bucket].into_iter().any(|bucket| bucket == path) {
            let why = "it must not name a bucket: remove the path, which is a bucket's name".into();
            return Err(ConfigError::Invalid { name: "R2_ENDPOINT", why });
        }
        Ok(config)
    }
}

/// The connection to Fly.
#[derive(Clone, Debug)]
pub struct FlyConfig {
    /// A token that may manage the app's machines, as the user set it: with or without its scheme.
    pub token: SecretString,
    /// The app that the machines belong to.
    pub app: String,
    /// The address of the Machines API, without `/v1`.
    pub base: Url,
}

impl FlyConfig {
    /// Reads `FLY_API_TOKEN`, `FLY_WORKER_APP`, `FLY_API_HOSTNAME`.
    ///
    /// # Errors
    /// Names the variable.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let token = env.required("FLY_API_TOKEN", "a token from `fly tokens create deploy`")?;
        if token.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
            let why = "it contains characters that a token cannot have; copy it again, on one line".into();
            return Err(ConfigError::Invalid { name: "FLY_API_TOKEN", why });
        }
        let app = env.required("FLY_WORKER_APP", "the name of the Fly app whose machines are the workers")?;
        if !app.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            let why = "an app's name has only lower-case letters, digits and '-'".into();
            return Err(ConfigError::Invalid { name: "FLY_WORKER_APP", why });
        }
        let base = match env.url("FLY_API_HOSTNAME")? {
            Some(url) => url,
            None => "https://api.machines.dev".parse().map_err(|_| ConfigError::Invalid {
                name: "FLY_API_HOSTNAME",
                why: "its default cannot be read".into(),
            })?,
        };
        Ok(Self { token: token.into(), app, base })
    }
}

/// The settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The machine that the worker runs on.
    pub machine: String,
    /// The worker exits after this time without a job; zero: never.
    pub idle_timeout: Duration,
    /// The worker claims no further job after this time; zero: never.
    pub ttl: Duration,
    /// The worker exits after this number of jobs; zero: no limit.
    pub max_jobs: u32,
    /// The worker exits after this number of consecutive failed attempts that the files did not cause; zero: no
    /// limit.
    pub max_failures: u32,
    /// The folder for the files of a running job.
    pub scratch: std::path::PathBuf,
    /// Maximum size of an input, bytes.
    pub max_input_bytes: u64,
    /// Maximum total size of a job's files, bytes; `None`: as much as the disk has free.
    pub disk_bytes: Option<u64>,
    /// FFmpeg is killed after this time without progress.
    pub stall_timeout: Duration,
    /// Whether inputs may be downloaded from private addresses.
    pub allow_private_urls: bool,
}

/// Maximum size of an input if the worker has no setting for its disk, bytes. The worker checks for each job whether
/// the disk has enough space.
const MAX_INPUT: u64 = 50_000_000_000;

/// Reads `WORKER_DISK_BYTES` and `WORKER_MAX_INPUT_BYTES`, which is derived from the former if it is not set.
fn read_space(env: &Env<'_>) -> Result<(Option<u64>, u64), ConfigError> {
    const DISK: &str = "WORKER_DISK_BYTES";
    let disk: Option<u64> = env.parsed(DISK, "a whole number of bytes")?;
    let max_input: Option<u64> = env.parsed("WORKER_MAX_INPUT_BYTES", "a whole number of bytes")?;
    let Some(bytes) = disk else { return Ok((None, max_input.unwrap_or(MAX_INPUT))) };
    let most = space::largest_input(bytes);
    let why = match max_input {
        _ if most == 0 => format!("no input fits into {bytes} bytes; {} is the least", space::disk_for(1)),
        Some(input) if input > most => format!(
            "inputs of WORKER_MAX_INPUT_BYTES, {input} bytes, do not fit into {bytes} bytes together with their \
             outputs; raise this to {}, or lower that to {most}",
            space::disk_for(input)
        ),
        input => return Ok((disk, input.unwrap_or(most))),
    };
    Err(ConfigError::Invalid { name: DISK, why })
}

impl WorkerConfig {
    /// Reads the `WORKER_*` variables and, on Fly, the machine's own.
    ///
    /// # Errors
    /// Names the variable.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let (disk_bytes, max_input_bytes) = read_space(env)?;
        Ok(Self {
            machine: env
                .text("FLY_MACHINE_ID")
                .or_else(|| env.text("HOSTNAME"))
                .unwrap_or_else(|| "local".into()),
            idle_timeout: env.seconds("WORKER_IDLE_TIMEOUT", 300)?,
            ttl: env.seconds("WORKER_TTL", 300)?,
            max_jobs: env.count("WORKER_MAX_JOBS", 0)?,
            max_failures: env.count("WORKER_MAX_FAILURES", 3)?,
            scratch: env.text("WORKER_SCRATCH_DIR").map_or_else(std::env::temp_dir, Into::into),
            max_input_bytes,
            disk_bytes,
            stall_timeout: match env.seconds("WORKER_STALL_TIMEOUT", 120)? {
                Duration::ZERO => {
                    let why = "it must be 1 second or more: an FFmpeg without progress would occupy its \
                               worker forever";
                    return Err(ConfigError::Invalid { name: "WORKER_STALL_TIMEOUT", why: why.into() });
                }
                limit => limit,
            },
            allow_private_urls: env.flag("ALLOW_PRIVATE_URLS")?,
        })
    }
}

/// The settings of the API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Bearer tokens of callers; if there are none, everybody may call.
    pub tokens: Vec<SecretString>,
    /// Origins of web pages that may call the API; `*` for any.
    pub cors_origins: Vec<String>,
    /// Whether inputs and webhooks may have private addresses.
    pub allow_private_urls: bool,
    /// The public address of the API, if it is set.
    pub public_url: Option<BaseUrl>,
    /// Maximum size of an input that the workers accept, bytes, if it is configured here.
    pub max_input_bytes: Option<u64>,
}

/// Reads `API_PUBLIC_URL`, the public address of the API.
///
/// # Errors
/// Names the variable.
pub fn api_public_url(env: &Env<'_>) -> Result<Option<BaseUrl>, ConfigError> {
    env.base_url("API_PUBLIC_URL")
}

impl ApiConfig {
    /// Reads `API_TOKENS` (separated by commas), `API_CORS_ORIGINS`, `ALLOW_PRIVATE_URLS`, `API_PUBLIC_URL`,
    /// `WORKER_MAX_INPUT_BYTES`.
    ///
    /// # Errors
    /// Names the variable.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let list = |name: &str| -> Vec<String> {
            let text = env.text(name).unwrap_or_default();
            text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()
        };
        let tokens = list("API_TOKENS");
        if tokens.iter().any(|t| t.len() < 16) {
            let why = "every token needs 16 characters or more; `openssl rand -hex 32` makes one".into();
            return Err(ConfigError::Invalid { name: "API_TOKENS", why });
        }
        Ok(Self {
            tokens: tokens.into_iter().map(SecretString::from).collect(),
            cors_origins: list("API_CORS_ORIGINS"),
            allow_private_urls: env.flag("ALLOW_PRIVATE_URLS")?,
            public_url: api_public_url(env)?,
            max_input_bytes: env.parsed("WORKER_MAX_INPUT_BYTES", "a whole number of bytes")?,
        })
    }

    /// Whether the API may listen on this address. Without tokens it may only listen on loopback addresses.
    ///
    /// # Errors
    /// If everybody could call the API.
    pub fn allows(&self, listen: SocketAddr) -> Result<(), ConfigError> {
        if self.tokens.is_empty() && !listen.ip().is_loopback() {
            return Err(ConfigError::Open(listen));
        }
        Ok(())
    }
}

/// Reads `WEBHOOK_SECRET`, the key that signs webhooks.
#[must_use]
pub fn webhook_secret(env: &Env<'_>) -> Option<SecretString> {
    env.text("WEBHOOK_SECRET").map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&'static str, &'static str)]) -> Env<'static> {
        Env::of(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    const R2: &[(&str, &str)] = &[
        ("R2_ACCOUNT_ID", "abc"),
        ("R2_ACCESS_KEY_ID", "id"),
        ("R2_SECRET_ACCESS_KEY", "hush-hush"),
        ("R2_INPUT_BUCKET_NAME", "in"),
        ("R2_OUTPUT_BUCKET_NAME", "out"),
    ];

    #[test]
    fn storage_config_needs_account_or_endpoint() {
        let config = StorageConfig::read(&env(R2)).unwrap();
        assert_eq!(config.endpoint.as_str(), "https://abc.r2.cloudflarestorage.com/");
        assert_eq!(config.region, "auto");
        let error = StorageConfig::read(&env(&R2[1..])).unwrap_err().to_string();
        assert!(error.contains("R2_ACCOUNT_ID") && error.contains("R2_ENDPOINT"), "{error}");
    }

    #[test]
    fn storage_config_endpoint_with_a_bucket_is_rejected() {
        let with = |endpoint: &'static str| {
            let env =
                Env::of(move |n| if n == "R2_ENDPOINT" { Some(endpoint.into()) } else { env(R2).text(n) });
            StorageConfig::read(&env).map(|config| config.endpoint.to_string())
        };
        assert_eq!(with("https://abc.r2.example/s3").unwrap(), "https://abc.r2.example/s3/");
        for bad in ["https://abc.r2.example/out", "https://abc.r2.example/in/", "https://abc.r2.example/?a"] {
            let error = with(bad).unwrap_err().to_string();
            assert!(error.starts_with("R2_ENDPOINT") && !error.contains("abc"), "{error}");
        }
    }

    #[test]
    fn config_errors_name_the_missing_variable() {
        for missing in
            ["R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_INPUT_BUCKET_NAME", "R2_OUTPUT_BUCKET_NAME"]
        {
            let env = Env::of(move |n| {
                R2.iter().find(|(k, _)| *k == n && *k != missing).map(|(_, v)| (*v).to_owned())
            });
            let error = StorageConfig::read(&env).unwrap_err().to_string();
            assert!(error.starts_with(missing), "{error}");
        }
        assert!(RedisConfig::read(&env(&[])).unwrap_err().to_string().starts_with("REDIS_URL"));
    }

    #[test]
    fn config_debug_output_and_errors_contain_no_secrets() {
        let config = StorageConfig::read(&env(R2)).unwrap();
        assert!(!format!("{config:?}").contains("hush-hush"));
        assert_eq!(config.secret_access_key.expose_secret(), "hush-hush");
        let error = RedisConfig::read(&env(&[("REDIS_URL", "hush-hush")])).unwrap_err();
        assert!(!error.to_string().contains("hush-hush"));
        let error = ApiConfig::read(&env(&[("API_TOKENS", "short-hush")])).unwrap_err();
        assert!(!error.to_string().contains("short-hush"));
    }

    #[test]
    fn redis_config_address_omits_credentials() {
        let shown = |url: &str| RedisConfig { url: url.into(), prefix: String::new() }.address();
        assert_eq!(
            shown("rediss://hush:hush-hush@db.upstash.io:6379/2?password=hush"),
            "rediss://db.upstash.io:6379/2"
        );
        assert_eq!(shown("redis://:hush@[::1]"), "redis://[::1]");
        assert_eq!(shown("redis+unix:///run/redis.sock?pass=hush"), "redis+unix:///run/redis.sock");
        assert_eq!(shown("redis://hush hush"), "unreadable");
    }

    #[test]
    fn api_config_without_tokens_allows_only_loopback_addresses() {
        let open = ApiConfig::read(&env(&[])).unwrap();
        let guarded = ApiConfig::read(&env(&[("API_TOKENS", "0123456789abcdef")])).unwrap();
        for (address, alone) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.5:1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(open.allows(address).is_ok(), alone, "{address}");
            assert_eq!(guarded.allows(address), Ok(()));
        }
        assert!(open.allows("0.0.0.0:1".parse().unwrap()).unwrap_err().to_string().contains("API_TOKENS"));
    }

    #[test]
    fn worker_config_numbers_have_defaults_and_reject_invalid_text() {
        let config = WorkerConfig::read(&env(&[])).unwrap();
        assert_eq!(config.ttl, Duration::from_secs(300));
        let error = WorkerConfig::read(&env(&[("WORKER_TTL", "soon")])).unwrap_err();
        assert!(error.to_string().starts_with("WORKER_TTL"), "{error}");
        let error = WorkerConfig::read(&env(&[("WORKER_TTL", "99999999999999")])).unwrap_err();
        assert!(error.to_string().starts_with("WORKER_TTL"), "{error}");
        let error = WorkerConfig::read(&env(&[("WORKER_STALL_TIMEOUT", "0")])).unwrap_err();
        assert!(error.to_string().starts_with("WORKER_STALL_TIMEOUT"), "{error}");
    }

    #[test]
    fn worker_config_max_input_is_derived_from_disk_and_must_fit() {
        let read = |pairs| {
            let config = WorkerConfig::read(&env(pairs)).map_err(|e| e.to_string())?;
            Ok::<_, String>((config.disk_bytes, config.max_input_bytes))
        };
        assert_eq!(read(&[]), Ok((None, 50_000_000_000)));
        assert_eq!(read(&[("WORKER_MAX_INPUT_BYTES", "7")]), Ok((None, 7)));
        let disk = 5_368_709_120;
        assert_eq!(read(&[("WORKER_DISK_BYTES", "5368709120")]), Ok((Some(disk), 2_540_549_851)));
        let both = &[("WORKER_DISK_BYTES", "5368709120"), ("WORKER_MAX_INPUT_BYTES", "2540549851")];
        assert_eq!(read(both), Ok((Some(disk), 2_540_549_851)));
        let wrong = read(&[("WORKER_DISK_BYTES", "5368709120"), ("WORKER_MAX_INPUT_BYTES", "2540549852")]);
        let wrong = wrong.unwrap_err();
        assert!(wrong.starts_with("WORKER_DISK_BYTES"), "{wrong}");
        assert!(wrong.contains("raise this to 5368709121") && wrong.contains("2540549851"), "{wrong}");
        for small in ["0", "33554432"] {
            let env = Env::of(|name| (name == "WORKER_DISK_BYTES").then(|| small.to_owned()));
            let error = WorkerConfig::read(&env).unwrap_err().to_string();
            assert!(error.contains("33554434 is the least"), "{error}");
        }
    }

    const FLY: &[(&str, &str)] =
        &[("FLY_API_TOKEN", "FlyV1 fm2_hush-hush"), ("FLY_WORKER_APP", "tcoder-workers")];

    #[test]
    fn fly_config_needs_token_and_app() {
        let config = FlyConfig::read(&env(FLY)).unwrap();
        assert_eq!(config.base.as_str(), "https://api.machines.dev/");
        assert!(!format!("{config:?}").contains("hush-hush"));
        for (missing, _) in FLY {
            let without =
                Env::of(|n| FLY.iter().find(|(k, _)| *k == n && k != missing).map(|(_, v)| (*v).to_owned()));
            let error = FlyConfig::read(&without).unwrap_err().to_string();
            assert!(error.starts_with(missing), "{error}");
        }
    }

    #[test]
    fn fly_config_errors_name_the_variable_and_hide_the_token() {
        let with = |name: &'static str, value: &'static str| {
            FlyConfig::read(&Env::of(
                move |n| {
                    if n == name { Some(value.to_owned()) } else { env(FLY).text(n) }
                },
            ))
        };
        for (name, bad) in
            [("FLY_API_TOKEN", "hush\nhush"), ("FLY_WORKER_APP", "../apps"), ("FLY_API_HOSTNAME", "ftp://x")]
        {
            let error = with(name, bad).unwrap_err().to_string();
            assert!(error.starts_with(name) && !error.contains("hush"), "{error}");
        }
    }
}
