//! tcoder as a Cloudflare Worker: the control plane for installations without a cluster.
//!
//! | part | what it does |
//! |---|---|
//! | `settings` | variables and secrets -> typed values; names all that are missing (pure) |
//! | `context` | what an invocation needs: queue, buckets, API, reconciler |
//! | `budget` | how an invocation's subrequests are divided (pure) |
//! | `fetch` | the `fetch` handler: serves the API |
//! | `queue` | the `queue` handler: processes R2's object-created messages, and starts machines for them |
//! | `scheduled` | the `scheduled` handler: once a minute it runs the janitor and the reconciler |
//! | `log` | log lines, as JSON on the console |
//!
//! The API is in `api`, the processing of an event in `api::ingest`, the maintenance tasks in `janitor`, and
//! the plan of the fleet in `controller`. The entry points that the platform calls are in the package
//! `edge/`.
//!
//! An invocation starts without state, because isolates are short-lived. The number of its subrequests is
//! limited, to 50 on the free plan (<https://developers.cloudflare.com/workers/platform/limits/>), so all its
//! work is bounded by the remaining ones.

#[cfg(any(test, target_arch = "wasm32"))]
mod budget;
#[cfg(target_arch = "wasm32")]
mod context;
#[cfg(target_arch = "wasm32")]
mod fetch;
#[cfg(target_arch = "wasm32")]
mod log;
#[cfg(target_arch = "wasm32")]
mod queue;
#[cfg(target_arch = "wasm32")]
mod scheduled;
pub(crate) mod settings;

#[cfg(target_arch = "wasm32")]
pub use fetch::fetch;
#[cfg(target_arch = "wasm32")]
pub use log::start;
#[cfg(target_arch = "wasm32")]
pub use queue::queue;
#[cfg(target_arch = "wasm32")]
pub use scheduled::scheduled;
pub use settings::{FleetSettings, Settings};
