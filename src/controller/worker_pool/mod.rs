//! The reconciler of WorkerPools. The spec of the oldest pool configures the reconciler of the fleet, whose
//! published status becomes the status of each pool. Without a pool the environment configures the fleet.
//!
//! | part | what it does |
//! |---|---|
//! | `policy` | a spec and the environment -> the provider of the fleet and its policy (pure) |
//! | `status` | the fleet's published status -> the status of a pool (pure) |
//! | here | the watch, the choice of the active pool, the writes |

mod policy;
mod status;

pub(crate) use policy::{FleetTarget, target};

use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::fleet::MachinePrice;
use crate::config::Env;
use crate::crd::{WorkerPool, WorkerPoolStatus};
use crate::queue::{FleetStatus, Queue};
use crate::storage::urls::now_millis;
use policy::next_target;
use status::{PoolRole, status};

/// A WorkerPool that may fail to deserialize.
pub(crate) type Guarded = DeserializeGuard<WorkerPool>;

/// The field manager of statuses.
const STATUS_MANAGER: &str = "tcoder-status";
/// Time limit of a request to the API server or Redis.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Minimum time between two writes of statuses: while machines start and stop, the counts change every
/// second.
const WRITE_GAP: Duration = Duration::from_secs(2);
/// Interval in which the fleet status of another process is read.
const READ_GAP: Duration = Duration::from_secs(60);

/// What the reconciler of WorkerPools needs.
pub(crate) struct Pools {
    /// The client of the API server.
    pub client: Client,
    /// The pools that are watched.
    pub api: Api<Guarded>,
    /// Where the published fleet status of any process can be read.
    pub queue: Queue,
    /// The desired fleet; `None` while no valid one is known.
    pub wanted: watch::Sender<Option<FleetTarget>>,
    /// The fleet status that this process published last.
    pub told: watch::Receiver<Option<FleetStatus>>,
    /// The price of one machine, if known.
    pub price: watch::Sender<Option<MachinePrice>>,
    /// Why no machines on Fly can be managed, if so.
    pub no_fly: Option<String>,
}

impl Pools {
    /// Reconciles the pools until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (store, writer) = reflector::store();
        let mut changes = watcher(self.api.clone(), watcher::Config::default())
            .inspect_err(|error| tracing::warn!(%error, "the watch of WorkerPools broke; retrying"))
            .default_backoff()
            .modify(|pool: &mut Guarded| pool.managed_fields_mut().clear())
            .reflect(writer)
            .boxed();
        let mut written = HashMap::new();
        let mut elsewhere = None;
        let (mut look, mut read) = (Instant::now() + READ_GAP, Instant::now());
        let mut listed = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                change = changes.next() => match change {
                    Some(Ok(watcher::Event::InitDone)) => (listed, look) = (true, Instant::now()),
                    Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_))) => look = Instant::now(),
                    Some(_) => {}
                    None => return,
                },
                Ok(()) = self.told.changed() => look = look.min(Instant::now() + WRITE_GAP),
                () = sleep_until(read) => {
                    elsewhere = self.read().await;
                    (look, read) = (Instant::now(), Instant::now() + READ_GAP);
                }
                () = sleep_until(look), if listed => {
                    self.reconcile_object(&store, elsewhere.as_ref(), &mut written).await;
                    look = Instant::now() + READ_GAP;
                }
            }
        }
    }

    async fn read(&self) -> Option<FleetStatus> {
        match timeout(CALL_TIMEOUT, self.queue.fleet()).await {
            Ok(Ok((fleet, _))) => fleet,
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not read the fleet's status");
                None
            }
            Err(_) => None,
        }
    }

    async fn reconcile_object(
        &mut self,
        store: &Store<Guarded>,
        elsewhere: Option<&FleetStatus>,
        written: &mut HashMap<String, WorkerPoolStatus>,
    ) {
        let mut pools = store.state();
        pools.sort_by_key(|pool| (pool.creation_timestamp(), pool.namespace(), pool.name_any()));
        let readable: Vec<&WorkerPool> = pools
            .iter()
            .filter_map(|pool| match &pool.0 {
                Ok(readable) => Some(readable),
                Err(error) => {
                    tracing::warn!(name = pool.name_any(), %error, "could not read a WorkerPool");
                    None
                }
            })
            .filter(|pool| pool.meta().deletion_timestamp.is_none())
            .collect();
        let acting = readable.first();
        let wanted = target(acting.copied(), &Env::process());
        let here = self.told.borrow_and_update().clone();
        // The later status wins: only the process that holds the fleet lock publishes one.
        let fleet = match (&here, elsewhere) {
            (Some(here), Some(there)) if there.at > here.at => Some(there),
            (Some(here), _) => Some(here),
            (None, there) => there,
        };
        let no_fly = self.no_fly.as_ref().filter(|_| acting.is_none_or(|pool| !has_pods(pool)));
        if let Ok(wanted) = &wanted {
            let policy = wanted.policy();
            let own = || policy.price.map(|price| price.dollars());
            let usd_per_hour = fleet.and_then(|fleet| fleet.machine_usd_per_hour).or_else(own);
            let cpus = policy.sizes.base().cpus;
            let price = usd_per_hour.map(|usd_per_hour| MachinePrice { usd_per_hour, cpus });
            self.price.send_if_modified(|old| std::mem::replace(old, price) != price);
        }
        self.wanted.send_if_modified(|old| {
            let next = next_target(old.as_ref(), wanted.as_ref(), acting.copied());
            let is_new = *old != next;
            *old = next;
            is_new
        });
        let first = acting.map(|pool| pool.name_any()).unwrap_or_default();
        for (n, pool) in readable.iter().enumerate() {
            let standing = match (no_fly, &wanted) {
                (Some(why), _) => PoolRole::NoFleet(why),
                (None, _) if n > 0 => PoolRole::Behind(&first),
                (None, Err(why)) => PoolRole::Refused(why),
                (None, Ok(_)) => PoolRole::Acts,
            };
            self.write(pool, standing, fleet, written).await;
        }
        written.retain(|uid, _| readable.iter().any(|pool| pool.uid().as_ref() == Some(uid)));
    }

    async fn write(
        &self,
        pool: &WorkerPool,
        standing: PoolRole<'_>,
        fleet: Option<&FleetStatus>,
        written: &mut HashMap<String, WorkerPoolStatus>,
    ) {
        let uid = pool.uid().unwrap_or_default();
        // The store may lag behind this process's own writes.
        let before = written.get(&uid).cloned().or_else(|| pool.status.clone());
        let pool = WorkerPool { status: before, ..pool.clone() };
        let new = status(&pool, standing, fleet, now_millis());
        if pool.status.as_ref() == Some(&new) {
            return;
        }
        let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
        let patch = json!({
            "apiVersion": WorkerPool::api_version(&()),
            "kind": WorkerPool::kind(&()),
            "metadata": {"name": name, "uid": uid},
            "status": new,
        });
        let api: Api<WorkerPool> = Api::namespaced(self.client.clone(), &namespace);
        let params = PatchParams::apply(STATUS_MANAGER).force();
        match timeout(CALL_TIMEOUT, api.patch_status(&name, &params, &Patch::Apply(patch))).await {
            Ok(Ok(_)) => drop(written.insert(uid, new)),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(error)) => {
                tracing::warn!(namespace, name, %error, "could not update a WorkerPool's status")
            }
            Err(_) => tracing::warn!(namespace, name, "a WorkerPool's status could not be written in time"),
        }
    }
}

/// Whether the machines of a pool are pods.
fn has_pods(pool: &WorkerPool) -> bool {
    pool.spec.provider.as_ref().is_some_and(|provider| provider.pods.is_some())
}
