//! tcoder as a Cloudflare Worker: the control plane for those without a cluster.
//!
//! | part | what it does |
//! |---|---|
//! | `settings` | variables and secrets -> typed values; names all that is missing (pure) |
//! | here | what an invocation has: queue, buckets, API, fleet |
//! | `fetch` | serves the API |
//! | `queue` | takes in R2's object-created messages, and lets a machine come |
//! | `scheduled` | once a minute what has to happen without anybody asking |
//! | `log` | log lines, as JSON on the console |
//!
//! What does not live here: what the API answers (`api`), what an event does (`api::ingest`), what the
//! errands are (`housekeeping`), what the fleet's next step is (`controller`). The entry points that the
//! platform calls are in the package `edge/`.
//!
//! An invocation begins with nothing: isolates come and go. It may make so many subrequests, 50 on the
//! free plan (<https://developers.cloudflare.com/workers/platform/limits/>), so all that it does is bounded by
//! what is left of them.

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
pub use settings::{Fleet, Settings};
