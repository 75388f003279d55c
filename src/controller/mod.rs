//! Controllers: they bring the fleet and the custom resources from the observed to the desired state.
//!
//! The requests to the provider of machines are in `flyprovider`, those to Redis in `queue`, and the schemas
//! of the custom resources in `crd`.
//!
//! | part | what it does |
//! |---|---|
//! | `fleet` | how many machines there should be, and the next operations (pure; knows no provider) |
//! | `reconciler` | carries the operations out, in an event loop or as a one-shot reconciler |
//! | `fleet_manager` | runs a reconciler for each fleet that the WorkerPools configure |
//! | `operator` | everything that a controller does in a cluster while it is the leader |
//! | `leader_election` | elects the leader with a Lease |
//! | `other_installs` | whether another installation in the cluster acts instead |
//! | `transcode_job` | reconciles TranscodeJobs: submits their jobs and writes their statuses |
//! | `kueue` | lets the queues of Kueue admit TranscodeJobs |
//! | `worker_pool` | reconciles WorkerPools: configures the fleets and writes their statuses |
//! | `mirror` | mirrors other jobs as TranscodeJobs |
//! | `secrets` | reads Secrets |
//! | `webhook_keys` | the Secret that signs the webhook of a TranscodeJob |
//! | `conditions` | conditions according to the API conventions (pure) |

#[cfg(not(target_arch = "wasm32"))]
mod conditions;
pub mod fleet;
#[cfg(not(target_arch = "wasm32"))]
pub mod fleet_manager;
#[cfg(all(any(test, feature = "fuzzing"), not(target_arch = "wasm32")))]
pub(crate) mod fuzz;
#[cfg(not(target_arch = "wasm32"))]
mod kueue;
#[cfg(not(target_arch = "wasm32"))]
mod leader_election;
#[cfg(not(target_arch = "wasm32"))]
mod mirror;
#[cfg(not(target_arch = "wasm32"))]
pub mod operator;
#[cfg(not(target_arch = "wasm32"))]
mod other_installs;
pub mod reconciler;
#[cfg(not(target_arch = "wasm32"))]
mod secrets;
#[cfg(not(target_arch = "wasm32"))]
mod transcode_job;
#[cfg(not(target_arch = "wasm32"))]
mod webhook_keys;
#[cfg(not(target_arch = "wasm32"))]
mod worker_pool;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use transcode_job::new_failure;
