//! The reconciler of WorkerPools: the oldest one's spec is what the fleet's reconciler is told to want,
//! and what that one says of the machines is each pool's status. Without a pool the environment rules.
//!
//! | part | what it does |
//! |---|---|
//! | `policy` | a spec and the environment -> the fleet's policy (pure) |
//! | `status` | what is said of the fleet -> the status (pure) |
//! | here | the watch, the choice of the pool that acts, the writes |

mod policy;
mod status;

pub use policy::policy;

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

use super::fleet::FleetPolicy;
use crate::config::Env;
use crate::crd::{WorkerPool, WorkerPoolStatus};
use crate::queue::{FleetStatus, Queue};
use crate::storage::urls::now_millis;
use status::{PoolRole, status};

/// A WorkerPool that may not be readable.
pub type Guarded = DeserializeGuard<WorkerPool>;

/// What writes statuses.
const STATUS_MANAGER: &str = "tcoder-status";
/// What the API server or Redis may take to answer.
const LIMIT: Duration = Duration::from_secs(20);
/// Statuses are written this often at most: while machines come and go the counts change each second.
const WRITE_GAP: Duration = Duration::from_secs(2);
/// What another process says of the fleet is read this often.
const READ_GAP: Duration = Duration::from_secs(60);

/// What the reconciler of WorkerPools works with.
pub struct Pools {
    /// The API server.
    pub client: Client,
    /// Which pools are seen.
    pub api: Api<Guarded>,
    /// Where what is said of the fleet can be read, whoever said it.
    pub queue: Queue,
    /// What is wanted of the fleet. Nothing: nobody said it yet in a way that can be carried out.
    pub wanted: watch::Sender<Option<FleetPolicy>>,
    /// What this process says of the fleet.
    pub told: watch::Receiver<Option<FleetStatus>>,
    /// Dollars an hour of one machine.
    pub price: watch::Sender<Option<f64>>,
    /// Why no fleet can be looked after, if none can.
    pub no_fleet: Option<String>,
}

impl Pools {
    /// Sees to the pools until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (store, writer) = reflector::store();
        let mut changes = watcher(self.api.clone(), watcher::Config::default())
            .inspect_err(|error| tracing::warn!(%error, "the watch of WorkerPools broke; it is tried again"))
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
        match timeout(LIMIT, self.queue.fleet()).await {
            Ok(Ok((fleet, _))) => fleet,
            Ok(Err(error)) => {
                tracing::debug!(%error, "what is said of the fleet could not be read");
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
        let wanted = policy(acting.map(|pool| &pool.spec), &Env::process());
        let here = self.told.borrow_and_update().clone();
        // The later word counts: only who acts says anything.
        let fleet = match (&here, elsewhere) {
            (Some(here), Some(there)) if there.at > here.at => Some(there),
            (Some(here), _) => Some(here),
            (None, there) => there,
        };
        let own = wanted.as_ref().ok().and_then(|policy| policy.price).map(|price| price.dollars());
        let price = fleet.and_then(|fleet| fleet.machine_usd_per_hour).or(own);
        self.price.send_if_modified(|old| std::mem::replace(old, price) != price);
        if let Ok(wanted) = &wanted {
            self.wanted.send_if_modified(|old| {
                let new = old.as_ref() != Some(wanted);
                if new {
                    *old = Some(wanted.clone());
                }
                new
            });
        }
        let first = acting.map(|pool| pool.name_any()).unwrap_or_default();
        for (n, pool) in readable.iter().enumerate() {
            let standing = match (&self.no_fleet, &wanted) {
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
        // The store may lag behind what was written here.
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
        match timeout(LIMIT, api.patch_status(&name, &params, &Patch::Apply(patch))).await {
            Ok(Ok(_)) => drop(written.insert(uid, new)),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(error)) => {
                tracing::warn!(namespace, name, %error, "could not update a WorkerPool's status")
            }
            Err(_) => tracing::warn!(namespace, name, "a WorkerPool's status could not be written in time"),
        }
    }
}
