//! The published status of the fleet, as it is stored in Redis and returned by the API. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::workers::class_list;
use crate::job::{JobId, Millis, WorkerClass, WorkerClasses};

/// A pause of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FleetPause")]
pub struct Paused {
    /// When the fleet was paused.
    pub since: Millis,
    /// The reason, as given by the person who paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The status of the fleet as its reconciler published it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetStatus {
    /// When it was published, by Redis's clock.
    pub at: Millis,
    /// The process that published it.
    pub reconciler: String,
    /// How often the fleet lock has changed hands.
    pub epoch: u64,
    /// The app that the machines belong to.
    pub app: String,
    /// The WorkerPool that configures the fleet, as namespace/name, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether the fleet is paused.
    pub paused: bool,
    /// The desired number of machines, and the counts that it is computed from.
    pub desired: FleetDesired,
    /// The machines, at most a thousand.
    pub machines: Vec<FleetMachine>,
    /// Conditions that require attention.
    pub conditions: Vec<FleetCondition>,
    /// The next operations, most urgent first. They are not carried out while the fleet is paused.
    pub plan: Vec<FleetStep>,
    /// The price of one machine of the size for jobs in dollars an hour, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_usd_per_hour: Option<f64>,
    /// What the billed machines cost together in dollars an hour, if known. Older versions do not publish it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billed_usd_per_hour: Option<f64>,
    /// The classes of the jobs that its machines take. Older versions make machines for the default class, and do not publish
    /// it.
    #[serde(default, with = "class_list")]
    #[schemars(with = "Vec<WorkerClass>")]
    pub worker_classes: WorkerClasses,
    /// The largest input in bytes that the workers accept, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_input_bytes: Option<u64>,
}

impl FleetStatus {
    /// The price of one of its machines in dollars an hour, if known. Before machines had several sizes, it was the
    /// same for all.
    #[must_use]
    pub fn price_of(&self, machine: &FleetMachine) -> Option<f64> {
        machine.usd_per_hour.or(self.machine_usd_per_hour)
    }

    /// What the billed machines cost together in dollars an hour, if known.
    #[must_use]
    pub fn billed_price(&self) -> Option<f64> {
        let same = || Some(self.machine_usd_per_hour? * f64::from(self.desired.billed));
        self.billed_usd_per_hour.or_else(same)
    }
}

impl FleetStatus {
    /// Several fleets as one, for figures of all machines. It is paused if all are; its app, its classes and its plan
    /// are those of the first.
    #[must_use]
    pub(crate) fn total(fleets: impl IntoIterator<Item = Self>) -> Option<Self> {
        fleets.into_iter().reduce(|mut sum, fleet| {
            let price = sum.billed_price().zip(fleet.billed_price()).map(|(one, other)| one + other);
            sum.billed_usd_per_hour = price;
            // The price of a machine is that of its own fleet.
            for machine in &mut sum.machines {
                machine.usd_per_hour = machine.usd_per_hour.or(sum.machine_usd_per_hour);
            }
            sum.machine_usd_per_hour = None;
            sum.machines.extend(
                fleet
                    .machines
                    .iter()
                    .map(|machine| FleetMachine { usd_per_hour: fleet.price_of(machine), ..machine.clone() }),
            );
            Self {
                at: sum.at.max(fleet.at),
                paused: sum.paused && fleet.paused,
                desired: sum.desired.plus(&fleet.desired),
                conditions: sum.conditions.into_iter().chain(fleet.conditions).collect(),
                ..sum
            }
        })
    }
}

/// The desired number of machines, and the counts that it is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetDesired {
    /// `clamp(busy + ceil(jobs / JOBS_PER_MACHINE) + as many as encode the parts at once, MIN_MACHINES, MAX_MACHINES)`:
    /// the jobs and the parts of split jobs that wait. A machine encodes `WORKER_CHUNKS` parts at once, or one for each
    /// CPU.
    pub machines: u32,
    /// Machines whose worker has a job.
    pub busy: u32,
    /// Machines whose worker is idle.
    pub idle: u32,
    /// Machines whose worker has not registered yet.
    pub booting: u32,
    /// Jobs, and parts of split jobs, that no worker has claimed.
    pub waiting: u64,
    /// How many of them are parts.
    #[serde(default)]
    pub waiting_parts: u64,
    /// Machines that exist, running or stopped.
    pub existing: u32,
    /// Existing machines that are charged for CPU and memory.
    pub billed: u32,
    /// `MIN_MACHINES`.
    pub min: u32,
    /// `MAX_MACHINES`.
    pub max: u32,
}

/// A number of things: `1 machine`, `2 machines`.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

impl FleetDesired {
    const fn plus(&self, other: &Self) -> Self {
        Self {
            machines: self.machines.saturating_add(other.machines),
            busy: self.busy.saturating_add(other.busy),
            idle: self.idle.saturating_add(other.idle),
            booting: self.booting.saturating_add(other.booting),
            waiting: self.waiting.saturating_add(other.waiting),
            waiting_parts: self.waiting_parts.saturating_add(other.waiting_parts),
            existing: self.existing.saturating_add(other.existing),
            billed: self.billed.saturating_add(other.billed),
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    /// What waits, such as `2 jobs wait` or `1 job and 8 parts of split videos wait`.
    #[must_use]
    pub fn waits(&self) -> String {
        let parts = self.waiting_parts.min(self.waiting);
        let jobs = count(self.waiting - parts, "job", "jobs");
        let of_videos = format!("{} of split videos", count(parts, "part", "parts"));
        let what = match (self.waiting - parts, parts) {
            (_, 0) => jobs,
            (0, _) => of_videos,
            _ => format!("{jobs} and {of_videos}"),
        };
        format!("{what} {}", if self.waiting == 1 { "waits" } else { "wait" })
    }

    /// The number of machines still to be started or created.
    #[must_use]
    pub const fn need(&self) -> u32 {
        self.machines.saturating_sub(self.busy.saturating_add(self.idle).saturating_add(self.booting))
    }

    /// The number of machines that may still be created below the maximum.
    #[must_use]
    pub const fn room(&self) -> u32 {
        self.max.saturating_sub(self.existing)
    }
}

/// A machine of the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetMachine {
    /// The name, such as `<app>-worker-07`; empty if it is unknown.
    pub name: String,
    /// The id that the provider assigned, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The region, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The state in the last list of the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The role in the fleet, such as busy, idle, booting, leaving, rest or zombie.
    pub role: String,
    /// The job that its worker holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// When it was created, by the provider's clock (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Total seconds that it ran before its current run, as far as the provider's events go back.
    pub ran_seconds: f64,
    /// When its current run began, by the provider's clock; absent while it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Millis>,
    /// Its price in dollars an hour while it runs, if known. Older versions do not publish it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<f64>,
}

/// A condition of the fleet that requires attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetCondition {
    /// The reason in one word for programs, such as `Unauthorized`.
    pub reason: String,
    /// A sentence for people: what is wrong, and what to do.
    pub message: String,
}

/// A planned operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetStep {
    /// The kind of operation: list, start, create, retire, stop or destroy.
    pub action: String,
    /// The machine's name, or its id if its name is not one of the fleet's.
    pub machine: String,
    /// Why the operation is planned.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_of_fleets_adds_their_machines_and_what_they_cost() {
        let machine = |price| FleetMachine {
            name: "a".into(),
            id: None,
            region: None,
            state: None,
            role: "busy".into(),
            job_id: None,
            created_at: None,
            ran_seconds: 0.0,
            running_since: None,
            usd_per_hour: price,
        };
        let fleet = |at, price: f64, paused| FleetStatus {
            at: Millis(at),
            paused,
            desired: FleetDesired { machines: 2, busy: 1, billed: 2, max: 5, ..FleetDesired::default() },
            machines: vec![machine(None)],
            machine_usd_per_hour: Some(price),
            ..FleetStatus::default()
        };
        let total =
            FleetStatus::total([fleet(5, 0.25, true), fleet(3, 1.0, false), fleet(4, 2.0, true)]).unwrap();
        assert_eq!((total.at, total.paused, total.billed_price()), (Millis(5), false, Some(6.5)));
        assert_eq!((total.desired.machines, total.desired.busy, total.desired.max), (6, 3, 15));
        let prices: Vec<_> = total.machines.iter().map(|machine| total.price_of(machine)).collect();
        assert_eq!(prices, [Some(0.25), Some(1.0), Some(2.0)]);
        let unknown = FleetStatus { machine_usd_per_hour: None, ..fleet(1, 0.0, true) };
        assert_eq!(FleetStatus::total([fleet(1, 1.0, true), unknown]).unwrap().billed_price(), None);
        assert_eq!(FleetStatus::total([fleet(7, 1.0, true)]), Some(fleet(7, 1.0, true)));
        assert_eq!(FleetStatus::total([]), None);
    }
}
