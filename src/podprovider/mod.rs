//! Pods of a Kubernetes cluster as a provider of machines: each machine is one pod that runs one worker.
//!
//! Pods are created and deleted, never stopped and started: a pod whose worker has exited is deleted. The name of a pod
//! is that of its slot, so that the API server itself prevents two pods for one slot. The id of a machine is the name of
//! its pod and its uid, because pods of one slot follow each other.
//!
//! | part | what it does |
//! |---|---|
//! | `template` | the settings of a pool -> the template of its pods (pure) |
//! | `pool` | the WorkerPool that pods belong to (pure) |
//! | `pod` | a template and an order -> a pod (pure) |
//! | `status` | a pod of the API server's list -> a machine (pure) |
//! | `quantity` | the numbers of `resources` (pure) |
//! | `policy` | the settings of a pool -> the policy of its fleet |
//! | `error` | the answers of the API server -> the failures that the plan knows (pure) |
//! | `provider` | the requests |
//!
//! What does not live here: how many pods there should be (`controller::fleet`), and which pool is active
//! (`controller::worker_pool`).

mod error;
mod pod;
pub mod policy;
mod pool;
mod provider;
mod quantity;
mod status;
mod template;

pub use pool::PodPool;
pub use provider::Pods;
pub use status::machine;
pub use template::{PodTemplate, TemplateError};

/// The container that runs the worker.
pub const WORKER_CONTAINER: &str = "worker";
/// Label of a pod: the uid of its WorkerPool. Lists select by it.
pub const POOL_UID_LABEL: &str = "tcoder.dev/worker-pool-uid";
/// Label of a pod: the name of its WorkerPool, if a label can have it.
pub const POOL_LABEL: &str = "tcoder.dev/worker-pool";
/// Annotation of a pod: its launch and size, as JSON. Admission may change everything else in a pod.
const LAUNCH_ANNOTATION: &str = "tcoder.dev/launch";
