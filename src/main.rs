//! The command `tcoder`, with one subcommand for each role. Under the name `kubectl-tcoder` it is a plugin of kubectl.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    tcoder::cli::start().await
}
