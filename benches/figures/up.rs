//! `tcoder up` as a user starts it.

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::TCODER;

/// A running `tcoder up`. It is stopped when dropped.
pub struct Up {
    child: Child,
    /// The address of its API.
    pub api: String,
}

impl Up {
    /// Starts it with this folder for its data, these further arguments and these variables, and waits for a worker.
    pub async fn start(data: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(TCODER)
            .args(["up", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let api = lines.map_while(Result::ok).find_map(|l| l.trim().strip_prefix("API").map(str::to_owned));
        let up = Self { child, api: api.expect("tcoder up says where its API is").trim().to_owned() };
        while up.get("/api/status").await["workers"].as_array().is_none_or(Vec::is_empty) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        up
    }

    /// What its API answers.
    pub async fn get(&self, path: &str) -> Value {
        reqwest::get(format!("{}{path}", self.api)).await.unwrap().json().await.unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT);
        let _ = self.child.wait();
    }
}
