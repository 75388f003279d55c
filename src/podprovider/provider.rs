//! The requests to the API server, and the messages for people.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

use super::POOL_UID_LABEL;
use super::error::{Kind, from_kube, timed_out};
use super::pod::{pod, pod_of};
use super::pool::PodPool;
use super::status::machine;
use crate::controller::fleet::{
    Capabilities, Machine, MachineId, MachineOrder, MachineProvider, MachineSize, MicroDollars,
    ProviderError, ProviderFailure, ProviderWords,
};
use crate::crd::WorkerPool;

/// Time limit of a request to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Number of pods in one page of a list.
const PAGE: u32 = 500;
/// Maximum number of pages: a pool has at most 10,000 machines, and as many pods may be about to be deleted.
const MAX_PAGES: u32 = 40;

const WORDS: ProviderWords = ProviderWords {
    name: "Kubernetes",
    list_refused: "the API server does not permit the controller to list pods in the namespace of the WorkerPool; bind \
                   the ClusterRole tcoder-controller-pods there (manifests/base/rbac.yaml)",
    writes_refused: "the API server does not permit the controller to create or delete pods in the namespace of the \
                     WorkerPool; bind the ClusterRole tcoder-controller-pods there (manifests/base/rbac.yaml)",
    no_such_app: "the namespace of the WorkerPool does not exist",
    billing: "the API server asks for a payment",
    quota: "a ResourceQuota of the namespace refuses another pod; raise it, lower spec.max, or set the limits that it asks for in \
            spec.provider.pods.resources",
    no_capacity: "no node has room for another pod; add nodes, or lower spec.provider.pods.resources.requests or \
                  spec.max; a LimitRange of the namespace may limit the resources, too",
    launches_failing: "check spec.image, the settings of Redis and storage in spec.provider.pods.template, and what the \
                       namespace admits",
    workers_not_registering: "compare the line \"connected to Redis\" in `kubectl logs` of a pod with the label \
                              tcoder.dev/worker-pool with the controller's, and set REDIS_URL and REDIS_KEY_PREFIX to \
                              the same by envFrom in spec.provider.pods.template; if that line is missing, the worker \
                              never reached Redis, and its log says why",
    workers_without_classes: "set a newer image in spec.image, or in spec.provider.pods.template",
};

/// The pods of one pool.
#[derive(Clone)]
pub struct Pods {
    api: Api<Pod>,
    pool: watch::Receiver<PodPool>,
}

impl Pods {
    /// The pods of the pool, which may change its template but not its identity.
    #[must_use]
    pub fn new(client: Client, pool: watch::Receiver<PodPool>) -> Self {
        let api = Api::namespaced(client, &pool.borrow().namespace);
        Self { api, pool }
    }

    /// Whether the pod of this name is none of the pool, and stays.
    async fn belongs_to_others(&self, name: &str) -> Result<bool, ProviderError> {
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = call(Kind::Read, self.api.list(&named)).await?;
        let pool = self.pool.borrow();
        let is_foreign = |pod: &Pod| {
            pod.metadata.deletion_timestamp.is_none()
                && pod.labels().get(POOL_UID_LABEL) != Some(&pool.uid)
                && !is_left_over(pod, &pool)
        };
        Ok(found.items.iter().any(is_foreign))
    }
}

/// Whether the pod belongs to a pool that had the name of this one before. It is removed by the garbage collector.
fn is_left_over(pod: &Pod, pool: &PodPool) -> bool {
    let (kind, version) = (WorkerPool::kind(&()), WorkerPool::api_version(&()));
    pod.owner_references().iter().any(|owner| {
        owner.controller == Some(true)
            && (owner.kind.as_str(), owner.api_version.as_str()) == (&*kind, &*version)
            && owner.name == pool.name
            && owner.uid != pool.uid
    })
}

async fn call<T>(
    kind: Kind,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ProviderError> {
    match timeout(CALL_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(from_kube(&error, kind)),
        Err(_) => Err(timed_out(kind)),
    }
}

fn impossible(message: &str) -> ProviderError {
    ProviderError { failure: ProviderFailure::Rejected, message: message.to_owned() }
}

impl MachineProvider for Pods {
    fn words() -> &'static ProviderWords {
        &WORDS
    }

    fn price_per_hour(_: MachineSize) -> Option<MicroDollars> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { can_stop_and_start: false }
    }

    async fn list(&self) -> Result<Vec<Machine>, ProviderError> {
        let selector = format!("{POOL_UID_LABEL}={}", self.pool.borrow().uid);
        let mut params = ListParams::default().labels(&selector).limit(PAGE);
        let mut machines = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = call(Kind::Read, self.api.list(&params)).await?;
            machines.extend(page.items.iter().map(machine));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(machines),
            }
        }
        Err(impossible("the namespace has more pods of this pool than a pool can have"))
    }

    async fn create(&self, order: &MachineOrder<'_>) -> Result<Machine, ProviderError> {
        let pod = pod(&self.pool.borrow(), order);
        let params = PostParams::default();
        let made = call(Kind::Create, self.api.create(&params, &pod)).await;
        match made {
            Err(ProviderError { failure: ProviderFailure::NameTaken(_), .. })
                if self.belongs_to_others(order.name).await? =>
            {
                Err(impossible(&format!(
                    "the pod {} does not belong to this WorkerPool; delete it",
                    order.name
                )))
            }
            made => made.map(|pod| machine(&pod)),
        }
    }

    async fn start(&self, _: &MachineId) -> Result<(), ProviderError> {
        Err(impossible("a pod cannot be started again"))
    }

    async fn stop(&self, _: &MachineId) -> Result<(), ProviderError> {
        Err(impossible("a pod cannot be stopped, only deleted"))
    }

    /// With `force` the pod is removed at once: its node may be lost, and then nobody confirms that it has ended.
    async fn destroy(&self, machine: &MachineId, force: bool) -> Result<(), ProviderError> {
        let Some((name, uid)) = pod_of(machine) else {
            return Err(ProviderError {
                failure: ProviderFailure::NotFound,
                message: format!("{machine} is no pod"),
            });
        };
        let params = DeleteParams {
            grace_period_seconds: force.then_some(0),
            // A pod of the same slot may have taken its place.
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        call(Kind::Delete, self.api.delete(name, &params)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fleet::{Condition, ListFailure};

    #[test]
    fn condition_messages_name_the_field_to_change() {
        let said = Some("0/3 nodes are available".to_owned());
        for (condition, words) in [
            (Condition::ListUnknown(ListFailure::Unauthorized), "tcoder-controller-pods"),
            (Condition::Unauthorized, "tcoder-controller-pods"),
            (Condition::LaunchesFailing { failures: 3, said: None }, "spec.image"),
            (Condition::WorkersNotRegistering { failures: 3 }, "envFrom in spec.provider.pods.template"),
            (Condition::NoCapacity { said: said.clone() }, "spec.provider.pods.resources.requests"),
            (Condition::NoCapacity { said }, "(0/3 nodes are available)"),
            (Condition::Quota { said: None }, "spec.max"),
            (Condition::Paused { has_pool: true }, "spec.paused"),
            (Condition::Budget { affordable: 2, has_pool: true }, "spec.budgetUsdPerHour"),
        ] {
            let message = condition.message(Pods::words());
            assert!(message.contains(words), "{message}");
        }
    }
}
