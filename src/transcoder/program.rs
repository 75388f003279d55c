//! FFmpeg's programs as child processes: what they know of this process, and the sandbox that they run in.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::input::MediaInput;
use crate::sandbox::{self, Permissions, ResourceLimits};

/// The least address space of a program, bytes. The threads of an encode of 2160p reserve more than they use.
const LEAST_MEMORY: u64 = 8 << 30;

/// A program of FFmpeg, and what it is given.
pub(super) struct Program<'a> {
    /// `ffmpeg` or `ffprobe`.
    pub name: &'static str,
    /// What it reads, if anything.
    pub input: Option<MediaInput<'a>>,
    /// The folder that it writes to, if any.
    pub folder: Option<&'a Path>,
    /// Maximum size of each file that it writes, bytes.
    pub file_bytes: u64,
    /// After this long it is killed.
    pub timeout: Duration,
    /// Whether other processes of the machine go first.
    pub is_nice: bool,
}

impl<'a> Program<'a> {
    /// A program that only reads.
    pub(super) fn reading(name: &'static str, input: Option<MediaInput<'a>>, timeout: Duration) -> Self {
        Self { name, input, folder: None, file_bytes: 0, timeout, is_nice: false }
    }

    /// The command that starts it, without arguments. It has no part of our environment but where programs and libraries
    /// are: the environment contains the keys of the storage.
    ///
    /// # Errors
    /// If there is no such program, or what it is given does not exist.
    pub(super) fn command(&self) -> io::Result<Command> {
        let path = find(self.name)?;
        let mut command = self.unconfined(&path);
        command.env_clear().env("LC_ALL", "C").env("AV_LOG_FORCE_NOCOLOR", "1");
        for name in ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(folder) = self.folder {
            command.current_dir(folder);
        }
        crate::child::tie_to_parent(&mut command);
        sandbox::confine(&mut command, &path, &self.permissions(), self.limits(), self.is_nice)?;
        Ok(command)
    }

    fn unconfined(&self, path: &Path) -> Command {
        if self.is_nice && !cfg!(target_os = "linux") {
            // The sandbox sets it elsewhere.
            let mut command = Command::new("nice");
            command.args(["-n", &sandbox::NICENESS.to_string()]).arg(path);
            return command;
        }
        let mut command = Command::new(path);
        command.arg0(self.name);
        command
    }

    fn permissions(&self) -> Permissions {
        let mut permissions = Permissions::default();
        match self.input {
            Some(MediaInput::File(path)) => permissions.read.push(path.to_owned()),
            Some(MediaInput::Loopback(url)) => permissions.connect = url.port_or_known_default(),
            None => {}
        }
        permissions.write.extend(self.folder.map(Path::to_owned));
        permissions
    }

    fn limits(&self) -> ResourceLimits {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        ResourceLimits {
            // More than all cores give within the time, so that it only ends what outlives the worker's own limit.
            cpu_seconds: self.timeout.as_secs().saturating_add(60).saturating_mul(cores),
            file_bytes: self.file_bytes,
            memory_bytes: memory(),
        }
    }
}

/// Twice the memory of the machine or the container: threads reserve address space that they do not use.
fn memory() -> u64 {
    #[cfg(target_os = "linux")]
    let machine = nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total());
    #[cfg(not(target_os = "linux"))]
    let machine = 0;
    // The control group of a container; `max` if it has no limit.
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
    machine.min(container).saturating_mul(2).max(LEAST_MEMORY)
}

/// The executable on the PATH, behind all links.
fn find(name: &str) -> io::Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.canonicalize()
}
