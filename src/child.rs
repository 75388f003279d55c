//! Child processes that never outlive their parent.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Ties the child to this process. The child gets its own process group, so that Ctrl-C in a terminal reaches only
/// the parent, which stops its children in order. It is killed when its handle is dropped. On Linux the kernel kills
/// it when the parent dies without cleaning up (SIGKILL, a crash).
///
/// The kernel watches the *thread* that spawns the child, so spawn it from a thread that lives as long as the
/// process: the main thread or a worker thread of the runtime, not from `spawn_blocking`.
pub fn tie_to_parent(command: &mut Command) -> &mut Command {
    command.process_group(0).kill_on_drop(true);
    #[cfg(target_os = "linux")]
    die_with_parent(command);
    command
}

/// Sends SIGTERM to the child and waits for it to exit. If that takes longer than `patience`, the child is killed.
pub async fn terminate(mut child: Child, patience: Duration) {
    let pid = child.id();
    if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(patience, child.wait()).await.is_err() {
        tracing::error!(pid, "a child process does not exit; killing it");
        let _ = child.kill().await;
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    use nix::sys::prctl;
    use nix::unistd::getppid;

    let parent = Pid::this();
    let hook = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above; then nothing would send the signal.
        if getppid() == parent { Ok(()) } else { Err(std::io::Error::from(nix::Error::ESRCH)) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The hook makes two plain
    // system calls, prctl(2) and getppid(2), allocates nothing and takes no lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(hook);
    }
}
