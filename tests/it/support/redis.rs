//! Redis servers for tests, or others that the variable `REDIS_SERVER` names, such as Valkey: a shared one, with a separate prefix for each test, and private ones for tests
//! that restart or reconfigure theirs. All are stopped when this process ends, however it ends.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tcoder::config::RedisConfig;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use uuid::Uuid;

/// The shared server, with a unique prefix.
pub fn shared() -> RedisConfig {
    static SERVER: LazyLock<(String, Child)> = LazyLock::new(start_shared);
    RedisConfig::new(SERVER.0.clone(), fresh_prefix())
}

fn fresh_prefix() -> String {
    format!("{{test-{}}}:", Uuid::new_v4().simple())
}

/// The variables of a role that uses this Redis.
pub fn environment(config: &RedisConfig) -> [(&'static str, String); 2] {
    use secrecy::ExposeSecret as _;
    [("REDIS_URL", config.url.expose_secret().to_owned()), ("REDIS_KEY_PREFIX", config.prefix.clone())]
}

/// A plain connection, for inspecting and changing what the queue wrote.
pub fn raw(config: &RedisConfig) -> redis::Connection {
    use secrecy::ExposeSecret as _;
    redis::Client::open(config.url.expose_secret()).unwrap().get_connection().unwrap()
}

/// A private server on a socket in its own folder. It is stopped when dropped.
pub struct PrivateRedis {
    folder: TempDir,
    args: Vec<String>,
    prefix: String,
    child: Option<Child>,
    clock: Option<SettableClock>,
}

/// Starts a server with these additional arguments.
pub fn private_redis(args: &[&str]) -> PrivateRedis {
    let folder = tempfile::Builder::new().prefix("tcoder-redis-").tempdir().unwrap();
    let args = args.iter().map(|a| (*a).to_owned()).collect();
    let mut server = PrivateRedis { folder, args, prefix: fresh_prefix(), child: None, clock: None };
    server.start();
    server
}

/// Starts a server whose clock can be set.
pub fn private_redis_with_settable_clock() -> PrivateRedis {
    let folder = tempfile::Builder::new().prefix("tcoder-redis-").tempdir().unwrap();
    let clock = Some(SettableClock::new(folder.path()));
    let mut server = PrivateRedis { folder, args: Vec::new(), prefix: fresh_prefix(), child: None, clock };
    server.start();
    server
}

/// A library that a program loads first, whose clock is ahead of the machine's by the seconds in a file.
pub struct SettableClock {
    library: PathBuf,
    offset: PathBuf,
}

impl SettableClock {
    const SOURCE: &str = include_str!("settable_clock.c");

    /// Builds it in this folder.
    pub fn new(folder: &Path) -> Self {
        let (library, offset) = (folder.join("clock.so"), folder.join("clock-offset"));
        let source = folder.join("clock.c");
        std::fs::write(&source, Self::SOURCE).unwrap();
        let built = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .output()
            .expect("this test needs a C compiler, as Rust does");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let clock = Self { library, offset };
        clock.set(0);
        clock
    }

    pub fn set(&self, seconds: i64) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(&self.offset);
        file.unwrap().write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// The environment of a program that has this clock.
    pub fn env(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.library.clone()), ("CLOCK_OFFSET_FILE", self.offset.clone())]
    }
}

impl PrivateRedis {
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// The settings of a connection; the prefix stays the same.
    pub fn config(&self) -> RedisConfig {
        let url = format!("redis+unix://{}", self.socket().display());
        RedisConfig::new(url, self.prefix.clone())
    }

    /// Starts it; after a [`Self::kill`] with the same files.
    pub fn start(&mut self) {
        let mut args = vec!["--port".to_owned(), "0".into(), "--save".into(), String::new()];
        args.extend(["--unixsocket".into(), self.socket().display().to_string()]);
        args.extend(["--dir".into(), self.folder.path().display().to_string()]);
        args.extend(self.args.iter().cloned());
        let env = self.clock.as_ref().map(SettableClock::env);
        let mut child = spawn_with(args, env.into_iter().flatten().collect());
        let client = redis::Client::open(format!("redis+unix://{}", self.socket().display())).unwrap();
        assert!(answers(&client, &mut child), "redis-server ended at once; run it by hand to see why");
        self.child = Some(child);
    }

    /// Sets its clock ahead of the machine's by `seconds`.
    pub fn set_clock(&self, seconds: i64) {
        self.clock.as_ref().expect("its clock cannot be set").set(seconds);
    }

    /// Starts it with other arguments, after a [`Self::kill`], with the same files.
    pub fn start_with(&mut self, args: &[&str]) {
        self.args = args.iter().map(|a| (*a).to_owned()).collect();
        self.start();
    }

    /// Runs a command that answers nothing of interest.
    pub fn tell(&self, command: &[&str]) {
        redis::cmd(command[0]).arg(&command[1..]).exec(&mut self.raw()).unwrap();
    }

    /// Kills it with SIGKILL.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    pub fn raw(&self) -> redis::Connection {
        raw(&self.config())
    }
}

fn start_shared() -> (String, Child) {
    // Another process may take the port before it is used; the server then exits at once.
    for _ in 0..20 {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let url = format!("redis://127.0.0.1:{port}/");
        let args = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let mut child = spawn(args.map(str::to_owned).into());
        if answers(&redis::Client::open(url.as_str()).unwrap(), &mut child) {
            return (url, child);
        }
    }
    panic!("redis-server does not start on any free port of 127.0.0.1");
}

/// Waits until this child answers; returns `false` if it exited instead.
fn answers(client: &redis::Client, child: &mut Child) -> bool {
    let patience = Instant::now() + Duration::from_secs(30);
    while Instant::now() < patience {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        let answer = client
            .get_connection_with_timeout(Duration::from_secs(5))
            .and_then(|mut connection| redis::cmd("INFO").arg("server").query::<String>(&mut connection));
        let ours = |info: &str| child.id().is_some_and(|pid| info.contains(&format!("process_id:{pid}\r\n")));
        match answer {
            Ok(info) if ours(&info) => return true,
            // It does not listen yet, or is still loading its files.
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("redis-server does not answer after 30 s");
}

/// The server: `redis-server`, or the path in `REDIS_SERVER`.
fn program() -> std::ffi::OsString {
    std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

/// Starts a server from a thread that lives as long as the process: the kernel kills a tied child when the
/// *thread* that spawned it ends, and a test's thread ends with its test.
fn spawn(args: Vec<String>) -> Child {
    spawn_with(args, Vec::new())
}

/// Variables of the environment.
type Variables = Vec<(&'static str, PathBuf)>;

fn spawn_with(args: Vec<String>, env: Variables) -> Child {
    type Order = (Vec<String>, Variables, mpsc::Sender<std::io::Result<Child>>);
    static KEEPER: LazyLock<tokio::sync::mpsc::UnboundedSender<Order>> = LazyLock::new(|| {
        let (orders, mut inbox) = tokio::sync::mpsc::unbounded_channel::<Order>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                while let Some((args, env, answer)) = inbox.recv().await {
                    let mut command = Command::new(program());
                    command
                        .args(args)
                        .envs(env)
                        .stdin(std::process::Stdio::null())
                        .stdout(std::process::Stdio::null());
                    let _ = answer.send(tcoder::child::tie_to_parent(&mut command).spawn());
                }
            });
        });
        orders
    });
    let (answer, child) = mpsc::channel();
    KEEPER.send((args, env, answer)).unwrap();
    child.recv().unwrap().unwrap_or_else(|error| {
        panic!("redis-server cannot be started ({error}); these tests need it: install the package redis-server (Debian, Ubuntu) or redis (Fedora, Homebrew)")
    })
}
