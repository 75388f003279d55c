//! The arguments of the command line. Their doc comments are the help texts, which teach by example.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use url::{Host, Url};

use super::choices::{self, ChoicesList};
use crate::config::registry::help;
use crate::config::{BaseUrl, Role};
use crate::job::{
    JobId, KeyPrefix, Ladder, Parallelism, Preset, Priority, Scope, State, Stills, TokenName, WorkerClass,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the job or the transcode failed; the reason is on stderr
  2  the command line was wrong
  3  the server could not be reached
  4  the server refused the request, or a local file was in the way
  5  a server role could not start
  130  interrupted by Ctrl-C";

const UP_EXAMPLES: &str = "\
Examples:
  tcoder up
  tcoder up --data /srv/tcoder --listen 127.0.0.1:9000 --max-machines 3
  API_TOKENS=SECRET tcoder up --listen 0.0.0.0:8443 --public-host films.example --tls-cert films.pem --tls-key films.key
  API_TOKENS=SECRET tcoder up --public-url https://films.example    # behind a proxy that ends TLS";

const SUBMIT_EXAMPLES: &str = "\
Examples:
  tcoder submit film.mov --quality 720p,360p --wait --output out
  tcoder submit https://example.com/film.mov --preset hls-adaptive --wait
  tcoder submit film.mov --wait --json | jq -r '.outputs[].url'";

const JOBS_EXAMPLES: &str = "\
Examples:
  tcoder jobs list --status failed
  tcoder jobs get 01890a5d-ac96-774b-bcce-b302099a8057
  tcoder jobs watch 01890a5d-ac96-774b-bcce-b302099a8057 --output out";

const FLEET_EXAMPLES: &str = "\
Examples:
  tcoder fleet status
  tcoder fleet plan
  tcoder fleet pause --reason 'a new image is on its way'
  tcoder fleet resume
  tcoder fleet status --json | jq -r '.fleet.machines[] | .name + \" \" + .role'";

const TOKENS_EXAMPLES: &str = "\
Examples:
  tcoder tokens create films --scope submit --key-prefix films/ --jobs-per-hour 100 --open-jobs 20
  tcoder tokens create prometheus --scope read
  tcoder tokens list
  tcoder tokens rotate films";

const TRANSCODE_EXAMPLES: &str = "\
Examples:
  tcoder transcode film.mov --quality 720p,360p,144p
  tcoder transcode film.mov --preset hls-adaptive --output film-hls";

const SIGNALS: &str = "On SIGTERM or Ctrl-C the worker releases its job, and another worker runs it.";

const FORWARDED_ENV: &str = "\
Without FLY_API_TOKEN a controller in a cluster manages no machines; run workers yourself.
WORKER_TTL and the other WORKER_ variables are passed to the machines, which get their secrets
from the app: `fly secrets set`.";

/// Videos in, renditions out: transcoding on S3 storage, Redis and FFmpeg.
///
/// Try it on this machine:
///
///   tcoder up                                   everything, here (leave it running)
///   tcoder submit film.mov --preset hls-adaptive --wait --output out
///
/// Or only the encoder, without any server:
///
///   tcoder transcode film.mov --preset web-optimized --quality 720p,360p --output out
#[derive(Debug, Parser)]
#[command(name = "tcoder", version, verbatim_doc_comment, after_help = EXIT_CODES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the whole system on this machine: queue, storage, API and workers
    ///
    /// Starts redis-server, an S3 server over a folder, the API, and workers as they are needed, and runs
    /// until Ctrl-C. The workers are machines of an emulated Fly, managed by the same code as real ones:
    /// `tcoder fleet status` shows them.
    ///
    /// All data is kept in the data folder, so the next start continues where this one stopped.
    ///
    /// With REDIS_URL set, that Redis is used instead. Without API_TOKENS it listens on this machine only and
    /// needs no token. To listen on other addresses, set API_TOKENS, and give it a certificate or put a proxy with TLS
    /// in front; every request then needs a token, also from this machine. Everybody who can reach it and knows the
    /// address of an output can read it without a token.
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// Send a video (a file or a web address) to a running tcoder
    #[command(after_help = SUBMIT_EXAMPLES)]
    Submit(SubmitArgs),
    /// List, show, watch, cancel and retry jobs
    #[command(after_help = JOBS_EXAMPLES)]
    Jobs(JobsArgs),
    /// Inspect the machines and the next operations on them; pause and resume scaling
    ///
    /// The reconciler (`tcoder controller`, or the one inside `tcoder up`) creates, starts, stops and
    /// destroys machines as the queue needs them. While it is paused it changes nothing, and `plan` is a
    /// dry run.
    #[command(after_help = FLEET_EXAMPLES)]
    Fleet(FleetArgs),
    /// Create, list, change and delete tokens with a name, scopes and limits
    ///
    /// Each product, tenant or monitor can have a token of its own. The server keeps only its hash. Changes apply from the
    /// next request on, without a restart. All of these commands need one of the server's API_TOKENS.
    #[command(after_help = TOKENS_EXAMPLES)]
    Tokens(TokensArgs),
    /// Transcode a file on this machine, without queue or storage, to try out presets
    #[command(after_help = TRANSCODE_EXAMPLES)]
    Transcode(TranscodeArgs),
    /// Run the HTTP API on the Redis and the buckets named in the environment
    #[command(after_help = help(&[Role::Api]))]
    Api(ApiArgs),
    /// Run the controller: the Fly Machines the queue needs and, in Kubernetes, TranscodeJobs and
    /// WorkerPools
    ///
    /// Compares the queue in Redis with the app's machines, and creates, starts, stops and destroys
    /// machines until they match, with one request to Fly a second. Several controllers may run; one of
    /// them is the leader.
    ///
    /// In a cluster, or with --namespace or --all-namespaces and a kubeconfig, it is an operator too: a
    /// TranscodeJob becomes a job in the queue, and its status shows the progress; a WorkerPool says how
    /// many machines there may be. `tcoder crd` prints the definitions of both.
    #[command(after_help = format!("{}\n\n{FORWARDED_ENV}", help(&[Role::Controller, Role::Operator])))]
    Controller(ControllerArgs),
    /// Run a worker on the Redis and the buckets named in the environment
    ///
    /// Made for machines that are billed by the second: by default it claims no further job after 5
    /// minutes, and exits after 5 minutes without a job, with exit code 0. WORKER_IDLE_TIMEOUT=0 and
    /// WORKER_TTL=0 keep it running.
    #[command(after_help = format!("{}\n\n{SIGNALS}", help(&[Role::Worker])))]
    Worker(WorkerArgs),
    /// Print the custom resource definitions, for `tcoder crd | kubectl apply -f -`
    Crd,
    /// Print docs/configuration.md
    #[command(hide = true)]
    Configuration,
    /// Print a list of presets or entry documents as the page and the documentation contain it
    #[command(hide = true)]
    Choices {
        /// The list.
        list: ChoicesList,
    },
    /// Print the OpenAPI 3.1 document of the API, which is also served at /openapi.json
    Openapi,
}

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// Folder for jobs, videos and keys
    #[arg(long, value_name = "DIR", default_value = "tcoder-data", env = "TCODER_DATA")]
    pub data: PathBuf,
    /// Address of the API, the page and the storage
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Name or IP under which other machines reach this one; used in upload and download addresses
    #[arg(long, value_name = "HOST", env = "TCODER_PUBLIC_HOST", value_parser = host)]
    pub public_host: Option<Host>,
    /// Address at which clients reach it through a proxy, such as https://films.example; the proxy must pass on the
    /// header Host
    #[arg(long, value_name = "URL", env = "API_PUBLIC_URL", conflicts_with = "public_host")]
    pub public_url: Option<BaseUrl>,
    /// Certificate for TLS, and those up to its authority: a file in PEM format, which is read at the start
    #[arg(long, value_name = "FILE", env = "TCODER_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, a file in PEM format
    #[arg(long, value_name = "FILE", env = "TCODER_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Let other machines reach it without TLS; everybody on the network between can read tokens and videos
    #[arg(long, env = "TCODER_PLAIN_HTTP")]
    pub plain_http: bool,
    /// Maximum number of workers, each a process; one FFmpeg uses all cores, so one is right for most
    /// machines. 0 starts none, if you run workers yourself
    #[arg(long, value_name = "N", default_value_t = 1, env = "MAX_MACHINES", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub max_machines: u32,
    /// Minimum number of workers, which run without jobs too; with 0 the first job waits some seconds for one
    #[arg(long, value_name = "N", default_value_t = 1, env = "MIN_MACHINES", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub min_machines: u32,
}

fn host(text: &str) -> Result<Host, String> {
    // An IPv6 address needs its brackets only in a URL.
    if let Ok(ip) = text.parse() {
        return Ok(Host::Ipv6(ip));
    }
    Host::parse(text).map_err(|_| "it must be a name or an IP, without a port".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    /// Address of /livez, /readyz and /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    pub listen: SocketAddr,
    /// Reconcile the objects of this namespace only
    #[arg(long, value_name = "NAME", env = "WATCH_NAMESPACE")]
    pub namespace: Option<String>,
    /// Reconcile the objects of all namespaces; the default in a cluster
    #[arg(long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Limit the TranscodeJobs of a namespace to objects whose key begins with its name and a slash
    #[arg(long)]
    pub tenant_prefixes: bool,
}

#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}

/// The server to connect to.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerArgs {
    /// Address of the API
    #[arg(
        long,
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        env = "TCODER_URL",
        hide_env_values = true
    )]
    pub server: Url,
    /// A token of the server: one of its API_TOKENS, or one that `tcoder tokens create` printed
    #[arg(long, global = true, value_name = "TOKEN", env = "TCODER_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// How to encode a video.
#[derive(Clone, Debug, Args)]
pub(super) struct EncodeArgs {
    #[arg(long, value_name = "PRESET", default_value = "web-optimized", help = choices::presets_help())]
    pub preset: Preset,
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true, help = choices::qualities_help())]
    pub quality: Ladder,
    /// Also make a poster: a JPEG still of the beginning
    #[arg(long)]
    pub poster: bool,
    /// Also make a storyboard for seek bars: small stills in one JPEG, and a WebVTT
    #[arg(long)]
    pub storyboard: bool,
}

impl EncodeArgs {
    /// The stills to make.
    pub(crate) const fn stills(&self) -> Stills {
        Stills { poster: self.poster, storyboard: self.storyboard }
    }
}

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// Print the versions of FFmpeg and what its sandbox lacks on this machine, and exit
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// A video file, or an http(s) address the server fetches it from
    #[arg(value_name = "FILE|URL")]
    pub input: String,
    #[command(flatten)]
    pub encode: EncodeArgs,
    /// Urgency from -100 to 100; one point is worth a minute of waiting
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true, value_parser = priority)]
    pub priority: Priority,
    /// How many chunks of a long video are encoded at once: auto, or at most 1 to 256; 1 does not split it
    #[arg(long, value_name = "N", default_value = "auto")]
    pub parallelism: Parallelism,
    /// Class of the workers that may run the job; it waits until there is one that takes jobs of this class
    #[arg(long, value_name = "CLASS", default_value = WorkerClass::DEFAULT)]
    pub worker_class: WorkerClass,
    /// URL to which the server POSTs the result, signed, when the job ends
    #[arg(long, value_name = "URL")]
    pub webhook: Option<Url>,
    /// Wait until the job has ended, and show its progress
    #[arg(long)]
    pub wait: bool,
    /// Wait, and download the renditions into this folder; a file of the same name is replaced when the
    /// new one is complete
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print the job as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

fn priority(text: &str) -> Result<Priority, String> {
    let number: i64 = text.parse().map_err(|_| "it must be a whole number from -100 to 100".to_owned())?;
    Priority::try_from(number).map_err(|e| e.to_string())
}

#[derive(Debug, Args)]
pub(super) struct JobsArgs {
    #[command(subcommand)]
    pub command: JobsCommand,
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List jobs, newest first
    List {
        /// Only those in this state: uploading queued running completed failed cancelled
        #[arg(long, value_name = "STATE")]
        status: Option<State>,
        /// Maximum number of jobs
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show one job, its outputs or why it failed
    Get {
        /// The job's id
        id: JobId,
    },
    /// Cancel a job; a running encode stops within seconds
    Cancel {
        /// The job's id
        id: JobId,
    },
    /// Queue a failed or cancelled job again, with all its attempts
    Retry {
        /// The job's id
        id: JobId,
    },
    /// Follow a job to its end, with progress
    Watch {
        /// The job's id
        id: JobId,
        /// Download the renditions into this folder
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct FleetArgs {
    #[command(subcommand)]
    pub command: FleetCommand,
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print the response of `GET /api/fleet` as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum FleetCommand {
    /// Show the desired number of machines and why, and each machine's state, job, age and cost so far
    ///
    /// `state` is Fly's state of the machine, `role` is what it does for the fleet: busy, idle, booting,
    /// leaving, rest, or what is wrong with it. `age` is the time since it was created, `up` since it last
    /// started. The cost is that of its runs at its hourly price; destroyed machines are not included.
    Status,
    /// Show the next operations and their reasons, without carrying them out
    Plan,
    /// Stop scaling until `tcoder fleet resume`
    ///
    /// Running machines continue with their jobs and stop by themselves when idle. A second pause changes
    /// the reason, not the time.
    Pause {
        /// The reason, shown while the fleet is paused; one line of at most 200 characters
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Resume scaling after `tcoder fleet pause`
    Resume,
}

#[derive(Debug, Args)]
pub(super) struct TokensArgs {
    #[command(subcommand)]
    pub command: TokensCommand,
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokensCommand {
    /// List the tokens that have a name, with their scopes and limits
    List,
    /// Create a token, and print it; it is not shown again
    Create {
        /// Its name: lower-case letters, digits and hyphens
        name: TokenName,
        #[command(flatten)]
        permissions: PermissionArgs,
    },
    /// Replace the scopes and limits of a token; what is left out, it no longer has
    Change {
        /// The token's name
        name: TokenName,
        #[command(flatten)]
        permissions: PermissionArgs,
    },
    /// Replace a token by a new one with the same name, and print it
    Rotate {
        /// The token's name
        name: TokenName,
    },
    /// Delete a token; its jobs stay
    Delete {
        /// The token's name
        name: TokenName,
    },
}

/// What a token permits.
#[derive(Debug, Args)]
pub(super) struct PermissionArgs {
    /// Scopes: submit (submit jobs, and see and change its own), read (see everything), operate (see and change
    /// everything)
    #[arg(long, value_name = "LIST", required = true, value_delimiter = ',')]
    pub scope: Vec<Scope>,
    /// Folder of the input bucket whose objects it may name as input, such as films/
    #[arg(long, value_name = "FOLDER/")]
    pub key_prefix: Option<KeyPrefix>,
    /// Maximum number of requests a minute
    #[arg(long, value_name = "N")]
    pub requests_per_minute: Option<u32>,
    /// Maximum number of jobs submitted or retried an hour
    #[arg(long, value_name = "N")]
    pub jobs_per_hour: Option<u32>,
    /// Maximum number of jobs that have not ended
    #[arg(long, value_name = "N")]
    pub open_jobs: Option<u32>,
    /// Maximum number of minutes of video a day
    #[arg(long, value_name = "N")]
    pub source_minutes_per_day: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct TranscodeArgs {
    /// The video file
    #[arg(value_name = "FILE")]
    pub input: PathBuf,
    #[command(flatten)]
    pub encode: EncodeArgs,
    /// Folder for the outputs
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub output: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn cli_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn jobs_accepts_server_options_before_and_after_the_subcommand() {
        for line in ["tcoder jobs --server http://h list", "tcoder jobs list --server http://h --token t"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn fleet_subcommands_accept_server_and_json() {
        for word in ["status", "plan", "pause", "pause --reason why", "resume"] {
            for line in [
                format!("tcoder fleet {word} --json --server http://h --token t"),
                format!("tcoder fleet --json --server http://h --token t {word}"),
            ] {
                assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
            }
        }
        assert!(Cli::try_parse_from(["tcoder", "fleet"]).is_err());
        assert!(Cli::try_parse_from(["tcoder", "fleet", "status", "--reason", "x"]).is_err());
    }

    #[test]
    fn cli_errors_for_invalid_values_list_the_valid_ones() {
        let error = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
        assert!(error("tcoder submit a.mp4 --preset HLS").contains("hls-adaptive"));
        assert!(error("tcoder submit a.mp4 --quality 721p").contains("1080p"));
        assert!(error("tcoder submit a.mp4 --quality 720p,720p").contains("twice"));
        assert!(error("tcoder jobs get 7").contains("UUID"));
        assert!(error("tcoder up --public-host http://films.example:80").contains("without a port"));
    }
}
