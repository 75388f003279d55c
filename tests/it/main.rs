//! What a user would say of tcoder, one file a capability, on the real parts: redis-server, FFmpeg,
//! an S3 server, the binary itself. One test binary, so that it links once and shares its servers.
// Helpers of tests stand outside of test functions, where clippy.toml's leave does not reach.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod a_job_id_comes_again;
mod a_killed_worker_costs_no_job;
mod a_video_becomes_renditions;
mod acceptance;
mod bad_input;
mod disk_space;
mod fly_api;
mod fly_contract;
mod fly_limit;
mod foreign_storage;
mod hls_playlists;
mod media;
mod media_process;
mod media_refused;
mod media_stills;
mod private_bucket;
mod prometheus;
mod queue;
mod secrets_stay_secret;
mod silent_workers;
mod stopping_and_starting;
mod storage;
mod support;
mod the_api;
mod the_api_clients;
mod the_command_line;
mod the_contract;
mod the_documents;
mod the_edge;
mod the_fleet;
mod the_fleet_from_outside;
mod the_manifests;
mod the_metrics;
mod the_operator;
mod the_original_client;
mod the_page;
mod the_s3_server;
mod the_traces;
mod the_upstash_client;
mod webhooks;
