//! A sandbox for the programs that open files of strangers: FFmpeg and ffprobe.
//!
//! A decoder with a bug may do whatever the author of a video wants. Therefore such a program
//!
//! * opens only its input, its output folder, and the folders of the system that contain programs and libraries
//!   (Landlock);
//! * has no network, or one TCP port (seccomp and Landlock);
//! * cannot start, trace or signal other processes, and makes no system call that it does not need (seccomp);
//! * gains no privileges, and has no capabilities even if root runs it;
//! * is limited in CPU time, memory and the size of its files, and leaves no core dump.
//!
//! All of it works without root and in a container. What the kernel lacks is left out, and [`missing_protections`] tells it;
//! [`SandboxMode::Required`] is for those who would rather not run then.
//!
//! Nothing here is about FFmpeg: what it may open is decided where it is started, in `transcoder`.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod system_calls;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokio::process::Command;

use crate::config::SandboxMode;

/// By how much a nice process lets others go first: it gets a tenth of what another gets that wants the same core.
pub const NICENESS: i32 = 10;

/// What a program may open besides the programs and libraries of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Files, and folders with all that they contain, which it may read.
    pub read: Vec<PathBuf>,
    /// Folders in which it may read, write, create and delete files.
    pub write: Vec<PathBuf>,
    /// The TCP port that it may connect to.
    pub connect: Option<u16>,
}

/// How much a program may use. Beyond a limit it gets an error, or is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimits {
    /// CPU time of all its threads, seconds.
    pub cpu_seconds: u64,
    /// Size of each file that it writes, bytes.
    pub file_bytes: u64,
    /// Its address space, bytes.
    pub memory_bytes: u64,
}

/// A protection that is missing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub enum MissingProtection {
    /// Nothing is known for this operating system.
    #[strum(to_string = "this is not Linux: FFmpeg runs without a sandbox")]
    System,
    /// The sandbox is switched off.
    #[strum(to_string = "WORKER_SANDBOX is off: FFmpeg runs without a sandbox")]
    Off,
    /// Landlock is missing, or does not guard the length of files.
    #[strum(
        to_string = "the kernel has no Landlock that guards reading, writing and the length of files (Linux 6.2, and `landlock` in the boot parameter lsm): FFmpeg can open, or at least empty, every file that the worker can"
    )]
    Files,
    /// Landlock knows no TCP ports.
    #[strum(
        to_string = "the kernel's Landlock has no rules for TCP (Linux 6.7): FFmpeg has network while it reads an input by ranges"
    )]
    Ports,
    /// Seccomp is missing, or not supported for this processor.
    #[strum(
        to_string = "there is no seccomp for this kernel or processor: FFmpeg has network, and can start and signal processes"
    )]
    SystemCalls,
}

/// The mode of this process. What the kernel can do does not change while it runs.
static MODE: OnceLock<SandboxMode> = OnceLock::new();

/// Sets the mode of this process, once, before a program is started. Otherwise it is the default.
pub fn set_mode(mode: SandboxMode) {
    if *MODE.get_or_init(|| mode) != mode {
        tracing::warn!(?mode, "the mode of the sandbox was already chosen, and is not changed");
    }
}

/// The protections that programs started by this process do not have, most important first.
pub fn missing_protections() -> Vec<MissingProtection> {
    match MODE.get_or_init(SandboxMode::default) {
        SandboxMode::Off => vec![MissingProtection::Off],
        SandboxMode::Preferred | SandboxMode::Required => platform_missing(),
    }
}

/// Confines the process that `command` starts. `program` is its executable, whose libraries may lie beside it. If it is
/// `nice`, other processes of the machine go first.
///
/// # Errors
/// If a rule cannot be made, such as for a folder that does not exist.
pub fn confine(
    command: &mut Command,
    program: &Path,
    permissions: &Permissions,
    limits: ResourceLimits,
    nice: bool,
) -> io::Result<()> {
    let is_on = *MODE.get_or_init(SandboxMode::default) != SandboxMode::Off;
    platform_confine(command, program, is_on.then_some((permissions, limits)), nice)
}

/// Keeps other processes of the same user from reading this one's memory and environment, which contain secrets, and the
/// kernel from writing them into a core dump.
pub fn protect_own_memory() {
    #[cfg(target_os = "linux")]
    linux::protect_own_memory();
}

#[cfg(target_os = "linux")]
use linux::{confine as platform_confine, missing_protections as platform_missing};

#[cfg(not(target_os = "linux"))]
fn platform_missing() -> Vec<MissingProtection> {
    vec![MissingProtection::System]
}

#[cfg(not(target_os = "linux"))]
fn platform_confine(
    _: &mut Command,
    _: &Path,
    _: Option<(&Permissions, ResourceLimits)>,
    _: bool,
) -> io::Result<()> {
    Ok(())
}
