//! The reconciler of the fleet: observe, plan, perform one operation, observe again.
//!
//! One [`driver`] without I/O decides the next effect. It has three hosts. [`Reconciler`] runs for the lifetime of a
//! process: events of jobs wake it, and otherwise it sleeps until the plan requires another round; while idle it
//! costs one blocking read, and one observation every ten minutes. [`OneShotReconciler`] runs within a budget when an
//! event or a timer invokes it. The [`simulation`] runs the driver in virtual time. Several reconcilers may run at
//! the same time, each in its own process: one acts at a time, under a lock in Redis whose epoch is checked before
//! each write.
//!
//! | module | contents |
//! |---|---|
//! | `driver` | decides the next effect from the observations and the outcomes of earlier effects (pure) |
//! | `effect` | the effects that the driver requests from its host, and their outcomes |
//! | `apply` | performs the effects on Redis and the provider that are the same for all hosts |
//! | `event_loop` | the host in a process |
//! | `fleet_table` | the fleets of a process that take from the same queue |
//! | `one_shot` | the host in one invocation at the edge: as many operations as its budget allows |
//! | `simulation` | the host in virtual time, for tests and figures; native only |
//! | `observe` | derives the plan's input from Redis's view (pure) |
//! | `status` | derives the published status (pure) |
//! | [`admin`] | `/livez`, `/readyz`, `/metrics` of a process without an API |

#[cfg(not(target_arch = "wasm32"))]
pub mod admin;
mod apply;
mod driver;
mod effect;
#[cfg(not(target_arch = "wasm32"))]
mod event_loop;
#[cfg(not(target_arch = "wasm32"))]
mod fleet_table;
mod observe;
mod one_shot;
#[cfg(not(target_arch = "wasm32"))]
pub mod simulation;
mod status;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Env;

#[cfg(not(target_arch = "wasm32"))]
pub use event_loop::{Reconciler, ReconcilerDeps};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use fleet_table::FleetTable;
pub use one_shot::{InvocationBudget, InvocationOutcome, OneShotReconciler};

/// Maximum time that a caller waits for a permit to send a request to the provider.
const PERMIT_BUDGET: Duration = Duration::from_secs(20);
/// How long workers that register on a machine that is being stopped are refused.
const REFUSAL: Duration = Duration::from_secs(600);
/// Maximum number of leases to check if a machine is unexpectedly busy.
const LEASES: u32 = 100;

/// Environment variables of the reconciler that machines get with the same values.
const HANDED_ON: [&str; 17] = [
    "WORKER_TTL",
    "WORKER_MAX_JOBS",
    "WORKER_MAX_FAILURES",
    "WORKER_CHUNKS",
    "WORKER_MAX_INPUT_BYTES",
    "WORKER_MAX_INPUT_SECONDS",
    "WORKER_MAX_INPUT_PIXELS",
    "WORKER_MAX_INPUT_STREAMS",
    "WORKER_STALL_TIMEOUT",
    "WORKER_SANDBOX",
    "RUST_LOG",
    "LOG_FORMAT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_BSP_SCHEDULE_DELAY",
];

/// The variables of this process's environment that machines get, too. Secrets are not among them: the provider
/// supplies them.
#[must_use]
pub fn forwarded_env(env: &Env<'_>) -> BTreeMap<String, String> {
    HANDED_ON.iter().filter_map(|name| Some(((*name).to_owned(), env.text(name)?))).collect()
}
