//! Processes: starts them, lists them, and waits for their end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::system::PATIENCE;

/// Starts a process from a thread that lives as long as this process: the kernel kills a tied child when the
/// *thread* that spawned it ends, and a test's thread ends with its test.
pub fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static KEEPER: LazyLock<tokio::sync::mpsc::UnboundedSender<Order>> = LazyLock::new(|| {
        let (orders, mut inbox) = tokio::sync::mpsc::unbounded_channel::<Order>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                while let Some((mut command, answer)) = inbox.recv().await {
                    let _ = answer.send(tcoder::child::tie_to_parent(&mut command).spawn());
                }
            });
        });
        orders
    });
    let (answer, child) = mpsc::channel();
    KEEPER.send((command, answer)).unwrap();
    child.recv().unwrap().unwrap()
}

/// The binary, without our environment except for PATH.
pub fn tcoder() -> Command {
    bare(env!("CARGO_BIN_EXE_tcoder"))
}

/// Any program, without our environment except for PATH.
pub fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// The executable of this name on the PATH, behind all links, as tcoder finds it.
pub fn installed(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("there is no {name} on the PATH")).canonicalize().unwrap()
}

/// Runs the command line until it ends.
pub async fn run(args: &[&str], env: &[(&str, &str)], dir: &Path) -> Output {
    let mut command = tcoder();
    command.args(args).envs(env.iter().copied()).current_dir(dir);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
    ended.expect("the command does not end").unwrap()
}

pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a Node script of tests/ until it ends, with the packages of its folder (hack/node.sh).
pub async fn node<A: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/node.sh"));
    command.arg(script).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
    ended.unwrap_or_else(|_| panic!("{script} does not end")).unwrap()
}

#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub command: String,
}

/// All running processes.
pub fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
    if matches!(state, "Z" | "X") {
        return None;
    }
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(Process { pid, parent, command: String::from_utf8_lossy(&command).replace('\0', " ") })
}

pub fn children(pid: u32) -> Vec<Process> {
    processes().into_iter().filter(|p| p.parent == pid).collect()
}

/// The children of a process, recursively.
pub fn descendants(pid: u32) -> Vec<Process> {
    let all = processes();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|p| p.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// The FFmpeg processes that work on files below `folder`.
pub fn encoders(folder: &Path) -> Vec<Process> {
    let folder = folder.to_str().unwrap();
    processes()
        .into_iter()
        .filter(|p| p.command.starts_with("ffmpeg ") && p.command.contains(folder))
        .collect()
}

/// Whether the process runs and is not a zombie.
pub fn lives(pid: u32) -> bool {
    process(pid).is_some()
}

pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Waits until `is` holds by polling, because the end of other processes causes no event.
pub async fn eventually(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until none of these processes runs.
pub async fn all_gone(processes: &[Process]) {
    for p in processes {
        // The process id may have been reused by another command.
        eventually(&format!("{p:?} is gone"), || process(p.pid).is_none_or(|now| now.command != p.command))
            .await;
    }
}
