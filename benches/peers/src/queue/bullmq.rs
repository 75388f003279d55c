//! The load on BullMQ, by the Node script `bullmq.mjs`.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::Guard;
use crate::redis_server::Redis;
use crate::{Failure, repository};

/// The longest time of a phase.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running script.
struct Script {
    /// Node's version.
    node: String,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Script {
    async fn start(redis: &Redis, phase: &str, workers: usize, jobs: usize) -> Result<Self, Failure> {
        let mut command = Command::new(repository().join("hack/node.sh"));
        command
            .args(["benches/peers/bullmq.mjs", phase])
            .args([redis.port.to_string(), workers.to_string(), jobs.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = tcoder::child::tie_to_parent(&mut command).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the script of BullMQ has no input and output".into());
        };
        let lines = BufReader::new(output).lines();
        let mut script = Self { node: String::new(), input, lines, _child: child };
        let greeting = script.line().await?;
        let node = greeting.strip_prefix("ready ");
        script.node = node.ok_or_else(|| format!("the script of BullMQ says {greeting}"))?.to_owned();
        Ok(script)
    }

    async fn line(&mut self) -> Result<String, Failure> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.map_err(|_| "the script of BullMQ does not answer")??;
        Ok(line.ok_or("the script of BullMQ has failed; it needs Node and npm")?)
    }

    async fn begin(&mut self) -> Result<Vec<f64>, Failure> {
        self.input.write_all(b"begin\n").await?;
        Ok(serde_json::from_str(&self.line().await?)?)
    }
}

async fn phase(redis: &Redis, name: &str, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    let mut script = Script::start(redis, name, workers, jobs).await?;
    redis.reset();
    let values = script.begin().await?;
    if values.len() != jobs {
        return Err(format!("BullMQ has processed {} of {jobs} jobs", values.len()).into());
    }
    Ok(values)
}

pub async fn enqueue(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    phase(redis, "enqueue", workers, jobs).await
}

pub async fn drain(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    phase(redis, "drain", workers, jobs).await
}

pub async fn paced(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    phase(redis, "paced", workers, jobs).await
}

pub async fn idle(redis: &Redis, workers: usize) -> Result<Guard, Failure> {
    Ok(Box::new(Script::start(redis, "idle", workers, 0).await?))
}

/// Installs it, and checks that it runs. Returns Node's version.
pub async fn install() -> Result<String, Failure> {
    let redis = Redis::start().await?;
    let mut script = Script::start(&redis, "enqueue", 1, 1).await?;
    script.begin().await?;
    Ok(script.node)
}
