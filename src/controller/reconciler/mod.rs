//! The shell around the fleet's plan: observe, plan, take one step, observe again.
//!
//! One that stays ([`Reconciler`]) is woken by whatever happens to a job and sleeps until the plan says that
//! time changes something. While nothing does it costs one blocking read, and a look every ten minutes. One
//! that comes and goes ([`OneShotReconciler`]) is called by whoever knows that something happened. Several may run,
//! each in its own process: one acts at a time, under a lock in Redis whose epoch is looked at before each
//! write.
//!
//! | part | what it does |
//! |---|---|
//! | `event_loop` | the loop: when to look, who acts, waking |
//! | `one_shot` | as many steps as there is room for, with few round trips |
//! | `apply` | what a step needs beside its request to the provider |
//! | `observe` | Redis's view -> what the plan is made from (pure) |
//! | `status` | what is said of the fleet (pure) |
//! | [`admin`] | `/livez`, `/readyz`, `/metrics` of a process that runs nothing else |

#[cfg(not(target_arch = "wasm32"))]
pub mod admin;
mod apply;
#[cfg(not(target_arch = "wasm32"))]
mod event_loop;
mod observe;
mod one_shot;
mod status;

use std::collections::BTreeMap;

use crate::config::Env;

#[cfg(not(target_arch = "wasm32"))]
pub use event_loop::{Reconciler, ReconcilerDeps};
pub use one_shot::{InvocationBudget, InvocationOutcome, OneShotReconciler};

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
