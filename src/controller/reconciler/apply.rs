//! What a step needs beside its request to the provider: a place in the line for requests, and that the machine's
//! workers leave.

use std::time::Duration;

use crate::controller::fleet::{MachineId, Observation, Operation, Outcome};
use crate::job::WorkerId;
use crate::queue::{FencingToken, Queue, QueueError, RequestClass, RetireOutcome};

/// How long workers that come up on a machine that is being stopped are refused.
const REFUSED: Duration = Duration::from_secs(600);

/// How urgent a step is among all that the provider is asked.
pub const fn priority(act: &Operation) -> RequestClass {
    match act {
        Operation::Start { .. } => RequestClass::Start,
        Operation::Create { .. } => RequestClass::Create,
        Operation::Stop { .. } | Operation::Retire { .. } => RequestClass::Stop,
        Operation::Destroy { .. } => RequestClass::Destroy,
    }
}

/// The machine's workers as they were seen, also those that the pool has forgotten.
pub fn workers_of(seen: &Observation, machine: &MachineId) -> Vec<WorkerId> {
    let workers = seen.queue.iter().flat_map(|queue| &queue.workers);
    workers.filter(|w| w.machine == *machine).map(|w| w.worker.clone()).collect()
}

/// Tells a machine's workers to leave.
pub async fn retire(
    queue: &Queue,
    fence: &FencingToken,
    machine: &MachineId,
    workers: &[WorkerId],
) -> Result<Outcome, QueueError> {
    Ok(match queue.retire(fence, &machine.0, workers, REFUSED).await? {
        RetireOutcome::Retired => Outcome::Done(None),
        RetireOutcome::Busy => Outcome::Refused,
        RetireOutcome::Fenced => Outcome::Fenced,
    })
}
