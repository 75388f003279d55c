//! Carries a step out: at Redis where workers are told to leave, at Fly where machines come and go.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::controller::fleet::{FleetPolicy, Observation, Operation, Outcome, launch_config};
use crate::flyprovider::{CreateMachine, Fly, FlyError, Machine, MachineId, StopSignal};
use crate::job::WorkerId;
use crate::queue::{FencingToken, Queue, QueueError, RequestClass, RetireOutcome};

/// How long workers that come up on a machine that is being stopped are refused.
const REFUSED: Duration = Duration::from_secs(600);
/// From SIGTERM to SIGKILL.
const STOP: Duration = Duration::from_secs(30);

/// How urgent a step is among all that Fly is asked.
pub const fn priority(act: &Operation) -> RequestClass {
    match act {
        Operation::Start { .. } => RequestClass::Start,
        Operation::Create { .. } => RequestClass::Create,
        Operation::Stop { .. } | Operation::Retire { .. } => RequestClass::Stop,
        Operation::Destroy { .. } => RequestClass::Destroy,
    }
}

/// Asks Fly for a step; answers the machine that was made, where one was. Costs a request, but for a retire,
/// which is none of Fly's business.
pub async fn ask(
    fly: &Fly,
    act: &Operation,
    policy: &FleetPolicy,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Machine>, FlyError> {
    match act {
        Operation::Create { slot, name, region } => {
            let launch = Uuid::new_v4().simple().to_string();
            let order = CreateMachine {
                name: name.clone(),
                region: Some(region.clone()),
                config: launch_config(policy, *slot, &launch, environment.clone()),
                skip_launch: false,
            };
            fly.create(&order).await.map(Some)
        }
        Operation::Start { machine } => fly.start(machine).await.map(|()| None),
        Operation::Stop { machine } => fly.stop(machine, StopSignal::Terminate, STOP).await.map(|()| None),
        Operation::Destroy { machine, force } => fly.destroy(machine, *force).await.map(|()| None),
        Operation::Retire { .. } => Ok(None),
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
