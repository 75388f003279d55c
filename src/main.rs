//! The command `tcoder`, with one subcommand for each role.

use std::process::ExitCode;

use clap::Parser as _;
use tcoder::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(Cli::parse()).await
}
