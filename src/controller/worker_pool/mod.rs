//! The reconciler of WorkerPools. The specs of the pools configure the reconcilers of the fleets, whose published statuses
//! become the statuses of the pools. Without a pool the environment configures a fleet.
//!
//! | part | what it does |
//! |---|---|
//! | `policy` | a spec and the environment -> the provider of a fleet and its policy (pure) |
//! | `fleets` | the pools and the environment -> the fleets, and what each pool is to them (pure) |
//! | `status` | a fleet's published status -> the status of a pool (pure) |
//! | here | the watch and the writes |

mod fleets;
mod policy;
mod status;

pub(crate) use fleets::WantedFleets;
pub(crate) use policy::FleetTarget;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use policy::target;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
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
use crate::queue::{FleetName, FleetStatus, Queue};
use crate::storage::urls::now_millis;
use fleets::{Assigned, Known};
use status::{Fleet, PoolRole, status, unreadable};

/// A WorkerPool that may fail to deserialize.
pub(crate) type Guarded = DeserializeGuard<WorkerPool>;

/// The field manager of statuses.
const STATUS_MANAGER: &str = "tcoder-status";
/// Time limit of a request to the API server or Redis.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Minimum time between two writes of statuses: while machines start and stop, the counts change every
/// second.
const WRITE_GAP: Duration = Duration::from_secs(2);
/// Interval in which the fleet statuses of another process are read.
const READ_GAP: Duration = Duration::from_secs(60);
/// Pause after a failed one.
const RETRY_GAP: Duration = Duration::from_secs(5);
/// Number of statuses of pools that are written at the same time.
const WRITES: usize = 8;
/// How long after the end of its lock a fleet is forgotten. An idle reconciler renews its lock every ten minutes.
const DEAD_AFTER: Duration = Duration::from_secs(3600);

/// The published statuses of fleets.
pub(crate) type Statuses = BTreeMap<FleetName, FleetStatus>;

/// What the reconciler of WorkerPools needs.
pub(crate) struct Pools {
    /// The client of the API server.
    pub client: Client,
    /// The pools that are watched.
    pub api: Api<Guarded>,
    /// Where the published fleet status of any process can be read.
    pub queue: Queue,
    /// The fleets to manage.
    pub wanted: watch::Sender<WantedFleets>,
    /// The statuses of the fleets that this process published last.
    pub told: watch::Receiver<Statuses>,
    /// The price of one machine, if it is known and the same for all fleets.
    pub price: watch::Sender<Option<MachinePrice>>,
    /// Why no machines on Fly can be managed, if so.
    pub no_fly: Option<String>,
    /// The namespace of the pools that are watched; none for all.
    pub namespace: Option<String>,
}

/// What was last written and said, so that neither is done again.
#[derive(Default)]
struct Told {
    /// The statuses by the uid of the pool. The store may lag behind this process's own writes.
    statuses: HashMap<String, WorkerPoolStatus>,
    /// The pools that cannot be read, by their uid.
    unreadable: BTreeMap<String, UnreadablePool>,
    /// Those whose status says so.
    refused: BTreeMap<String, UnreadablePool>,
    /// What becomes of the machines on Fly of a pool that is gone.
    note: Option<String>,
}

/// A pool, what it is to its fleet, and that fleet's status.
type JudgedPool = (WorkerPool, PoolRole, Option<FleetStatus>);

/// A pool that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnreadablePool {
    namespace: String,
    name: String,
    generation: Option<i64>,
    /// Why, and in which field.
    why: String,
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
        let mut said = Told::default();
        let mut elsewhere = Statuses::new();
        let (mut look, mut read) = (Instant::now() + READ_GAP, Instant::now());
        // Whether the pools are known, and what was published before; whether Redis is away, and how often in a row it could
        // not be read.
        let (mut listed, mut was_read, mut is_away, mut failures) = (false, false, false, 0_u32);
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
                () = sleep_until(read) => match stop.run_until_cancelled(self.read()).await {
                    Some(Some(fleets)) => {
                        (elsewhere, was_read, is_away, failures) = (fleets, true, false, 0);
                        (look, read) = (Instant::now(), Instant::now() + READ_GAP);
                    }
                    // What was published before decides which fleets there are; until it is known, there are only statuses.
                    Some(None) => {
                        failures = failures.saturating_add(1);
                        // A single lost answer is no outage.
                        if !is_away && (!was_read || failures > 1) {
                            tracing::warn!("the statuses of the fleets cannot be read from Redis; WorkerPools wait for that");
                            (look, is_away) = (Instant::now(), true);
                        }
                        read = Instant::now() + RETRY_GAP;
                    }
                    None => return,
                },
                () = sleep_until(look), if listed && (was_read || is_away) => {
                    let pools = self.reconcile(&store, &elsewhere, &mut said, was_read);
                    if stop.run_until_cancelled(self.write_all(&pools, &mut said, is_away)).await.is_none() {
                        return;
                    }
                    look = Instant::now() + READ_GAP;
                }
            }
        }
    }

    /// What the fleets of all processes published, if that can be read.
    async fn read(&self) -> Option<Statuses> {
        let fleets = match timeout(CALL_TIMEOUT, self.queue.fleets()).await {
            Ok(Ok(fleets)) => fleets,
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not read the statuses of the fleets; retrying");
                return None;
            }
            Err(_) => return None,
        };
        // Those that are managed here are alive, also if Redis or this machine was away for a while.
        let managed = self.wanted.borrow().clone();
        let mut others = fleets.clone();
        others.statuses.retain(|name, _| !managed.contains_key(name));
        others.unreadable.retain(|name, _| !managed.contains_key(name));
        let forget = self.queue.forget_dead_fleets(&others, DEAD_AFTER);
        if !matches!(timeout(CALL_TIMEOUT, forget).await, Ok(Ok(()))) {
            tracing::debug!("could not forget the fleets that nobody manages; that is done later");
        }
        // Also those that were just forgotten: they say whose the machines were.
        Some(fleets.statuses)
    }

    /// Decides which fleets there are, and has them managed if `manages`. Returns the pools that can be read.
    fn reconcile(
        &mut self,
        store: &Store<Guarded>,
        elsewhere: &Statuses,
        said: &mut Told,
        manages: bool,
    ) -> Vec<JudgedPool> {
        let mut pools = store.state();
        pools.sort_by_key(|pool| (pool.creation_timestamp(), pool.namespace(), pool.name_any()));
        let mut unreadable = BTreeMap::new();
        let readable: Vec<&WorkerPool> = pools
            .iter()
            .filter_map(|pool| match &pool.0 {
                Ok(readable) => Some(readable),
                Err(error) => {
                    let found = UnreadablePool {
                        namespace: pool.namespace().unwrap_or_default(),
                        name: pool.name_any(),
                        generation: pool.meta().generation,
                        why: error.to_string(),
                    };
                    let uid = pool.uid().unwrap_or_default();
                    if said.unreadable.get(&uid) != Some(&found) {
                        let UnreadablePool { namespace, name, why, .. } = &found;
                        tracing::warn!(namespace, name, why, "could not read a WorkerPool");
                    }
                    unreadable.insert(uid, found);
                    None
                }
            })
            .filter(|pool| pool.meta().deletion_timestamp.is_none())
            .collect();
        let here = self.told.borrow_and_update().clone();
        let on_fly = newer(&FleetName::default(), &here, elsewhere);
        let full_name = |pool: &UnreadablePool| format!("{}/{}", pool.namespace, pool.name);
        let known = Known {
            pools: &readable,
            unreadable: &unreadable.iter().map(|(uid, pool)| (uid.clone(), full_name(pool))).collect(),
            namespace: self.namespace.as_deref(),
            before: &self.wanted.borrow().clone(),
            no_fly: self.no_fly.as_deref(),
            last_fly_pool: on_fly.and_then(|status| status.pool.as_deref()),
            env: &Env::process(),
        };
        let Assigned { fleets: wanted, roles, note } = known.assign();
        said.unreadable = unreadable;
        if manages {
            if let Some(note) = note.as_ref().filter(|note| said.note.as_ref() != Some(note)) {
                tracing::warn!("{note}");
            }
            said.note = note;
            self.manage(wanted, &here, elsewhere);
        }
        let judged = readable.into_iter().zip(roles).map(|(pool, role)| {
            let fleet = newer(&fleets::name(pool), &here, elsewhere).cloned();
            (pool.clone(), role, fleet)
        });
        judged.collect()
    }

    /// Has these fleets managed.
    fn manage(&self, wanted: WantedFleets, here: &Statuses, elsewhere: &Statuses) {
        let fleets = wanted.iter().filter(|(_, fleet)| fleet.policy().max > 0);
        let prices = fleets.map(|(name, fleet)| price(fleet, newer(name, here, elsewhere)));
        let price = only(prices);
        self.price.send_if_modified(|old| std::mem::replace(old, price) != price);
        self.wanted.send_if_modified(|old| {
            let is_new = *old != wanted;
            *old = wanted;
            is_new
        });
    }

    async fn write_all(&self, pools: &[JudgedPool], said: &mut Told, is_away: bool) {
        let is_new = |(uid, pool): &(&String, &UnreadablePool)| said.refused.get(*uid) != Some(*pool);
        let refusals = stream::iter(said.unreadable.iter().filter(is_new));
        let refusals = refusals.map(|(uid, pool)| self.refuse(uid, pool)).buffer_unordered(WRITES);
        let refused: Vec<_> = refusals.filter_map(std::future::ready).collect().await;
        said.refused.retain(|uid, _| said.unreadable.contains_key(uid));
        said.refused.extend(refused);
        let written = &said.statuses;
        let writes = stream::iter(pools).map(|pool| self.write(pool, written, is_away));
        let writes = writes.buffer_unordered(WRITES);
        let new: Vec<_> = writes.filter_map(std::future::ready).collect().await;
        said.statuses.extend(new);
        said.statuses.retain(|uid, _| pools.iter().any(|(pool, ..)| pool.uid().as_ref() == Some(uid)));
    }

    /// Writes the status of a pool unless it is the same. Returns what was written, with the uid of the pool.
    async fn write(
        &self,
        (pool, role, fleet): &JudgedPool,
        written: &HashMap<String, WorkerPoolStatus>,
        is_away: bool,
    ) -> Option<(String, WorkerPoolStatus)> {
        let uid = pool.uid().unwrap_or_default();
        let before = written.get(&uid).cloned().or_else(|| pool.status.clone());
        let pool = WorkerPool { status: before, ..pool.clone() };
        let fleet = if is_away { Fleet::Unknown } else { Fleet::Published(fleet.as_ref()) };
        let new = status(&pool, role, fleet, now_millis());
        if pool.status.as_ref() == Some(&new) {
            return None;
        }
        let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
        self.apply(&namespace, &name, &uid, &new).await.then_some((uid, new))
    }

    /// Says in the status of a pool that it cannot be read. Returns the pool if that was written.
    async fn refuse(&self, uid: &str, pool: &UnreadablePool) -> Option<(String, UnreadablePool)> {
        let why =
            format!("it cannot be read ({}); correct it, by `kubectl explain workerpool.spec`", pool.why);
        let status = unreadable(&why, pool.generation, now_millis());
        self.apply(&pool.namespace, &pool.name, uid, &status).await.then(|| (uid.to_owned(), pool.clone()))
    }

    /// Writes the status of a pool. Returns whether it was written.
    async fn apply(&self, namespace: &str, name: &str, uid: &str, new: &WorkerPoolStatus) -> bool {
        let patch = json!({
            "apiVersion": WorkerPool::api_version(&()),
            "kind": WorkerPool::kind(&()),
            "metadata": {"name": name, "uid": uid},
            "status": new,
        });
        // The answer may be an object that cannot be read.
        let api: Api<Guarded> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply(STATUS_MANAGER).force();
        match timeout(CALL_TIMEOUT, api.patch_status(name, &params, &Patch::Apply(patch))).await {
            Ok(Ok(_)) => return true,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(error)) => {
                tracing::warn!(namespace, name, %error, "could not update a WorkerPool's status")
            }
            Err(_) => tracing::warn!(namespace, name, "a WorkerPool's status could not be written in time"),
        }
        false
    }
}

/// The status of a fleet. The later one counts: only the process that holds the fleet's lock publishes one.
fn newer<'a>(name: &FleetName, here: &'a Statuses, elsewhere: &'a Statuses) -> Option<&'a FleetStatus> {
    here.get(name).into_iter().chain(elsewhere.get(name)).max_by_key(|status| status.at)
}

/// The price of a machine of a fleet, if it is known.
fn price(fleet: &FleetTarget, status: Option<&FleetStatus>) -> Option<MachinePrice> {
    let policy = fleet.policy();
    let own = || policy.price.map(|price| price.dollars());
    let usd_per_hour = status.and_then(|status| status.machine_usd_per_hour).or_else(own)?;
    Some(MachinePrice { usd_per_hour, cpus: policy.sizes.base().cpus })
}

/// The price of all fleets, if it is the same. It is not known which fleet a job was done by.
fn only(mut prices: impl Iterator<Item = Option<MachinePrice>>) -> Option<MachinePrice> {
    let first = prices.next()??;
    prices.all(|price| price == Some(first)).then_some(first)
}
