//! The sandbox on Linux: Landlock, seccomp, capabilities and resource limits.
//!
//! Everything is prepared before the fork, because between fork and exec only async-signal-safe calls are allowed: there,
//! only system calls are made.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope,
};
use rustix::process::{Resource, Rlimit};
use seccompiler::BpfProgram;
use tokio::process::Command;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
use super::system_calls;
use super::{MissingProtection, NICENESS, Permissions, ResourceLimits};

/// Where a system has programs and libraries. What does not exist is left out.
const SYSTEM_FOLDERS: &[&str] =
    &["/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/home/linuxbrew/.linuxbrew"];
/// Files that the dynamic linker and the C library read.
const SYSTEM_FILES: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/ld-musl-x86_64.path",
    "/etc/ld-musl-aarch64.path",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
];
/// The newest version of Landlock whose rights are used here. Rights that the kernel does not know are left out.
const NEWEST: ABI = ABI::V6;

/// No list of system calls was made for this processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod system_calls {
    pub(super) const fn filter(_: bool) -> Option<&'static seccompiler::BpfProgram> {
        None
    }
}

/// What the kernel lacks.
pub(super) fn missing_protections() -> Vec<MissingProtection> {
    static MISSING: OnceLock<Vec<MissingProtection>> = OnceLock::new();
    let find = || {
        let mut missing = Vec::new();
        if !has_landlock(|ruleset| ruleset.handle_access(AccessFs::from_all(ABI::V3))) {
            missing.push(MissingProtection::Files);
        }
        if !has_landlock(|ruleset| ruleset.handle_access(AccessNet::ConnectTcp)) {
            missing.push(MissingProtection::Ports);
        }
        if !has_seccomp() {
            missing.push(MissingProtection::SystemCalls);
        }
        missing
    };
    MISSING.get_or_init(find).clone()
}

fn has_landlock(handle: impl FnOnce(Ruleset) -> Result<Ruleset, RulesetError>) -> bool {
    handle(Ruleset::default().set_compatibility(CompatLevel::HardRequirement)).is_ok()
}

fn has_seccomp() -> bool {
    // The answer is the mode of this thread, or an error if the kernel has no seccomp.
    rustix::thread::secure_computing_mode().is_ok() && system_calls::filter(false).is_some()
}

/// A sandbox, ready to be entered between fork and exec.
struct Prepared {
    limits: ResourceLimits,
    /// With the rights that the kernel knows. Entering it takes it.
    landlock: Option<RulesetCreated>,
    system_calls: Option<&'static BpfProgram>,
}

pub(super) fn confine(
    command: &mut Command,
    program: &Path,
    sandbox: Option<(&Permissions, ResourceLimits)>,
    nice: bool,
) -> io::Result<()> {
    let mut prepared = match sandbox {
        Some((permissions, limits)) => Some(Prepared::new(program, permissions, limits)?),
        None => None,
    };
    let hook = move || {
        if nice {
            rustix::process::nice(NICENESS)?;
        }
        prepared.as_mut().map_or(Ok(()), Prepared::enter)
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The hook makes system calls only
    // (getpriority, setpriority, getrlimit, setrlimit, close_range, capset, prctl, landlock_restrict_self, close, seccomp),
    // allocates nothing, takes no lock, and its errors are numbers.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(hook);
    }
    Ok(())
}

impl Prepared {
    fn new(program: &Path, permissions: &Permissions, limits: ResourceLimits) -> io::Result<Self> {
        let landlock = Some(ruleset(program, permissions)?);
        let system_calls = system_calls::filter(permissions.connect.is_some());
        let system_calls =
            system_calls.filter(|_| !missing_protections().contains(&MissingProtection::SystemCalls));
        Ok(Self { limits, landlock, system_calls })
    }

    /// Confines the calling process. Only async-signal-safe calls are allowed in it.
    fn enter(&mut self) -> io::Result<()> {
        let ResourceLimits { cpu_seconds, file_bytes, memory_bytes } = self.limits;
        for (resource, most) in [
            (Resource::Cpu, cpu_seconds),
            (Resource::Fsize, file_bytes),
            (Resource::As, memory_bytes),
            (Resource::Core, 0),
        ] {
            lower_limit(resource, most)?;
        }
        close_inherited();
        drop_capabilities()?;
        rustix::thread::set_no_new_privs(true)?;
        if let Some(ruleset) = self.landlock.take() {
            ruleset.restrict_self().map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
        }
        if let Some(filter) = self.system_calls {
            seccompiler::apply_filter(filter).map_err(|error| match error {
                seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
                _ => io::Error::from(io::ErrorKind::PermissionDenied),
            })?;
        }
        Ok(())
    }
}

/// Lowers a limit of the calling process for good. A lower one stays.
fn lower_limit(resource: Resource, most: u64) -> io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    // At the first limit of its CPU time a process gets a signal of its own (SIGXCPU), at the second SIGKILL.
    let last = if resource == Resource::Cpu { most.saturating_add(5) } else { most };
    let within = |wanted: u64| Some(now.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: within(most), maximum: within(last) })?)
}

/// Has the kernel close all descriptors but stdin, stdout and stderr when the program is executed. Landlock does not guard
/// what is open already. Kernels before Linux 5.11 cannot do so.
fn close_inherited() {
    // SAFETY: the call takes three numbers and touches no memory.
    #[allow(unsafe_code)]
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// With the rule of `no_new_privs`, the program that is executed has none either, even if root executes it.
fn drop_capabilities() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};

    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn ruleset(program: &Path, permissions: &Permissions) -> io::Result<RulesetCreated> {
    let refused = |error: RulesetError| io::Error::other(format!("cannot make the sandbox: {error}"));
    let open = |path: &Path| {
        PathFd::new(path).map_err(|error| io::Error::other(format!("cannot permit a folder: {error}")))
    };
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(refused)?;
    let mut permit = |path: &Path, access: BitFlags<AccessFs>| {
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        (&mut rules).add_rule(PathBeneath::new(open(path)?, access)).map(|_| ()).map_err(refused)
    };
    let run = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let own = own_folders(program);
    let system = SYSTEM_FOLDERS.iter().map(Path::new).chain(own.iter().map(PathBuf::as_path));
    for folder in system.filter(|folder| folder.exists()) {
        permit(folder, run)?;
    }
    for file in SYSTEM_FILES.iter().map(Path::new).filter(|file| file.exists()) {
        permit(file, read)?;
    }
    permit(Path::new("/dev/null"), read | AccessFs::WriteFile)?;
    for path in &permissions.read {
        permit(path, read)?;
    }
    for path in &permissions.write {
        permit(path, write)?;
    }
    if let Some(port) = permissions.connect {
        (&mut rules).add_rule(NetPort::new(port, AccessNet::ConnectTcp)).map_err(refused)?;
    }
    Ok(rules)
}

/// The executable, and the folders of its libraries: those that `LD_LIBRARY_PATH` names, and the `lib` and `lib64` beside
/// its folder, as in Conda's environments.
fn own_folders(program: &Path) -> Vec<PathBuf> {
    let prefix = program.parent().and_then(Path::parent);
    let beside = prefix.into_iter().flat_map(|prefix| ["lib", "lib64"].map(|name| prefix.join(name)));
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let named: Vec<PathBuf> = std::env::split_paths(&named).filter(|path| path.is_absolute()).collect();
    std::iter::once(program.to_owned()).chain(beside).chain(named).collect()
}

pub(super) fn protect_own_memory() {
    use rustix::process::DumpableBehavior;

    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "could not protect the memory of this process from others");
    }
}
