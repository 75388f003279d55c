//! The sizes of machines that Fly offers, in one table.
//!
//! The table is used by the settings of the fleet, by the schema of a `WorkerPool` and by the emulator. Its
//! source is Fly's own client (flyctl's `cpusPerKind` and memory checks; fly-go's `MachinePresets` and
//! `MIN_`/`MAX_MEMORY_MB_PER_…CPU`) and "Machine Sizing" in Fly's documentation. GPUs are omitted, because
//! the FFmpeg build does not use them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// The kind of a machine's CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum CpuKind {
    /// A shared CPU, which is throttled to a sixteenth after a short burst.
    Shared,
    /// A dedicated CPU.
    Performance,
}

/// The limits of a kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The kind.
    pub kind: CpuKind,
    /// The prefix of the names of its sizes.
    pub prefix: &'static str,
    /// The possible numbers of CPUs.
    pub cpus: &'static [u32],
    /// Minimum memory per CPU in MiB.
    pub least: u32,
    /// Maximum memory per CPU in MiB.
    pub most: u32,
    /// Memory is a multiple of this, in MiB.
    pub step: u32,
    /// The default memory per CPU in MiB, which Fly's list price is for.
    usual: u32,
}

/// The limits of each kind.
pub const RULES: [Rule; 2] = [
    Rule {
        kind: CpuKind::Shared,
        prefix: "shared-cpu-",
        cpus: &[1, 2, 4, 6, 8],
        least: 256,
        most: 2048,
        step: 256,
        // FFmpeg needs more than the 256 MiB of Fly's preset.
        usual: 512,
    },
    Rule {
        kind: CpuKind::Performance,
        prefix: "performance-",
        cpus: &[1, 2, 4, 6, 8, 10, 12, 14, 16],
        least: 2048,
        most: 8192,
        step: 1024,
        usual: 2048,
    },
];

impl CpuKind {
    /// The limits of this kind.
    #[must_use]
    pub const fn rule(self) -> &'static Rule {
        match self {
            Self::Shared => &RULES[0],
            Self::Performance => &RULES[1],
        }
    }

    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl Rule {
    /// The names of the sizes, such as `performance-2x`.
    pub fn sizes(self) -> impl Iterator<Item = String> {
        self.cpus.iter().map(move |cpus| format!("{}{cpus}x", self.prefix))
    }
}

/// The size of a machine, one of those that Fly offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Guest {
    kind: CpuKind,
    cpus: u32,
    memory_mb: u32,
}

/// Why a size does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The number of CPUs is not available.
    #[error("a {} machine has {} CPUs, not {given}", kind.name(), choice(kind.rule().cpus))]
    Cpus {
        /// The kind of CPUs.
        kind: CpuKind,
        /// The requested number.
        given: u32,
    },
    /// Less memory than Fly requires.
    #[error("{cpus} {} CPUs need {least} MB of memory at least", kind.name())]
    TooLittleMemory {
        /// The kind of CPUs.
        kind: CpuKind,
        /// The number of CPUs.
        cpus: u32,
        /// The minimum in MiB.
        least: u32,
    },
    /// More memory than Fly allows.
    #[error("{cpus} {} CPUs have {most} MB of memory at most", kind.name())]
    TooMuchMemory {
        /// The kind of CPUs.
        kind: CpuKind,
        /// The number of CPUs.
        cpus: u32,
        /// The maximum in MiB.
        most: u32,
    },
    /// The memory is not a multiple of the step.
    #[error("the memory of a {} machine is a multiple of {} MB", kind.name(), kind.rule().step)]
    MemoryStep {
        /// The kind of CPUs.
        kind: CpuKind,
    },
}

impl GuestError {
    /// Whether the memory is wrong rather than the number of CPUs.
    #[must_use]
    pub const fn is_about_memory(&self) -> bool {
        !matches!(self, Self::Cpus { .. })
    }
}

fn choice(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    match numbers.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

impl Guest {
    /// A size with `cpus` CPUs of this kind and `memory_mb` MiB of memory.
    ///
    /// # Errors
    /// Why Fly does not offer this size.
    pub fn new(kind: CpuKind, cpus: u32, memory_mb: u32) -> Result<Self, GuestError> {
        let rule = kind.rule();
        if !rule.cpus.contains(&cpus) {
            return Err(GuestError::Cpus { kind, given: cpus });
        }
        let (least, most) = (cpus * rule.least, cpus * rule.most);
        if memory_mb < least {
            return Err(GuestError::TooLittleMemory { kind, cpus, least });
        }
        if memory_mb > most {
            return Err(GuestError::TooMuchMemory { kind, cpus, most });
        }
        if !memory_mb.is_multiple_of(rule.step) {
            return Err(GuestError::MemoryStep { kind });
        }
        Ok(Self { kind, cpus, memory_mb })
    }

    /// The same CPUs with `memory_mb` MiB of memory.
    ///
    /// # Errors
    /// Why these CPUs cannot have it.
    pub fn with_memory(self, memory_mb: u32) -> Result<Self, GuestError> {
        Self::new(self.kind, self.cpus, memory_mb)
    }

    /// The same CPUs with as much memory for each of them as `other`, which has the same kind of CPUs, or a little more
    /// where Fly does not offer that.
    ///
    /// # Errors
    /// Why these CPUs cannot have it.
    pub fn with_memory_per_cpu_of(self, other: Self) -> Result<Self, GuestError> {
        let memory_mb = (other.memory_mb * self.cpus).div_ceil(other.cpus);
        self.with_memory(memory_mb.next_multiple_of(self.kind.rule().step))
    }

    /// The kind of its CPUs.
    #[must_use]
    pub const fn kind(self) -> CpuKind {
        self.kind
    }

    /// The number of CPUs.
    #[must_use]
    pub const fn cpus(self) -> u32 {
        self.cpus
    }

    /// Its memory in MiB.
    #[must_use]
    pub const fn memory_mb(self) -> u32 {
        self.memory_mb
    }

    /// Whether its memory is the one that Fly's list price includes.
    #[must_use]
    pub const fn has_usual_memory(self) -> bool {
        self.memory_mb == self.cpus * self.kind.rule().usual
    }
}

/// Two dedicated CPUs: a shared one is throttled after a short burst, and an encode runs much longer.
impl Default for Guest {
    fn default() -> Self {
        Self { kind: CpuKind::Performance, cpus: 2, memory_mb: 4096 }
    }
}

/// There is no size with this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be one of Fly's sizes: {}", RULES.map(span).join(", or "))]
pub struct NoSuchSize;

fn span(rule: Rule) -> String {
    format!("{}Nx with {} for N", rule.prefix, choice(rule.cpus))
}

/// Parses the name of a size, such as `performance-2x`.
impl FromStr for Guest {
    type Err = NoSuchSize;

    fn from_str(size: &str) -> Result<Self, NoSuchSize> {
        for rule in RULES {
            if let Some(cpus) = rule.cpus.iter().find(|cpus| size == format!("{}{cpus}x", rule.prefix)) {
                return Self::new(rule.kind, *cpus, cpus * rule.usual).map_err(|_| NoSuchSize);
            }
        }
        Err(NoSuchSize)
    }
}

/// The name of the size, which does not include the memory.
impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}x", self.kind.rule().prefix, self.cpus)
    }
}

/// The fields in the API.
#[derive(Serialize, Deserialize)]
struct Fields {
    cpu_kind: CpuKind,
    cpus: u32,
    memory_mb: u32,
}

impl TryFrom<Fields> for Guest {
    type Error = GuestError;

    fn try_from(Fields { cpu_kind, cpus, memory_mb }: Fields) -> Result<Self, GuestError> {
        Self::new(cpu_kind, cpus, memory_mb)
    }
}

impl From<Guest> for Fields {
    fn from(Guest { kind, cpus, memory_mb }: Guest) -> Self {
        Self { cpu_kind: kind, cpus, memory_mb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHARED: CpuKind = CpuKind::Shared;
    const PERFORMANCE: CpuKind = CpuKind::Performance;

    #[test]
    fn guest_parses_cpus_and_memory_from_the_size_name() {
        let read = |size: &str| size.parse::<Guest>().map(|g| (g.kind(), g.cpus(), g.memory_mb()));
        assert_eq!(read("performance-2x"), Ok((PERFORMANCE, 2, 4096)));
        assert_eq!(read("performance-16x"), Ok((PERFORMANCE, 16, 32_768)));
        assert_eq!(read("shared-cpu-1x"), Ok((SHARED, 1, 512)));
        assert_eq!(read("shared-cpu-8x"), Ok((SHARED, 8, 4096)));
        for rule in RULES {
            for size in rule.sizes() {
                let guest: Guest = size.parse().unwrap();
                assert_eq!(guest.to_string(), size);
                assert!(guest.has_usual_memory());
            }
        }
        assert_eq!("performance-2x".parse(), Ok(Guest::default()));
    }

    #[test]
    fn guest_rejects_sizes_that_fly_does_not_offer() {
        for size in [
            "performance-3x",
            "performance-5x",
            "performance-18x",
            "performance-0x",
            "performance-02x",
            "performance",
            "performance-2",
            "shared-cpu-3x",
            "shared-cpu-10x",
            "shared-2x",
            "a100-40gb",
            "l40s",
            "",
        ] {
            assert_eq!(size.parse::<Guest>(), Err(NoSuchSize), "{size}");
        }
        assert_eq!(
            NoSuchSize.to_string(),
            "it must be one of Fly's sizes: shared-cpu-Nx with 1, 2, 4, 6 or 8 for N, or \
             performance-Nx with 1, 2, 4, 6, 8, 10, 12, 14 or 16 for N"
        );
    }

    #[test]
    fn guest_with_invalid_memory_error_names_the_valid_range() {
        for (kind, cpus, memory, error) in [
            (PERFORMANCE, 3, 6144, "a performance machine has 1, 2, 4, 6, 8, 10, 12, 14 or 16 CPUs, not 3"),
            (PERFORMANCE, 2, 512, "2 performance CPUs need 4096 MB of memory at least"),
            (PERFORMANCE, 8, 8192, "8 performance CPUs need 16384 MB of memory at least"),
            (PERFORMANCE, 2, 17_408, "2 performance CPUs have 16384 MB of memory at most"),
            (PERFORMANCE, 2, 4352, "the memory of a performance machine is a multiple of 1024 MB"),
            (SHARED, 16, 4096, "a shared machine has 1, 2, 4, 6 or 8 CPUs, not 16"),
            (SHARED, 4, 512, "4 shared CPUs need 1024 MB of memory at least"),
            (SHARED, 1, 4096, "1 shared CPUs have 2048 MB of memory at most"),
            (SHARED, 1, 300, "the memory of a shared machine is a multiple of 256 MB"),
        ] {
            assert_eq!(Guest::new(kind, cpus, memory).unwrap_err().to_string(), error);
        }
        let big = Guest::new(PERFORMANCE, 16, 131_072).unwrap();
        assert!(!big.has_usual_memory());
    }

    #[test]
    fn guest_deserialize_rejects_sizes_that_fly_does_not_offer() {
        let json = r#"{"cpu_kind":"performance","cpus":2,"memory_mb":4096}"#;
        let guest: Guest = serde_json::from_str(json).unwrap();
        assert_eq!((guest, serde_json::to_string(&guest).unwrap().as_str()), (Guest::default(), json));
        for wrong in [
            r#"{"cpu_kind":"performance","cpus":3,"memory_mb":6144}"#,
            r#"{"cpu_kind":"performance","cpus":2,"memory_mb":512}"#,
            r#"{"cpu_kind":"dedicated","cpus":2,"memory_mb":4096}"#,
        ] {
            assert!(serde_json::from_str::<Guest>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        /// The checks of flyctl (`internal/machine/update.go`), copied verbatim.
        #[test]
        fn guest_new_accepts_the_same_sizes_as_flyctl(performance in any::<bool>(), cpus in 0u32..20, steps in 0u32..600) {
            let memory = steps * 256;
            let known: &[u32] =
                if performance { &[1, 2, 4, 6, 8, 10, 12, 14, 16] } else { &[1, 2, 4, 6, 8] };
            let (step, least, most) = if performance { (1024, 2048, 8192) } else { (256, 256, 2048) };
            let passes = known.contains(&cpus)
                && memory % step == 0
                && least * cpus <= memory
                && memory <= most * cpus;
            let kind = if performance { PERFORMANCE } else { SHARED };
            prop_assert_eq!(Guest::new(kind, cpus, memory).is_ok(), passes);
        }
    }
}
