//! Controllers: what is wished for against what there is.
//!
//! What does not live here: how a provider of machines (`flyprovider`) or Redis (`queue`) is spoken to, and what the custom
//! resources look like (`crd`).
//!
//! | part | what it does |
//! |---|---|
//! | `fleet` | how many machines there should be, and the next steps (pure). Providers stand between it and the rest |
//! | `reconciler` | carries them out, in a loop or by the visit |
//! | `operator` | all that a controller does in a cluster, while it is its turn |
//! | `leader_election` | whose turn it is: a Lease |
//! | `transcode_job` | TranscodeJobs become jobs, and show how far these are |
//! | `worker_pool` | WorkerPools say what is wanted of the fleet, and show what there is |
//! | `mirror` | jobs from elsewhere, shown as TranscodeJobs |
//! | `secrets` | the keys that sign webhooks |
//! | `conditions` | conditions by the API conventions (pure) |

#[cfg(not(target_arch = "wasm32"))]
mod conditions;
pub mod fleet;
#[cfg(not(target_arch = "wasm32"))]
mod leader_election;
#[cfg(not(target_arch = "wasm32"))]
mod mirror;
#[cfg(not(target_arch = "wasm32"))]
pub mod operator;
pub mod reconciler;
#[cfg(not(target_arch = "wasm32"))]
mod secrets;
#[cfg(not(target_arch = "wasm32"))]
mod transcode_job;
#[cfg(not(target_arch = "wasm32"))]
mod worker_pool;
