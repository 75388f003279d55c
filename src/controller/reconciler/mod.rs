//! The reconciler of the fleet: observe, plan, take one step, observe again.
//!
//! One [`driver`] without I/O decides what comes next, and has three hosts. [`Reconciler`] runs for the lifetime of
//! a process: it is woken by whatever happens to a job and sleeps until the plan says that time changes something;
//! while nothing does, it costs one blocking read, and a look every ten minutes. [`OneShotReconciler`] runs when an
//! event or the clock invokes it, within a budget. The [`simulation`] runs it in virtual time. Several may run at
//! the same time, each in its own process: one acts at a time, under a lock in Redis whose epoch is checked before
//! each write.
//!
//! | part | what it does |
//! |---|---|
//! | `driver` | what to do next, from what was seen and what came of the steps before (pure) |
//! | `effect` | what the driver asks of its host, and what the host reports |
//! | `apply` | carries out the effects that are the same in Redis and at the provider for each host |
//! | `event_loop` | the host in a process |
//! | `one_shot` | the host of one invocation at the edge: as many steps as fit, with few round trips |
//! | `simulation` | the host in virtual time, for tests and figures; native only |
//! | `observe` | Redis's view -> what the plan is made from (pure) |
//! | `status` | the published status (pure) |
//! | [`admin`] | `/livez`, `/readyz`, `/metrics` of a process that runs nothing else |

#[cfg(not(target_arch = "wasm32"))]
pub mod admin;
mod apply;
mod driver;
mod effect;
#[cfg(not(target_arch = "wasm32"))]
mod event_loop;
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
pub use one_shot::{InvocationBudget, InvocationOutcome, OneShotReconciler};

/// How long a place in the line for requests to the provider is kept.
const PERMIT_BUDGET: Duration = Duration::from_secs(20);
/// How long workers that come up on a machine that is being stopped are refused.
const REFUSAL: Duration = Duration::from_secs(600);
/// Leases looked at where a machine is busy that should not be.
const LEASES: u32 = 100;

/// Variables that machines get as the reconciler has them.
const HANDED_ON: [&str; 12] = [
    "WORKER_TTL",
    "WORKER_MAX_JOBS",
    "WORKER_MAX_FAILURES",
    "WORKER_MAX_INPUT_BYTES",
    "WORKER_STALL_TIMEOUT",
    "RUST_LOG",
    "LOG_FORMAT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_BSP_SCHEDULE_DELAY",
];

/// What of this process's environment machines get too. Secrets are not among them: the provider
/// hands them out.
#[must_use]
pub fn forwarded_env(env: &Env<'_>) -> BTreeMap<String, String> {
    HANDED_ON.iter().filter_map(|name| Some(((*name).to_owned(), env.text(name)?))).collect()
}
