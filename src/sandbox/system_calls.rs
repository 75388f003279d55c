//! The system calls that FFmpeg and the C library need. To a program in the sandbox all others do not exist (`ENOSYS`), so
//! that the C library falls back to older ones where it can.
//!
//! Left out on purpose: those that start, trace or signal processes, read or change other processes, change namespaces,
//! mount, load code into the kernel, or bypass this filter (`io_uring`); and those that reach by a path what Landlock does
//! not guard: modes, owners and times of files, and their length on older kernels (`truncate`).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::{self, Dword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};

/// Allowed with any arguments.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Files and folders.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_flock,
    libc::SYS_umask,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_mbind,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_membarrier,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_gettid,
    libc::SYS_getcpu,
    // Signals of its own.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getitimer,
    libc::SYS_setitimer,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    // What it is and where it runs.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpgid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getpriority,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Its start.
    libc::SYS_execve,
];

/// Older forms of these, which newer processors never had.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_alarm,
    libc::SYS_getpgrp,
    libc::SYS_time,
    libc::SYS_getrlimit,
    libc::SYS_arch_prctl,
    libc::SYS_getdents,
    libc::SYS_renameat,
];
/// `renameat`, which glibc calls there, and for which the crate `libc` has no constant.
#[cfg(target_arch = "aarch64")]
const OLD: &[c_long] = &[38];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OLD: &[c_long] = &[];

/// Allowed to a program that reads its input from a server.
#[rustfmt::skip]
const NETWORK: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
];

/// The kinds of `prctl` that are allowed: names of threads and of memory, and questions.
const PRCTL: &[i32] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_VMA,
    libc::PR_CAPBSET_READ,
    libc::PR_GET_DUMPABLE,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_GET_SECCOMP,
];

/// The kinds of `fcntl`: duplicates, flags and locks. Not those that have the kernel send a signal to another process.
const FCNTL: &[i32] = &[
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
];

/// The kinds of `ioctl`: what a descriptor is, how much can be read, and whether it blocks. Not those that type into a
/// terminal, or have the kernel send a signal.
const IOCTL: &[libc::Ioctl] =
    &[libc::TCGETS, libc::TCGETS2, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX];

/// The filter for a program with or without network; `None` if this processor is not supported.
pub(super) fn filter(has_network: bool) -> Option<&'static BpfProgram> {
    static WITHOUT: OnceLock<Option<BpfProgram>> = OnceLock::new();
    static WITH: OnceLock<Option<BpfProgram>> = OnceLock::new();
    let filter = if has_network { &WITH } else { &WITHOUT };
    filter.get_or_init(|| compile(has_network).ok()).as_ref()
}

fn compile(has_network: bool) -> Result<BpfProgram, seccompiler::Error> {
    let network = if has_network { NETWORK } else { &[] };
    let all = [ALLOWED, OLD, network].concat();
    // A call without rules is allowed with any arguments.
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = all.into_iter().map(|call| (call, vec![])).collect();
    rules.extend(conditional(has_network)?);
    let (others, listed) = (SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow);
    let filter = SeccompFilter::new(rules, others, listed, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

/// The calls that are allowed with certain arguments only.
fn conditional(has_network: bool) -> Result<Vec<(c_long, Vec<SeccompRule>)>, BackendError> {
    // Threads, but no processes. The flags of `clone3` are in memory, where a filter does not see them; the C library then
    // uses `clone`.
    let thread = libc::CLONE_THREAD as u64;
    let clone = rule(vec![SeccompCondition::new(0, Dword, MaskedEq(thread), thread)?])?;
    // Limits of its own, not of other processes.
    let own_limits = rule(vec![SeccompCondition::new(0, Dword, Eq, 0)?])?;
    let prctl = PRCTL.iter().map(|kind| rule(vec![SeccompCondition::new(0, Dword, Eq, *kind as u64)?]));
    let fcntl = FCNTL.iter().map(|kind| rule(vec![SeccompCondition::new(1, Dword, Eq, *kind as u64)?]));
    let ioctl =
        IOCTL.iter().map(|kind| rule(vec![SeccompCondition::new(1, Dword, Eq, u64::from(*kind as u32))?]));
    let mut rules = vec![
        (libc::SYS_fcntl, fcntl.collect::<Result<_, _>>()?),
        (libc::SYS_ioctl, ioctl.collect::<Result<_, _>>()?),
        (libc::SYS_clone, vec![clone]),
        (libc::SYS_prlimit64, vec![own_limits]),
        (libc::SYS_prctl, prctl.collect::<Result<_, _>>()?),
    ];
    if has_network {
        rules.push((libc::SYS_socket, sockets()?));
        // On a connection that there is. With an address, a first `sendto` would connect (TCP Fast Open), which Landlock
        // does not see.
        let connected = SeccompCondition::new(4, SeccompCmpArgLen::Qword, Eq, 0)?;
        let no_fast_open = SeccompCondition::new(3, Dword, MaskedEq(libc::MSG_FASTOPEN as u64), 0)?;
        rules.push((libc::SYS_sendto, vec![rule(vec![connected, no_fast_open])?]));
    }
    Ok(rules)
}

/// TCP alone, because Landlock has no rules for other protocols.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    // The type has flags besides.
    const KIND: u64 = 0xf;
    let protocols = [0, libc::IPPROTO_TCP as u64];
    let families = [libc::AF_INET as u64, libc::AF_INET6 as u64];
    let each = families.into_iter().flat_map(|family| protocols.map(|protocol| (family, protocol)));
    let rules = each.map(|(family, protocol)| {
        rule(vec![
            SeccompCondition::new(0, Dword, Eq, family)?,
            SeccompCondition::new(1, Dword, MaskedEq(KIND), libc::SOCK_STREAM as u64)?,
            SeccompCondition::new(2, Dword, Eq, protocol)?,
        ])
    });
    rules.collect()
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions)
}
