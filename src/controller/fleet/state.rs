//! The state between two observations: operations that the list may not show yet, and when each state began.
//! Starting over with an empty state is safe; it only causes longer waits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::{Launch, MachineId, Phase};
use super::observation::Moment;
use super::operation::{Operation, Outcome, PlannedOperation};
use super::policy::{Deadlines, FleetPolicy};
use super::size::MachineSize;
use super::slot::Slot;
use crate::job::{Millis, WorkerClasses};

/// What a reconciler remembers. It can be stored as JSON for a successor if both count their moments from the
/// same origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FleetState {
    /// When the newest list was requested.
    pub(super) listed_at: Option<Moment>,
    /// When a write last succeeded: its effect is known without a list.
    pub(super) acted_at: Option<Moment>,
    /// Something happened that only a list after this moment can clarify.
    pub(super) doubt: Option<Moment>,
    pub(super) machines: BTreeMap<MachineId, MachineRecord>,
    /// Creates that no list has shown yet. They occupy their slots.
    pub(super) launches: BTreeMap<Slot, PendingCreate>,
    /// Missing machines, each with the moment until which its absence is not accepted.
    pub(super) missing: BTreeMap<MachineId, MissingMachine>,
    /// Many machines went missing at once: how many, of how many, and until when the list is distrusted.
    pub(super) guard: Option<(u32, u32, Moment)>,
    /// Machines went missing for no known reason: list again at this moment, whatever the queue contains.
    pub(super) confirm_at: Option<Moment>,
    pub(super) full_regions: BTreeMap<String, Moment>,
    pub(super) quota_until: Option<Moment>,
    /// The provider had no room or no quota for a machine of this many CPUs, which is larger than the base size: until
    /// this moment, smaller ones are asked for.
    pub(super) too_large: Option<(u32, Moment)>,
    /// The provider requires payment: no launch before this moment.
    pub(super) billing_until: Option<Moment>,
    pub(super) refused_until: Option<Moment>,
    pub(super) backoff_until: Option<Moment>,
    /// Consecutive answers that were missing or asked to wait.
    pub(super) consecutive_errors: u32,
    /// Consecutive launches that brought no worker.
    pub(super) launch_failures: u32,
    /// Consecutive launches that others stopped before a worker came, and the list that showed the last of them.
    pub(super) launches_stopped: Option<(u32, Moment)>,
    /// How the last launch failed.
    pub(super) launch_failure: Option<LaunchFailure>,
    /// The image, the revision and the classes of the launches that failed.
    pub(super) failed_launch: Option<(String, Option<String>, WorkerClasses)>,
    /// What the provider said of it, if anything.
    pub(super) launch_said: Option<String>,
    /// What the provider said when it last had no capacity, if anything.
    pub(super) capacity_said: Option<String>,
    /// What the provider said when a quota was last reached, if anything.
    pub(super) quota_said: Option<String>,
    /// What the provider said when it last failed or asked to wait, if anything.
    pub(super) backoff_said: Option<String>,
    pub(super) launch_hold_until: Option<Moment>,
    pub(super) scaled_in_at: Option<Moment>,
}

/// Why a launch brought no worker, or none that takes the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LaunchFailure {
    /// The provider rejected the machine or could not run it, or its process exited with an error.
    Failed,
    /// The machine ran, but no worker registered.
    Silent,
    /// A worker registered, but does not take the jobs of all classes of the machine.
    WithoutClasses,
}

/// A create whose machine no list has shown yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingCreate {
    /// When the create was sent.
    pub sent_at: Moment,
    /// When it was answered or given up.
    pub at: Moment,
    /// The machine's id, if the provider reported it.
    pub machine: Option<MachineId>,
    /// The size that was asked for; unknown if an older version sent it.
    pub size: Option<MachineSize>,
    /// Whether this create made the machine, or may have; otherwise a machine with that name existed before.
    pub created: bool,
}

/// A machine that the list no longer contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MissingMachine {
    pub slot: Option<Slot>,
    pub size: Option<MachineSize>,
    pub until: Moment,
}

/// An operation on a machine whose effect a list may not show yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum OperationKind {
    Start,
    Stop,
    Destroy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingOperation {
    pub verb: OperationKind,
    pub at: Moment,
    pub sure: bool,
}

/// What is known about a machine over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MachineRecord {
    pub slot: Option<Slot>,
    /// Its size, as a list last showed it.
    pub size: Option<MachineSize>,
    /// How it was created, as a list last showed it or as it was asked for; unknown if an older version recorded it.
    pub launch: Option<Launch>,
    pub phase: Phase,
    pub instance: Option<String>,
    pub phase_since: Moment,
    pub sent: Option<PendingOperation>,
    /// Whether a worker has registered since its last start.
    pub had_worker: bool,
    /// When it was launched, until its worker registers or the launch has failed.
    pub launch_unconfirmed: Option<Moment>,
    /// Since when its phase is `started`.
    pub started_at: Option<Moment>,
    /// When its process exited before its current run, by the provider's clock.
    pub last_exit: Option<Millis>,
    /// Since when no worker on it has a fresh heartbeat.
    pub no_heartbeat_since: Moment,
    /// Since when its worker is live and idle.
    pub idle_since: Option<Moment>,
    pub retired_since: Option<Moment>,
    /// Since when the heartbeat is fresh although the list shows it as stopped.
    pub disputed_since: Option<Moment>,
    pub unreachable_since: Option<Moment>,
    /// The number of repairs, and when the last one was.
    pub repairs: u32,
    pub repaired_at: Option<Moment>,
    /// A start was refused: no further start before this moment.
    pub blocked_until: Option<Moment>,
}

impl MachineRecord {
    pub(super) fn new(slot: Option<Slot>, phase: Phase, now: Moment) -> Self {
        Self {
            slot,
            size: None,
            launch: None,
            phase,
            instance: None,
            phase_since: now,
            sent: None,
            had_worker: false,
            launch_unconfirmed: None,
            started_at: None,
            last_exit: None,
            no_heartbeat_since: now,
            idle_since: None,
            retired_since: None,
            disputed_since: None,
            unreachable_since: None,
            repairs: 0,
            repaired_at: None,
            blocked_until: None,
        }
    }

    /// A new run begins, which was requested at `sent_at` and confirmed at `now`.
    pub(super) fn launched(&mut self, sent_at: Moment, now: Moment) {
        self.had_worker = false;
        self.launch_unconfirmed = Some(sent_at);
        self.started_at = None;
        self.no_heartbeat_since = now;
        self.idle_since = None;
        self.retired_since = None;
        self.disputed_since = None;
    }

    /// Whether it was created in another way than machines are now, so that its failure says nothing about these.
    pub(super) fn is_outdated(&self, policy: &FleetPolicy) -> bool {
        self.launch.as_ref().is_some_and(|launch| launch.is_outdated(policy, self.slot))
    }

    /// When the worker of a `started` machine is overdue, if none has registered in this run. The time for
    /// pulling the image does not count, since it comes before `started`.
    pub(super) fn silent_from(&self, limits: &Deadlines) -> Moment {
        self.no_heartbeat_since.max(self.started_at.unwrap_or_default()) + limits.boot
    }
}

const FEW: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Maximum length of a provider's message that is kept, characters.
const MAX_MESSAGE_CHARS: usize = 400;

/// The beginning of a provider's message.
pub(super) fn shortened(message: &str) -> String {
    message.chars().take(MAX_MESSAGE_CHARS).collect()
}

impl FleetState {
    /// An empty state.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Restarts the clocks of missing heartbeats after Redis was unreachable: missing heartbeats during that
    /// time mean nothing.
    pub fn reset_heartbeat_clocks(&mut self, now: Moment) {
        for seen in self.machines.values_mut() {
            seen.no_heartbeat_since = now;
        }
    }

    /// Records the outcome of an operation that was sent at `sent_at` and is known at `now`.
    pub fn record(
        &mut self,
        action: &PlannedOperation,
        outcome: &Outcome,
        policy: &FleetPolicy,
        sent_at: Moment,
        now: Moment,
    ) {
        match outcome {
            Outcome::Done(_) => {
                self.consecutive_errors = 0;
                self.acted_at = Some(now);
            }
            Outcome::RateLimited { retry_after } => {
                self.consecutive_errors = self.consecutive_errors.saturating_add(1);
                self.back_off(now, retry_after.unwrap_or(Duration::ZERO));
            }
            Outcome::Unknown => {
                self.consecutive_errors = self.consecutive_errors.saturating_add(1);
                // A single lost answer is no outage.
                if self.consecutive_errors >= 3 {
                    self.back_off(now, Duration::ZERO);
                }
            }
            Outcome::Unauthorized => self.refused_until = Some(now + policy.deadlines.hold),
            Outcome::NotFound | Outcome::Precondition | Outcome::NameTaken(_) => self.doubt = Some(now),
            _ => {}
        }
        match &action.act {
            Operation::Create { slot, region, size, .. } => {
                let sent =
                    PendingCreate { sent_at, at: now, machine: None, size: Some(*size), created: true };
                self.record_create(*slot, region, sent, outcome, policy);
            }
            Operation::Retire { machine, .. } => self.record_retire(machine, outcome, now),
            Operation::Start { machine } => self.record_start(machine, outcome, policy, sent_at, now),
            Operation::Stop { machine } => {
                self.record_repair(machine, OperationKind::Stop, outcome, policy, now)
            }
            Operation::Destroy { machine, .. } => {
                self.record_repair(machine, OperationKind::Destroy, outcome, policy, now);
            }
        }
    }

    /// Records the provider's message about an operation that ended with this outcome, if a person can need it.
    pub fn record_message(&mut self, outcome: &Outcome, message: &str) {
        match outcome {
            Outcome::NoCapacity => self.capacity_said = Some(shortened(message)),
            Outcome::Quota => self.quota_said = Some(shortened(message)),
            Outcome::Unknown | Outcome::RateLimited { .. } => self.backoff_said = Some(shortened(message)),
            Outcome::Rejected | Outcome::Precondition => self.launch_said = Some(shortened(message)),
            _ => {}
        }
    }

    fn back_off(&mut self, now: Moment, least: Duration) {
        let doubled = FEW.saturating_mul(1_u32 << self.consecutive_errors.min(6)).min(LONGEST_WAIT);
        self.backoff_until = Some(now + doubled.max(least.min(10 * LONGEST_WAIT)));
    }

    fn record_create(
        &mut self,
        slot: Slot,
        region: &str,
        sent: PendingCreate,
        outcome: &Outcome,
        policy: &FleetPolicy,
    ) {
        let now = sent.at;
        let cpus = sent.size.map_or(0, |size| size.cpus);
        match outcome {
            Outcome::Done(machine) | Outcome::NameTaken(machine) => {
                let created = matches!(outcome, Outcome::Done(_));
                if let Some(id) = machine {
                    let seen = self.machines.entry(id.clone());
                    let seen =
                        seen.or_insert_with(|| MachineRecord::new(Some(slot), Phase::Creating, sent.sent_at));
                    if created {
                        seen.launched(sent.sent_at, sent.sent_at);
                        seen.size = sent.size;
                        seen.launch = Some(Launch::of(policy, slot));
                    }
                }
                self.launches.insert(slot, PendingCreate { machine: machine.clone(), created, ..sent });
            }
            Outcome::Unknown => drop(self.launches.insert(slot, sent)),
            Outcome::NoCapacity | Outcome::Quota if cpus > policy.sizes.base().cpus => {
                self.too_large = Some((cpus, now + policy.deadlines.region));
            }
            Outcome::NoCapacity => {
                self.full_regions.insert(region.to_owned(), now + policy.deadlines.region);
            }
            Outcome::Quota => self.quota_until = Some(now + policy.deadlines.hold),
            Outcome::Billing => self.billing_until = Some(now + policy.deadlines.hold),
            Outcome::Rejected | Outcome::Precondition => {
                self.launch_failed(LaunchFailure::Failed, policy, now);
            }
            // The app does not exist any more.
            Outcome::NotFound => self.refused_until = Some(now + policy.deadlines.hold),
            Outcome::RateLimited { .. } | Outcome::Unauthorized | Outcome::Refused | Outcome::Fenced => {}
        }
    }

    fn record_start(
        &mut self,
        machine: &MachineId,
        outcome: &Outcome,
        policy: &FleetPolicy,
        sent_at: Moment,
        now: Moment,
    ) {
        let Some(seen) = self.machines.get_mut(machine) else { return };
        match outcome {
            Outcome::Done(_) | Outcome::Unknown => {
                seen.sent = Some(PendingOperation {
                    verb: OperationKind::Start,
                    at: now,
                    sure: matches!(outcome, Outcome::Done(_)),
                });
                let again = seen.launch_unconfirmed.is_some() && !seen.is_outdated(policy);
                seen.launched(sent_at, now);
                if again {
                    // The previous launch has failed.
                    self.launch_failed(LaunchFailure::Failed, policy, now);
                }
            }
            Outcome::NoCapacity | Outcome::Rejected => {
                seen.blocked_until = Some(now + policy.deadlines.region);
            }
            Outcome::Quota => self.quota_until = Some(now + policy.deadlines.hold),
            Outcome::Billing => {
                self.billing_until = Some(now + policy.deadlines.hold);
                seen.blocked_until = self.billing_until;
            }
            Outcome::Precondition | Outcome::NotFound | Outcome::NameTaken(_) => {
                seen.blocked_until = Some(now + policy.deadlines.retry);
            }
            Outcome::RateLimited { .. } | Outcome::Unauthorized | Outcome::Refused | Outcome::Fenced => {}
        }
    }

    fn record_retire(&mut self, machine: &MachineId, outcome: &Outcome, now: Moment) {
        if let Some(seen) = self.machines.get_mut(machine)
            && matches!(outcome, Outcome::Done(_))
        {
            seen.retired_since.get_or_insert(now);
            self.scaled_in_at = Some(now);
        }
    }

    fn record_repair(
        &mut self,
        machine: &MachineId,
        verb: OperationKind,
        outcome: &Outcome,
        policy: &FleetPolicy,
        now: Moment,
    ) {
        let Some(seen) = self.machines.get_mut(machine) else { return };
        match outcome {
            Outcome::Done(_) | Outcome::Unknown => {
                seen.sent =
                    Some(PendingOperation { verb, at: now, sure: matches!(outcome, Outcome::Done(_)) });
                seen.repairs = seen.repairs.saturating_add(1);
                seen.repaired_at = Some(now);
                // It is given up before a worker registered. Neither an unreachable host nor the lack of one says
                // anything about the launch, and an outdated one nothing about the next.
                let launch_unconfirmed = seen.launch_unconfirmed.take().is_some();
                let says_nothing = seen.unreachable_since.is_some()
                    || seen.phase == Phase::Unschedulable
                    || seen.is_outdated(policy);
                if launch_unconfirmed && !says_nothing {
                    self.launch_failed(LaunchFailure::Failed, policy, now);
                }
            }
            // The request was never sent.
            Outcome::RateLimited { .. } | Outcome::Fenced => {}
            Outcome::Refused => seen.repaired_at = Some(now),
            _ => {
                seen.repairs = seen.repairs.saturating_add(1);
                seen.repaired_at = Some(now);
            }
        }
    }

    /// The number of launches that have neither failed nor brought a worker yet.
    pub(super) fn launch_unconfirmed(&self) -> u32 {
        let open = |seen: &&MachineRecord| {
            seen.launch_unconfirmed.is_some() && !matches!(seen.phase, Phase::Unknown(_))
        };
        u32::try_from(self.machines.values().filter(open).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn launch_failed(&mut self, why: LaunchFailure, policy: &FleetPolicy, now: Moment) {
        self.launch_failures = self.launch_failures.saturating_add(1);
        self.launch_failure = Some(why);
        self.failed_launch = Some((policy.image.clone(), policy.revision.clone(), policy.classes.clone()));
        if self.launch_failures >= policy.launch_failures {
            self.launch_hold_until = Some(now + policy.deadlines.hold);
        }
    }

    /// Counts a launch that others stopped, and returns the number of those in a row; none of a list that was counted
    /// before, since one cause such as a node that goes away ends several launches.
    pub(super) fn launch_stopped(&mut self, listed_at: Moment) -> u32 {
        match self.launches_stopped {
            Some((_, at)) if at == listed_at => 0,
            before => {
                let number = before.map_or(0, |(number, _)| number).saturating_add(1);
                self.launches_stopped = Some((number, listed_at));
                number
            }
        }
    }

    /// Forgets the failed launches if machines are made in another way now: somebody has corrected the policy.
    pub(super) fn forget_corrected_failures(&mut self, policy: &FleetPolicy) {
        let is_corrected = self.failed_launch.as_ref().is_some_and(|(image, revision, classes)| {
            *image != policy.image || *revision != policy.revision || *classes != policy.classes
        });
        if is_corrected {
            self.launch_succeeded();
        }
    }

    pub(super) fn launch_succeeded(&mut self) {
        self.launch_failures = 0;
        self.launches_stopped = None;
        self.launch_failure = None;
        self.failed_launch = None;
        self.launch_said = None;
        self.launch_hold_until = None;
    }
}
