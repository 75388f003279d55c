//! The settings of each role as typed values.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderName;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::registry::{
    ALLOW_PRIVATE_URLS, API_CLIENT_ADDRESS_HEADER, API_CORS_ORIGINS, API_PUBLIC_URL, API_TOKENS,
    FLY_API_HOSTNAME, FLY_API_TOKEN, FLY_MACHINE_ID, FLY_WORKER_APP, HOSTNAME, JOB_MAX_ATTEMPTS,
    JOB_MAX_DEADLINE_SECONDS, JOB_MAX_PRIORITY, R2_ACCESS_KEY_ID, R2_ACCOUNT_ID, R2_ENDPOINT,
    R2_INPUT_BUCKET_NAME, R2_OUTPUT_BUCKET_NAME, R2_PUBLIC_URL, R2_REGION, R2_SECRET_ACCESS_KEY,
    REDIS_CA_CERT, REDIS_KEY_PREFIX, REDIS_URL, WORKER_CHUNKS, WORKER_CLASSES, WORKER_DISK_BYTES,
    WORKER_IDLE_TIMEOUT, WORKER_MAX_FAILURES, WORKER_MAX_INPUT_BYTES, WORKER_MAX_INPUT_PIXELS,
    WORKER_MAX_INPUT_SECONDS, WORKER_MAX_INPUT_STREAMS, WORKER_MAX_JOBS, WORKER_SANDBOX, WORKER_SCRATCH_DIR,
    WORKER_STALL_TIMEOUT, WORKER_TTL,
};
use super::{BaseUrl, Certificates, ConfigError, ConfigErrors, Env, SandboxMode};
use crate::job::{InputLimits, JobLimits, WorkerClasses, space};

/// The settings of Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// A `redis://`, `rediss://` or `redis+unix://` URL; may contain a password.
    pub url: SecretString,
    /// Precedes every key, so that several installations can share a Redis. With braces, as in `{tcoder}:`, all keys
    /// are in one slot of a Redis Cluster.
    pub prefix: String,
    /// What the certificate of a `rediss://` server must be signed by; `None` means an authority that the system knows.
    pub ca_cert: Option<Certificates>,
}

impl RedisConfig {
    /// A server whose certificate, if it has one, is signed by an authority that the system knows.
    #[must_use]
    pub fn new(url: impl Into<SecretString>, prefix: impl Into<String>) -> Self {
        Self { url: url.into(), prefix: prefix.into(), ca_cert: None }
    }

    /// Reads `REDIS_URL`, `REDIS_CA_CERT` and `REDIS_KEY_PREFIX`.
    ///
    /// # Errors
    /// The missing or invalid settings.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let url = errors.keep(env.require(&REDIS_URL));
        let prefix = errors.keep(env.get(&REDIS_KEY_PREFIX)).flatten().unwrap_or_default();
        let ca_cert = errors.keep(env.get(&REDIS_CA_CERT)).flatten();
        let is_plain = url.as_ref().is_some_and(|url| !url.expose_secret().starts_with("rediss://"));
        if ca_cert.is_some() && is_plain {
            let why = "it has no effect, because REDIS_URL does not start with rediss://".into();
            errors.push(ConfigError::Invalid { name: REDIS_CA_CERT.about.name, why });
        }
        errors.finish(url.map(|url| Self { url, prefix, ca_cert }))
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

/// The settings of storage.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// The S3 endpoint, without a bucket.
    pub endpoint: BaseUrl,
    /// The region; `auto` for R2.
    pub region: String,
    /// The id of the access key.
    pub access_key_id: String,
    /// The secret of the access key.
    pub secret_access_key: SecretString,
    /// The bucket for uploads.
    pub input_bucket: String,
    /// The bucket for outputs.
    pub output_bucket: String,
    /// The URL at which the output bucket can be read without a signature, if there is one.
    pub public_url: Option<Url>,
}

fn endpoint(env: &Env<'_>) -> Result<BaseUrl, ConfigError> {
    if let Some(endpoint) = env.get(&R2_ENDPOINT)? {
        return Ok(endpoint);
    }
    let account = env.require(&R2_ACCOUNT_ID)?;
    format!("https://{account}.r2.cloudflarestorage.com").parse().map_err(|_| ConfigError::Invalid {
        name: R2_ACCOUNT_ID.about.name,
        why: "it is not an account id".into(),
    })
}

impl StorageConfig {
    /// Reads the `R2_*` settings.
    ///
    /// # Errors
    /// The missing or invalid settings.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let endpoint = errors.keep(endpoint(env));
        let region = errors.keep(env.require(&R2_REGION));
        let access_key_id = errors.keep(env.require(&R2_ACCESS_KEY_ID));
        let secret_access_key = errors.keep(env.require(&R2_SECRET_ACCESS_KEY));
        let input_bucket = errors.keep(env.require(&R2_INPUT_BUCKET_NAME));
        let output_bucket = errors.keep(env.require(&R2_OUTPUT_BUCKET_NAME));
        let public_url = errors.keep(env.get(&R2_PUBLIC_URL));
        // Cloudflare's dashboard shows the S3 URL of a bucket, which includes the bucket.
        let path = endpoint.as_ref().map(|endpoint| endpoint.as_url().path().trim_matches('/'));
        if path.is_some() && [input_bucket.as_deref(), output_bucket.as_deref()].contains(&path) {
            let why = "it must not name a bucket: leave out the path, which is a bucket's name".into();
            errors.push(ConfigError::Invalid { name: R2_ENDPOINT.about.name, why });
        }
        let read = || {
            Some(Self {
                endpoint: endpoint?,
                region: region?,
                access_key_id: access_key_id?,
                secret_access_key: secret_access_key?,
                input_bucket: input_bucket?,
                output_bucket: output_bucket?,
                public_url: public_url?,
            })
        };
        errors.finish(read())
    }
}

/// The settings of Fly.
#[derive(Clone, Debug)]
pub struct FlyConfig {
    /// A token that may manage the app's machines, with or without its scheme.
    pub token: SecretString,
    /// The app that the machines belong to.
    pub app: String,
    /// The URL of the Machines API, without `/v1`.
    pub base: Url,
}

impl FlyConfig {
    /// Reads `FLY_API_TOKEN`, `FLY_WORKER_APP` and `FLY_API_HOSTNAME`.
    ///
    /// # Errors
    /// The missing or invalid settings.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let token = errors.keep(env.require(&FLY_API_TOKEN));
        let app = errors.keep(env.require(&FLY_WORKER_APP));
        let base = errors.keep(env.require(&FLY_API_HOSTNAME));
        let read = || Some(Self { token: token?, app: app?, base: base? });
        errors.finish(read())
    }
}

/// How long a worker waits at most after its last part of a split job. The job that finishes the video keeps one worker
/// warm; the others would each be idle, and billed, for `WORKER_IDLE_TIMEOUT`, which costs more than the encode if
/// there are many. A stopped machine is back in a second.
pub const IDLE_AFTER_PARTS: Duration = Duration::from_secs(2);

/// The settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The machine it runs on.
    pub machine: String,
    /// It exits after this long without a job; zero means never.
    pub idle_timeout: Duration,
    /// It claims no further job after this long; zero means never.
    pub ttl: Duration,
    /// It exits after this many jobs; zero means no limit.
    pub max_jobs: u32,
    /// It exits after this many consecutive failed attempts that the file did not cause; zero means no limit.
    pub max_failures: u32,
    /// The classes of the jobs that it takes.
    pub classes: WorkerClasses,
    /// Number of chunks of split videos that it encodes at once.
    pub chunks: usize,
    /// Folder for the files of the current job.
    pub scratch: PathBuf,
    /// Maximum size of an input, bytes.
    pub max_input_bytes: u64,
    /// What an input may have at most, besides its size.
    pub input_limits: InputLimits,
    /// Maximum size of a job's files, bytes; `None` means the free space of the disk.
    pub disk_bytes: Option<u64>,
    /// FFmpeg is killed after this long without progress.
    pub stall_timeout: Duration,
    /// Whether FFmpeg runs in a sandbox.
    pub sandbox: SandboxMode,
    /// Whether inputs may be downloaded from private addresses.
    pub allow_private_urls: bool,
}

/// Maximum size of an input if nothing is known about the worker's disk, bytes. The free space is checked for
/// each job.
const MAX_INPUT: u64 = 50_000_000_000;

/// Reads `WORKER_DISK_BYTES` and `WORKER_MAX_INPUT_BYTES`, which is derived from the first if it is not set.
fn read_space(env: &Env<'_>) -> Result<(Option<u64>, u64), ConfigError> {
    let disk = env.get(&WORKER_DISK_BYTES)?;
    let max_input = env.get(&WORKER_MAX_INPUT_BYTES)?;
    let Some(bytes) = disk else { return Ok((None, max_input.unwrap_or(MAX_INPUT))) };
    let most = space::largest_input(bytes);
    let why = match max_input {
        _ if most == 0 => format!("no input fits into {bytes} bytes; {} is the least", space::disk_for(1)),
        Some(input) if input > most => format!(
            "inputs of WORKER_MAX_INPUT_BYTES, {input} bytes, do not fit into {bytes} bytes with their outputs; \
             raise this to {}, or lower that to {most}",
            space::disk_for(input)
        ),
        input => return Ok((disk, input.unwrap_or(most))),
    };
    Err(ConfigError::Invalid { name: WORKER_DISK_BYTES.about.name, why })
}

/// Reads `WORKER_MAX_INPUT_SECONDS`, `WORKER_MAX_INPUT_PIXELS` and `WORKER_MAX_INPUT_STREAMS`.
fn read_input_limits(env: &Env<'_>) -> Result<InputLimits, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let seconds = errors.keep(env.require(&WORKER_MAX_INPUT_SECONDS));
    let pixels = errors.keep(env.require(&WORKER_MAX_INPUT_PIXELS));
    let streams = errors.keep(env.require(&WORKER_MAX_INPUT_STREAMS));
    let read = || {
        Some(InputLimits {
            seconds: seconds?.as_secs_f64(),
            pixels: pixels?,
            streams: usize::try_from(streams?).unwrap_or(usize::MAX),
        })
    };
    errors.finish(read())
}

/// The number of cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

impl WorkerConfig {
    /// Reads the `WORKER_*` settings and, on Fly, the variables of the machine.
    ///
    /// # Errors
    /// The missing or invalid settings.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let space = errors.keep(read_space(env));
        let machine = errors.keep(env.get(&FLY_MACHINE_ID)).flatten();
        let machine = machine.or_else(|| errors.keep(env.require(&HOSTNAME)));
        let idle_timeout = errors.keep(env.require(&WORKER_IDLE_TIMEOUT));
        let ttl = errors.keep(env.require(&WORKER_TTL));
        let max_jobs = errors.keep(env.require(&WORKER_MAX_JOBS));
        let max_failures = errors.keep(env.require(&WORKER_MAX_FAILURES));
        let classes = errors.keep(env.require(&WORKER_CLASSES));
        let chunks = errors.keep(env.get(&WORKER_CHUNKS)).flatten();
        let scratch = errors.keep(env.get(&WORKER_SCRATCH_DIR)).flatten();
        let input_limits = errors.keep(read_input_limits(env));
        let stall_timeout = errors.keep(env.require(&WORKER_STALL_TIMEOUT));
        let sandbox = errors.keep(env.require(&WORKER_SANDBOX));
        let allow_private_urls = errors.keep(env.require(&ALLOW_PRIVATE_URLS));
        let read = || {
            let (disk_bytes, max_input_bytes) = space?;
            Some(Self {
                machine: machine?,
                idle_timeout: idle_timeout?,
                ttl: ttl?,
                max_jobs: max_jobs?,
                max_failures: max_failures?,
                classes: classes?,
                chunks: chunks.map_or_else(cores, |chunks| usize::try_from(chunks).unwrap_or(usize::MAX)),
                scratch: scratch.map_or_else(std::env::temp_dir, Into::into),
                max_input_bytes,
                input_limits: input_limits?,
                disk_bytes,
                stall_timeout: stall_timeout?,
                sandbox: sandbox?,
                allow_private_urls: allow_private_urls?,
            })
        };
        errors.finish(read())
    }
}

/// Reads `JOB_MAX_DEADLINE_SECONDS`, `JOB_MAX_ATTEMPTS` and `JOB_MAX_PRIORITY`.
///
/// # Errors
/// The invalid settings.
pub fn job_limits(env: &Env<'_>) -> Result<JobLimits, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let deadline_seconds = errors.keep(env.require(&JOB_MAX_DEADLINE_SECONDS));
    let attempts = errors.keep(env.require(&JOB_MAX_ATTEMPTS));
    let priority = errors.keep(env.require(&JOB_MAX_PRIORITY));
    let read =
        || Some(JobLimits { deadline_seconds: deadline_seconds?, attempts: attempts?, priority: priority? });
    errors.finish(read())
}

/// The settings of the API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The accepted bearer tokens; if there are none, everybody may call.
    pub tokens: Vec<SecretString>,
    /// Origins of web pages that may call the API from a browser; `*` for any.
    pub cors_origins: Vec<String>,
    /// The header in which a proxy names the address of its client, if configured.
    pub client_address_header: Option<HeaderName>,
    /// Whether inputs and webhooks may use private addresses.
    pub allow_private_urls: bool,
    /// The URL at which clients reach the API, if configured.
    pub public_url: Option<BaseUrl>,
    /// Maximum size of an input that the workers accept, bytes, if configured.
    pub max_input_bytes: Option<u64>,
    /// The most that a job may ask for.
    pub job_limits: JobLimits,
}

impl ApiConfig {
    /// Reads `API_TOKENS`, `API_CORS_ORIGINS`, `API_CLIENT_ADDRESS_HEADER`, `ALLOW_PRIVATE_URLS`, `API_PUBLIC_URL`,
    /// `WORKER_MAX_INPUT_BYTES` and those of [`job_limits`].
    ///
    /// # Errors
    /// The invalid settings.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let tokens = errors.keep(env.get(&API_TOKENS)).flatten().unwrap_or_default();
        let cors_origins = errors.keep(env.get(&API_CORS_ORIGINS)).flatten().unwrap_or_default();
        let client_address_header = errors.keep(env.get(&API_CLIENT_ADDRESS_HEADER)).flatten();
        let allow_private_urls = errors.keep(env.require(&ALLOW_PRIVATE_URLS));
        let public_url = errors.keep(env.get(&API_PUBLIC_URL)).flatten();
        let max_input_bytes = errors.keep(env.get(&WORKER_MAX_INPUT_BYTES)).flatten();
        let job_limits = errors.keep(job_limits(env));
        let read = || {
            Some(Self {
                tokens,
                cors_origins,
                client_address_header,
                allow_private_urls: allow_private_urls?,
                public_url,
                max_input_bytes,
                job_limits: job_limits?,
            })
        };
        errors.finish(read())
    }

    /// Checks whether the API may listen at this address: without tokens only at a loopback address.
    ///
    /// # Errors
    /// If everybody could call it.
    pub fn allows(&self, listen: SocketAddr) -> Result<(), ConfigError> {
        if self.tokens.is_empty() && !listen.ip().is_loopback() {
            return Err(ConfigError::Open(listen));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Priority;

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
    fn r2_needs_an_account_or_an_endpoint() {
        let config = StorageConfig::read(&env(R2)).unwrap();
        assert_eq!(config.endpoint.as_str(), "https://abc.r2.cloudflarestorage.com/");
        assert_eq!(config.region, "auto");
        let error = StorageConfig::read(&env(&R2[1..])).unwrap_err().to_string();
        assert!(error.contains("R2_ACCOUNT_ID") && error.contains("R2_ENDPOINT"), "{error}");
    }

    #[test]
    fn limits_of_jobs_are_at_most_what_jobs_can_have() {
        assert_eq!(job_limits(&env(&[])).unwrap(), JobLimits::HIGHEST);
        let few =
            env(&[("JOB_MAX_DEADLINE_SECONDS", "60"), ("JOB_MAX_ATTEMPTS", "1"), ("JOB_MAX_PRIORITY", "0")]);
        let priority = Priority::default();
        let expected = JobLimits { deadline_seconds: 60, attempts: 1, priority };
        assert_eq!(job_limits(&few).unwrap(), expected);
        let wrong = env(&[
            ("JOB_MAX_DEADLINE_SECONDS", "604801"),
            ("JOB_MAX_ATTEMPTS", "0"),
            ("JOB_MAX_PRIORITY", "-1"),
        ]);
        assert_eq!(job_limits(&wrong).unwrap_err().all().len(), 3);
    }

    #[test]
    fn an_endpoint_that_names_a_bucket_is_refused() {
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
    fn each_missing_variable_names_itself() {
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
    fn secrets_are_not_in_debug_prints_nor_errors() {
        let config = StorageConfig::read(&env(R2)).unwrap();
        assert!(!format!("{config:?}").contains("hush-hush"));
        assert_eq!(config.secret_access_key.expose_secret(), "hush-hush");
        let error = RedisConfig::read(&env(&[("REDIS_URL", "hush-hush")])).unwrap_err();
        assert!(!error.to_string().contains("hush-hush"));
        let error = ApiConfig::read(&env(&[("API_TOKENS", "short-hush")])).unwrap_err();
        assert!(!error.to_string().contains("short-hush"));
    }

    #[test]
    fn the_address_of_redis_can_be_logged() {
        let shown = |url: &str| RedisConfig::new(url, "").address();
        assert_eq!(
            shown("rediss://hush:hush-hush@db.upstash.io:6379/2?password=hush"),
            "rediss://db.upstash.io:6379/2"
        );
        assert_eq!(shown("redis://:hush@[::1]"), "redis://[::1]");
        assert_eq!(shown("redis+unix:///run/redis.sock?pass=hush"), "redis+unix:///run/redis.sock");
        assert_eq!(shown("redis://hush hush"), "unreadable");
    }

    #[test]
    fn authority_of_redis_is_a_text_or_a_file_and_needs_tls() {
        let read = |url: &'static str, ca: &'static str| {
            let env = Env::of(move |name| match name {
                "REDIS_URL" => Some(url.to_owned()),
                "REDIS_CA_CERT" => Some(ca.to_owned()),
                _ => None,
            });
            RedisConfig::read(&env).map(|config| config.ca_cert).map_err(|error| error.to_string())
        };
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----";
        assert_eq!(read("rediss://redis", pem), Ok(Some(Certificates::Pem(pem.into()))));
        assert_eq!(read("rediss://redis", "/run/ca.pem"), Ok(Some(Certificates::File("/run/ca.pem".into()))));
        let error = read("redis://redis", "/run/ca.pem").unwrap_err();
        assert!(error.starts_with("REDIS_CA_CERT") && error.contains("rediss://"), "{error}");
    }

    #[test]
    fn without_tokens_the_api_listens_on_this_machine_only() {
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
    fn numbers_have_defaults_and_say_when_they_are_none() {
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
    fn worker_takes_jobs_of_the_default_class_unless_it_names_others() {
        let read = |pairs| WorkerConfig::read(&env(pairs)).map(|config| config.classes.to_string());
        assert_eq!(read(&[]).unwrap(), "default");
        assert_eq!(read(&[("WORKER_CLASSES", "large, default")]).unwrap(), "default,large");
        let error = read(&[("WORKER_CLASSES", "Large")]).unwrap_err().to_string();
        assert!(error.starts_with("WORKER_CLASSES") && error.contains("lower-case"), "{error}");
    }

    #[test]
    fn the_largest_input_follows_from_the_disk_and_must_fit_on_it() {
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
    fn fly_needs_a_token_and_an_app() {
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
    fn what_fly_cannot_take_names_its_variable_and_never_shows_the_token() {
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
