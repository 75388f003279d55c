//! Runs a reconciler for each fleet that the WorkerPools configure.

use std::collections::{BTreeMap, btree_map};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kube::Client;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fleet::MachineProvider;
use super::reconciler::{FleetTable, Reconciler, ReconcilerDeps};
use super::worker_pool::{FleetTarget, Statuses, WantedFleets};
use crate::event_bus::EventBus;
use crate::flyprovider::Fly;
use crate::metrics::Metrics;
use crate::podprovider::Pods;
use crate::queue::{FleetName, Queue, RequestRate};

/// The rate of requests about the pods of a pool. The API server protects itself; this limits how far a mistake can get.
const POD_RATE: RequestRate =
    RequestRate { interval: Duration::from_millis(100), age: Duration::from_secs(1) };
/// Time limit of a request to Redis.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// What the reconciler of the fleet needs in addition.
#[derive(Clone)]
pub struct FleetParts {
    /// The client of the Fly Machines API, or why there is none.
    pub fly: Result<Fly, String>,
    /// The rate of requests to Fly, shared by all processes.
    pub rate: RequestRate,
    /// Environment variables of the machines in addition to those that the fleet sets.
    pub environment: BTreeMap<String, String>,
}

/// What the reconcilers of all fleets have in common.
pub(super) struct FleetManager<'a> {
    pub client: &'a Client,
    pub queue: &'a Queue,
    pub event_bus: &'a EventBus,
    pub parts: &'a FleetParts,
    pub holder: &'a str,
    pub metrics: &'a Arc<Metrics>,
    /// Receives the published statuses.
    pub told: watch::Sender<Statuses>,
    pub table: FleetTable,
}

/// A fleet whose reconciler runs.
struct RunningFleet {
    /// What is wanted of it.
    wanted: watch::Sender<FleetTarget>,
    /// Ends the reconciler.
    over: CancellationToken,
}

impl FleetManager<'_> {
    /// Runs a reconciler for each wanted fleet until `term`.
    pub(super) async fn run(&self, mut wants: watch::Receiver<WantedFleets>, term: &CancellationToken) {
        let mut running: BTreeMap<FleetName, RunningFleet> = BTreeMap::new();
        let mut ends = FuturesUnordered::new();
        while !term.is_cancelled() {
            let wanted = wants.borrow_and_update().clone();
            for (_, fleet) in running.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
                fleet.over.cancel();
            }
            for (name, fleet) in wanted {
                match running.entry(name) {
                    btree_map::Entry::Occupied(running) => {
                        running.get().wanted.send_if_modified(|old| {
                            let is_new = *old != fleet;
                            *old = fleet;
                            is_new
                        });
                    }
                    btree_map::Entry::Vacant(place) => {
                        let over = term.child_token();
                        let (sender, wanted) = watch::channel(fleet);
                        let run = self.manage(place.key().clone(), wanted, over.clone(), term);
                        ends.push(run);
                        place.insert(RunningFleet { wanted: sender, over });
                    }
                }
            }
            tokio::select! {
                // If the watch of the pools has ended, the last configuration remains.
                Ok(()) = wants.changed() => {}
                // A fleet that is wanted again meanwhile is started anew.
                Some(name) = ends.next() => drop(running.remove(&name)),
                () = term.cancelled() => {}
            }
        }
        while ends.next().await.is_some() {}
    }

    /// Runs the reconciler of a fleet until `over`. A fleet that ends before the term is forgotten: its pool is gone.
    async fn manage(
        &self,
        name: FleetName,
        wanted: watch::Receiver<FleetTarget>,
        over: CancellationToken,
        term: &CancellationToken,
    ) -> FleetName {
        let first = wanted.borrow().clone();
        match (&first, &self.parts.fly) {
            (FleetTarget::Fly(_), Ok(fly)) => {
                self.reconcile(&name, fly.clone(), self.parts.rate, wanted, |_| (), &over).await;
            }
            (FleetTarget::Fly(_), Err(_)) => over.cancelled().await,
            (FleetTarget::Pods(pool, _), _) => {
                let (pools, pool) = watch::channel(pool.clone());
                let pods = Pods::new(self.client.clone(), pool);
                let follow = |target: &FleetTarget| {
                    if let FleetTarget::Pods(pool, _) = target {
                        pools.send_replace(pool.clone());
                    }
                };
                self.reconcile(&name, pods, POD_RATE, wanted, follow, &over).await;
            }
        }
        self.told.send_modify(|statuses| drop(statuses.remove(&name)));
        if !term.is_cancelled() && name != FleetName::default() {
            match timeout(CALL_TIMEOUT, self.queue.forget_fleet(&name)).await {
                Ok(Ok(())) => tracing::info!(fleet = %name, "the WorkerPool of a fleet is gone"),
                _ => tracing::debug!(fleet = %name, "could not forget a fleet; that is done later"),
            }
        }
        name
    }

    /// Runs a reconciler of this provider's machines until `over`. `follow` takes note of each change of the target before
    /// the reconciler does.
    async fn reconcile<P: MachineProvider>(
        &self,
        name: &FleetName,
        provider: P,
        rate: RequestRate,
        mut wanted: watch::Receiver<FleetTarget>,
        follow: impl Fn(&FleetTarget),
        over: &CancellationToken,
    ) {
        let first = wanted.borrow_and_update().clone();
        let (policies, policy) = watch::channel(first.policy().clone());
        let (status, mut statuses) = watch::channel(None);
        let parts = ReconcilerDeps {
            queue: self.queue.of_fleet(name.clone()),
            provider,
            rate,
            policy,
            status,
            environment: self.parts.environment.clone(),
            holder: self.holder.to_owned(),
            metrics: Arc::clone(self.metrics),
        };
        let membership = self.table.join(name.clone(), first.policy());
        let reconciler = Reconciler::new(parts).listening_to(self.event_bus).among(membership);
        let mut run = std::pin::pin!(reconciler.run(over.clone()));
        loop {
            tokio::select! {
                () = &mut run => return,
                Ok(()) = wanted.changed() => {
                    let wanted = wanted.borrow_and_update();
                    follow(&wanted);
                    policies.send_replace(wanted.policy().clone());
                }
                Ok(()) = statuses.changed() => {
                    if let Some(status) = statuses.borrow_and_update().clone() {
                        self.told.send_modify(|statuses| drop(statuses.insert(name.clone(), status)));
                    }
                }
            }
        }
    }
}
