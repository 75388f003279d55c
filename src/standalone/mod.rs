//! The whole system on one machine, with the same components as in production: redis-server as a child process, an S3
//! server over a folder, the API with its janitor, and the fleet's reconciler, whose machines are `tcoder worker`
//! processes behind an emulator of Fly's API.
//!
//! | module | what it does |
//! |---|---|
//! | this one | starts everything in order, and stops it in the reverse order |
//! | `data` | the data folder: its lock and its secrets |
//! | `redis` | the redis-server child |
//! | `address` | the address that clients use |
//! | `public_port` | serves the API and the storage at this address |
//! | [`objects`] | the S3 server |
//! | `ingest` | processes object-created events, as the Worker's queue handler does in production |
//! | `fleet` | the emulator, and the reconciler that uses it |

mod address;
mod data;
mod fleet;
mod ingest;
pub mod objects;
mod public_port;
mod redis;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Host;

use crate::api::{self, AppState};
use crate::config::registry::{WEBHOOK_SECRET, WORKER_SANDBOX};
use crate::config::{
    ApiConfig, BaseUrl, Certificates, ConfigError, ConfigErrors, Env, RedisConfig, Retention, StorageConfig,
    WorkerConfig,
};
use crate::http_server::{Listener, ServerLimits, TlsError, acceptor as tls_acceptor, serve};
use crate::job::{Failure, WorkerId};
use crate::metrics::Metrics;
use crate::net::EgressPolicy;
use crate::queue::{Queue, QueueError, WorkerSandbox};
use crate::storage::Storage;
use crate::storage::presign::PresignError;
use crate::storage::urls::UrlSigner;
use crate::transcoder::{Tools, check_tools};
use crate::webhook::{WebhookError, WebhookSender};
use address::{AddressError, Exposure, storage_address};
use data::DataDir;
use fleet::LocalFleet;
use objects::{Buckets, Objects, ObjectsError, ObjectsHandle};
use public_port::PublicPort;
use redis::RedisServer;

/// Maximum number of object-created events that wait to be processed.
const EVENTS: usize = 256;

/// The options of `tcoder up`.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder.
    pub data: PathBuf,
    /// The address that the API listens on.
    pub listen: SocketAddr,
    /// The name or IP by which other machines reach this one.
    pub public_host: Option<Host>,
    /// The address at which clients reach it, if a proxy in front of it has another.
    pub public_url: Option<BaseUrl>,
    /// Whether other machines may reach it without encryption.
    pub plain_http: bool,
    /// The certificate and the key for TLS.
    pub tls: Option<TlsFiles>,
    /// Minimum number of workers, idle or not.
    pub min_machines: u32,
    /// Maximum number of workers. Zero: no fleet runs, and users start workers themselves.
    pub max_machines: u32,
}

/// Files in PEM format.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, and those up to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The system cannot start.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// The redis-server child does not run.
    #[error(transparent)]
    RedisServer(#[from] redis::RedisServerError),
    /// Redis failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The S3 server cannot start.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// Settings are missing or invalid.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The webhook secret is not valid.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The address of the storage is not valid.
    #[error(transparent)]
    Presign(#[from] PresignError),
    /// FFmpeg is missing or does not work.
    #[error(transparent)]
    Tools(#[from] Failure),
    /// The emulator of Fly's API cannot start.
    #[error("the emulator of the Machines API cannot start: {0}")]
    Fleet(String),
    /// The port is in use, or listening on it is not permitted.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// Clients cannot reach it safely.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<ConfigError> for UpError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.into())
    }
}

/// A running system.
pub struct Up {
    address: BaseUrl,
    needs_token: bool,
    objects: ObjectsHandle,
    redis: Option<RedisServer>,
    tools: Tools,
    data: DataDir,
    fleet: Option<LocalFleet>,
    tasks: TaskTracker,
    /// Stops the API and its background tasks.
    stop_api: CancellationToken,
    /// Stops the S3 server.
    stop_objects: CancellationToken,
}

impl Up {
    /// Starts everything. When it returns, the API answers and the fleet's first machines are starting.
    ///
    /// # Errors
    /// Says what could not be started and what to do. Nothing is left running.
    pub async fn start(options: &Options, env: &Env<'_>) -> Result<Self, UpError> {
        let mut api_config = ApiConfig::read(env)?;
        let retention = Retention::read(env)?;
        if options.max_machines > 0 {
            api_config.max_input_bytes = Some(WorkerConfig::read(env)?.max_input_bytes);
        }
        api_config.allows(options.listen)?;
        let tls =
            options.tls.as_ref().map(|files| tls_acceptor(&files.certificate, &files.key)).transpose()?;
        // What is wrong with the address is said before anything is started.
        let needs_token = !api_config.tokens.is_empty();
        let exposure = |listening| Exposure {
            listening,
            is_tls: tls.is_some(),
            public_url: options.public_url.as_ref(),
            public_host: options.public_host.as_ref(),
            plain_http: options.plain_http,
            needs_token,
        };
        exposure(options.listen).address()?;
        let sandbox_mode = env.require(&WORKER_SANDBOX)?;
        let tools = check_tools(sandbox_mode).await?;
        let data = DataDir::open(&options.data)?;
        let listener = listen(options.listen).await?;
        let api_address = listener.local_addr().unwrap_or(options.listen);
        let address = exposure(api_address).address()?;
        // Clients that use this name are not refused.
        api_config.public_url = Some(address.clone());

        let (redis, redis_config) = match env.text("REDIS_URL") {
            Some(_) => (None, RedisConfig::read(env)?),
            None => {
                let server = RedisServer::start(&data.folder("redis")?).await?;
                let config = server.config();
                (Some(server), config)
            }
        };
        let queue = Queue::connect(&redis_config).await?.with_retention(retention);
        let queue = queue.with_max_input_bytes(api_config.max_input_bytes);

        let (events, arriving) = mpsc::channel(EVENTS);
        let (stop_api, stop_objects) = (CancellationToken::new(), CancellationToken::new());
        let objects = Objects::start(
            data.folder("objects")?,
            beside(api_address).await?,
            data.secrets().keys(),
            Buckets { input: "input".into(), output: "output".into() },
            events,
            stop_objects.clone(),
        )?;
        // If a step below fails, it must not leave the S3 server or its tasks running.
        let guards = (stop_api.clone().drop_guard(), stop_objects.clone().drop_guard());
        let storage_config = objects.storage_config();
        let public_config = objects.config_at(address.clone());

        let tasks = TaskTracker::new();
        tasks.spawn(ingest::run(
            queue.clone(),
            Storage::new(&storage_config),
            storage_config.input_bucket.clone(),
            api_config.job_limits,
            arriving,
            stop_api.clone(),
        ));
        let guard = EgressPolicy::allow_private(api_config.allow_private_urls);
        let (fleet_queue, metrics) = (queue.clone(), Metrics::new());
        let app = AppState::start(
            queue,
            Storage::new(&storage_config),
            // Its bucket is public: nothing is read through the API.
            UrlSigner::new(&public_config, None)?,
            api_config,
            true,
            Arc::clone(&metrics),
            stop_api.clone(),
        )
        .await?;
        if options.max_machines > 0 {
            app.readiness.set_sandbox(WorkerSandbox::new(sandbox_mode, &tools.missing_protections));
        }
        let secret = env.get(&WEBHOOK_SECRET)?.unwrap_or_else(|| data.secrets().webhook());
        let mail = WebhookSender::of_installation(&secret, guard)?;
        let event_bus = app.event_bus().clone();
        tasks.spawn(app.janitor(Some(mail)).run(stop_api.clone()));
        let Buckets { input, output } = objects.buckets().clone();
        let service = PublicPort::new(api::router(app), objects.service(), [input, output]);
        let listener = Listener::new(listener, tls);
        tasks.spawn(serve(listener, service, ServerLimits::default(), stop_api.clone()));
        let environment = worker_environment(&redis_config, &storage_config, &data.folder("scratch")?);
        let fleet = match options.max_machines {
            0 => None,
            _ => {
                // Nobody else uses our own Redis, so this process may continue with a lock that its predecessor held.
                let holder = if redis.is_some() { "up".to_owned() } else { WorkerId::on("up").0 };
                let start =
                    LocalFleet::start(options, env, environment, fleet_queue, holder, metrics, &event_bus);
                Some(start.await?)
            }
        };
        for guard in [guards.0, guards.1] {
            guard.disarm();
        }
        tasks.close();
        Ok(Self { address, needs_token, objects, redis, tools, data, fleet, tasks, stop_api, stop_objects })
    }

    /// The address of the API for other machines.
    #[must_use]
    pub fn api(&self) -> &str {
        self.address.as_str().trim_end_matches('/')
    }

    /// Whether callers need a token.
    #[must_use]
    pub const fn needs_token(&self) -> bool {
        self.needs_token
    }

    /// What runs where, one line each.
    #[must_use]
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let redis = match &self.redis {
            Some(server) => format!("redis-server, process {}", server.pid().unwrap_or_default()),
            None => "the one at REDIS_URL".to_owned(),
        };
        let workers = match &self.fleet {
            Some(fleet) => format!("{}, FFmpeg {}", fleet.summary(), self.tools.ffmpeg),
            None => "none of its own; `tcoder worker` is one".to_owned(),
        };
        vec![
            ("API", self.api().to_owned()),
            ("storage", format!("{} (S3; whoever can reach this address can read outputs)", self.api())),
            ("queue", redis),
            ("workers", workers),
            ("data", self.data.path().display().to_string()),
        ]
    }

    /// Stops everything: the fleet first, so that its workers can release their jobs, and Redis last.
    pub async fn stop(self) {
        if let Some(fleet) = self.fleet {
            fleet.stop().await;
        }
        self.stop_api.cancel();
        self.tasks.wait().await;
        self.stop_objects.cancel();
        self.objects.stopped().await;
        if let Some(server) = self.redis {
            server.stop().await;
        }
        drop(self.data);
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, UpError> {
    TcpListener::bind(address).await.map_err(|source| UpError::Listen { address, source })
}

/// Listens on the port after the API's, or on any free port if that is in use.
async fn beside(api: SocketAddr) -> Result<TcpListener, UpError> {
    let next = storage_address(api);
    match TcpListener::bind(next).await {
        Ok(listener) => Ok(listener),
        Err(_) => listen(SocketAddr::new(next.ip(), 0)).await,
    }
}

/// The environment of the worker processes, with the same names as for any other worker.
fn worker_environment(
    redis: &RedisConfig,
    storage: &StorageConfig,
    scratch: &std::path::Path,
) -> Vec<(&'static str, String)> {
    use secrecy::ExposeSecret as _;
    let ca_cert = redis.ca_cert.as_ref().map(|certificates| match certificates {
        Certificates::Pem(text) => text.clone(),
        Certificates::File(path) => path.display().to_string(),
    });
    let mut environment = vec![
        ("REDIS_URL", redis.url.expose_secret().to_owned()),
        ("REDIS_KEY_PREFIX", redis.prefix.clone()),
        ("R2_ENDPOINT", storage.endpoint.to_string()),
        ("R2_REGION", storage.region.clone()),
        ("R2_ACCESS_KEY_ID", storage.access_key_id.clone()),
        ("R2_SECRET_ACCESS_KEY", storage.secret_access_key.expose_secret().to_owned()),
        ("R2_INPUT_BUCKET_NAME", storage.input_bucket.clone()),
        ("R2_OUTPUT_BUCKET_NAME", storage.output_bucket.clone()),
        ("WORKER_SCRATCH_DIR", scratch.display().to_string()),
    ];
    environment.extend(ca_cert.map(|value| ("REDIS_CA_CERT", value)));
    environment
}
