//! tcoder turns uploaded videos into jobs, transcodes each job once into all of its renditions on FFmpeg workers, and
//! reports the result by a webhook.
//!
//! The modules, from the bottom up. A module imports only from modules above it in this list.
//!
//! | module | what lives there |
//! |---|---|
//! | [`job`] | domain types: ids, presets, qualities, the state machine, results. Pure |
//! | [`config`] | settings: the environment, parsed once into typed values |
//! | `time` | timeouts and pauses, in a process and on Cloudflare Workers |
//! | `hex` | bytes as hexadecimal digits |
//! | `keyed_semaphore` | limits for each client, receiver or job |
//! | [`net`] | outgoing HTTP that refuses private addresses |
//! | `trace` | one OpenTelemetry trace across API, queue and worker |
//! | `http_server` | incoming HTTP within limits |
//! | [`child`] | child processes that end with their parent |
//! | [`sandbox`] | a sandbox for programs that open files of strangers |
//! | [`queue`] | jobs, workers and the fleet's lock in Redis: Lua scripts and typed calls |
//! | [`metrics`] | metrics in Prometheus's text format and OpenMetrics |
//! | [`storage`] | objects in R2 and S3: layout, presigning, transfer, reading by ranges, object-created events |
//! | [`manifest`] | the object that decides about a job's result |
//! | [`controller::fleet`] | the desired number of machines and the next operations; the trait of a machine provider. Pure |
//! | [`flyprovider`] | Fly Machines as a machine provider: client, sizes, prices, emulator |
//! | [`crd`] | the custom resources TranscodeJob and WorkerPool, and their schemas |
//! | [`podprovider`] | pods of a Kubernetes cluster as a machine provider |
//! | `webhook` | signing and delivery |
//! | `event_bus` | one reader of the event stream for the whole process |
//! | [`janitor`] | maintenance: expired leases, lost uploads, pending webhooks, old records |
//! | [`controller`] | the reconcilers, which apply the fleet's plan; the operator of TranscodeJobs and WorkerPools |
//! | [`transcoder`] | probe, plan, run FFmpeg, verify; the worker's claim loop |
//! | [`api`] | the HTTP API |
//! | [`standalone`] | `tcoder up`: redis-server, an S3 server, the API and the fleet on one machine |
//! | [`edge`] | the Cloudflare Worker's handlers |
//! | [`cli`] | the command line |
//! | `fuzz` | the parsers of what others send, for tests and fuzzers only |
//!
//! There is one way to do each thing: storage is always S3 over HTTP, the queue is always Redis, machines are
//! always managed through the provider's HTTP API, and a worker is always the process `tcoder worker`, even
//! on a laptop.
//!
//! The following modules also compile to wasm32 and run on Cloudflare Workers: [`job`], [`config`], [`net`], `time`,
//! `keyed_semaphore`,
//! [`metrics`], `webhook`, [`janitor`], [`api`], [`edge`]; [`queue`] over REST; signing, events and bindings of
//! [`storage`]; the client of [`flyprovider`]; and, from [`controller`], the fleet's plan and the one-shot reconciler.
//! Everything else is native only.

// Of the library only: in a program or a test every public item is unreachable.
#![warn(unreachable_pub)]

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
mod event_bus;
pub mod flyprovider;
#[cfg(all(any(test, feature = "fuzzing"), not(target_arch = "wasm32")))]
#[doc(hidden)]
pub mod fuzz;
mod hex;
#[cfg(not(target_arch = "wasm32"))]
mod http_server;
#[cfg(test)]
mod import_order;
pub mod janitor;
pub mod job;
mod keyed_semaphore;
pub mod manifest;
pub mod metrics;
pub mod net;
#[cfg(not(target_arch = "wasm32"))]
pub mod podprovider;
pub mod queue;
#[cfg(not(target_arch = "wasm32"))]
pub mod sandbox;
#[cfg(not(target_arch = "wasm32"))]
pub mod standalone;
pub mod storage;
mod time;
mod trace;
#[cfg(not(target_arch = "wasm32"))]
pub mod transcoder;
mod webhook;
