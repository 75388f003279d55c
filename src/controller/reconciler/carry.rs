//! Carries a step out: at Redis where workers are told to leave, at Fly where machines come and go.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::controller::fleet::{Act, FleetPolicy, Observation, Outcome, launch_config};
use crate::flyprovider::{CreateMachine, Fly, FlyError, Machine, MachineId, StopSignal};
use crate::job::WorkerId;
use crate::queue::{Fence, FlyPriority, Queue, QueueError, RetireOutcome};

/// How long workers that come up on a machine that is being stopped are refused.
const REFUSED: Duration = Duration::from_secs(600);
/// From SIGTERM to SIGKILL.
const STOP: Duration = Duration::from_secs(30);

/// How urgent a step is among all that Fly is asked.
pub const fn priority(act: &Act) -> FlyPriority {
    match act {
        Act::Start { .. } => FlyPriority::Start,
        Act::Create { .. } => FlyPriority::Create,
        Act::Stop { .. } | Act::Retire { .. } => FlyPriority::Stop,
        Act::Destroy { .. } => FlyPriority::Destroy,
    }
}

/// Asks Fly for a step; answers the machine that was made, where one was. Costs a request, but for a retire,
/// which is none of Fly's business.
pub async fn ask(
    fly: &Fly,
    act: &Act,
    policy: &FleetPolicy,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Machine>, FlyError> {
    match act {
        Act::Create { slot, name, region } => {
            let launch = Uuid::new_v4().simple().to_string();
            let order = CreateMachine {
                name: name.clone(),
                region: Some(region.clone()),
                config: launch_config(policy, *slot, &launch, environment.clone()),
                skip_launch: false,
            };
            fly.create(&order).await.map(Some)
        }
        Act::Start { machine } => fly.start(machine).await.map(|()| None),
        Act::Stop { machine } => fly.stop(machine, StopSignal::Terminate, STOP).await.map(|()| None),
        Act::Destroy { machine, force } => fly.destroy(machine, *force).await.map(|()| None),
        Act::Retire { .. } => Ok(None),
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
    fence: &Fence,
    machine: &MachineId,
    workers: &[WorkerId],
) -> Result<Outcome, QueueError> {
    Ok(match queue.retire(fence, &machine.0, workers, REFUSED).await? {
        RetireOutcome::Retired => Outcome::Done(None),
        RetireOutcome::Busy => Outcome::Refused,
        RetireOutcome::Fenced => Outcome::Fenced,
    })
}
