//! The operator: everything that a controller does in a cluster while it holds the Lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::fleet::MachinePrice;
use super::fleet_manager::{FleetManager, FleetParts};
use super::kueue::{self, Kueue};
use super::leader_election::{Election, Leadership, LeaseParams};
use super::mirror::Mirror;
use super::other_installs::{
    ACCOUNT_ANNOTATION, ALL_NAMESPACES, OtherInstalls, SCOPE_ANNOTATION, SINGLE_NAMESPACE, own_account,
};
use super::reconciler::FleetTable;
use super::reconciler::admin::Ready;
use super::transcode_job::{self, Context, EventWriter, ReconcilerHandles, Rules};
use super::webhook_keys::SecretKeys;
use super::worker_pool::{Pools, Statuses, WantedFleets};
use crate::crd::{TranscodeJob, WorkerPool};
use crate::event_bus::EventBus;
use crate::janitor::{Janitor, JanitorTasks};
use crate::job::JobLimits;
use crate::metrics::Metrics;
use crate::net::EgressPolicy;
use crate::queue::{Outbox, Queue};
use crate::storage::Storage;
use crate::storage::urls::UrlSigner;
use crate::webhook::{WebhookClient, WebhookSender};

/// The name of the Lease, and of the reporting controller in Events.
const NAME: &str = "tcoder-controller";
/// Time limit of a request to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval in which missing CRDs are looked for again.
const CRD_PERIOD: Duration = Duration::from_secs(5);
/// Interval in which other installations in the cluster are looked for.
const OTHERS_PERIOD: Duration = Duration::from_secs(10);

/// The namespaces whose objects are reconciled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A single namespace.
    Namespace(String),
    /// All namespaces.
    Cluster,
}

impl Scope {
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Namespace(namespace) => Some(namespace),
            Self::Cluster => None,
        }
    }

    fn api<K>(&self, client: Client) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match self {
            Self::Namespace(namespace) => Api::namespaced(client, namespace),
            Self::Cluster => Api::all(client),
        }
    }

    /// The value of the annotation of the Lease.
    fn annotation(&self) -> &'static str {
        match self {
            Self::Namespace(_) => SINGLE_NAMESPACE,
            Self::Cluster => ALL_NAMESPACES,
        }
    }
}

/// Everything that the operator needs.
pub struct Operator {
    /// The client of the API server.
    pub client: Client,
    /// The namespaces whose objects are reconciled.
    pub scope: Scope,
    /// The namespace of the Lease, and of the mirrors if all namespaces are reconciled.
    pub namespace: String,
    /// The identity of this process in the leader election.
    pub holder: String,
    /// The queue.
    pub queue: Queue,
    /// The buckets.
    pub storage: Storage,
    /// Signs URLs of objects.
    pub links: UrlSigner,
    /// The events of jobs.
    pub event_bus: EventBus,
    /// Which addresses jobs and webhooks may use.
    pub guard: EgressPolicy,
    /// The most that jobs may ask for.
    pub job_limits: JobLimits,
    /// Whether a namespace may use only objects below its own prefix.
    pub tenant_prefixes: bool,
    /// Sends webhooks.
    pub caller: WebhookClient,
    /// Maximum number of mirrors; `None` disables mirrors.
    pub mirror: Option<usize>,
    /// How to manage machines.
    pub fleet: FleetParts,
    /// Where metrics are recorded.
    pub metrics: Arc<Metrics>,
}

impl Operator {
    /// Waits for the CRDs, then acts while it is the leader and no other installation acts on the same objects, until
    /// `stop`. Reports readiness to `ready`: a candidate that waits for the Lease is ready, too.
    pub async fn run(self, ready: watch::Sender<Ready>, stop: CancellationToken) {
        let mut others = OtherInstalls::new(self.client.clone(), &self.namespace, NAME);
        while !stop.is_cancelled() {
            tokio::select! {
                () = self.definitions(&ready) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = self.until_no_other_install_acts(&mut others, &ready) => {}
                () = stop.cancelled() => return,
            }
            let acting = stop.child_token();
            let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
            let annotations = tokio::select! {
                annotations = self.annotations() => annotations,
                () = stop.cancelled() => return,
            };
            let election = Election::new(leases, NAME, &self.holder, annotations, LeaseParams::default());
            let (turn, whose) = watch::channel(Leadership::Unknown);
            let (price, prices) = watch::channel(None);
            let (this, is_ready) = (&self, &ready);
            tokio::join!(
                election.run(turn, acting.clone(), |term| this.lead(is_ready, prices.clone(), term)),
                self.machines(whose, price, &acting),
                self.stop_for_older_install(&mut others, &acting),
            );
        }
    }

    /// What the Lease tells other installations.
    async fn annotations(&self) -> BTreeMap<String, String> {
        let mut annotations =
            BTreeMap::from([(SCOPE_ANNOTATION.to_owned(), self.scope.annotation().to_owned())]);
        if self.scope != Scope::Cluster {
            return annotations;
        }
        // A Lease without it could count for nothing, and others would act as well.
        let account = loop {
            match own_account(&self.client, &self.namespace).await {
                Ok(account) => break account,
                Err(error) => tracing::warn!(%error, "could not ask for the own service account; retrying"),
            }
            sleep(CRD_PERIOD).await;
        };
        annotations.extend(account.map(|account| (ACCOUNT_ANNOTATION.to_owned(), account)));
        annotations
    }

    /// Waits until no other installation acts on the objects of this one.
    async fn until_no_other_install_acts(&self, others: &mut OtherInstalls, ready: &watch::Sender<Ready>) {
        if self.scope != Scope::Cluster {
            return;
        }
        while let Some(other) = others.acts_instead(false).await {
            let why = Err(format!(
                "another installation, in the namespace {}, reconciles the objects of all namespaces; remove one of the \
                 two, or give each --namespace (manifests/overlays/namespaced)",
                other.namespace
            ));
            if ready.send_replace(why.clone()) != why {
                tracing::warn!(
                    namespace = other.namespace,
                    "another installation reconciles the objects of all namespaces; this one waits"
                );
            }
            sleep(CRD_PERIOD).await;
        }
        drop(ready.send_replace(Ok(())));
    }

    /// Cancels `acting` when an older installation acts on the same objects.
    async fn stop_for_older_install(&self, others: &mut OtherInstalls, acting: &CancellationToken) {
        if self.scope != Scope::Cluster {
            return;
        }
        loop {
            tokio::select! {
                () = sleep(OTHERS_PERIOD) => {}
                () = acting.cancelled() => return,
            }
            tokio::select! {
                other = others.acts_instead(true) => if let Some(other) = other {
                    tracing::warn!(
                        namespace = other.namespace,
                        "an older installation reconciles the objects of all namespaces; this one stops"
                    );
                    return acting.cancel();
                },
                () = acting.cancelled() => return,
            }
        }
    }

    /// Runs the reconcilers of the fleets from the first term on until another process is the leader, even
    /// while the Lease is lost: jobs of the API need machines although the API server is unreachable, and the
    /// locks in Redis decide who may change machines.
    async fn machines(
        &self,
        mut whose: watch::Receiver<Leadership>,
        price: watch::Sender<Option<MachinePrice>>,
        stop: &CancellationToken,
    ) {
        loop {
            tokio::select! {
                mine = whose.wait_for(|turn| *turn == Leadership::Mine) => if mine.is_err() { return },
                () = stop.cancelled() => return,
            }
            let term = stop.child_token();
            let over = async {
                // An error means that the election has ended, and with it everything else.
                let _ = whose.wait_for(|turn| *turn == Leadership::Theirs).await;
                term.cancel();
            };
            tokio::join!(self.pools(&price, &term), over);
        }
    }

    async fn pools(&self, price: &watch::Sender<Option<MachinePrice>>, term: &CancellationToken) {
        let (wanted, wants) = watch::channel(WantedFleets::new());
        let (told, tells) = watch::channel(Statuses::new());
        let pools = Pools {
            client: self.client.clone(),
            api: self.scope.api(self.client.clone()),
            queue: self.queue.clone(),
            wanted,
            told: tells,
            price: price.clone(),
            no_fly: self.fleet.fly.as_ref().err().cloned(),
            namespace: self.scope.namespace().map(str::to_owned),
        };
        let fleets = FleetManager {
            client: &self.client,
            queue: &self.queue,
            event_bus: &self.event_bus,
            parts: &self.fleet,
            holder: &self.holder,
            metrics: &self.metrics,
            told,
            table: FleetTable::default(),
        };
        tokio::join!(pools.run(term.clone()), fleets.run(wants, term));
    }

    /// Waits until the API server has both CRDs and permits listing their objects.
    async fn definitions(&self, ready: &watch::Sender<Ready>) {
        loop {
            let missing = match self.listable::<TranscodeJob>().await {
                Ok(()) => self.listable::<WorkerPool>().await,
                missing => missing,
            };
            let known = missing.is_ok();
            if ready.send_replace(missing.clone()) != missing
                && let Err(why) = missing
            {
                tracing::warn!("not ready: {why}");
            }
            if known {
                return;
            }
            sleep(CRD_PERIOD).await;
        }
    }

    async fn listable<K>(&self) -> Ready
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let api: Api<K> = self.scope.api(self.client.clone());
        let kind = K::kind(&());
        match timeout(CALL_TIMEOUT, api.list_metadata(&ListParams::default().limit(1))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(format!(
                "the API server knows no {kind}; run: kubectl apply -k manifests/crds, or tcoder crd | kubectl apply -f -"
            )),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => Err(format!(
                "the controller may not list {kind}s here; apply the roles in manifests/base/rbac.yaml, and give \
                 --namespace where it is to see one namespace only"
            )),
            Ok(Err(error)) => Err(format!("the API server cannot be used ({error}); retrying")),
            Err(_) => Err("the API server does not answer; retrying".to_owned()),
        }
    }

    async fn lead(
        &self,
        ready: &watch::Sender<Ready>,
        prices: watch::Receiver<Option<MachinePrice>>,
        term: CancellationToken,
    ) {
        let (client, queue) = (self.client.clone(), self.queue.clone());
        let queues = Arc::new(Kueue::new(client.clone(), self.workloads()));
        let context = Arc::new(Context::new(ReconcilerHandles {
            client: client.clone(),
            queue: queue.clone(),
            storage: self.storage.clone(),
            links: self.links.clone(),
            rules: Rules {
                guard: self.guard,
                limits: self.job_limits,
                tenant_prefixes: self.tenant_prefixes,
            },
            mirrors: self.mirror.map(|_| self.home().to_owned()),
            price: prices,
            kueue: Arc::clone(&queues),
            events: EventWriter::new(client.clone(), NAME, self.holder.clone()),
            metrics: Arc::clone(&self.metrics),
        }));
        let keys = Arc::new(SecretKeys { client: client.clone(), objects: Arc::clone(&context) });
        let webhooks = WebhookSender::new(Outbox::Kubernetes, self.caller.clone(), keys);
        let janitor = Janitor {
            tasks: JanitorTasks {
                queue: queue.clone(),
                storage: self.storage.clone(),
                links: self.links.clone(),
                webhooks: Some(webhooks),
            },
            event_bus: self.event_bus.clone(),
        };
        let jobs = self.scope.api(client.clone());
        self.metrics.operator_leader(true);
        // None of these ends by itself. If one did, all would start again rather than continue without it.
        tokio::join!(
            cancel_term_when_done(
                transcode_job::run(Arc::clone(&context), jobs, self.event_bus.subscribe(), term.clone()),
                &term
            ),
            cancel_term_when_done(janitor.run(term.clone()), &term),
            cancel_term_when_done(queues.run(term.clone()), &term),
            self.mirror(&context, &term),
            report_readiness(&context, ready, &term),
        );
        self.metrics.operator_leader(false);
    }

    /// The Workloads of Kueue in the namespaces whose objects are reconciled.
    fn workloads(&self) -> Api<kueue::Workload> {
        let kind = kueue::workloads();
        match &self.scope {
            Scope::Namespace(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            Scope::Cluster => Api::all_with(self.client.clone(), &kind),
        }
    }

    /// The namespace of the mirrors, which must be one of those that are watched.
    fn home(&self) -> &str {
        match &self.scope {
            Scope::Namespace(namespace) => namespace,
            Scope::Cluster => &self.namespace,
        }
    }

    async fn mirror(&self, context: &Arc<Context>, term: &CancellationToken) {
        let Some(most) = self.mirror else { return };
        let (client, queue, home) = (self.client.clone(), self.queue.clone(), self.home().to_owned());
        let mirror = Mirror::new(client, queue, Arc::clone(context), home, most);
        mirror.run(self.event_bus.subscribe(), term.clone()).await;
    }
}

/// Runs a part, and ends the term when the part ends.
async fn cancel_term_when_done(part: impl Future<Output = ()>, term: &CancellationToken) {
    part.await;
    if !term.is_cancelled() {
        tracing::error!("an operator task ended unexpectedly; restarting all of them");
        term.cancel();
    }
}

/// A leader is ready once it knows all objects.
async fn report_readiness(context: &Context, ready: &watch::Sender<Ready>, term: &CancellationToken) {
    let unread = Err("the TranscodeJobs are being read for the first time".to_owned());
    drop(ready.send_replace(unread));
    tokio::select! {
        () = context.until_synced() => {}
        () = term.cancelled() => {}
    }
    drop(ready.send_replace(Ok(())));
}
