//! Tests of tcoder's capabilities with the real components: redis-server, FFmpeg, an S3 server, the binary
//! itself. There is one file per capability, and one test binary, which links once and shares its servers.
// Helpers are outside of test functions, where the exception in clippy.toml does not apply.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod acceptance;
mod api;
mod api_clients;
mod chaos;
mod cleanup;
mod cli;
mod copied;
mod disk_space;
mod documents;
mod edge;
mod fleet;
mod fleet_cli;
mod fly_api;
mod fly_contract;
mod foreign_storage;
mod hls_playlists;
mod hosted_redis;
mod job_id_reuse;
mod manifests;
mod media;
mod media_process;
mod media_refused;
mod media_stills;
mod metrics;
mod mutations;
mod openapi_contract;
mod operator;
mod page;
mod pipeline;
mod private_bucket;
mod prometheus;
mod queue;
mod range_reading;
mod rate_limit;
mod s3_server;
mod sandbox;
mod secrets;
mod shutdown;
mod split_exact;
mod split_files;
mod split_jobs;
mod storage;
mod support;
mod the_original_client;
mod traces;
mod unregistered_workers;
mod unusable_input;
mod upstash_client;
mod webhooks;
mod worker_crash;
mod worker_death;
mod worker_lease;
mod worker_outage;
