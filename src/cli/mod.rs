//! The command line: arguments, output and exit codes.
//!
//! | module | what it does |
//! |---|---|
//! | `args` | the arguments |
//! | this one | runs the commands; exit codes, logs |
//! | `client` | a client of the HTTP API |
//! | `submit`, `upload` | submit a job and upload its video |
//! | `watch`, `fetch` | show the progress, and download the renditions |
//! | `jobs` | lists, shows, cancels and retries jobs |
//! | `fleet` | shows the machines and the next operations; pauses and resumes scaling |
//! | `tokens` | creates, lists, changes and deletes tokens with a name |
//! | `kubectl` | the plugin of kubectl |
//! | `transcode` | encodes a file without queue and storage |
//! | `serve`, `controller` | the servers: `up`, `api`, `worker`; `controller` |
//! | `output` | tables and progress bars |

mod args;
mod choices;
mod client;
mod controller;
mod fetch;
mod fleet;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod jobs;
mod kubectl;
mod multipart;
mod output;
mod serve;
mod submit;
mod tokens;
mod transcode;
mod upload;
mod watch;

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::filter::{FilterExt as _, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::Env;
use crate::trace::Export;

use crate::job::Failure;
use args::{Cli, Command};
use client::ClientError;

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The job or the transcode failed.
    #[error("{0}")]
    Failed(String),
    /// A call of the API failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The Kubernetes API server did not answer.
    #[error("{0}")]
    Unreachable(String),
    /// A server could not start.
    #[error("{0}")]
    Start(String),
    /// An operation on this machine failed.
    #[error("{0}")]
    Local(String),
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    fn start(error: impl std::fmt::Display) -> Self {
        Self::Start(error.to_string())
    }

    fn local(error: impl std::fmt::Display) -> Self {
        Self::Local(error.to_string())
    }

    /// The exit code; `tcoder --help` lists them.
    const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Client(error) if error.is_unreachable() => 3,
            Self::Unreachable(_) => 3,
            Self::Client(_) | Self::Local(_) => 4,
            Self::Start(_) => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.message)
    }
}

/// Parses the arguments, as those of the program by whose name it was called, and runs the command.
pub async fn start() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    match Path::new(&program).file_stem() {
        Some(name) if name == kubectl::PROGRAM => kubectl::run().await,
        _ => run(Cli::parse()).await,
    }
}

async fn run(cli: Cli) -> ExitCode {
    let role = match cli.command {
        Command::Up(_) => Some("up"),
        Command::Api(_) => Some("api"),
        Command::Controller(_) => Some("controller"),
        Command::Worker(_) => Some("worker"),
        _ => None,
    };
    let export = match role.map(|role| Export::of(&Env::process(), role)).transpose() {
        Ok(export) => export.flatten(),
        Err(error) => {
            eprintln!("tcoder: {error}");
            return ExitCode::from(CliError::start(error).code());
        }
    };
    init_logs(role.is_some(), export.as_ref());
    crate::net::install_crypto();
    if role.is_some() {
        crate::sandbox::protect_own_memory();
    }
    let done = match cli.command {
        Command::Up(args) => serve::up(args).await,
        Command::Api(args) => serve::api(args).await,
        Command::Controller(args) => controller::run(args).await,
        Command::Worker(args) => serve::worker(args).await,
        Command::Crd => crd(),
        Command::Configuration => configuration(),
        Command::Choices { list } => {
            output::outln!("{}", list.text().trim_end());
            Ok(())
        }
        Command::Openapi => output::json(&crate::api::openapi::document()),
        Command::Submit(args) => submit::run(args).await,
        Command::Jobs(args) => jobs::run(args).await,
        Command::Fleet(args) => fleet::run(args).await,
        Command::Tokens(args) => tokens::run(args).await,
        Command::Transcode(args) => transcode::run(args).await,
    };
    if let Some(export) = export {
        export.finish().await;
    }
    exit_code("tcoder", done)
}

/// The exit code of a command. Its error is printed.
fn exit_code(program: &str, done: Result<(), CliError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::from(error.code())
        }
    }
}

/// `tcoder configuration`
fn configuration() -> Result<(), CliError> {
    output::outln!("{}", crate::config::registry::markdown().trim_end());
    Ok(())
}

/// `tcoder crd`
fn crd() -> Result<(), CliError> {
    output::outln!("{}", crate::crd::yaml().map_err(CliError::local)?.trim_end());
    Ok(())
}

/// Logs go to stderr: as text at a terminal, as JSON lines elsewhere. `LOG_FORMAT` (`text`, `json`) selects the
/// format, and `RUST_LOG` the filter.
fn init_logs(server: bool, export: Option<&Export>) {
    let default = if server { "warn,tcoder=info" } else { "error" };
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.trim().is_empty());
    let filter = asked.map(EnvFilter::try_new).transpose().unwrap_or_else(|error| {
        eprintln!("tcoder: RUST_LOG is invalid ({error}); using the default");
        None
    });
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    // The S3 server's crate logs whole requests, including signatures, and every 404 as an error. Never enable that,
    // whatever RUST_LOG says.
    let silent = "s3s=off".parse().ok();
    let filter = silent.into_iter().fold(filter, EnvFilter::add_directive);
    let terminal = std::io::stderr().is_terminal();
    let json = match std::env::var("LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        _ => !terminal,
    };
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if json {
        logs.json().flatten_event(true).with_filter(filter).boxed()
    } else {
        logs.with_ansi(terminal).with_target(false).with_filter(filter).boxed()
    };
    // Exports only tcoder's own spans, independently of the log filter, and never those of the exporter's HTTP
    // client.
    let ours = Targets::new().with_target("tcoder", tracing::Level::DEBUG);
    let spans = export.map(|export| {
        let layer = tracing_opentelemetry::layer().with_tracer(export.tracer());
        // Includes only attributes that the conventions define; events go to the log.
        let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
        layer.with_target(false).with_filter(ours.and(filter_fn(|metadata| metadata.is_span())))
    });
    let begun = tracing_subscriber::registry().with(spans).with(logs).try_init();
    // In a test the logs may be set up already.
    drop(begun);
}
