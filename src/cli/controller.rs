//! `tcoder controller`: the fleet's reconciler and, in a cluster, the operator around it.

use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use tokio::sync::watch;

use super::CliError;
use super::args::ControllerArgs;
use super::serve::{RedisWait, connect, listen, stop_signal};
use crate::config::registry::{
    ALLOW_PRIVATE_URLS, API_PUBLIC_URL, MIRROR_MAX, TENANT_PREFIXES, WORKER_MAX_INPUT_BYTES,
};
use crate::config::{Env, FlyConfig, RedisConfig, Retention, StorageConfig, job_limits};
use crate::controller::fleet_manager::FleetParts;
use crate::controller::operator::{Operator, Scope};
use crate::controller::reconciler::{self, Reconciler, ReconcilerDeps, admin};
use crate::event_bus::EventBus;
use crate::flyprovider::{self, Fly};
use crate::http_server::{ServerLimits, serve};
use crate::job::WorkerId;
use crate::metrics::Metrics;
use crate::net::EgressPolicy;
use crate::queue::{Queue, RequestRate};
use crate::storage::Storage;
use crate::storage::urls::UrlSigner;
use crate::webhook::WebhookClient;

/// `tcoder controller`
pub(crate) async fn run(args: ControllerArgs) -> Result<(), CliError> {
    // An empty WATCH_NAMESPACE counts as unset.
    let scope = match args.namespace.as_ref().filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => Some(Scope::Namespace(namespace.clone())),
        // Every pod of a cluster has this variable.
        None if args.all_namespaces || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => {
            Some(Scope::Cluster)
        }
        None => None,
    };
    match scope {
        Some(scope) => operator(args, scope).await,
        None => fleet_only(args).await,
    }
}

/// The name under which this process holds locks. It differs after a restart.
fn holder(env: &Env<'_>) -> String {
    WorkerId::on(&env.text("HOSTNAME").unwrap_or_else(|| "controller".into())).0
}

async fn fleet_only(args: ControllerArgs) -> Result<(), CliError> {
    let env = Env::process();
    let redis = RedisConfig::read(&env).map_err(CliError::start)?;
    let fly = FlyConfig::read(&env).map_err(CliError::start)?;
    let policy = flyprovider::policy::read(&env).map_err(CliError::start)?;
    let stop = stop_signal()?;
    let listener = listen(args.listen).await?;
    let Some(queue) = connect(&redis, RedisWait::Away, &stop).await? else { return Ok(()) };
    let metrics = Metrics::new();
    tracing::info!(
        address = %listener.local_addr().unwrap_or(args.listen),
        app = policy.app,
        max = policy.max,
        "reconciler started"
    );
    let parts = ReconcilerDeps {
        provider: Fly::new(&fly).map_err(CliError::start)?,
        rate: RequestRate::default(),
        policy: watch::channel(policy).1,
        status: watch::Sender::new(None),
        environment: reconciler::forwarded_env(&env),
        holder: holder(&env),
        metrics: Arc::clone(&metrics),
        queue: queue.clone(),
    };
    let router = admin::router(queue, metrics, watch::channel(Ok(())).1);
    tokio::join!(
        Reconciler::new(parts).run(stop.clone()),
        serve(listener, router, ServerLimits::default(), stop.clone()),
    );
    Ok(())
}

/// Checks that the record of a job is kept longer than its input: only the record tells below which prefix the input is.
fn check_input_retention(retention: Retention) -> Result<(), CliError> {
    const LEAST: Duration = Duration::from_secs(3600);
    match retention.inputs {
        Some(inputs) if retention.jobs < inputs + LEAST => Err(CliError::Start(
            "with tenant prefixes INPUT_RETENTION must be an hour less than JOB_RETENTION, or 0".to_owned(),
        )),
        _ => Ok(()),
    }
}

async fn operator(args: ControllerArgs, scope: Scope) -> Result<(), CliError> {
    let env = Env::process();
    let redis = RedisConfig::read(&env).map_err(CliError::start)?;
    let storage = StorageConfig::read(&env).map_err(CliError::start)?;
    let retention = Retention::read(&env).map_err(CliError::start)?;
    let api_public_url = env.get(&API_PUBLIC_URL).map_err(CliError::start)?;
    let guard = EgressPolicy::allow_private(env.require(&ALLOW_PRIVATE_URLS).map_err(CliError::start)?);
    let max_input_bytes = env.get(&WORKER_MAX_INPUT_BYTES).map_err(CliError::start)?;
    let job_limits = job_limits(&env).map_err(CliError::start)?;
    let tenant_prefixes = args.tenant_prefixes || env.require(&TENANT_PREFIXES).map_err(CliError::start)?;
    if tenant_prefixes {
        check_input_retention(retention)?;
    }
    let mirrors = env.require(&MIRROR_MAX).map_err(CliError::start)?;
    let fly = match env.text("FLY_API_TOKEN") {
        None => {
            Err("FLY_API_TOKEN is not set at the controller: it does not manage machines on Fly".to_owned())
        }
        Some(_) => Ok(Fly::new(&FlyConfig::read(&env).map_err(CliError::start)?).map_err(CliError::start)?),
    };
    let config = Config::infer().await.map_err(|error| {
        CliError::Start(format!("no Kubernetes cluster is configured: {error}; set KUBECONFIG"))
    })?;
    let named = args.namespace.filter(|namespace| !namespace.is_empty());
    let namespace = env.text("POD_NAMESPACE").or(named).unwrap_or(config.default_namespace.clone());
    let client = Client::try_from(config).map_err(CliError::start)?;
    let stop = stop_signal()?;
    let listener = listen(args.listen).await?;
    // While Redis is away, the conditions of the objects tell of it.
    let queue = Queue::connect_lazily(&redis).await.map_err(CliError::start)?;
    let queue = queue.with_retention(retention).with_max_input_bytes(max_input_bytes);
    let metrics = Metrics::new();
    let event_bus = EventBus::start_when_reachable(&queue, Some(Arc::clone(&metrics)), stop.clone());
    let environment = reconciler::forwarded_env(&env);
    let operator = Operator {
        client,
        scope,
        namespace,
        holder: holder(&env),
        storage: Storage::new(&storage),
        links: UrlSigner::new(&storage, api_public_url).map_err(CliError::start)?,
        event_bus,
        guard,
        job_limits,
        tenant_prefixes,
        caller: WebhookClient::new(guard).map_err(CliError::start)?,
        mirror: Some(mirrors as usize).filter(|most| *most > 0),
        fleet: FleetParts { fly, rate: RequestRate::default(), environment },
        metrics: Arc::clone(&metrics),
        queue: queue.clone(),
    };
    tracing::info!(
        address = %listener.local_addr().unwrap_or(args.listen),
        scope = ?operator.scope,
        namespace = operator.namespace,
        holder = operator.holder,
        fly = operator.fleet.fly.is_ok(),
        "operator started"
    );
    let (ready, is_ready) = watch::channel(Err("the API server has not been contacted yet".to_owned()));
    let router = admin::router(queue, metrics, is_ready);
    tokio::join!(
        operator.run(ready, stop.clone()),
        serve(listener, router, ServerLimits::default(), stop.clone()),
    );
    Ok(())
}
