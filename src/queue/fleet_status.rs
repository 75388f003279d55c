//! What the acting reconciler says of the fleet, as it stands in Redis and goes out over the API. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::{JobId, Millis};

/// Somebody stopped the reconcilers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FleetPause")]
pub struct Paused {
    /// Since when.
    pub since: Millis,
    /// Why, in the words of who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What the acting reconciler says of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetStatus {
    /// When it said so, by Redis's clock.
    pub at: Millis,
    /// Which process said so.
    pub reconciler: String,
    /// How often the right to act has changed hands.
    pub epoch: u64,
    /// The app whose machines these are.
    pub app: String,
    /// Whether it only looks on.
    pub paused: bool,
    /// How many machines there should be, and the counts that say why.
    pub desired: FleetDesired,
    /// The machines, the first thousand of them.
    pub machines: Vec<FleetMachine>,
    /// What a person should know.
    pub conditions: Vec<FleetCondition>,
    /// What comes next, were it not paused: the most urgent first.
    pub plan: Vec<FleetStep>,
    /// What an hour of one machine costs, dollars, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_usd_per_hour: Option<f64>,
    /// Bytes of the largest input that the machines' workers take, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_input_bytes: Option<u64>,
}

/// How many machines are wanted, and what that rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetDesired {
    /// `clamp(busy + ceil(waiting / JOBS_PER_MACHINE), MIN_MACHINES, MAX_MACHINES)`.
    pub machines: u32,
    /// Machines with a job.
    pub busy: u32,
    /// Machines without one.
    pub idle: u32,
    /// Machines whose worker is yet to come.
    pub booting: u32,
    /// Jobs without a worker.
    pub waiting: u64,
    /// Machines that exist, at rest or not.
    pub existing: u32,
    /// Of these, whose CPU and memory are on the bill.
    pub billed: u32,
    /// `MIN_MACHINES`.
    pub min: u32,
    /// `MAX_MACHINES`.
    pub max: u32,
}

impl FleetDesired {
    /// How many more machines must come up.
    #[must_use]
    pub const fn need(&self) -> u32 {
        self.machines.saturating_sub(self.busy.saturating_add(self.idle).saturating_add(self.booting))
    }

    /// How many more machines may be made.
    #[must_use]
    pub const fn room(&self) -> u32 {
        self.max.saturating_sub(self.existing)
    }
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetMachine {
    /// Its name, `<app>-worker-07`, where it has one of ours or is known by a list.
    pub name: String,
    /// Its provider's id, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Its state by the last list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What it is to us: busy, idle, booting, leaving, rest, zombie, ...
    pub role: String,
    /// The job its worker holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// When it was made, by the provider's clock (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// How long it ran in all before its present run, seconds, as far as the provider's events go back.
    pub ran_seconds: f64,
    /// Since when it runs, by the provider's clock; nothing while it rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Millis>,
}

/// Something a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetCondition {
    /// One word for programs, such as `Unauthorized`.
    pub reason: String,
    /// A sentence for people: what is wrong, and what to do.
    pub message: String,
}

/// A step that comes next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetStep {
    /// list, start, create, retire, stop, destroy.
    pub action: String,
    /// The machine's name, or its id where it has none of ours.
    pub machine: String,
    /// Why.
    pub reason: String,
}
