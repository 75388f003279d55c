//! Updates the state of the fleet from a list of machines and the worker pool.

use std::collections::{BTreeMap, BTreeSet};

use super::launch::{is_unfit, lacks_classes};
use super::machine::{Exit, Machine, MachineId, Phase};
use super::observation::{MachineList, Moment, Observation, QueueView, WorkerView};
use super::policy::FleetPolicy;
use super::slot::Slot;
use super::state::{FleetState, LaunchFailure, MachineRecord, MissingMachine, OperationKind, shortened};

/// Number of launches in a row that may be ended by others before their worker comes. More of them say something about the
/// launch: it is preempted, or evicted, again and again.
const STOPPED_LAUNCHES: u32 = 3;

/// How a launch ended that brought no worker.
enum LaunchEnd {
    /// It failed.
    Failed(LaunchFailure),
    /// Somebody stopped the machine before its worker could register.
    Stopped,
}

pub(super) type ByMachine<'a> = BTreeMap<&'a MachineId, Vec<&'a WorkerView>>;

/// Whether a machine of the app belongs to the fleet.
pub(super) fn is_ours(policy: &FleetPolicy, machine: &Machine) -> bool {
    machine.labelled || Slot::parse(&policy.app, &machine.name).is_some()
}

pub(super) fn by_machine(observation: &Observation) -> ByMachine<'_> {
    let mut map = ByMachine::new();
    for worker in observation.queue.iter().flat_map(|q| &q.workers) {
        map.entry(&worker.machine).or_default().push(worker);
    }
    map
}

impl FleetState {
    /// Records an observation. Call it before each [`super::plan`]; recording the same observation twice has
    /// no further effect.
    pub fn observe(&mut self, observation: &Observation, policy: &FleetPolicy, now: Moment) {
        let workers = by_machine(observation);
        self.forget_corrected_failures(policy);
        // Workers come before the list: a stopped machine whose worker has registered is not a failed launch.
        self.hear(&workers, observation.queue.as_ref(), policy, now);
        if let Ok(listed) = &observation.machines
            && self.listed_at.is_none_or(|at| at < listed.at)
        {
            self.apply_machine_list(listed, &workers, policy, now);
        }
        self.missing.retain(|_, missing| missing.until > now);
        self.guard = self.guard.filter(|(_, _, until)| *until > now);
        self.full_regions.retain(|_, until| *until > now);
        self.too_large = self.too_large.filter(|(_, until)| *until > now);
        let times = [
            &mut self.quota_until,
            &mut self.billing_until,
            &mut self.refused_until,
            &mut self.backoff_until,
        ];
        for until in times {
            *until = until.filter(|at| *at > now);
        }
        self.hear(&workers, observation.queue.as_ref(), policy, now);
        if observation.queue.is_some() {
            self.apply_workers(&workers, policy, now);
            self.count_silent(policy, now);
        }
    }

    fn apply_machine_list(
        &mut self,
        listed: &MachineList,
        workers: &ByMachine<'_>,
        policy: &FleetPolicy,
        now: Moment,
    ) {
        let ours: Vec<&Machine> =
            listed.machines.iter().filter(|m| is_ours(policy, m) && !m.phase.is_gone()).collect();
        let ids: BTreeSet<&MachineId> = ours.iter().map(|m| &m.id).collect();
        self.track_missing(&ids, listed, workers, policy, now);
        self.reopen_regions(&ours);
        for machine in ours {
            self.missing.remove(&machine.id);
            self.recognise(machine, policy);
            self.update_machine(machine, listed.at, policy, now);
        }
        let listed_slots: BTreeSet<Slot> =
            listed.machines.iter().filter_map(|m| Slot::parse(&policy.app, &m.name)).collect();
        self.launches.retain(|slot, launch| {
            !listed_slots.contains(slot) && listed.at < launch.at + policy.deadlines.settle
        });
        self.listed_at = Some(listed.at);
        self.doubt = self.doubt.filter(|at| *at > listed.at);
    }

    /// A region in which a machine has found a host has room again, if no other machine waits for one there.
    fn reopen_regions(&mut self, ours: &[&Machine]) {
        let waited = |machine: &Machine| {
            self.machines.get(&machine.id).is_some_and(|seen| seen.phase == Phase::Unschedulable)
        };
        let has_host = |machine: &Machine| matches!(machine.phase, Phase::Starting | Phase::Started);
        let waits = |region: &str| {
            ours.iter().any(|machine| machine.phase == Phase::Unschedulable && machine.region == region)
        };
        let placed = ours.iter().filter(|machine| has_host(machine) && waited(machine));
        for machine in placed.filter(|machine| !waits(&machine.region)) {
            self.full_regions.remove(&machine.region);
        }
    }

    /// Machines that are missing from the list. Their absence is accepted if it was expected, if they are
    /// few, or if it lasts.
    fn track_missing(
        &mut self,
        ids: &BTreeSet<&MachineId>,
        listed: &MachineList,
        workers: &ByMachine<'_>,
        policy: &FleetPolicy,
        now: Moment,
    ) {
        let before = self.machines.len();
        let launched: BTreeSet<&MachineId> = self
            .launches
            .values()
            .filter(|l| listed.at < l.at + policy.deadlines.settle)
            .filter_map(|l| l.machine.as_ref())
            .collect();
        let absent: Vec<MachineId> =
            self.machines.keys().filter(|id| !ids.contains(id) && !launched.contains(id)).cloned().collect();
        let mut unexplained = Vec::new();
        for id in absent {
            let Some(seen) = self.machines.remove(&id) else { continue };
            let leaving = matches!(seen.phase, Phase::Destroying | Phase::LaunchFailed);
            if leaving || seen.sent.is_some_and(|s| s.verb == OperationKind::Destroy) {
                continue;
            }
            unexplained.push((id, seen));
        }
        let sudden = unexplained.len() >= 2 && unexplained.len() * 2 > before;
        if sudden {
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            self.guard = Some((count(unexplained.len()), count(before), now + policy.deadlines.guard));
        }
        let confirmed = self.confirm_at.filter(|at| *at > listed.at);
        let doubtful = (!unexplained.is_empty()).then_some(now + policy.deadlines.guard);
        self.confirm_at = doubtful.or(confirmed);
        for (id, seen) in unexplained {
            let alive = workers.get(&id).is_some_and(|w| w.iter().any(|w| w.fresh || w.busy));
            let wait = match (sudden, alive) {
                (true, _) => policy.deadlines.guard,
                (false, true) => policy.deadlines.dispute,
                (false, false) => {
                    if seen.launch_unconfirmed.is_some() && !seen.is_outdated(policy) {
                        // The provider destroys by itself what it cannot launch.
                        self.launch_failed(LaunchFailure::Failed, policy, now);
                    }
                    continue;
                }
            };
            self.missing.insert(id, MissingMachine { slot: seen.slot, size: seen.size, until: now + wait });
        }
    }

    fn update_machine(&mut self, machine: &Machine, listed_at: Moment, policy: &FleetPolicy, now: Moment) {
        let slot = Slot::parse(&policy.app, &machine.name);
        let new = MachineRecord::new(slot, machine.phase.clone(), listed_at);
        let seen = self.machines.entry(machine.id.clone()).or_insert(new);
        seen.slot = slot;
        seen.size = machine.size.or(seen.size);
        if machine.launch.is_some() && machine.launch != seen.launch {
            seen.launch.clone_from(&machine.launch);
        }
        let changed = seen.phase != machine.phase;
        let at_rest = machine.phase == Phase::Stopped;
        let started = seen.phase == Phase::Stopped && !at_rest;
        if changed {
            seen.phase = machine.phase.clone();
            seen.phase_since = listed_at;
            seen.repairs = 0;
            seen.repaired_at = None;
        }
        // The instance changes with a machine's version, not with each start.
        let replaced = seen.instance.is_some() && seen.instance != machine.instance;
        seen.instance.clone_from(&machine.instance);
        if (replaced || started) && seen.sent.is_none() && seen.launch_unconfirmed.is_none() {
            // The machine was started again, but not by this reconciler.
            seen.had_worker = false;
            seen.no_heartbeat_since = listed_at;
            seen.retired_since = None;
        }
        if let Some(sent) = seen.sent {
            let patience = if sent.sure { policy.deadlines.retry } else { policy.deadlines.settle };
            let over = listed_at > sent.at && (changed || listed_at >= sent.at + patience);
            if over {
                seen.sent = None;
            }
        }
        seen.unreachable_since =
            if machine.host_reachable { None } else { Some(seen.unreachable_since.unwrap_or(listed_at)) };
        let runs = machine.phase == Phase::Started;
        // A start before the known exit says nothing about the current run.
        let newest = machine.last_start.filter(|start| seen.last_exit.is_none_or(|exit| exit < start.at));
        let since = || Some((seen.launch_unconfirmed? + newest?.took).min(listed_at));
        seen.started_at = if runs { seen.started_at.or_else(since).or(Some(listed_at)) } else { None };
        if at_rest {
            seen.retired_since = None;
        }
        if machine.phase == Phase::Unschedulable {
            // Another machine would find no host either.
            self.full_regions.insert(machine.region.clone(), now + policy.deadlines.region);
            self.capacity_said = machine.message.as_deref().map(shortened);
        }
        if at_rest && seen.sent.is_none() && Self::gave_up(machine, seen) {
            seen.blocked_until = Some(now + policy.deadlines.hold);
        }
        let ended = Self::launch_ended(machine, at_rest, seen);
        // How a machine failed that was created in another way says nothing about the next.
        let failure = match ended.filter(|_| !seen.is_outdated(policy)) {
            Some(LaunchEnd::Failed(why)) => Some(why),
            Some(LaunchEnd::Stopped) => {
                (self.launch_stopped(listed_at) > STOPPED_LAUNCHES).then_some(LaunchFailure::Failed)
            }
            None => None,
        };
        if let Some(why) = failure {
            self.launch_said = machine.message.as_deref().map(shortened);
            self.launch_failed(why, policy, now);
        }
    }

    /// The listed machines that somebody else has begun to remove since the last observation.
    pub fn removed_by_others<'a>(
        &'a self,
        machines: &'a [Machine],
        policy: &'a FleetPolicy,
    ) -> impl Iterator<Item = &'a Machine> {
        machines.iter().filter(|machine| {
            let seen = self.machines.get(&machine.id);
            let is_new = seen.is_some_and(|seen| {
                // A list may show the effect of an own request only after it is no longer awaited.
                let is_own =
                    seen.repairs > 0 || seen.sent.is_some_and(|sent| sent.verb == OperationKind::Destroy);
                seen.phase != Phase::Destroying && !is_own
            });
            machine.phase == Phase::Destroying && is_ours(policy, machine) && is_new
        })
    }

    /// The last exit of the machine's process, if it was not known.
    fn new_exit(machine: &Machine, seen: &MachineRecord) -> Option<Exit> {
        machine.last_exit.filter(|exit| seen.last_exit.is_none_or(|before| before < exit.at))
    }

    /// Whether a list shows that the worker of a machine ended with a failure after it had worked, as it does when one job
    /// after the other fails there that others can do. The machine is put aside for a while: started again at once, it
    /// would take the next jobs and fail them. A worker that was killed (128 and the number of the signal) did not give up.
    fn gave_up(machine: &Machine, seen: &MachineRecord) -> bool {
        let exit = Self::new_exit(machine, seen);
        let failed =
            exit.is_some_and(|exit| (1..128).contains(&exit.code) && !exit.out_of_memory && !exit.requested);
        failed && seen.had_worker && seen.launch_unconfirmed.is_none()
    }

    /// Whether a list shows that the launch of a machine ended without a worker, and how. For a stopped machine the
    /// outcome of the launch is decided either way.
    fn launch_ended(machine: &Machine, at_rest: bool, seen: &mut MachineRecord) -> Option<LaunchEnd> {
        if matches!(machine.phase, Phase::Failed | Phase::LaunchFailed) {
            return seen.launch_unconfirmed.take().map(|_| LaunchEnd::Failed(LaunchFailure::Failed));
        }
        if machine.phase == Phase::Destroying && seen.sent.is_none() {
            return seen.launch_unconfirmed.take().map(|_| LaunchEnd::Stopped);
        }
        if !at_rest || seen.sent.is_some() {
            return None;
        }
        let exit = Self::new_exit(machine, seen);
        seen.last_exit = exit.map(|exit| exit.at).or(seen.last_exit);
        seen.launch_unconfirmed.take()?;
        let exit = exit?;
        // No worker was heard, so that no job can be why too much memory was needed.
        Some(match (exit.requested, exit.code) {
            (true, _) => LaunchEnd::Stopped,
            (false, 0) => LaunchEnd::Failed(LaunchFailure::Silent),
            (false, _) => LaunchEnd::Failed(LaunchFailure::Failed),
        })
    }

    /// A create whose answer did not contain the machine's id is matched to its machine by name.
    fn recognise(&mut self, machine: &Machine, policy: &FleetPolicy) {
        let slot = Slot::parse(&policy.app, &machine.name);
        if let Some(launch) = slot.and_then(|slot| self.launches.get(&slot))
            && launch.created
            && launch.machine.as_ref().is_none_or(|id| *id == machine.id)
        {
            // The worker may have registered, and even left, before the create was answered.
            let (sent_at, at) = (launch.sent_at, launch.at);
            self.machines.entry(machine.id.clone()).or_insert_with(|| {
                let mut seen = MachineRecord::new(slot, Phase::Creating, at);
                seen.launched(sent_at, at);
                seen
            });
        }
    }

    /// Confirms the launch of every machine whose worker has registered since. It has failed if that worker does not take
    /// the jobs of all classes that it was told.
    fn hear(
        &mut self,
        workers: &ByMachine<'_>,
        queue: Option<&QueueView>,
        policy: &FleetPolicy,
        now: Moment,
    ) {
        let Some(queue) = queue else { return };
        let (mut came_up, mut without_classes) = (false, 0_u32);
        for (id, seen) in &mut self.machines {
            let here = workers.get(id).map(Vec::as_slice).unwrap_or_default();
            let alive = here.iter().any(|w| w.fresh || w.busy);
            let since_launch = |at: &Moment| seen.launch_unconfirmed.is_some_and(|launched| launched <= *at);
            let registered = queue.heard.get(id).copied().filter(since_launch);
            if let Some(at) = registered {
                seen.no_heartbeat_since = seen.no_heartbeat_since.max(at);
            }
            if alive || registered.is_some() {
                let is_launch = seen.launch_unconfirmed.is_some();
                if seen.launch.as_ref().is_some_and(|launch| lacks_classes(here, &launch.classes)) {
                    without_classes += u32::from(is_launch && !seen.is_outdated(policy));
                } else {
                    came_up |= is_launch || !seen.had_worker;
                }
                seen.had_worker = true;
                seen.launch_unconfirmed = None;
            }
        }
        if came_up {
            self.launch_succeeded();
        }
        for _ in 0..without_classes {
            self.launch_failed(LaunchFailure::WithoutClasses, policy, now);
        }
    }

    /// Counts silent launches: the machine has been `started` for long enough, also according to a list, and
    /// no worker has registered.
    fn count_silent(&mut self, policy: &FleetPolicy, now: Moment) {
        let known = self.listed_at.unwrap_or_default().min(now);
        let is_silent = |seen: &MachineRecord| {
            seen.launch_unconfirmed.is_some()
                && seen.phase == Phase::Started
                && seen.unreachable_since.is_none()
                && seen.silent_from(&policy.deadlines) <= known
        };
        let silent = self.machines.values_mut().filter(|seen| is_silent(seen));
        let silent = silent.filter_map(|seen| {
            seen.launch_unconfirmed = None;
            (!seen.is_outdated(policy)).then_some(())
        });
        let silent = silent.count();
        for _ in 0..silent {
            self.launch_failed(LaunchFailure::Silent, policy, now);
        }
    }

    fn apply_workers(&mut self, workers: &ByMachine<'_>, policy: &FleetPolicy, now: Moment) {
        for (id, seen) in &mut self.machines {
            let here = workers.get(id).map(Vec::as_slice).unwrap_or_default();
            let alive = here.iter().any(|w| w.fresh || w.busy);
            let idle = alive && !here.iter().any(|w| w.busy);
            if alive {
                seen.no_heartbeat_since = now;
            }
            let takes_jobs = idle && !is_unfit(seen.launch.as_ref(), here, policy);
            seen.idle_since = if takes_jobs { Some(seen.idle_since.unwrap_or(now)) } else { None };
            let retired = alive && here.iter().filter(|w| w.fresh).all(|w| w.retired);
            if retired {
                seen.retired_since.get_or_insert(now);
            }
            let at_rest = matches!(seen.phase, Phase::Stopped | Phase::Failed);
            let starting = seen.sent.is_some_and(|s| s.verb == OperationKind::Start);
            let disputed = idle && at_rest && !starting && policy.capabilities.can_stop_and_start;
            seen.disputed_since = if disputed { Some(seen.disputed_since.unwrap_or(now)) } else { None };
        }
    }
}
