//! tcoder as a Cloudflare Worker: the control plane for those without a cluster.
//!
//! | part | what it does |
//! |---|---|
//! | `settings` | variables and secrets -> typed values; names all that is missing (pure) |
//! | here | what an invocation has: queue, buckets, API, fleet |
//! | `fetch` | serves the API |
//! | `consume` | takes in R2's object-created messages, and lets a machine come |
//! | `cron` | once a minute what has to happen without anybody asking |
//! | `log` | log lines, as JSON on the console |
//!
//! What does not live here: what the API answers (`api`), what an event does (`api::ingest`), what the
//! errands are (`housekeeping`), what the fleet's next step is (`controller`). The entry points that the
//! platform calls are in the package `edge/`.
//!
//! An invocation begins with nothing: isolates come and go. It may make so many subrequests, 50 on the
//! free plan (<https://developers.cloudflare.com/workers/platform/limits/>), so all that it does is bounded by
//! what is left of them.

#[cfg(target_arch = "wasm32")]
mod consume;
#[cfg(target_arch = "wasm32")]
mod cron;
#[cfg(target_arch = "wasm32")]
mod fetch;
#[cfg(target_arch = "wasm32")]
mod log;
#[cfg(any(test, target_arch = "wasm32"))]
mod pace;
pub(crate) mod settings;
#[cfg(target_arch = "wasm32")]
mod works;

#[cfg(target_arch = "wasm32")]
pub use consume::consume;
#[cfg(target_arch = "wasm32")]
pub use cron::cron;
#[cfg(target_arch = "wasm32")]
pub use fetch::fetch;
#[cfg(target_arch = "wasm32")]
pub use log::start;
pub use settings::{Fleet, Settings};
