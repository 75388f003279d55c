//! `kubectl tcoder`, the plugin of kubectl: submits videos as TranscodeJobs, and follows them to their end. kubectl runs the
//! program `kubectl-tcoder` that it finds on the PATH, which is this program under another name.
//!
//! What kubectl does by itself (get, describe, delete) is not here.

mod submit;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::DeserializeGuard;
use kube::{Api, Client, Config};
use tokio::time::timeout;

use super::CliError;
use super::args::EncodeArgs;
use crate::crd::{TranscodeJob, WorkerPool};
use crate::job::WorkerClass;

/// The name under which kubectl finds the plugin `tcoder`.
pub(super) const PROGRAM: &str = "kubectl-tcoder";

/// Time limit of a request to the API server.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  kubectl tcoder submit film.mov -n films --quality 720p,360p --wait
  kubectl tcoder submit https://example.com/film.mov --preset hls-adaptive
  kubectl tcoder submit --key films/film.mov --name film
  kubectl tcoder watch film

Exit codes:
  0  done
  1  the job failed; the reason is on stderr
  2  the command line was wrong
  3  the cluster could not be reached
  4  the cluster or the storage refused the request, or a local file was in the way
  130  interrupted by Ctrl-C";

/// Submit videos to tcoder in a Kubernetes cluster, and follow them
///
/// A video becomes a TranscodeJob. `kubectl get tj` lists them, `kubectl describe tj NAME` tells what happened to one, and
/// `kubectl delete tj NAME` cancels it.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, bin_name = "kubectl tcoder", version, after_help = EXAMPLES)]
pub(super) struct KubectlCli {
    #[command(subcommand)]
    command: KubectlCommand,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The cluster and the namespace, as kubectl names them.
#[derive(Debug, Args)]
struct ClusterArgs {
    /// Namespace of the TranscodeJob; without it that of the context
    #[arg(long, short, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Kubeconfig to use instead of KUBECONFIG or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum KubectlCommand {
    /// Create a TranscodeJob for a file, which is uploaded, for a web address, or for an object in the input bucket
    Submit(SubmitArgs),
    /// Follow a TranscodeJob to its end, with progress, and print its outputs or why it failed
    Watch {
        /// The name of the TranscodeJob
        name: String,
        /// Print its status as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct SubmitArgs {
    /// A video file, or an http(s) address the worker fetches it from
    #[arg(value_name = "FILE|URL", required_unless_present = "key", conflicts_with = "key")]
    input: Option<String>,
    /// An object in the input bucket, instead of a file or an address
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Name of the TranscodeJob; without it one is made from that of the video
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    encode: EncodeArgs,
    /// Urgency from -100 to 100; one point is worth a minute of waiting
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
    priority: i32,
    /// Class of the workers that may run the job
    #[arg(long, value_name = "NAME", default_value = WorkerClass::DEFAULT)]
    worker_class: WorkerClass,
    /// Wait until the job has ended, and show its progress
    #[arg(long)]
    wait: bool,
    /// Print the TranscodeJob's status as JSON; with --wait, at its end
    #[arg(long)]
    json: bool,
}

/// Parses the arguments and runs the command.
pub(super) async fn run() -> ExitCode {
    let cli = KubectlCli::parse();
    super::init_logs(false, None);
    crate::net::install_crypto();
    let done = async {
        let jobs = cli.cluster.jobs().await?;
        match cli.command {
            KubectlCommand::Submit(args) => submit::run(&jobs, args).await,
            KubectlCommand::Watch { name, json } => watch::to_the_end(&jobs, &name, json).await,
        }
    };
    super::exit_code(PROGRAM, done.await)
}

/// The TranscodeJobs of a namespace.
struct Jobs {
    api: Api<TranscodeJob>,
    /// The WorkerPools of all namespaces, which not everybody may read.
    pools: Api<DeserializeGuard<WorkerPool>>,
    /// The options with which kubectl finds them, too.
    options: String,
}

impl Jobs {
    /// A request with a time limit.
    async fn bounded<T>(
        call: Call,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CliError> {
        let seconds = ANSWERS_WITHIN.as_secs();
        match timeout(ANSWERS_WITHIN, request).await {
            Ok(answer) => answer.map_err(|error| refused(&error, call)),
            Err(_) => Err(CliError::Unreachable(format!(
                "the cluster did not answer within {seconds} s; check the kubeconfig"
            ))),
        }
    }
}

impl ClusterArgs {
    /// The TranscodeJobs of the namespace.
    async fn jobs(&self) -> Result<Jobs, CliError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(file) => {
                let file = Kubeconfig::read_from(file).map_err(CliError::local)?;
                Config::from_custom_kubeconfig(file, &options).await
            }
            None if self.context.is_none() => match Config::infer().await {
                Ok(config) => Ok(config),
                Err(error) => {
                    let remedy = "set KUBECONFIG, or name a file with --kubeconfig";
                    return Err(CliError::Local(format!("no cluster is configured: {error}; {remedy}")));
                }
            },
            None => Config::from_kubeconfig(&options).await,
        };
        let config = config.map_err(CliError::local)?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(CliError::local)?;
        let api = Api::namespaced(client.clone(), &namespace);
        Ok(Jobs { api, pools: Api::all(client), options: self.options(&namespace) })
    }

    /// The options to write behind a command about an object of this namespace.
    fn options(&self, namespace: &str) -> String {
        let mut options = format!(" -n {namespace}");
        if let Some(context) = &self.context {
            options.push_str(&format!(" --context {context}"));
        }
        if let Some(file) = &self.kubeconfig {
            options.push_str(&format!(" --kubeconfig {}", file.display()));
        }
        options
    }
}

/// A call of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// The create of a TranscodeJob.
    Create,
    /// The read of one.
    Get,
    /// The watch of one.
    Watch,
}

/// The error of a call of the API server.
fn refused(error: &kube::Error, call: Call) -> CliError {
    let what = match call {
        Call::Create => "create the TranscodeJob",
        Call::Get => "read the TranscodeJob",
        Call::Watch => "show the TranscodeJob",
    };
    match error {
        kube::Error::Api(status) if status.code == 404 && call == Call::Create => CliError::Local(format!(
            "the cluster cannot {what}: {status}; if it knows no TranscodeJob, install tcoder first"
        )),
        kube::Error::Api(status) => CliError::Local(format!("the cluster cannot {what}: {status}")),
        kube::Error::Service(_) | kube::Error::HyperError(_) => {
            CliError::Unreachable(format!("the cluster does not answer ({error}); check the kubeconfig"))
        }
        error => CliError::Local(format!("cannot {what}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        KubectlCli::command().debug_assert();
    }

    #[test]
    fn options_of_the_cluster_stand_before_and_after_the_command() {
        for line in [
            "kubectl-tcoder submit film.mov -n films --context staging",
            "kubectl-tcoder -n films --kubeconfig config submit film.mov --wait",
            "kubectl-tcoder submit --key films/film.mov --name film",
            "kubectl-tcoder submit film.mov --worker-class large",
            "kubectl-tcoder watch film -n films",
        ] {
            assert!(KubectlCli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "kubectl-tcoder submit",
            "kubectl-tcoder submit film.mov --key films/film.mov",
            "kubectl-tcoder submit film.mov --priority 101",
            "kubectl-tcoder submit film.mov --worker-class Large",
        ] {
            assert!(KubectlCli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
