//! What holds in every state of the model.

use tcoder::job::{AttemptId, State};

use super::Model;

impl Model {
    /// Checks the invariants of every state; returns the first one that is violated.
    pub fn violation(&self) -> Option<String> {
        for (id, job) in &self.jobs {
            let held = self.leases_of((*id).into());
            let places = self.places((*id).into());
            let expected = match job.state {
                State::Uploading => [true, false, false, false],
                State::Queued => [false, places[1], !places[1], false],
                State::Running | State::Playable => [false, false, false, !job.waits()],
                State::Completed | State::Failed | State::Cancelled => [false; 4],
            };
            if places != expected {
                return Some(format!("{id} is {} and stands in {places:?}", job.state));
            }
            let leased_as = self.lease(AttemptId { job: *id, epoch: job.epoch });
            if job.state == State::Running && !job.waits() && held != [leased_as] {
                return Some(format!("{id} runs as {} and is leased as {held:?}", job.epoch));
            }
            if job.attempt > job.terms.max {
                return Some(format!("{id} was tried {} times of {}", job.attempt, job.terms.max));
            }
            if job.state.is_terminal() != job.finished.is_some() {
                return Some(format!("{id} is {} and finished at {:?}", job.state, job.finished));
            }
            if self.dead.contains_key(id) != (job.state == State::Failed) {
                return Some(format!("{id} is {} and its place among the dead is wrong", job.state));
            }
            if let Some(violation) = self.violation_of_parts(*id, job) {
                return Some(violation);
            }
        }
        None
    }
}
