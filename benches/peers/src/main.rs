//! Measures tcoder beside other queues and other ways to encode, one line for each figure (`name value unit`). Also written
//! to `bench-peers.json` in the target folder; the option `--docs FILE` writes the section of a document.
//!
//! `queue` or `encode` on the command line measures only those. `PEERS_QUICK=1` is a quick check, with fewer and
//! shorter runs; `PEERS_JOBS` changes the number of jobs.

mod encode;
mod figures;
mod queue;
mod redis_server;

#[path = "../../../tests/it/support/command_count.rs"]
mod command_count;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use figures::Figures;

pub type Failure = Box<dyn Error + Send + Sync>;

/// Measures tcoder beside other queues and other ways to encode.
#[derive(Parser)]
struct Cli {
    /// What to measure; everything if nothing is named.
    #[arg(value_parser = ["queue", "encode"])]
    parts: Vec<String>,
    /// The document whose section is to be written; only with everything.
    #[arg(long, conflicts_with = "parts")]
    docs: Option<PathBuf>,
}

/// A worker of tcoder waits this long for a wake-up, which is longer than any interval of the others.
const IDLE: Duration = Duration::from_secs(75);

/// How much is measured.
pub struct Scale {
    /// Jobs of a phase at full speed.
    pub jobs: usize,
    /// Runs of the queues' phases.
    pub runs: usize,
    /// Jobs of the phase with a hundred a second.
    pub paced: usize,
    /// For how long idle workers are watched.
    pub idle: Duration,
    /// The duration of the clip that is encoded.
    pub clip_seconds: u32,
    /// The duration of its pieces, where it is split.
    pub piece_seconds: u32,
    /// Rounds of encoding.
    pub rounds: usize,
}

impl Scale {
    fn from_environment() -> Result<Self, Failure> {
        let quick = std::env::var_os("PEERS_QUICK").is_some_and(|value| value != "0" && !value.is_empty());
        let mut scale = if quick {
            Self {
                jobs: 2_000,
                runs: 2,
                paced: 200,
                idle: IDLE,
                clip_seconds: 6,
                piece_seconds: 2,
                rounds: 1,
            }
        } else {
            Self {
                jobs: 20_000,
                runs: 5,
                paced: 500,
                idle: IDLE * 3,
                clip_seconds: 40,
                piece_seconds: 4,
                rounds: 3,
            }
        };
        if let Ok(jobs) = std::env::var("PEERS_JOBS") {
            let parsed = jobs.parse().ok().filter(|jobs| *jobs >= 100);
            scale.jobs =
                parsed.ok_or_else(|| format!("PEERS_JOBS is {jobs}; it must be a number from 100"))?;
        }
        Ok(scale)
    }

    fn conditions(&self) -> String {
        format!(
            "{} jobs and {} runs of each phase; {} jobs at a hundred a second; idle workers watched for {} s, and \
             extrapolated to a minute; a clip of {} s, pieces of {} s, {} rounds",
            self.jobs,
            self.runs,
            self.paced,
            self.idle.as_secs(),
            self.clip_seconds,
            self.piece_seconds,
            self.rounds
        )
    }
}

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program `tcoder`, which is built together with this one.
pub fn tcoder_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?.with_file_name("peers-tcoder");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is missing; build this package with `cargo build --release`", program.display()).into())
}

/// Cargo's target folder, two levels above this program.
fn target_dir() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let folder = program.parent().and_then(Path::parent);
    Ok(folder.ok_or("this program lies in no target folder")?.to_owned())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    tcoder::net::install_crypto();
    let cli = Cli::parse();
    let wants = |part: &str| cli.parts.is_empty() || cli.parts.iter().any(|wanted| wanted == part);
    let scale = Scale::from_environment()?;
    let mut figures = Figures::new(scale.conditions());
    let mut idle = None;
    if wants("queue") {
        let peers = queue::present(&mut figures).await?;
        queue::measure(&mut figures, &peers, &scale).await?;
        idle = Some(queue::Idle::begin(&peers).await?);
    }
    if wants("encode") {
        // Meanwhile the idle workers are counted, which takes next to no time of the processor.
        tokio::task::block_in_place(|| encode::measure(&mut figures, &scale))?;
    }
    if let Some(idle) = idle {
        idle.end(&mut figures, &scale).await;
    }
    figures.write(&target_dir()?.join("bench-peers.json"))?;
    if let Some(docs) = cli.docs {
        figures.write_section(&docs)?;
    }
    Ok(())
}
