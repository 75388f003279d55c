//! All settings: name, default, roles, documentation and parser, in one row each. `--help` and
//! `docs/configuration.md` (`make docs`) are generated from these rows (`document`), and the roles read their
//! values through them.
//!
//! The names are the same in all roles. The values are used in the other modules here and, for the fleet, in
//! `controller::fleet`.
#![allow(missing_docs, reason = "the text of a setting is its documentation")]

mod document;
mod parse;

use std::time::Duration;

use axum::http::HeaderName;
use secrecy::SecretString;
use url::Url;

use super::setting::DefaultValue::{Derived, Required, Unset, Value};
use super::setting::Role::{self, Api, CommandLine, Controller, Edge, Operator, Up, Worker};
use super::setting::{self, Description, Setting};
use super::{BaseUrl, Certificates, SandboxMode};
use crate::job::{Priority, WorkerClass, WorkerClasses};

#[cfg(not(target_arch = "wasm32"))]
pub use document::help;
pub use document::markdown;

/// Settings that are documented together.
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// A paragraph below the heading; may be empty.
    pub text: &'static str,
    /// The settings.
    pub settings: &'static [&'static Description],
}

const SERVERS: &[Role] = &[Api, Worker, Controller];
const STORES: &[Role] = &[Api, Worker, Operator, Edge];
const FLEETS: &[Role] = &[Controller, Edge];
const KEEPERS: &[Role] = &[Up, Api, Operator, Edge];

// Redis
pub static REDIS_URL: Setting<SecretString> = Setting::new(
    "REDIS_URL",
    Required,
    &[Up, Api, Worker, Controller],
    "address of Redis, such as rediss://user:password@host:6379; `tcoder up` starts one of its own without it",
    parse::redis_url,
)
.secret();
pub static REDIS_CA_CERT: Setting<Certificates> = Setting::new(
    "REDIS_CA_CERT",
    Derived("the system's"),
    SERVERS,
    "certificate of the authority that signed Redis's certificate, in PEM format, or the path of a file with it; for rediss:// only",
    parse::certificates,
);
pub static REDIS_KEY_PREFIX: Setting<String> = Setting::new(
    "REDIS_KEY_PREFIX",
    Unset,
    &[Api, Worker, Controller, Edge],
    "prefix of all keys, if several installations share a Redis; for a Redis Cluster it contains a text in braces, such as {tcoder}:",
    setting::text,
);
pub static UPSTASH_REDIS_REST_URL: Setting<Url> = Setting::new(
    "UPSTASH_REDIS_REST_URL",
    Required,
    &[Edge],
    "the REST address of the Redis that the workers reach by REDIS_URL",
    setting::url,
);
pub static UPSTASH_REDIS_REST_TOKEN: Setting<SecretString> = Setting::new(
    "UPSTASH_REDIS_REST_TOKEN",
    Required,
    &[Edge],
    "token of the Upstash REST API",
    setting::secret,
)
.secret();

// Storage
pub static R2_ACCOUNT_ID: Setting<String> = Setting::new(
    "R2_ACCOUNT_ID",
    Required,
    STORES,
    "the Cloudflare account of the R2 buckets; or set R2_ENDPOINT",
    setting::text,
);
pub static R2_ENDPOINT: Setting<BaseUrl> = Setting::new(
    "R2_ENDPOINT",
    Derived("R2's of the account"),
    STORES,
    "another S3 endpoint, without a bucket",
    setting::base_url,
);
pub static R2_REGION: Setting<String> = Setting::new(
    "R2_REGION",
    Value("auto"),
    STORES,
    "the region that requests are signed for",
    setting::text,
);
pub static R2_ACCESS_KEY_ID: Setting<String> = Setting::new(
    "R2_ACCESS_KEY_ID",
    Required,
    STORES,
    "id of an access key that may read and write both buckets",
    setting::text,
);
pub static R2_SECRET_ACCESS_KEY: Setting<SecretString> =
    Setting::new("R2_SECRET_ACCESS_KEY", Required, STORES, "secret of the access key", setting::secret)
        .secret();
pub static R2_INPUT_BUCKET_NAME: Setting<String> =
    Setting::new("R2_INPUT_BUCKET_NAME", Required, STORES, "the bucket that uploads go to", setting::text);
pub static R2_OUTPUT_BUCKET_NAME: Setting<String> =
    Setting::new("R2_OUTPUT_BUCKET_NAME", Required, STORES, "the bucket that results go to", setting::text);
pub static R2_PUBLIC_URL: Setting<Url> = Setting::new(
    "R2_PUBLIC_URL",
    Unset,
    STORES,
    "public address of the output bucket; without it outputs get signed addresses that expire after a day, and HLS is served through the API below /media",
    setting::url,
);

// What is kept
pub static JOB_RETENTION: Setting<Duration> = Setting::new(
    "JOB_RETENTION",
    Value("604800"),
    KEEPERS,
    "seconds for which an ended job can be read and retried; at least 1",
    parse::job_retention,
);
pub static INPUT_RETENTION: Setting<Duration> = Setting::new(
    "INPUT_RETENTION",
    Value("0"),
    KEEPERS,
    "the input uploaded for a job is deleted this many seconds after its end, and the job cannot be retried any more; 0: never",
    setting::seconds,
);
pub static OUTPUT_RETENTION: Setting<Duration> = Setting::new(
    "OUTPUT_RETENTION",
    Value("0"),
    KEEPERS,
    "the outputs of a job are deleted this many seconds after its end; 0: never",
    setting::seconds,
);

// The API
pub static API_TOKENS: Setting<Vec<SecretString>> = Setting::new("API_TOKENS", Unset, &[Up, Api, Edge], "bearer tokens of callers, separated by commas, 16 characters or more each; needed unless the API listens on this machine only", parse::api_tokens).secret();
pub static API_CORS_ORIGINS: Setting<Vec<String>> = Setting::new(
    "API_CORS_ORIGINS",
    Unset,
    &[Up, Api, Edge],
    "origins of pages that may call the API, separated by commas",
    setting::list,
);
pub static API_CLIENT_ADDRESS_HEADER: Setting<HeaderName> = Setting::new(
    "API_CLIENT_ADDRESS_HEADER",
    Derived(
        "X-Forwarded-For, of which the last public address counts, behind a proxy in a private network; CF-Connecting-IP on Cloudflare",
    ),
    &[Up, Api, Edge],
    "header in which a proxy names the address of its client, such as Fly-Client-IP or CF-Connecting-IP, by which limits count; the proxy must set it itself, and nobody may reach the API around the proxy",
    parse::header_name,
);
pub static API_PUBLIC_URL: Setting<BaseUrl> = Setting::new(
    "API_PUBLIC_URL",
    Derived("as each request names it"),
    &[Up, Api, Operator, Edge],
    "public address of the API, such as https://films.example; needed for addresses of HLS in a private bucket in webhooks and TranscodeJobs",
    setting::base_url,
);
pub static WEBHOOK_SECRET: Setting<SecretString> = Setting::new("WEBHOOK_SECRET", Unset, &[Up, Api, Edge], "signs webhooks: whsec_ and 24 to 64 bytes in base64; without it jobs cannot name one (tcoder up makes its own)", setting::secret).secret();
pub static ALLOW_PRIVATE_URLS: Setting<bool> = Setting::new(
    "ALLOW_PRIVATE_URLS",
    Value("false"),
    &[Up, Api, Worker, Operator, Edge],
    "true: allow inputs and webhooks in private networks",
    setting::flag,
);

pub static JOB_MAX_DEADLINE_SECONDS: Setting<u32> = Setting::new(
    "JOB_MAX_DEADLINE_SECONDS",
    Value("604800"),
    KEEPERS,
    "the longest duration of an attempt that a job may ask for; also that of jobs which ask for none, if it is less than 6 hours, and of every attempt at a TranscodeJob",
    parse::max_deadline,
);
pub static JOB_MAX_ATTEMPTS: Setting<u32> = Setting::new(
    "JOB_MAX_ATTEMPTS",
    Value("20"),
    KEEPERS,
    "the largest number of attempts that a job may ask for; also that of jobs which ask for none, if it is less than 3",
    parse::max_attempts,
);
pub static JOB_MAX_PRIORITY: Setting<Priority> = Setting::new(
    "JOB_MAX_PRIORITY",
    Value("100"),
    KEEPERS,
    "the highest priority that a job may ask for, 0 to 100",
    parse::max_priority,
);
// Workers
pub static WORKER_IDLE_TIMEOUT: Setting<Duration> = Setting::new(
    "WORKER_IDLE_TIMEOUT",
    Value("300"),
    &[Up, Worker, Controller, Edge],
    "seconds without a job after which a worker exits, 2 at most after parts of a split video; 0: never",
    setting::seconds,
);
pub static WORKER_CLASSES: Setting<WorkerClasses> = Setting::new(
    "WORKER_CLASSES",
    Value(WorkerClass::DEFAULT),
    &[Up, Worker, Controller, Edge],
    "classes of the jobs that a worker takes, comma-separated, 8 at most; a job names one as its `workerClass`",
    parse::worker_classes,
);
pub static WORKER_TTL: Setting<Duration> = Setting::new(
    "WORKER_TTL",
    Value("300"),
    &[Up, Worker, Controller, Edge],
    "seconds after which a worker claims no further job; 0: never",
    setting::seconds,
);
pub static WORKER_MAX_JOBS: Setting<u32> = Setting::new(
    "WORKER_MAX_JOBS",
    Value("0"),
    &[Up, Worker, Controller, Edge],
    "number of jobs after which a worker exits; 0: no limit",
    setting::count,
);
pub static WORKER_CHUNKS: Setting<u32> = Setting::new(
    "WORKER_CHUNKS",
    Derived("the number of CPU cores"),
    &[Up, Worker, Controller, Edge],
    "number of chunks of split videos that a worker encodes at once, each with about one core; one machine is started for \
     as many that wait",
    setting::chunks,
);
pub static WORKER_MAX_FAILURES: Setting<u32> = Setting::new(
    "WORKER_MAX_FAILURES",
    Value("3"),
    &[Up, Worker, Controller, Edge],
    "number of jobs in a row that fail, not because of the files, after which a worker exits, and its machine is put \
     aside for ten minutes, or replaced; 0: no limit",
    setting::count,
);
pub static WORKER_SCRATCH_DIR: Setting<String> = Setting::new(
    "WORKER_SCRATCH_DIR",
    Derived("the system's"),
    &[Worker],
    "folder for the files of a running job",
    setting::text,
);
pub static WORKER_DISK_BYTES: Setting<u64> = Setting::new(
    "WORKER_DISK_BYTES",
    Derived("what is free"),
    &[Up, Worker],
    "maximum size of a job's files, where a worker may not use all free disk space, as in a pod",
    setting::bytes,
);
pub static WORKER_MAX_INPUT_BYTES: Setting<u64> = Setting::new(
    "WORKER_MAX_INPUT_BYTES",
    Derived("10000000000 on Fly, else 50000000000"),
    &[Up, Api, Worker, Controller, Edge],
    "maximum size of an input; derived from FLY_WORKER_DISK_GB or WORKER_DISK_BYTES if set; an input and its \
                 outputs must fit on the disk, so it is less than half of it. The API refuses larger uploads at once if it \
                 has this setting or a fleet reports it, and the client sends fileSize",
    setting::bytes,
);
pub static WORKER_MAX_INPUT_SECONDS: Setting<Duration> = Setting::new(
    "WORKER_MAX_INPUT_SECONDS",
    Value("86400"),
    &[Up, Worker, Controller, Edge],
    "maximum duration of an input",
    parse::input_seconds,
);
pub static WORKER_MAX_INPUT_PIXELS: Setting<u64> = Setting::new(
    "WORKER_MAX_INPUT_PIXELS",
    Value("67108864"),
    &[Up, Worker, Controller, Edge],
    "maximum number of pixels of a picture: 8192x8192, which is also the highest value",
    parse::input_pixels,
);
pub static WORKER_MAX_INPUT_STREAMS: Setting<u32> = Setting::new(
    "WORKER_MAX_INPUT_STREAMS",
    Value("64"),
    &[Up, Worker, Controller, Edge],
    "maximum number of streams of an input",
    parse::from_one,
);
pub static WORKER_STALL_TIMEOUT: Setting<Duration> = Setting::new(
    "WORKER_STALL_TIMEOUT",
    Value("120"),
    &[Up, Worker, Controller, Edge],
    "seconds without progress after which FFmpeg is killed",
    parse::stall_timeout,
);
pub static WORKER_SANDBOX: Setting<SandboxMode> = Setting::new(
    "WORKER_SANDBOX",
    Value("preferred"),
    &[Up, Worker, Controller, Edge],
    "preferred: FFmpeg runs in a sandbox, with all that the kernel offers; required: the worker does not start if the kernel \
     lacks a part of it; off: for an FFmpeg that does not start in it",
    parse::sandbox_mode,
);
pub static FLY_MACHINE_ID: Setting<String> = Setting::new(
    "FLY_MACHINE_ID",
    Derived("HOSTNAME"),
    &[Worker],
    "the machine it is on; Fly sets it",
    setting::text,
);
pub static HOSTNAME: Setting<String> = Setting::new(
    "HOSTNAME",
    Value("local"),
    &[Worker, Controller],
    "the machine's or the pod's name",
    setting::text,
);

// The fleet
pub static FLY_API_TOKEN: Setting<SecretString> = Setting::new(
    "FLY_API_TOKEN",
    Required,
    FLEETS,
    "from `fly tokens create deploy`; not for the app's secrets",
    parse::fly_token,
)
.secret();
pub static FLY_WORKER_APP: Setting<String> = Setting::new(
    "FLY_WORKER_APP",
    Required,
    FLEETS,
    "the app whose machines are the workers; FLY_APP_NAME, which Fly sets on its machines, is not read",
    parse::fly_app,
);
pub static FLY_WORKER_IMAGE: Setting<String> = Setting::new(
    "FLY_WORKER_IMAGE",
    Required,
    FLEETS,
    "image of the workers, such as registry.fly.io/app:tag",
    setting::text,
);
pub static FLY_WORKER_GUEST: Setting<String> = Setting::new(
    "FLY_WORKER_GUEST",
    Value("performance-2x"),
    FLEETS,
    "size of a machine: performance-1x to -16x or shared-cpu-1x to -8x; shared CPUs are throttled after a short burst",
    setting::text,
);
pub static FLY_WORKER_GUESTS: Setting<Vec<String>> = Setting::new(
    "FLY_WORKER_GUESTS",
    Unset,
    FLEETS,
    "larger sizes, separated by commas, such as performance-8x,performance-16x: a machine for parts of a split video is \
                 as large as the waiting parts fill; all others have the size FLY_WORKER_GUEST",
    parse::sizes,
);
pub static FLY_WORKER_MEMORY_MB: Setting<u32> = Setting::new(
    "FLY_WORKER_MEMORY_MB",
    Derived("2048 a CPU, shared 512"),
    FLEETS,
    "memory of FLY_WORKER_GUEST, of which the sizes of FLY_WORKER_GUESTS have as much for each CPU: 2048 to 8192 a CPU in \
                 steps of 1024, shared 256 to 2048 in steps of 256",
    parse::megabytes,
);
pub static FLY_WORKER_REGIONS: Setting<Vec<String>> = Setting::new(
    "FLY_WORKER_REGIONS",
    Derived("any"),
    FLEETS,
    "regions, preferred first, separated by commas; FLY_REGION, which Fly sets on its machines, is not read",
    parse::regions,
);
pub static FLY_WORKER_DISK_GB: Setting<u32> = Setting::new(
    "FLY_WORKER_DISK_GB",
    Derived("25, or what WORKER_MAX_INPUT_BYTES needs"),
    FLEETS,
    "size of its disk, 2 to 50 GB, which holds a job's input and outputs",
    parse::gigabytes,
);
pub static FLEET_STRICT_REGIONS: Setting<bool> = Setting::new(
    "FLEET_STRICT_REGIONS",
    Value("false"),
    FLEETS,
    "true: use no other region if these are full",
    setting::flag,
);
pub static MIN_MACHINES: Setting<u32> = Setting::new(
    "MIN_MACHINES",
    Value("0"),
    &[Up, Controller, Edge],
    "minimum number of running machines (tcoder up: 1)",
    parse::from_zero,
);
pub static MAX_MACHINES: Setting<u32> = Setting::new(
    "MAX_MACHINES",
    Value("10"),
    &[Up, Controller, Edge],
    "maximum number of machines (tcoder up: 1)",
    parse::from_one,
);
pub static JOBS_PER_MACHINE: Setting<u32> = Setting::new(
    "JOBS_PER_MACHINE",
    Value("1"),
    FLEETS,
    "number of waiting jobs for which one machine is started",
    parse::from_one,
);
pub static FLEET_BUDGET_USD_PER_HOUR: Setting<f64> = Setting::new(
    "FLEET_BUDGET_USD_PER_HOUR",
    Unset,
    FLEETS,
    "maximum cost of all running machines; running jobs continue",
    parse::dollars,
);
pub static FLEET_PRICE_USD_PER_HOUR: Setting<f64> = Setting::new(
    "FLEET_PRICE_USD_PER_HOUR",
    Derived("Fly's list price"),
    FLEETS,
    "price of a machine of FLY_WORKER_GUEST; needed with a budget if the size is in no price list. Larger machines cost \
                 more in proportion to their CPUs",
    parse::dollars,
);
pub static FLEET_LAUNCH_FAILURES: Setting<u32> = Setting::new(
    "FLEET_LAUNCH_FAILURES",
    Value("3"),
    FLEETS,
    "number of launches in a row without a worker after which launches pause for ten minutes",
    parse::from_one,
);
pub static FLEET_PAUSED: Setting<bool> = Setting::new(
    "FLEET_PAUSED",
    Value("false"),
    FLEETS,
    "true: report the next operations without carrying them out",
    setting::flag,
);
pub static FLY_API_HOSTNAME: Setting<Url> = Setting::new(
    "FLY_API_HOSTNAME",
    Value("https://api.machines.dev"),
    FLEETS,
    "address of the Machines API",
    setting::url,
);

// In Kubernetes
pub static WATCH_NAMESPACE: Setting<String> = Setting::new(
    "WATCH_NAMESPACE",
    Derived("all"),
    &[Operator],
    "reconcile the objects of this namespace only",
    setting::text,
);
pub static POD_NAMESPACE: Setting<String> = Setting::new(
    "POD_NAMESPACE",
    Derived("tcoder-system"),
    &[Operator],
    "namespace of the Lease and of the mirrored TranscodeJobs",
    setting::text,
);
pub static MIRROR_MAX: Setting<u32> = Setting::new(
    "MIRROR_MAX",
    Value("200"),
    &[Operator],
    "maximum number of jobs of the API that are mirrored as TranscodeJobs; 0: none",
    parse::mirror_max,
);
pub static TENANT_PREFIXES: Setting<bool> = Setting::new(
    "TENANT_PREFIXES",
    Value("false"),
    &[Operator],
    "true: the TranscodeJobs of a namespace read only objects whose key begins with its name and a slash, and their uploads \
     are stored there; the same as --tenant-prefixes",
    setting::flag,
);
pub static KUBERNETES_SERVICE_HOST: Setting<String> = Setting::new(
    "KUBERNETES_SERVICE_HOST",
    Unset,
    &[Operator],
    "set in every pod: this is a cluster",
    setting::text,
);

// The Cloudflare Worker
pub static EDGE_FLEET: Setting<bool> = Setting::new(
    "EDGE_FLEET",
    Value("enabled"),
    &[Edge],
    "enabled: the Worker manages the machines; disabled: a tcoder controller does",
    parse::edge_fleet,
);
pub static EDGE_SUBREQUESTS: Setting<u32> = Setting::new(
    "EDGE_SUBREQUESTS",
    Value("50"),
    &[Edge],
    "maximum number of subrequests of an invocation: 50 on the free plan, 1000 on the paid one",
    parse::subrequests,
);
pub static EDGE_CRON_MAX_SECONDS: Setting<Duration> = Setting::new(
    "EDGE_CRON_MAX_SECONDS",
    Value("50"),
    &[Edge],
    "maximum duration of a scheduled run while jobs run, seconds",
    parse::cron_seconds,
);

// Logs and traces
pub static RUST_LOG: Setting<String> = Setting::new(
    "RUST_LOG",
    Derived("warn,tcoder=info"),
    &[Up, Api, Worker, Controller],
    "log filter",
    setting::text,
);
pub static LOG_FORMAT: Setting<String> = Setting::new(
    "LOG_FORMAT",
    Derived("text at a terminal, else json"),
    &[Up, Api, Worker, Controller],
    "text or json",
    setting::text,
);
pub static OTEL_EXPORTER_OTLP_ENDPOINT: Setting<String> = Setting::new(
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    Unset,
    &[Up, Api, Worker, Controller],
    "the collector, such as http://127.0.0.1:4318; without it no spans are sent",
    setting::text,
);
pub static OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: Setting<String> = Setting::new(
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    Unset,
    &[Up, Api, Worker, Controller],
    "the same with the path of traces, if that is not /v1/traces",
    setting::text,
);
pub static OTEL_SERVICE_NAME: Setting<String> = Setting::new(
    "OTEL_SERVICE_NAME",
    Derived("tcoder- and the role"),
    &[Up, Api, Worker, Controller],
    "service.name of the spans",
    setting::text,
);
pub static OTEL_RESOURCE_ATTRIBUTES: Setting<String> = Setting::new(
    "OTEL_RESOURCE_ATTRIBUTES",
    Unset,
    &[Up, Api, Worker, Controller],
    "further resource attributes",
    setting::text,
);
pub static OTEL_TRACES_SAMPLER: Setting<String> = Setting::new(
    "OTEL_TRACES_SAMPLER",
    Value("parentbased_always_on"),
    &[Up, Api, Worker, Controller],
    "selects the traces that are kept",
    setting::text,
);
pub static OTEL_TRACES_SAMPLER_ARG: Setting<String> = Setting::new(
    "OTEL_TRACES_SAMPLER_ARG",
    Unset,
    &[Up, Api, Worker, Controller],
    "argument of the sampler, such as 0.1 for parentbased_traceidratio",
    setting::text,
);
pub static OTEL_BSP_SCHEDULE_DELAY: Setting<String> = Setting::new(
    "OTEL_BSP_SCHEDULE_DELAY",
    Value("5000"),
    &[Up, Api, Worker, Controller],
    "milliseconds between two exports",
    setting::text,
);

// The command line
pub static TCODER_URL: Setting<String> =
    Setting::new("TCODER_URL", Derived("http://127.0.0.1:8080"), &[CommandLine], "the server", setting::text);
pub static TCODER_TOKEN: Setting<String> = Setting::new(
    "TCODER_TOKEN",
    Unset,
    &[CommandLine],
    "a token of it: one of its API_TOKENS, or one that `tcoder tokens create` printed",
    setting::text,
)
.secret();
pub static TCODER_DATA: Setting<String> = Setting::new(
    "TCODER_DATA",
    Derived("tcoder-data"),
    &[Up],
    "the folder for jobs, videos and keys",
    setting::text,
);
pub static TCODER_PUBLIC_HOST: Setting<String> = Setting::new(
    "TCODER_PUBLIC_HOST",
    Unset,
    &[Up],
    "the name or IP by which other machines reach this one",
    setting::text,
);
pub static TCODER_TLS_CERT: Setting<String> = Setting::new(
    "TCODER_TLS_CERT",
    Unset,
    &[Up],
    "a file with the certificate for TLS and those up to its authority, in PEM format",
    setting::text,
);
pub static TCODER_TLS_KEY: Setting<String> = Setting::new(
    "TCODER_TLS_KEY",
    Unset,
    &[Up],
    "a file with the private key of the certificate, in PEM format",
    setting::text,
);
pub static TCODER_PLAIN_HTTP: Setting<bool> = Setting::new(
    "TCODER_PLAIN_HTTP",
    Value("false"),
    &[Up],
    "whether other machines may reach it without TLS",
    setting::flag,
);

/// Every setting, in the order of the documentation.
pub static GROUPS: &[Group] = &[
    Group {
        title: "Redis",
        text: "Its `maxmemory-policy` must be `noeviction`.",
        settings: &[
            &REDIS_URL.about,
            &REDIS_CA_CERT.about,
            &REDIS_KEY_PREFIX.about,
            &UPSTASH_REDIS_REST_URL.about,
            &UPSTASH_REDIS_REST_TOKEN.about,
        ],
    },
    Group {
        title: "Storage",
        text: "Cloudflare R2, or any other S3 server.",
        settings: &[
            &R2_ACCOUNT_ID.about,
            &R2_ENDPOINT.about,
            &R2_REGION.about,
            &R2_ACCESS_KEY_ID.about,
            &R2_SECRET_ACCESS_KEY.about,
            &R2_INPUT_BUCKET_NAME.about,
            &R2_OUTPUT_BUCKET_NAME.about,
            &R2_PUBLIC_URL.about,
        ],
    },
    Group {
        title: "What is kept",
        text: "A job keeps the values of the role that it was submitted to. Objects are deleted within five minutes after their time.",
        settings: &[&JOB_RETENTION.about, &INPUT_RETENTION.about, &OUTPUT_RETENTION.about],
    },
    Group {
        title: "The API",
        text: "",
        settings: &[
            &API_TOKENS.about,
            &API_CORS_ORIGINS.about,
            &API_CLIENT_ADDRESS_HEADER.about,
            &API_PUBLIC_URL.about,
            &WEBHOOK_SECRET.about,
            &ALLOW_PRIVATE_URLS.about,
            &JOB_MAX_DEADLINE_SECONDS.about,
            &JOB_MAX_ATTEMPTS.about,
            &JOB_MAX_PRIORITY.about,
        ],
    },
    Group {
        title: "Workers",
        text: "The controller passes them to the machines it starts. Keep them out of the Fly app's secrets, which take precedence.",
        settings: &[
            &WORKER_IDLE_TIMEOUT.about,
            &WORKER_CLASSES.about,
            &WORKER_TTL.about,
            &WORKER_MAX_JOBS.about,
            &WORKER_MAX_FAILURES.about,
            &WORKER_CHUNKS.about,
            &WORKER_SCRATCH_DIR.about,
            &WORKER_DISK_BYTES.about,
            &WORKER_MAX_INPUT_BYTES.about,
            &WORKER_MAX_INPUT_SECONDS.about,
            &WORKER_MAX_INPUT_PIXELS.about,
            &WORKER_MAX_INPUT_STREAMS.about,
            &WORKER_STALL_TIMEOUT.about,
            &WORKER_SANDBOX.about,
            &FLY_MACHINE_ID.about,
            &HOSTNAME.about,
        ],
    },
    Group {
        title: "The fleet",
        text: "Without FLY_API_TOKEN a controller in a cluster manages no machines; run workers yourself.",
        settings: &[
            &FLY_API_TOKEN.about,
            &FLY_WORKER_APP.about,
            &FLY_WORKER_IMAGE.about,
            &FLY_WORKER_GUEST.about,
            &FLY_WORKER_GUESTS.about,
            &FLY_WORKER_MEMORY_MB.about,
            &FLY_WORKER_REGIONS.about,
            &FLY_WORKER_DISK_GB.about,
            &FLEET_STRICT_REGIONS.about,
            &MIN_MACHINES.about,
            &MAX_MACHINES.about,
            &JOBS_PER_MACHINE.about,
            &FLEET_BUDGET_USD_PER_HOUR.about,
            &FLEET_PRICE_USD_PER_HOUR.about,
            &FLEET_LAUNCH_FAILURES.about,
            &FLEET_PAUSED.about,
            &FLY_API_HOSTNAME.about,
        ],
    },
    Group {
        title: "In Kubernetes",
        text: "These are in addition to the other variables of the controller; the storage variables are for uploads and the addresses of outputs.",
        settings: &[
            &WATCH_NAMESPACE.about,
            &POD_NAMESPACE.about,
            &MIRROR_MAX.about,
            &TENANT_PREFIXES.about,
            &KUBERNETES_SERVICE_HOST.about,
        ],
    },
    Group {
        title: "The Cloudflare Worker",
        text: "Set them in `[vars]` of `wrangler.toml`, and secrets with `wrangler secret put`.",
        settings: &[&EDGE_FLEET.about, &EDGE_SUBREQUESTS.about, &EDGE_CRON_MAX_SECONDS.about],
    },
    Group {
        title: "Logs and traces",
        text: "Spans go to an OpenTelemetry collector by OTLP over HTTP; the other variables of its specification apply, too.",
        settings: &[
            &RUST_LOG.about,
            &LOG_FORMAT.about,
            &OTEL_EXPORTER_OTLP_ENDPOINT.about,
            &OTEL_EXPORTER_OTLP_TRACES_ENDPOINT.about,
            &OTEL_SERVICE_NAME.about,
            &OTEL_RESOURCE_ATTRIBUTES.about,
            &OTEL_TRACES_SAMPLER.about,
            &OTEL_TRACES_SAMPLER_ARG.about,
            &OTEL_BSP_SCHEDULE_DELAY.about,
        ],
    },
    Group {
        title: "The command line",
        text: "",
        settings: &[
            &TCODER_URL.about,
            &TCODER_TOKEN.about,
            &TCODER_DATA.about,
            &TCODER_PUBLIC_HOST.about,
            &TCODER_TLS_CERT.about,
            &TCODER_TLS_KEY.about,
            &TCODER_PLAIN_HTTP.about,
        ],
    },
];

#[cfg(test)]
mod tests;
