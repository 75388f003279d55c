//! Control groups that hold processes to a share of the CPU, and count what they use of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The period of the quota, microseconds.
const PERIOD: u32 = 20_000;

/// Control groups of which each has the same share of a core. They are removed when dropped.
pub struct Shares {
    /// The folders that contain a folder for each group: with version 1 of control groups that of the quota and that of
    /// the accounting, with version 2 one.
    bases: Vec<PathBuf>,
    is_first_version: bool,
    count: usize,
}

impl Shares {
    /// Makes this number of groups with this share, in percent of a core; `None` where that is not possible.
    pub fn new(count: usize, percent: u32) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("tcoder-bench-{}", std::process::id());
        let is_first_version = root.join("cpu").is_dir();
        let bases: Vec<PathBuf> = if is_first_version {
            ["cpu", "cpuacct"].map(|controller| root.join(controller).join(&name)).into()
        } else {
            vec![root.join(&name)]
        };
        let this = Self { bases, is_first_version, count };
        for base in &this.bases {
            std::fs::create_dir_all(base).ok()?;
        }
        if !is_first_version {
            std::fs::write(this.bases[0].join("cgroup.subtree_control"), "+cpu").ok()?;
        }
        let quota = PERIOD * percent / 100;
        for n in 0..count {
            for folder in this.folders(n) {
                std::fs::create_dir_all(folder).ok()?;
            }
            let limited = this.bases[0].join(n.to_string());
            if is_first_version {
                std::fs::write(limited.join("cpu.cfs_period_us"), PERIOD.to_string()).ok()?;
                std::fs::write(limited.join("cpu.cfs_quota_us"), quota.to_string()).ok()?;
            } else {
                std::fs::write(limited.join("cpu.max"), format!("{quota} {PERIOD}")).ok()?;
            }
        }
        Some(this)
    }

    fn folders(&self, n: usize) -> impl Iterator<Item = PathBuf> {
        self.bases.iter().map(move |base| base.join(n.to_string()))
    }

    /// Moves a process into a group. Its later children belong to the group, too.
    pub fn enter(&self, n: usize, process: u32) {
        for folder in self.folders(n) {
            std::fs::write(folder.join("cgroup.procs"), process.to_string()).unwrap();
        }
    }

    /// The CPU seconds that all processes of a group have used so far.
    pub fn cpu_seconds(&self, n: usize) -> f64 {
        let folder = self.folders(n).last().unwrap();
        if self.is_first_version {
            let nanoseconds = std::fs::read_to_string(folder.join("cpuacct.usage")).unwrap();
            return nanoseconds.trim().parse::<f64>().unwrap() / 1e9;
        }
        let stat = std::fs::read_to_string(folder.join("cpu.stat")).unwrap();
        let microseconds = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
        microseconds.trim().parse::<f64>().unwrap() / 1e6
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        let groups: Vec<PathBuf> = (0..self.count).flat_map(|n| self.folders(n)).collect();
        for folder in groups.iter().chain(&self.bases) {
            // A group cannot be removed before the processes that were killed in it have ended.
            let mut tries = 0..50;
            while folder.is_dir() && std::fs::remove_dir(folder).is_err() && tries.next().is_some() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}
