//! What fleets that take from the same queue say to each other.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use crate::job::{WorkerClass, WorkerClasses};

/// What a fleet can take of what waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetCapacity {
    /// The number of machines whose worker is idle.
    pub idle: u32,
    /// The number of machines that exist and have no job: the idle ones, and those that boot on a host.
    pub free: u32,
    /// The number of chunks of split videos that these encode at once, all together.
    pub free_chunks: u64,
    /// The number of machines that could be started or created now.
    pub room: u32,
    /// The number of chunks that each of these encodes at once, if it has the largest size.
    pub chunks: u32,
    /// The number of jobs for which one machine is made.
    pub jobs_per_machine: NonZeroU32,
    /// The classes of the jobs that its machines take.
    pub classes: WorkerClasses,
    /// Whether it makes machines at all: it is not paused, and may have some.
    pub tries: bool,
}

/// The other fleets that take from the same queue, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherFleets {
    /// Those that make machines before this one.
    pub before: Vec<FleetCapacity>,
    /// Those that make machines after this one.
    pub after: Vec<FleetCapacity>,
}

impl OtherFleets {
    /// Those of these fleets that take jobs of one of these classes, or of a class of another one that does, and so on: what a
    /// fleet takes of one class, it does not take of another.
    #[must_use]
    pub fn connected_to(mut self, classes: &WorkerClasses) -> Self {
        let mut known: BTreeSet<WorkerClass> = classes.iter().cloned().collect();
        loop {
            let before = known.len();
            let fleets = self.before.iter().chain(&self.after).map(|fleet| &fleet.classes);
            let more: Vec<&WorkerClasses> =
                fleets.filter(|of| of.iter().any(|class| known.contains(class))).collect();
            known.extend(more.into_iter().flatten().cloned());
            if known.len() == before {
                break;
            }
        }
        for fleets in [&mut self.before, &mut self.after] {
            fleets.retain(|fleet| fleet.classes.iter().any(|class| known.contains(class)));
        }
        self
    }

    /// These classes and those of the fleets.
    #[must_use]
    pub fn with_classes(&self, classes: &WorkerClasses) -> BTreeSet<WorkerClass> {
        let others = self.before.iter().chain(&self.after).flat_map(|fleet| &fleet.classes);
        classes.iter().chain(others).cloned().collect()
    }

    /// The number of machines of these fleets whose worker is idle and takes jobs of one of these classes.
    #[must_use]
    pub fn idle(&self, classes: &WorkerClasses) -> u32 {
        let fleets = self.before.iter().chain(&self.after).filter(|fleet| fleet.classes.overlaps(classes));
        fleets.fold(0, |sum, fleet| sum.saturating_add(fleet.idle))
    }
}
