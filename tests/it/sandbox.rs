//! The sandbox of FFmpeg: a program in the place of FFmpeg or ffprobe, started by a real worker, tries to leave it. Without
//! the sandbox the same attempts succeed, which shows that they are real ones.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;
use tcoder::job::{Input, JobId, JobSpec, Ladder, Parallelism, Preset, State};
use tcoder::queue::SubmitMode;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::clips::long_clip;
use crate::support::installation::Installation;
use crate::support::objects::put_input;
use crate::support::process::{encoders, eventually, installed, lives, out, run, send, spawn};

/// A kind of attempt, and what it is for.
type Attempt = (&'static str, String);

/// A folder with a program of this name, `ffmpeg` or `ffprobe`, that makes these attempts.
fn program(name: &str, attempts: &[Attempt]) -> TempDir {
    let folder = tempfile::Builder::new().prefix("tcoder-hostile-").tempdir().unwrap();
    let pairs: Vec<String> = attempts.iter().map(|(kind, what)| format!("{{{kind:?}, {what:?}}}")).collect();
    let (list, real) = (pairs.join(", "), installed(name));
    let list = format!("#define REAL {real:?}\nstatic const char *const ATTEMPTS[][2] = {{{list}}};\n");
    std::fs::write(folder.path().join("attempts.h"), list).unwrap();
    let source = folder.path().join("hostile_program.c");
    std::fs::write(&source, include_str!("support/hostile_program.c")).unwrap();
    let mut compiler = std::process::Command::new("cc");
    let built = compiler.args(["-O1", "-o"]).args([&folder.path().join(name), &source]).output();
    let built = built.expect("this test needs a C compiler, as Rust does");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    folder
}

/// A worker with this program in the place of the one with its name. The other one is real.
fn worker(installation: &Installation, program: &TempDir, sandbox: &str) -> Child {
    spawn(worker_command(installation, program, sandbox))
}

fn worker_command(installation: &Installation, program: &TempDir, sandbox: &str) -> Command {
    let folders = std::env::var_os("PATH").unwrap();
    let folders = std::iter::once(program.path().to_owned()).chain(std::env::split_paths(&folders));
    let mut command = installation.worker_command("worker");
    command
        .env("PATH", std::env::join_paths(folders).unwrap())
        .env("WORKER_SANDBOX", sandbox)
        .env("RUST_LOG", "tcoder=debug");
    command
}

async fn submit(installation: &Installation, parallelism: Parallelism) -> JobId {
    let id = JobId::new();
    let key = format!("inputs/{id}/clip.mp4");
    put_input(&installation.storage.config, &key, std::fs::read(long_clip()).unwrap()).await;
    let ladder: Ladder = "144p".parse().unwrap();
    let input = Input::Key(key.parse().unwrap());
    let spec = JobSpec { max_attempts: 1, parallelism, ..JobSpec::new(input, Preset::HlsAdaptive, ladder) };
    installation.queue.submit(id, &spec, SubmitMode::Now).await.unwrap();
    id
}

/// What the program said of its attempts, from the worker's log: which succeeded.
fn outcomes(log: &str) -> Vec<(String, bool)> {
    let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let words = |record: Value| Some(record["ffmpeg"].as_str().or(record["ffprobe"].as_str())?.to_owned());
    let words = records.filter_map(words);
    let lines: Vec<String> =
        words.flat_map(|words| words.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let attempts = lines.iter().filter_map(|line| line.split_once("attempt: ")?.1.rsplit_once(": "));
    attempts.map(|(what, outcome)| (what.to_owned(), outcome == "SUCCEEDED")).collect()
}

/// What others have on the machine of a worker: files, a server of each kind.
struct Surroundings {
    folder: TempDir,
    tcp: TcpListener,
    udp: UdpSocket,
    _unix: UnixListener,
}

impl Surroundings {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("tcoder-surroundings-").tempdir().unwrap();
        let scratch = folder.path().join("tcoder-work-other");
        std::fs::create_dir(&scratch).unwrap();
        std::fs::write(scratch.join("input"), "a film of somebody else").unwrap();
        std::fs::write(folder.path().join("secret"), "hush").unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        Self { folder, tcp, udp, _unix: unix }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Everything that must fail, whatever the input.
    fn attempts(&self) -> Vec<Attempt> {
        let none = || "-".to_owned();
        vec![
            ("read", self.path("secret")),
            ("read", self.path("tcoder-work-other/input")),
            ("read", "/etc/passwd".into()),
            ("read", "/proc/self/environ".into()),
            ("environment", none()),
            ("worker", none()),
            ("list", "/".into()),
            ("list", self.path("")),
            ("list", std::env::var("HOME").unwrap_or_else(|_| "/home".into())),
            ("write", self.path("new")),
            ("write", self.path("secret")),
            ("truncate", self.path("tcoder-work-other/input")),
            ("times", self.path("tcoder-work-other/input")),
            ("tcp", self.tcp.local_addr().unwrap().port().to_string()),
            ("fastopen", self.tcp.local_addr().unwrap().port().to_string()),
            ("udp", self.udp.local_addr().unwrap().port().to_string()),
            ("unix", self.path("socket")),
            ("fork", none()),
            ("memory", none()),
            ("disk", (1_u64 << 42).to_string()),
            ("ptrace", none()),
            ("peek", none()),
            ("signal", none()),
            ("owner", none()),
            ("survive", none()),
            ("ring", none()),
            ("memfd", none()),
            ("namespace", none()),
        ]
    }
}

async fn tried(
    name: &str,
    attempts: &[Attempt],
    parallelism: Parallelism,
    sandbox: &str,
) -> Vec<(String, bool)> {
    let installation = Installation::new(&[]).await;
    let program = program(name, attempts);
    let worker = worker(&installation, &program, sandbox);
    let id = submit(&installation, parallelism).await;
    installation.job(id, |job| job.status == State::Failed).await;
    drop(worker);
    let log = installation.log();
    let outcomes = outcomes(&log);
    assert!(outcomes.len() >= attempts.len(), "{outcomes:?}\n{log}");
    outcomes
}

#[tokio::test]
async fn program_in_the_sandbox_of_a_file_can_do_nothing_to_its_host() {
    let surroundings = Surroundings::new();
    let outcomes = tried("ffmpeg", &surroundings.attempts(), Parallelism::Chunks(1), "required").await;
    let escapes: Vec<_> = outcomes.iter().filter(|(_, succeeded)| *succeeded).collect();
    assert!(escapes.is_empty(), "{escapes:?}");
    assert_eq!(std::fs::read_to_string(surroundings.path("secret")).unwrap(), "hush");
}

#[tokio::test]
async fn program_in_the_sandbox_of_a_server_reaches_only_its_port() {
    let surroundings = Surroundings::new();
    let mut attempts = surroundings.attempts();
    attempts.push(("tcp", "INPUT".into()));
    let outcomes = tried("ffmpeg", &attempts, Parallelism::Chunks(8), "required").await;
    reaches_only_its_port(&surroundings, &outcomes);
}

fn reaches_only_its_port(surroundings: &Surroundings, outcomes: &[(String, bool)]) {
    let port = surroundings.tcp.local_addr().unwrap().port().to_string();
    let succeeded = outcomes.iter().filter(|(_, succeeded)| *succeeded);
    for (what, _) in succeeded {
        let connected = what.strip_prefix("tcp ").and_then(|port| port.parse::<u16>().ok());
        assert!(connected.is_some() && connected != port.parse().ok(), "{what}");
    }
    assert!(outcomes.iter().any(|(what, succeeded)| *succeeded && what.starts_with("tcp ")), "{outcomes:?}");
}

#[tokio::test]
async fn program_in_the_place_of_ffprobe_is_in_the_same_sandbox() {
    let surroundings = Surroundings::new();
    let mut attempts = surroundings.attempts();
    let of_a_file = tried("ffprobe", &attempts, Parallelism::Chunks(1), "required").await;
    let escapes: Vec<_> = of_a_file.iter().filter(|(_, succeeded)| *succeeded).collect();
    assert!(escapes.is_empty(), "{escapes:?}");
    // It only reads.
    attempts.extend([("write", "here".into()), ("disk", "1".into()), ("tcp", "INPUT".into())]);
    let of_a_server = tried("ffprobe", &attempts, Parallelism::Chunks(8), "required").await;
    reaches_only_its_port(&surroundings, &of_a_server);
}

#[tokio::test]
async fn program_without_a_sandbox_succeeds_in_the_same_attempts() {
    let surroundings = Surroundings::new();
    let attempts = surroundings.attempts();
    let outcomes = tried("ffmpeg", &attempts, Parallelism::Chunks(1), "off").await;
    for (kind, what) in attempts {
        // A container may forbid these to every process.
        if ["ptrace", "namespace", "ring", "peek", "environment", "worker"].contains(&kind) {
            continue;
        }
        assert!(outcomes.contains(&(format!("{kind} {what}"), true)), "{kind} {what}: {outcomes:?}");
    }
}

#[tokio::test]
async fn program_in_the_sandbox_does_not_outlive_its_worker() {
    let installation = Installation::new(&[]).await;
    let none = || "-".to_owned();
    let program = program("ffmpeg", &[("fork", none()), ("survive", none()), ("wait", none())]);
    let worker = worker(&installation, &program, "required");
    submit(&installation, Parallelism::Chunks(1)).await;
    let scratch = installation.dir.join("worker");
    eventually("the program runs", || !encoders(&scratch).is_empty()).await;
    let running = encoders(&scratch);
    send(worker.id().unwrap(), Signal::SIGKILL);
    eventually("the program has ended", || !running.iter().any(|process| lives(process.pid))).await;
}

#[tokio::test]
async fn worker_check_tells_that_the_sandbox_is_complete() {
    let settings = [("WORKER_SANDBOX", "required")];
    let output = run(&["worker", "--check"], &settings, Path::new("/")).await;
    let said = out(&output);
    assert!(output.status.success() && said.contains("The sandbox is complete."), "{output:?}");
    let off = out(&run(&["worker", "--check"], &[("WORKER_SANDBOX", "off")], Path::new("/")).await);
    assert!(off.contains("WORKER_SANDBOX is off"), "{off}");
}
