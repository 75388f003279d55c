//! What must be remembered between two looks: what was sent and may not show yet, and since when things
//! are as they are. A reconciler that starts afresh with an empty memory is safe: it only waits longer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::{MachineId, Phase};
use super::observation::Moment;
use super::operation::{Operation, Outcome, PlannedOperation};
use super::policy::{Deadlines, FleetPolicy};
use super::slot::Slot;
use crate::job::Millis;

/// What a reconciler remembers. As JSON it can be left for one that follows, if both count their moments
/// from the same beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FleetState {
    /// When the newest list was asked for.
    pub(super) listed_at: Option<Moment>,
    /// When a write last did what it should: what is known since needs no list.
    pub(super) acted_at: Option<Moment>,
    /// Something was learnt that only a list after this moment can settle.
    pub(super) doubt: Option<Moment>,
    pub(super) machines: BTreeMap<MachineId, MachineRecord>,
    /// Creates that no list has shown yet. They hold their slots.
    pub(super) launches: BTreeMap<Slot, PendingCreate>,
    /// Machines that went missing, and until when that is not believed.
    pub(super) missing: BTreeMap<MachineId, MissingMachine>,
    /// Many went missing at once: how many of how many, and until when.
    pub(super) guard: Option<(u32, u32, Moment)>,
    /// Machines went missing without a reason known here: look again then, whatever the queue says.
    pub(super) confirm_at: Option<Moment>,
    pub(super) full_regions: BTreeMap<String, Moment>,
    pub(super) quota_until: Option<Moment>,
    /// Refused for want of payment: no launch before then.
    pub(super) billing_until: Option<Moment>,
    pub(super) refused_until: Option<Moment>,
    pub(super) backoff_until: Option<Moment>,
    /// Answers in a row that asked to wait or were none.
    pub(super) consecutive_errors: u32,
    /// Launches in a row that brought no worker.
    pub(super) launch_failures: u32,
    /// What became of the last of them.
    pub(super) launch_failure: Option<LaunchFailure>,
    pub(super) launch_hold_until: Option<Moment>,
    pub(super) scaled_in_at: Option<Moment>,
}

/// Why a launch brought no worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LaunchFailure {
    /// The provider refused the machine or could not run it, or its process ended with an error.
    Failed,
    /// The machine ran as it should, and no worker registered.
    Silent,
}

/// A create whose machine no list has shown yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingCreate {
    /// When the create was sent.
    pub sent_at: Moment,
    /// When it was answered, or given up.
    pub at: Moment,
    /// Where the provider said which it is.
    pub machine: Option<MachineId>,
    /// The create made it, or may have; else a machine of that name was there already.
    pub created: bool,
}

/// A machine that is not in the list any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MissingMachine {
    pub slot: Option<Slot>,
    pub until: Moment,
}

/// What was sent to a machine and may not show in a list yet.
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

/// What is known of a machine over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MachineRecord {
    pub slot: Option<Slot>,
    pub phase: Phase,
    pub instance: Option<String>,
    pub phase_since: Moment,
    pub sent: Option<PendingOperation>,
    /// A worker was seen since its last start.
    pub had_worker: bool,
    /// When it was launched, until a worker is heard or the launch has failed.
    pub launch_unconfirmed: Option<Moment>,
    /// Since when it is `started`.
    pub started_at: Option<Moment>,
    /// When its process last exited in an earlier life, by the provider's clock.
    pub last_exit: Option<Millis>,
    /// Without a live worker.
    pub no_heartbeat_since: Moment,
    /// With a live worker that holds nothing.
    pub idle_since: Option<Moment>,
    pub retired_since: Option<Moment>,
    /// Alive by its heartbeat, at rest by the list.
    pub disputed_since: Option<Moment>,
    pub unreachable_since: Option<Moment>,
    /// Tries to set it right, and when the last was.
    pub repairs: u32,
    pub repaired_at: Option<Moment>,
    /// A start was refused.
    pub blocked_until: Option<Moment>,
}

impl MachineRecord {
    pub(super) fn new(slot: Option<Slot>, phase: Phase, now: Moment) -> Self {
        Self {
            slot,
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

    /// A new life begins: it was asked for at `sent_at`, which was known to be done at `now`.
    pub(super) fn launched(&mut self, sent_at: Moment, now: Moment) {
        self.had_worker = false;
        self.launch_unconfirmed = Some(sent_at);
        self.started_at = None;
        self.no_heartbeat_since = now;
        self.idle_since = None;
        self.retired_since = None;
        self.disputed_since = None;
    }

    /// Of a machine that is `started` and has shown no worker in this life: when one is overdue. Pulling an
    /// image comes before `started`, so it may take as long as it likes.
    pub(super) fn silent_from(&self, limits: &Deadlines) -> Moment {
        self.no_heartbeat_since.max(self.started_at.unwrap_or_default()) + limits.boot
    }
}

const FEW: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl FleetState {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nobody could see for a while whether workers live: that they gave no sign until now says nothing.
    pub fn reset_heartbeat_clocks(&mut self, now: Moment) {
        for seen in self.machines.values_mut() {
            seen.no_heartbeat_since = now;
        }
    }

    /// Takes note of how a step ended. `sent_at` is when it was sent, `now` when that is known.
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
                // One lost answer is no outage.
                if self.consecutive_errors >= 3 {
                    self.back_off(now, Duration::ZERO);
                }
            }
            Outcome::Unauthorized => self.refused_until = Some(now + policy.deadlines.hold),
            Outcome::NotFound | Outcome::Precondition | Outcome::NameTaken(_) => self.doubt = Some(now),
            _ => {}
        }
        match &action.act {
            Operation::Create { slot, region, .. } => {
                self.record_create(*slot, region, outcome, policy, sent_at, now);
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

    fn back_off(&mut self, now: Moment, least: Duration) {
        let doubled = FEW.saturating_mul(1_u32 << self.consecutive_errors.min(6)).min(LONGEST_WAIT);
        self.backoff_until = Some(now + doubled.max(least.min(10 * LONGEST_WAIT)));
    }

    fn record_create(
        &mut self,
        slot: Slot,
        region: &str,
        outcome: &Outcome,
        policy: &FleetPolicy,
        sent_at: Moment,
        now: Moment,
    ) {
        match outcome {
            Outcome::Done(machine) | Outcome::NameTaken(machine) => {
                let created = matches!(outcome, Outcome::Done(_));
                if let Some(id) = machine {
                    let seen = self.machines.entry(id.clone());
                    let seen =
                        seen.or_insert_with(|| MachineRecord::new(Some(slot), Phase::Creating, sent_at));
                    if created {
                        seen.launched(sent_at, sent_at);
                    }
                }
                self.launches
                    .insert(slot, PendingCreate { sent_at, at: now, machine: machine.clone(), created });
            }
            Outcome::Unknown => {
                self.launches.insert(slot, PendingCreate { sent_at, at: now, machine: None, created: true });
            }
            Outcome::NoCapacity => {
                self.full_regions.insert(region.to_owned(), now + policy.deadlines.region);
            }
            Outcome::Quota => self.quota_until = Some(now + policy.deadlines.hold),
            Outcome::Billing => self.billing_until = Some(now + policy.deadlines.hold),
            Outcome::Rejected | Outcome::Precondition => {
                self.launch_failed(LaunchFailure::Failed, policy, now);
            }
            // The app is gone.
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
                let again = seen.launch_unconfirmed.is_some();
                seen.launched(sent_at, now);
                if again {
                    // The launch before this one came to nothing.
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
                // It is given up before a worker was heard. A host out of reach says nothing about the launch.
                let launch_unconfirmed = seen.launch_unconfirmed.take().is_some();
                if launch_unconfirmed && seen.unreachable_since.is_none() {
                    self.launch_failed(LaunchFailure::Failed, policy, now);
                }
            }
            // It was never sent.
            Outcome::RateLimited { .. } | Outcome::Fenced => {}
            Outcome::Refused => seen.repaired_at = Some(now),
            _ => {
                seen.repairs = seen.repairs.saturating_add(1);
                seen.repaired_at = Some(now);
            }
        }
    }

    /// Launches of which it is not known yet whether they bring a worker.
    pub(super) fn launch_unconfirmed(&self) -> u32 {
        let open = |seen: &&MachineRecord| {
            seen.launch_unconfirmed.is_some() && !matches!(seen.phase, Phase::Unknown(_))
        };
        u32::try_from(self.machines.values().filter(open).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn launch_failed(&mut self, why: LaunchFailure, policy: &FleetPolicy, now: Moment) {
        self.launch_failures = self.launch_failures.saturating_add(1);
        self.launch_failure = Some(why);
        if self.launch_failures >= policy.launch_failures {
            self.launch_hold_until = Some(now + policy.deadlines.hold);
        }
    }

    pub(super) const fn launch_succeeded(&mut self) {
        self.launch_failures = 0;
        self.launch_failure = None;
        self.launch_hold_until = None;
    }
}
