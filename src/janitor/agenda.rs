//! Decides which uploads to check, and when the next check is due. Pure.

use std::collections::HashMap;

use super::BATCH;
use crate::job::{JobId, Millis};

/// Maximum number of awaited uploads read by a run at the edge, from which the ones to check are chosen.
const AWAITED: u32 = 1000;
/// Maximum number of uploads checked when a process starts.
const STARTUP_UPLOADS: u32 = 10_000;
/// An upload that could not be checked is checked again after this many milliseconds.
const RECHECK_MS: i64 = 60_000;
/// Pause between two batches of overdue uploads, milliseconds.
const NEXT_BATCH_MS: i64 = 50;

/// The janitor's state of awaited uploads between two runs.
#[derive(Debug)]
pub(crate) struct Agenda {
    /// Check also uploads whose window is still open: their event may have been lost while no janitor ran.
    all: bool,
    /// Whether it is for one run only.
    once: bool,
    /// The number of the run. It rotates the uploads that do not all fit into one run.
    turn: u64,
    /// Uploads that could not be checked, and until when they are left alone.
    deferred: HashMap<JobId, Millis>,
    next_due: Option<Millis>,
    /// Whether there are more uploads than were read.
    more: bool,
}

impl Agenda {
    /// For the lifetime of a process: all uploads once, then those that are overdue.
    #[must_use]
    pub(crate) fn of_process() -> Self {
        Self { all: true, once: false, turn: 0, deferred: HashMap::new(), next_due: None, more: false }
    }

    /// For run number `turn`: the overdue uploads, then the others in rotation.
    #[must_use]
    pub(crate) fn of_run(turn: u64) -> Self {
        Self { once: true, turn, ..Self::of_process() }
    }

    /// How many awaited uploads to read.
    #[must_use]
    pub(crate) fn limit(&self) -> u32 {
        match (self.once, self.all) {
            (true, _) => AWAITED,
            (false, true) => STARTUP_UPLOADS,
            (false, false) => BATCH + u32::try_from(self.deferred.len()).unwrap_or(0),
        }
    }

    /// Chooses at most `most` of the `awaited` uploads, each with the end of its window; there may be more if they are
    /// as many as were asked for (`full`). Returns each with whether it
    /// is overdue: first those that are, then the others in rotation, so that each is checked again and again even if
    /// they do not all fit into one run.
    pub(crate) fn choose(
        &mut self,
        awaited: &[(JobId, Millis)],
        full: bool,
        now: Millis,
        most: usize,
    ) -> Vec<(JobId, bool)> {
        self.deferred.retain(|_, until| *until > now);
        let until = |id: &JobId, due: Millis| self.deferred.get(id).copied().or((due > now).then_some(due));
        self.next_due = awaited.iter().filter_map(|(id, due)| until(id, *due)).min();
        let ready = awaited.iter().filter(|(id, _)| !self.deferred.contains_key(id));
        let (overdue, others): (Vec<_>, Vec<_>) = ready.partition(|(_, due)| *due <= now);
        let mut chosen: Vec<_> = overdue.iter().take(most).map(|(id, _)| (*id, true)).collect();
        let room = (most - chosen.len()).min(others.len());
        if self.all && room > 0 {
            let start = self.turn.wrapping_mul(room as u64) % others.len() as u64;
            let start = usize::try_from(start).unwrap_or(0);
            chosen.extend(others.iter().cycle().skip(start).take(room).map(|(id, _)| (*id, false)));
        }
        self.more = full && !chosen.is_empty();
        chosen
    }

    /// Records the checks that were made, each with whether it decided about the upload.
    pub(crate) fn checked(&mut self, checks: impl IntoIterator<Item = (JobId, bool)>, now: Millis) {
        let undecided = checks.into_iter().filter(|(_, decided)| !decided);
        self.deferred.extend(undecided.map(|(id, _)| (id, now.plus(RECHECK_MS))));
        if self.more {
            let soon = now.plus(NEXT_BATCH_MS);
            self.next_due = Some(self.next_due.map_or(soon, |due| due.min(soon)));
        }
        self.all &= self.once;
    }

    /// When the next upload is to be checked.
    #[must_use]
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "it serves the janitor of a process only"))]
    pub(crate) const fn next_due(&self) -> Option<Millis> {
        self.next_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn uploads(dues: &[i64]) -> Vec<(JobId, Millis)> {
        dues.iter().map(|due| (JobId::new(), Millis(*due))).collect()
    }

    #[test]
    fn agenda_choose_takes_overdue_uploads_first_and_rotates_the_others() {
        let awaited = uploads(&[0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
        let now = Millis(10);
        let choose = |turn: u64, most: usize| Agenda::of_run(turn).choose(&awaited, false, now, most);
        let overdue = [(awaited[0].0, true), (awaited[1].0, true)];
        assert_eq!(choose(7, 2), overdue);
        let mut seen = BTreeSet::new();
        for turn in 0..8 {
            let chosen = choose(turn, 4);
            assert_eq!(chosen[..2], overdue);
            assert_eq!(chosen.len(), 4);
            seen.extend(chosen.iter().map(|(id, _)| id.to_string()));
        }
        assert_eq!(seen.len(), 10, "some uploads are never checked");
        assert_eq!(choose(3, 100).len(), 10);
        assert!(Agenda::of_run(3).choose(&[], false, now, 100).is_empty());
        assert!(choose(u64::MAX, 0).is_empty());
    }

    #[test]
    fn agenda_of_process_checks_all_uploads_once_then_overdue_ones() {
        let awaited = uploads(&[10, 20, 100, 300]);
        let mut agenda = Agenda::of_process();
        let chosen = agenda.choose(&awaited, false, Millis(20), usize::MAX);
        let overdue: Vec<bool> = chosen.iter().map(|(_, overdue)| *overdue).collect();
        assert_eq!(overdue, [true, true, false, false]);
        assert_eq!(agenda.next_due(), Some(Millis(100)));
        agenda.checked(chosen.into_iter().map(|(id, _)| (id, true)), Millis(20));
        let chosen = agenda.choose(&awaited[2..], false, Millis(100), usize::MAX);
        assert_eq!(chosen, [(awaited[2].0, true)]);
        assert_eq!(agenda.next_due(), Some(Millis(300)));
    }

    #[test]
    fn agenda_defers_an_upload_that_could_not_be_checked() {
        let awaited = uploads(&[10, 20]);
        let mut agenda = Agenda::of_process();
        agenda.choose(&awaited, false, Millis(50), usize::MAX);
        agenda.checked([(awaited[0].0, false), (awaited[1].0, true)], Millis(50));
        assert!(agenda.choose(&awaited[..1], false, Millis(51), usize::MAX).is_empty());
        let again = Millis(50 + RECHECK_MS);
        assert_eq!(agenda.next_due(), Some(again));
        assert_eq!(agenda.choose(&awaited[..1], false, again, usize::MAX), [(awaited[0].0, true)]);
        assert_eq!(agenda.next_due(), None);
    }

    #[test]
    fn agenda_after_a_full_batch_is_due_again_at_once() {
        let awaited = uploads(&[5; BATCH as usize]);
        let mut agenda = Agenda::of_process();
        agenda.checked([], Millis(10));
        let chosen = agenda.choose(&awaited, true, Millis(10), usize::MAX);
        assert_eq!(chosen.len(), BATCH as usize);
        agenda.checked(chosen.into_iter().map(|(id, _)| (id, true)), Millis(10));
        assert_eq!(agenda.next_due(), Some(Millis(10 + NEXT_BATCH_MS)));
    }
}
