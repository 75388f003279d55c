//! The servers `up`, `api` and `worker`. Each parses its environment, starts, and runs until it receives a signal.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::CliError;
use super::args::{ApiArgs, UpArgs, WorkerArgs};
use super::output::outln;
use crate::api::{self, AppState};
use crate::config::registry::WEBHOOK_SECRET;
use crate::config::{ApiConfig, Env, RedisConfig, Retention, StorageConfig, WorkerConfig};
use crate::http_server::{ServerLimits, serve};
use crate::metrics::Metrics;
use crate::net::EgressPolicy;
use crate::queue::{Queue, QueueError};
use crate::standalone::{Options, TlsFiles, Up};
use crate::storage::Storage;
use crate::storage::urls::UrlSigner;
use crate::transcoder::check_tools;
use crate::transcoder::worker::{ExitReason, Worker, WorkerError};
use crate::webhook::WebhookSender;

/// Cancelled by SIGTERM or SIGINT.
pub(super) fn stop_signal() -> Result<CancellationToken, CliError> {
    stop_signals().map(|(stop, _)| stop)
}

/// Returns a token that SIGTERM or SIGINT cancels, and one that a later SIGINT cancels, which ends the process at
/// once.
fn stop_signals() -> Result<(CancellationToken, CancellationToken), CliError> {
    let mut term = signal(SignalKind::terminate()).map_err(CliError::start)?;
    let mut int = signal(SignalKind::interrupt()).map_err(CliError::start)?;
    let (stop, again) = (CancellationToken::new(), CancellationToken::new());
    let tokens = (stop.clone(), again.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tokens.0.cancel();
        int.recv().await;
        tokens.1.cancel();
    });
    Ok((stop, again))
}

/// `tcoder up`
pub(crate) async fn up(args: UpArgs) -> Result<(), CliError> {
    let (stop, again) = stop_signals()?;
    let options = Options {
        data: args.data,
        listen: args.listen,
        public_host: args.public_host,
        public_url: args.public_url,
        plain_http: args.plain_http,
        tls: args.tls_cert.zip(args.tls_key).map(|(certificate, key)| TlsFiles { certificate, key }),
        min_machines: args.min_machines.min(args.max_machines),
        max_machines: args.max_machines,
    };
    let env = Env::process();
    let up = tokio::select! {
        up = Up::start(&options, &env) => up.map_err(CliError::start)?,
        () = stop.cancelled() => return Ok(()),
    };
    outln!("tcoder is up.\n");
    for (what, where_) in up.summary() {
        outln!("  {what:<8} {where_}");
    }
    let server = match up.api() {
        "http://127.0.0.1:8080" => String::new(),
        elsewhere => format!(" --server {elsewhere}"),
    };
    outln!("\nSend it a video:\n");
    if up.needs_token() {
        outln!("  export TCODER_TOKEN=...    # one of its API_TOKENS");
    }
    outln!("  tcoder submit FILE --preset hls-adaptive --wait --output out{server}\n");
    outln!("Press Ctrl-C to stop; the next start continues where this one stopped.");
    stop.cancelled().await;
    outln!("\nstopping: workers release their jobs (press Ctrl-C again to exit at once)");
    tokio::select! {
        () = up.stop() => {}
        // Dropping the rest kills the children.
        () = again.cancelled() => return Err(CliError::Interrupted),
    }
    outln!("stopped; nothing is lost");
    Ok(())
}

/// `tcoder api`
pub(crate) async fn api(args: ApiArgs) -> Result<(), CliError> {
    let env = Env::process();
    let api_config = ApiConfig::read(&env).map_err(CliError::start)?;
    let redis = RedisConfig::read(&env).map_err(CliError::start)?;
    let storage = StorageConfig::read(&env).map_err(CliError::start)?;
    let retention = Retention::read(&env).map_err(CliError::start)?;
    api_config.allows(args.listen).map_err(CliError::start)?;
    let guard = EgressPolicy::allow_private(api_config.allow_private_urls);
    let mail = env
        .get(&WEBHOOK_SECRET)
        .map_err(CliError::start)?
        .map(|s| WebhookSender::of_installation(&s, guard))
        .transpose()
        .map_err(CliError::start)?;
    let stop = stop_signal()?;
    let Some(queue) = connect(&redis, RedisWait::NotReady, &stop).await? else { return Ok(()) };
    let queue = queue.with_retention(retention).with_max_input_bytes(api_config.max_input_bytes);
    let listener = listen(args.listen).await?;
    let links = UrlSigner::new(&storage, api_config.public_url.clone()).map_err(CliError::start)?;
    let metrics = Metrics::new();
    let app = AppState::start(
        queue,
        Storage::new(&storage),
        links,
        api_config,
        mail.is_some(),
        metrics,
        stop.clone(),
    )
    .await
    .map_err(CliError::start)?;
    let tasks = TaskTracker::new();
    tasks.spawn(app.janitor(mail).run(stop.clone()));
    tasks.close();
    tracing::info!(address = %listener.local_addr().unwrap_or(args.listen), "API listening");
    serve(listener, api::router(app), ServerLimits::default(), stop).await;
    tasks.wait().await;
    Ok(())
}

/// How long a process that starts waits for Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedisWait {
    /// While Redis says that it is not ready, as it does while it loads its data. Somebody who starts the process learns
    /// at once that there is no Redis.
    NotReady,
    /// Also while it does not answer, for a process that its supervisor would only restart.
    Away,
}

impl RedisWait {
    const fn covers(self, error: &QueueError) -> bool {
        match self {
            Self::NotReady => error.is_not_ready(),
            Self::Away => error.is_transient(),
        }
    }
}

/// Connects to Redis, and waits as long as `wait` says. Returns `None` if `stop` came first.
pub(super) async fn connect(
    redis: &RedisConfig,
    wait: RedisWait,
    stop: &CancellationToken,
) -> Result<Option<Queue>, CliError> {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut known = None;
    let connected = async {
        loop {
            match Queue::connect(redis).await {
                Err(error) if wait.covers(&error) => {
                    if known.replace(error.kind()) != Some(error.kind()) {
                        tracing::warn!(%error, "Redis is not ready; waiting until it is");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome.map(Some).map_err(CliError::start),
            }
        }
    };
    stop.run_until_cancelled(connected).await.unwrap_or(Ok(None))
}

pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, CliError> {
    let failed = |e| CliError::Start(format!("cannot listen on {address}: {e}; choose another --listen"));
    TcpListener::bind(address).await.map_err(failed)
}

/// Pause between two attempts of a worker to register that starts.
const REGISTER_PAUSE: Duration = Duration::from_secs(5);

/// `tcoder worker`
pub(crate) async fn worker(args: WorkerArgs) -> Result<(), CliError> {
    let env = Env::process();
    let config = WorkerConfig::read(&env).map_err(CliError::start)?;
    if args.check {
        return check(&config).await;
    }
    let redis = RedisConfig::read(&env).map_err(CliError::start)?;
    let storage = StorageConfig::read(&env).map_err(CliError::start)?;
    let stop = stop_signal()?;
    let start = async {
        loop {
            let Some(queue) = connect(&redis, RedisWait::Away, &stop).await? else { return Ok(None) };
            match Worker::start(config.clone(), queue, Storage::new(&storage)).await {
                // It went away in between, or takes no writes now.
                Err(WorkerError::Queue(error)) if error.is_transient() => {
                    tracing::warn!(%error, "could not register with Redis; trying again");
                    tokio::time::sleep(REGISTER_PAUSE).await;
                }
                started => return started.map(Some).map_err(CliError::start),
            }
        }
    };
    let Some(worker) = stop.run_until_cancelled(start).await.unwrap_or(Ok(None))? else { return Ok(()) };
    match worker.run(stop).await {
        ExitReason::TooManyFailures => Err(CliError::Failed(ExitReason::TooManyFailures.to_string())),
        _ => Ok(()),
    }
}

/// `tcoder worker --check`
async fn check(config: &WorkerConfig) -> Result<(), CliError> {
    let tools = check_tools(config.sandbox).await.map_err(CliError::start)?;
    outln!("FFmpeg {}, ffprobe {}", tools.ffmpeg, tools.ffprobe);
    if tools.missing_protections.is_empty() {
        outln!("The sandbox is complete.");
    } else {
        outln!("The sandbox is incomplete:");
    }
    for gap in tools.missing_protections {
        outln!("- {gap}");
    }
    Ok(())
}
