//! Every variable there is: what `--help` says of them and what `docs/configuration.md` is made of (`make docs`).

use std::fmt::Write as _;

use Role::{Api, CommandLine, Controller, Edge, Operator, Up, Worker};

/// What reads a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `tcoder up`
    Up,
    /// `tcoder api`
    Api,
    /// `tcoder worker`
    Worker,
    /// `tcoder controller`
    Controller,
    /// `tcoder controller` in a cluster, on top of the above.
    Operator,
    /// The Cloudflare Worker.
    Edge,
    /// The command line's talk with a server.
    CommandLine,
}

/// A variable.
struct Variable {
    name: &'static str,
    /// What holds where it is unset; empty: nothing does.
    default: &'static str,
    roles: &'static [Role],
    /// Whether those that read it do not start without it.
    needed: bool,
    /// Whether it is a secret.
    secret: bool,
    /// What it does, in a sentence without its full stop. Begins small.
    what: &'static str,
}

/// A group of them, under a heading.
struct Group {
    title: &'static str,
    text: &'static str,
    variables: &'static [Variable],
}

const fn needed(name: &'static str, roles: &'static [Role], what: &'static str) -> Variable {
    Variable { name, default: "", roles, needed: true, secret: false, what }
}

const fn optional(
    name: &'static str,
    default: &'static str,
    roles: &'static [Role],
    what: &'static str,
) -> Variable {
    Variable { name, default, roles, needed: false, secret: false, what }
}

const fn secret(variable: Variable) -> Variable {
    Variable { secret: true, ..variable }
}

const SERVERS: &[Role] = &[Api, Worker, Controller];
const STORES: &[Role] = &[Api, Worker, Operator, Edge];
const FLEETS: &[Role] = &[Controller, Edge];

const GROUPS: &[Group] = &[
    Group {
        title: "Redis",
        text: "Its `maxmemory-policy` must be `noeviction`.",
        variables: &[
            secret(needed("REDIS_URL", SERVERS, "such as rediss://user:password@host:6379")),
            optional(
                "REDIS_KEY_PREFIX",
                "",
                &[Api, Worker, Controller, Edge],
                "when several installations share a Redis",
            ),
            needed(
                "UPSTASH_REDIS_REST_URL",
                &[Edge],
                "the REST address of the Redis that the workers reach by REDIS_URL",
            ),
            secret(needed("UPSTASH_REDIS_REST_TOKEN", &[Edge], "its token")),
        ],
    },
    Group {
        title: "Storage",
        text: "Cloudflare R2, or any other S3 server.",
        variables: &[
            needed("R2_ACCOUNT_ID", STORES, "the Cloudflare account whose R2 it is; or R2_ENDPOINT"),
            optional("R2_ENDPOINT", "R2's of the account", STORES, "another S3 endpoint, without a bucket"),
            optional("R2_REGION", "auto", STORES, "the region that requests are signed for"),
            needed("R2_ACCESS_KEY_ID", STORES, "id of a key that may read and write both buckets"),
            secret(needed("R2_SECRET_ACCESS_KEY", STORES, "the key")),
            needed("R2_INPUT_BUCKET_NAME", STORES, "the bucket that uploads go to"),
            needed("R2_OUTPUT_BUCKET_NAME", STORES, "the bucket that results go to"),
            optional(
                "R2_PUBLIC_URL",
                "",
                STORES,
                "where everybody can read the output bucket; without it outputs get signed addresses that end after a day, and HLS is served through the API under /media",
            ),
        ],
    },
    Group {
        title: "The API",
        text: "",
        variables: &[
            secret(optional(
                "API_TOKENS",
                "",
                &[Up, Api, Edge],
                "who may call: bearer tokens with commas between, 16 characters or more each; needed off this machine and at the edge",
            )),
            optional(
                "API_CORS_ORIGINS",
                "",
                &[Up, Api, Edge],
                "pages that may call from a browser, with commas between",
            ),
            optional(
                "API_PUBLIC_URL",
                "as each request names it",
                &[Api, Operator, Edge],
                "where clients reach the API, such as https://films.example; webhooks and TranscodeJobs have addresses of a private bucket's HLS only with it",
            ),
            secret(optional(
                "WEBHOOK_SECRET",
                "",
                &[Up, Api, Edge],
                "signs webhooks: whsec_ and 24 to 64 bytes in base64; without it jobs cannot name one (tcoder up makes its own)",
            )),
            optional(
                "ALLOW_PRIVATE_URLS",
                "false",
                &[Up, Api, Worker, Operator, Edge],
                "true lets inputs and webhooks lie in a private network",
            ),
        ],
    },
    Group {
        title: "Workers",
        text: "The controller hands them on to the machines it starts; keep them out of the Fly app's secrets, which win.",
        variables: &[
            optional(
                "WORKER_IDLE_TIMEOUT",
                "300",
                &[Up, Worker, Controller, Edge],
                "seconds without a job after which it leaves; 0: never",
            ),
            optional(
                "WORKER_TTL",
                "300",
                &[Up, Worker, Controller, Edge],
                "seconds after which it takes no further job; 0: never",
            ),
            optional(
                "WORKER_MAX_JOBS",
                "0",
                &[Up, Worker, Controller, Edge],
                "jobs after which it leaves; 0: no limit",
            ),
            optional(
                "WORKER_MAX_FAILURES",
                "3",
                &[Up, Worker, Controller, Edge],
                "failures in a row, not the files' fault, after which it leaves; 0: no limit",
            ),
            optional(
                "WORKER_SCRATCH_DIR",
                "the system's",
                &[Worker],
                "folder for the files of a job in work",
            ),
            optional(
                "WORKER_DISK_BYTES",
                "what is free",
                &[Up, Worker],
                "so much disk a job's files may take, where a worker may not use all that is free, as in a pod",
            ),
            optional(
                "WORKER_MAX_INPUT_BYTES",
                "10000000000 on Fly, else 50000000000",
                &[Up, Api, Worker, Controller, Edge],
                "largest input; follows from FLY_WORKER_DISK_GB or WORKER_DISK_BYTES where those are set, and must fit \
                 on such a disk with what is made of it, so somewhat less than half of it; the API refuses larger \
                 uploads at once where it has this setting or a fleet tells it, and the client gives fileSize",
            ),
            optional(
                "WORKER_STALL_TIMEOUT",
                "120",
                &[Up, Worker, Controller, Edge],
                "seconds without headway after which FFmpeg is killed",
            ),
            optional("FLY_MACHINE_ID", "HOSTNAME", &[Worker], "the machine it is on; Fly sets it"),
            optional("HOSTNAME", "local", &[Worker, Controller], "the machine's or the pod's name"),
        ],
    },
    Group {
        title: "The fleet",
        text: "Without FLY_API_TOKEN a controller in a cluster looks after no machines: workers of your own do the work.",
        variables: &[
            secret(needed(
                "FLY_API_TOKEN",
                FLEETS,
                "from `fly tokens create deploy`; not for the app's secrets",
            )),
            needed(
                "FLY_WORKER_APP",
                FLEETS,
                "the app whose machines are the workers; FLY_APP_NAME, which Fly sets on its machines, is not read",
            ),
            needed("FLY_WORKER_IMAGE", FLEETS, "such as registry.fly.io/app:tag"),
            optional(
                "FLY_WORKER_GUEST",
                "performance-2x",
                FLEETS,
                "size of a machine: performance-1x to -16x or shared-cpu-1x to -8x; shared CPUs are throttled after a short burst",
            ),
            optional(
                "FLY_WORKER_MEMORY_MB",
                "2048 a CPU, shared 512",
                FLEETS,
                "its memory: 2048 to 8192 a CPU in steps of 1024, shared 256 to 2048 in steps of 256",
            ),
            optional(
                "FLY_WORKER_REGIONS",
                "any",
                FLEETS,
                "where, most wanted first, with commas between; FLY_REGION, which Fly sets on its machines, is not read",
            ),
            optional(
                "FLY_WORKER_DISK_GB",
                "25, or what WORKER_MAX_INPUT_BYTES needs",
                FLEETS,
                "its disk, 2 to 50 GB: a job's input lies there with all that is made of it",
            ),
            optional("FLEET_STRICT_REGIONS", "false", FLEETS, "true: nowhere else when these are full"),
            optional("MIN_MACHINES", "0", &[Up, Controller, Edge], "so many always run (tcoder up: 1)"),
            optional("MAX_MACHINES", "10", &[Up, Controller, Edge], "so many exist at most (tcoder up: 1)"),
            optional("JOBS_PER_MACHINE", "1", FLEETS, "so many waiting jobs are worth a machine"),
            optional(
                "FLEET_BUDGET_USD_PER_HOUR",
                "",
                FLEETS,
                "no machine is started that would cost more in all; jobs that run go on",
            ),
            optional(
                "FLEET_PRICE_USD_PER_HOUR",
                "Fly's list price",
                FLEETS,
                "what a machine's hour costs; needed with a budget where the size is in no list",
            ),
            optional(
                "FLEET_LAUNCH_FAILURES",
                "3",
                FLEETS,
                "after so many launches in a row without a worker, no more for ten minutes",
            ),
            optional("FLEET_PAUSED", "false", FLEETS, "true: say what would be done, and do nothing"),
            optional("FLY_API_HOSTNAME", "https://api.machines.dev", FLEETS, "where the Machines API is"),
        ],
    },
    Group {
        title: "In Kubernetes",
        text: "On top of what the controller reads anyway; the storage variables are for uploads and the addresses of outputs.",
        variables: &[
            optional("WATCH_NAMESPACE", "all", &[Operator], "see to the objects of this namespace only"),
            optional("POD_NAMESPACE", "tcoder-system", &[Operator], "where its Lease is, and the mirrors"),
            optional(
                "MIRROR_MAX",
                "200",
                &[Operator],
                "so many jobs of the API are shown as TranscodeJobs; 0: none",
            ),
            optional("KUBERNETES_SERVICE_HOST", "", &[Operator], "set in every pod: this is a cluster"),
        ],
    },
    Group {
        title: "At the edge",
        text: "In `[vars]` of `wrangler.toml`; what is secret by `wrangler secret put`.",
        variables: &[
            optional(
                "EDGE_FLEET",
                "enabled",
                &[Edge],
                "disabled: a tcoder controller looks after the machines",
            ),
            optional(
                "EDGE_SUBREQUESTS",
                "50",
                &[Edge],
                "what an invocation may ask of others: 50 on the free plan, 1000 on the paid one",
            ),
            optional(
                "EDGE_CRON_MAX_SECONDS",
                "50",
                &[Edge],
                "how long the clock's invocation stays within its minute while jobs run",
            ),
        ],
    },
    Group {
        title: "Logs and traces",
        text: "Spans go to an OpenTelemetry collector by OTLP over HTTP; the other variables of its specification hold too.",
        variables: &[
            optional("RUST_LOG", "warn,tcoder=info", &[Up, Api, Worker, Controller], "which logs"),
            optional(
                "LOG_FORMAT",
                "text at a terminal, else json",
                &[Up, Api, Worker, Controller],
                "text or json",
            ),
            optional(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "",
                &[Up, Api, Worker, Controller],
                "the collector, such as http://127.0.0.1:4318; without it no spans are sent",
            ),
            optional(
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "",
                &[Up, Api, Worker, Controller],
                "the same with its path, where that is not /v1/traces",
            ),
            optional(
                "OTEL_SERVICE_NAME",
                "tcoder- and the role",
                &[Up, Api, Worker, Controller],
                "who says it",
            ),
            optional(
                "OTEL_RESOURCE_ATTRIBUTES",
                "",
                &[Up, Api, Worker, Controller],
                "more about who says it",
            ),
            optional(
                "OTEL_TRACES_SAMPLER",
                "parentbased_always_on",
                &[Up, Api, Worker, Controller],
                "which traces are kept",
            ),
            optional(
                "OTEL_TRACES_SAMPLER_ARG",
                "",
                &[Up, Api, Worker, Controller],
                "such as 0.1 for parentbased_traceidratio",
            ),
            optional(
                "OTEL_BSP_SCHEDULE_DELAY",
                "5000",
                &[Up, Api, Worker, Controller],
                "milliseconds between two messages to the collector",
            ),
        ],
    },
    Group {
        title: "The command line",
        text: "",
        variables: &[
            optional("TCODER_URL", "http://127.0.0.1:8080", &[CommandLine], "the server"),
            secret(optional("TCODER_TOKEN", "", &[CommandLine], "one of its API_TOKENS")),
            optional("TCODER_DATA", "tcoder-data", &[Up], "the folder for jobs, videos and keys"),
            optional(
                "TCODER_PUBLIC_HOST",
                "",
                &[Up],
                "the name or IP by which other machines reach this one",
            ),
        ],
    },
];

impl Role {
    const fn words(self) -> &'static str {
        match self {
            Up => "up",
            Api => "api",
            Worker => "worker",
            Controller => "controller",
            Operator => "controller in a cluster",
            Edge => "edge",
            CommandLine => "command line",
        }
    }
}

impl Variable {
    fn is_read_by(&self, roles: &[Role]) -> bool {
        self.roles.iter().any(|role| roles.contains(role))
    }
}

/// The part of `--help` on what these roles read.
pub(super) fn help(roles: &[Role]) -> String {
    let mut text = String::from("Environment:");
    for group in GROUPS {
        for variable in group.variables.iter().filter(|v| v.is_read_by(roles)) {
            let default =
                if variable.default.is_empty() { String::new() } else { format!(" ({})", variable.default) };
            let needed = if variable.needed { "needed: " } else { "" };
            let what = format!("{needed}{}{default}", variable.what.replace('`', ""));
            let (first, others) = (format!("  {:<28} ", variable.name), " ".repeat(31));
            let lines = textwrap::Options::new(99).initial_indent(&first).subsequent_indent(&others);
            let _ = write!(text, "\n{}", textwrap::fill(&what, lines));
        }
    }
    text
}

/// `docs/configuration.md`
pub(super) fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\nMade from the code by `make docs`; change `src/cli/environment.rs` instead. All of tcoder is \
         configured by the environment (at the edge by variables of the Worker), with the same names everywhere. What is \
         missing or cannot be read names itself at the start. **needed** means that those who read it do not start \
         without it; a *secret* belongs where secrets are kept, and is shown nowhere.\n",
    );
    for group in GROUPS {
        let _ = write!(text, "\n## {}\n\n", group.title);
        if !group.text.is_empty() {
            let _ = write!(text, "{}\n\n", group.text);
        }
        text += "| variable | default | read by | what it does |\n|---|---|---|---|\n";
        for variable in group.variables {
            let roles: Vec<&str> = variable.roles.iter().map(|role| role.words()).collect();
            let default = match (variable.needed, variable.default) {
                (true, _) => "**needed**".to_owned(),
                (false, "") => String::new(),
                (false, default) => format!("`{default}`"),
            };
            let secret = if variable.secret { " *secret*" } else { "" };
            let _ = writeln!(
                text,
                "| `{}`{secret} | {default} | {} | {} |",
                variable.name,
                roles.join(", "),
                variable.what
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::{
        ApiConfig, Env, FlyConfig, RedisConfig, StorageConfig, WorkerConfig, webhook_secret,
    };
    use crate::edge::settings::Settings;
    use crate::flyprovider;

    fn all() -> impl Iterator<Item = &'static Variable> {
        GROUPS.iter().flat_map(|group| group.variables)
    }

    #[test]
    fn the_document_is_as_the_table_is() {
        let file = include_str!("../../docs/configuration.md");
        assert!(file == markdown(), "run `make docs`");
    }

    #[test]
    fn each_is_told_of_once() {
        let names: BTreeSet<&str> = all().map(|v| v.name).collect();
        assert_eq!(names.len(), all().count());
        for variable in all() {
            assert!(!variable.what.ends_with('.') && !variable.roles.is_empty(), "{}", variable.name);
            assert!(!variable.needed || variable.default.is_empty(), "{}", variable.name);
        }
    }

    /// What a role asks its environment for, where whatever it must have is there.
    fn asked(read: impl Fn(&Env<'_>)) -> BTreeSet<String> {
        let names = RefCell::new(BTreeSet::new());
        let env = Env::of(|name| {
            names.borrow_mut().insert(name.to_owned());
            let value = match name {
                "REDIS_URL" => "redis://127.0.0.1",
                "UPSTASH_REDIS_REST_URL" => "https://redis.example",
                "API_TOKENS" => "a-token-of-some-length",
                "FLY_WORKER_IMAGE"
                | "R2_ACCOUNT_ID"
                | "R2_ACCESS_KEY_ID"
                | "R2_SECRET_ACCESS_KEY"
                | "R2_INPUT_BUCKET_NAME"
                | "R2_OUTPUT_BUCKET_NAME"
                | "UPSTASH_REDIS_REST_TOKEN"
                | "FLY_API_TOKEN"
                | "FLY_WORKER_APP" => "some",
                _ => return None,
            };
            Some(value.to_owned())
        });
        read(&env);
        drop(env);
        names.into_inner()
    }

    #[test]
    fn what_a_role_reads_is_said_to_be_read_by_it() {
        let storage = |env: &Env<'_>| drop(StorageConfig::read(env).unwrap());
        let redis = |env: &Env<'_>| drop(RedisConfig::read(env).unwrap());
        let api = |env: &Env<'_>| {
            redis(env);
            storage(env);
            ApiConfig::read(env).unwrap();
            drop(webhook_secret(env));
        };
        let worker = |env: &Env<'_>| {
            redis(env);
            storage(env);
            WorkerConfig::read(env).unwrap();
        };
        let controller = |env: &Env<'_>| {
            redis(env);
            FlyConfig::read(env).unwrap();
            flyprovider::policy::read(env).unwrap();
        };
        let edge = |env: &Env<'_>| drop(Settings::read(env).unwrap());
        for (role, names) in
            [(Api, asked(api)), (Worker, asked(worker)), (Controller, asked(controller)), (Edge, asked(edge))]
        {
            assert!(names.len() > 8, "{role:?}: {names:?}");
            for name in names {
                let told = all().find(|v| v.name == name).is_some_and(|v| v.roles.contains(&role));
                assert!(told, "{name} is read by {role:?}, and not said to be");
            }
        }
    }

    /// Words of the sources that look like a variable's name and are none of ours.
    const OTHERS: [&str; 22] = [
        "AV_LOG_FORCE_NOCOLOR",
        "CARGO_MANIFEST_DIR",
        "CARGO_PKG_VERSION",
        "DEAD_LETTERS",
        "DYLD_LIBRARY_PATH",
        "FLY_ALLOC_ID",
        "FLY_APP_NAME",
        "FLY_IMAGE_REF",
        "FLY_MACHINE_VERSION",
        "FLY_PRIVATE_IP",
        "FLY_REGION",
        "FLY_VM_MEMORY_MB",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "NEVER_UPLOADED",
        "NO_COLOR",
        "RUST_BACKTRACE",
        "SCREAMING_SNAKE_CASE",
        "SOME_VARIABLE",
        "_OTHER",
        "EDGE_FLEET",
        "HOSTNAME",
    ];

    fn words_below(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                words_below(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("cli/environment.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let is_name = |word: &&str| {
                    word.contains('_')
                        && word.len() > 4
                        && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
                };
                found.extend(text.split('"').filter(is_name).map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_variable_of_the_sources_is_told_of_and_no_other() {
        let mut found = BTreeSet::new();
        words_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        found.retain(|word| !OTHERS.contains(&word.as_str()));
        let told: BTreeSet<String> =
            all().map(|v| v.name.to_owned()).filter(|name| !OTHERS.contains(&name.as_str())).collect();
        assert_eq!(found, told);
    }
}
