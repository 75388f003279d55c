//! tcoder: an upload becomes a job, a worker encodes it once into every rendition, a webhook tells.
//!
//! The rooms, from the ground up. Imports run downhill only: a room knows the ones above it in this
//! list and none below.
//!
//! | room | what lives there |
//! |---|---|
//! | [`job`] | the domain: ids, presets, qualities, the state machine, results. Pure |
//! | [`config`] | the environment, read once into typed values |
//! | [`time`] | time limits and pauses, in a process and at the edge |
//! | [`net`] | outgoing HTTP that refuses private addresses |
//! | [`trace`] | one OpenTelemetry trace over API, queue and worker |
//! | [`http_server`] | incoming HTTP within limits |
//! | [`child`] | child processes that end with their parent |
//! | [`queue`] | jobs and workers in Redis: Lua scripts and typed calls |
//! | [`metrics`] | what is counted and measured, as Prometheus or OpenMetrics text |
//! | [`storage`] | objects in R2/S3: presigning, transfer, object-created events |
//! | [`controller::fleet`] | how many machines there should be, and the next steps; what a provider of machines is. Pure |
//! | [`flyprovider`] | Fly Machines, a provider of machines: client, sizes, prices, emulator |
//! | [`crd`] | the custom resources TranscodeJob and WorkerPool, and their schemas |
//! | [`webhook`] | signing, and the outbox |
//! | [`event_bus`] | one reader of the stream of changes for the whole process |
//! | [`janitor`] | what has to happen without anybody asking: leases, uploads, webhooks that are owed |
//! | [`controller`] | the reconciler, which carries the fleet's steps out; the operator: TranscodeJobs and WorkerPools |
//! | [`transcoder`] | probe, plan, run, verify, upload; the worker's loop |
//! | [`api`] | the HTTP API |
//! | [`standalone`] | all of it on one machine: redis-server, an S3 server over a folder, api, the fleet on an emulator |
//! | [`edge`] | the API, an event consumer and a clock as a Cloudflare Worker |
//! | [`cli`] | the command line's talk: tables, progress bars, exit codes |
//!
//! One way of doing each thing: storage is always S3 over HTTP, the queue is always Redis, a machine is
//! always asked for over its provider's API, a worker is always the process `tcoder worker`; on a laptop
//! too.
//!
//! At the edge, compiled to wasm32, are [`job`], [`config`], [`net`], [`time`], [`queue`] over REST,
//! [`metrics`], addresses and events of [`storage`] with looks into the buckets, the client in [`flyprovider`], [`webhook`], [`janitor`] and the fleet by the visit, the plan and the visits of
//! [`controller`], [`api`], and [`edge`]. The rest is native.

pub mod api;
#[cfg(not(target_arch = "wasm32"))]
pub mod child;
#[cfg(not(target_arch = "wasm32"))]
pub mod cli;
pub mod config;
pub mod controller;
#[cfg(not(target_arch = "wasm32"))]
pub mod crd;
pub mod edge;
#[cfg(not(target_arch = "wasm32"))]
pub mod event_bus;
pub mod flyprovider;
#[cfg(not(target_arch = "wasm32"))]
pub mod http_server;
pub mod janitor;
pub mod job;
pub mod metrics;
pub mod net;
pub mod queue;
#[cfg(not(target_arch = "wasm32"))]
pub mod standalone;
pub mod storage;
pub mod time;
pub mod trace;
#[cfg(not(target_arch = "wasm32"))]
pub mod transcoder;
pub mod webhook;
