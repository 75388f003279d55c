//! All environment variables: the source of the texts in `--help` and of `docs/configuration.md` (`make docs`).

use std::fmt::Write as _;

use Role::{Api, CommandLine, Controller, Edge, Operator, Up, Worker};

/// The commands and programs that read variables.
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
    /// The client commands of the command line.
    CommandLine,
}

/// A variable.
struct Variable {
    name: &'static str,
    /// The value if the variable is unset; empty if there is none.
    default: &'static str,
    roles: &'static [Role],
    /// Whether the roles that read the variable do not start without it.
    needed: bool,
    /// Whether it is a secret.
    secret: bool,
    /// What the variable does, without a full stop and starting in lower case.
    what: &'static str,
}

/// A group of variables with a heading.
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
            secret(needed(
                "REDIS_URL",
                SERVERS,
                "address of Redis, such as rediss://user:password@host:6379",
            )),
            optional(
                "REDIS_KEY_PREFIX",
                "",
                &[Api, Worker, Controller, Edge],
                "prefix of all keys, if several installations share a Redis",
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
            needed("R2_ACCOUNT_ID", STORES, "the Cloudflare account of the R2 buckets; or set R2_ENDPOINT"),
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
                "public address of the output bucket; without it outputs get signed addresses that expire after a day, and HLS is served through the API below /media",
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
                "bearer tokens of callers, separated by commas, 16 characters or more each; needed unless the API listens on this machine only",
            )),
            optional(
                "API_CORS_ORIGINS",
                "",
                &[Up, Api, Edge],
                "origins of pages that may call the API, separated by commas",
            ),
            optional(
                "API_PUBLIC_URL",
                "as each request names it",
                &[Api, Operator, Edge],
                "public address of the API, such as https://films.example; needed for addresses of HLS in a private bucket in webhooks and TranscodeJobs",
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
                "true: allow inputs and webhooks in private networks",
            ),
        ],
    },
    Group {
        title: "Workers",
        text: "The controller passes them to the machines it starts. Keep them out of the Fly app's secrets, which take precedence.",
        variables: &[
            optional(
                "WORKER_IDLE_TIMEOUT",
                "300",
                &[Up, Worker, Controller, Edge],
                "seconds without a job after which a worker exits; 0: never",
            ),
            optional(
                "WORKER_TTL",
                "300",
                &[Up, Worker, Controller, Edge],
                "seconds after which a worker claims no further job; 0: never",
            ),
            optional(
                "WORKER_MAX_JOBS",
                "0",
                &[Up, Worker, Controller, Edge],
                "number of jobs after which a worker exits; 0: no limit",
            ),
            optional(
                "WORKER_MAX_FAILURES",
                "3",
                &[Up, Worker, Controller, Edge],
                "number of failures in a row, not caused by the files, after which a worker exits; 0: no limit",
            ),
            optional(
                "WORKER_SCRATCH_DIR",
                "the system's",
                &[Worker],
                "folder for the files of a running job",
            ),
            optional(
                "WORKER_DISK_BYTES",
                "what is free",
                &[Up, Worker],
                "maximum size of a job's files, where a worker may not use all free disk space, as in a pod",
            ),
            optional(
                "WORKER_MAX_INPUT_BYTES",
                "10000000000 on Fly, else 50000000000",
                &[Up, Api, Worker, Controller, Edge],
                "maximum size of an input; derived from FLY_WORKER_DISK_GB or WORKER_DISK_BYTES if set; an input and its \
                 outputs must fit on the disk, so it is less than half of it. The API refuses larger uploads at once if it \
                 has this setting or a fleet reports it, and the client sends fileSize",
            ),
            optional(
                "WORKER_STALL_TIMEOUT",
                "120",
                &[Up, Worker, Controller, Edge],
                "seconds without progress after which FFmpeg is killed",
            ),
            optional("FLY_MACHINE_ID", "HOSTNAME", &[Worker], "the machine it is on; Fly sets it"),
            optional("HOSTNAME", "local", &[Worker, Controller], "the machine's or the pod's name"),
        ],
    },
    Group {
        title: "The fleet",
        text: "Without FLY_API_TOKEN a controller in a cluster manages no machines; run workers yourself.",
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
            needed("FLY_WORKER_IMAGE", FLEETS, "image of the workers, such as registry.fly.io/app:tag"),
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
                "regions, preferred first, separated by commas; FLY_REGION, which Fly sets on its machines, is not read",
            ),
            optional(
                "FLY_WORKER_DISK_GB",
                "25, or what WORKER_MAX_INPUT_BYTES needs",
                FLEETS,
                "size of its disk, 2 to 50 GB, which holds a job's input and outputs",
            ),
            optional("FLEET_STRICT_REGIONS", "false", FLEETS, "true: use no other region if these are full"),
            optional(
                "MIN_MACHINES",
                "0",
                &[Up, Controller, Edge],
                "minimum number of running machines (tcoder up: 1)",
            ),
            optional(
                "MAX_MACHINES",
                "10",
                &[Up, Controller, Edge],
                "maximum number of machines (tcoder up: 1)",
            ),
            optional(
                "JOBS_PER_MACHINE",
                "1",
                FLEETS,
                "number of waiting jobs for which one machine is started",
            ),
            optional(
                "FLEET_BUDGET_USD_PER_HOUR",
                "",
                FLEETS,
                "maximum cost of all running machines; running jobs continue",
            ),
            optional(
                "FLEET_PRICE_USD_PER_HOUR",
                "Fly's list price",
                FLEETS,
                "price of a machine; needed with a budget if the size is in no price list",
            ),
            optional(
                "FLEET_LAUNCH_FAILURES",
                "3",
                FLEETS,
                "number of launches in a row without a worker after which launches pause for ten minutes",
            ),
            optional(
                "FLEET_PAUSED",
                "false",
                FLEETS,
                "true: report the next operations without carrying them out",
            ),
            optional("FLY_API_HOSTNAME", "https://api.machines.dev", FLEETS, "address of the Machines API"),
        ],
    },
    Group {
        title: "In Kubernetes",
        text: "These are in addition to the other variables of the controller; the storage variables are for uploads and the addresses of outputs.",
        variables: &[
            optional("WATCH_NAMESPACE", "all", &[Operator], "reconcile the objects of this namespace only"),
            optional(
                "POD_NAMESPACE",
                "tcoder-system",
                &[Operator],
                "namespace of the Lease and of the mirrored TranscodeJobs",
            ),
            optional(
                "MIRROR_MAX",
                "200",
                &[Operator],
                "maximum number of jobs of the API that are mirrored as TranscodeJobs; 0: none",
            ),
            optional("KUBERNETES_SERVICE_HOST", "", &[Operator], "set in every pod: this is a cluster"),
        ],
    },
    Group {
        title: "The Cloudflare Worker",
        text: "Set them in `[vars]` of `wrangler.toml`, and secrets with `wrangler secret put`.",
        variables: &[
            optional(
                "EDGE_FLEET",
                "enabled",
                &[Edge],
                "enabled: the Worker manages the machines; disabled: a tcoder controller does",
            ),
            optional(
                "EDGE_SUBREQUESTS",
                "50",
                &[Edge],
                "maximum number of subrequests of an invocation: 50 on the free plan, 1000 on the paid one",
            ),
            optional(
                "EDGE_CRON_MAX_SECONDS",
                "50",
                &[Edge],
                "maximum duration of a scheduled run while jobs run, seconds",
            ),
        ],
    },
    Group {
        title: "Logs and traces",
        text: "Spans go to an OpenTelemetry collector by OTLP over HTTP; the other variables of its specification apply, too.",
        variables: &[
            optional("RUST_LOG", "warn,tcoder=info", &[Up, Api, Worker, Controller], "log filter"),
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
                "the same with the path of traces, if that is not /v1/traces",
            ),
            optional(
                "OTEL_SERVICE_NAME",
                "tcoder- and the role",
                &[Up, Api, Worker, Controller],
                "service.name of the spans",
            ),
            optional(
                "OTEL_RESOURCE_ATTRIBUTES",
                "",
                &[Up, Api, Worker, Controller],
                "further resource attributes",
            ),
            optional(
                "OTEL_TRACES_SAMPLER",
                "parentbased_always_on",
                &[Up, Api, Worker, Controller],
                "selects the traces that are kept",
            ),
            optional(
                "OTEL_TRACES_SAMPLER_ARG",
                "",
                &[Up, Api, Worker, Controller],
                "argument of the sampler, such as 0.1 for parentbased_traceidratio",
            ),
            optional(
                "OTEL_BSP_SCHEDULE_DELAY",
                "5000",
                &[Up, Api, Worker, Controller],
                "milliseconds between two exports",
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
            Edge => "Cloudflare Worker",
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
        "# Configuration\n\nGenerated from the code by `make docs`; change `src/cli/environment.rs` instead. All of tcoder is \
         configured by the environment (the Worker by its variables), with the same names everywhere. A role \
         reports all missing and invalid settings at its start. **needed** means that the roles that read it do not \
         start without it; a *secret* belongs in a secret store, and is never shown.\n",
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
    use crate::controller::fleet::FleetPolicy;
    use crate::edge::settings::Settings;

    fn all() -> impl Iterator<Item = &'static Variable> {
        GROUPS.iter().flat_map(|group| group.variables)
    }

    #[test]
    fn configuration_document_matches_the_table() {
        let file = include_str!("../../docs/configuration.md");
        assert!(file == markdown(), "run `make docs`");
    }

    #[test]
    fn environment_variables_are_listed_once() {
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
    fn environment_table_lists_every_variable_a_role_reads() {
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
            FleetPolicy::read(env).unwrap();
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

    /// Words in the sources that look like a variable of tcoder but are not.
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
    fn environment_table_matches_the_variables_in_the_sources() {
        let mut found = BTreeSet::new();
        words_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        found.retain(|word| !OTHERS.contains(&word.as_str()));
        let told: BTreeSet<String> =
            all().map(|v| v.name.to_owned()).filter(|name| !OTHERS.contains(&name.as_str())).collect();
        assert_eq!(found, told);
    }
}
