//! Determines the role of each machine in the fleet from its phase and its worker.

use strum::IntoStaticStr;

use super::launch::is_unfit;
use super::machine::{Machine, MachineId, Phase};
use super::observation::{MachineList, Moment, WorkerView};
use super::observe::{ByMachine, is_ours};
use super::policy::FleetPolicy;
use super::size::MachineSize;
use super::slot::Slot;
use super::state::{FleetState, MachineRecord, OperationKind};

/// The role of a machine in the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum MachineRole {
    /// Its worker holds a lease. The plan never touches it.
    Busy,
    /// Its worker waits for a job.
    Idle,
    /// It starts; its worker has not registered yet.
    Booting,
    /// It boots, or its worker waits for a job, but of other classes than those of the fleet: it takes nothing of what
    /// the fleet is there for, and is retired as soon as its worker is idle.
    Unfit,
    /// It is stopping.
    Leaving,
    /// Stopped. It can be started again if the provider supports that.
    Rest,
    /// It was created, but did not start by itself as it should have.
    Unstarted,
    /// It has been in a transitional phase for too long.
    Stuck,
    /// It runs, but no worker has registered for too long.
    Zombie,
    /// The provider cannot reach its host.
    Unreachable,
    /// It failed and will not run again.
    Failed,
    /// It is being destroyed.
    Going,
    /// The list shows it as stopped, but its worker's heartbeat is fresh.
    Disputed,
    /// The list no longer contains it, but its absence is not confirmed yet.
    #[strum(serialize = "missing")]
    MissingMachine,
    /// The provider reports a phase that this version does not know.
    Odd,
}

impl MachineRole {
    /// The name that logs, metrics and the published status use.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether it processes jobs, or soon will.
    #[must_use]
    pub const fn is_capacity(self) -> bool {
        matches!(self, Self::Busy | Self::Idle | Self::Booting)
    }

    /// Whether the provider may be charging for its CPU and memory.
    #[must_use]
    pub const fn is_billed(self) -> bool {
        !matches!(self, Self::Rest | Self::Unstarted | Self::Failed | Self::Going)
    }
}

/// A machine of the fleet as the plan sees it: listed, or being created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineView {
    /// Its id, if known.
    pub id: Option<MachineId>,
    /// Its slot, if its name has one.
    pub slot: Option<Slot>,
    /// Its size; that for jobs, if it is unknown.
    pub size: MachineSize,
    /// Its role.
    pub role: MachineRole,
    /// When the role began, as far as known.
    pub since: Moment,
    /// When the plan must act on it if nothing changes.
    pub deadline: Option<Moment>,
    /// Its launch differs from the desired one: another image, disk, or idle behavior, or a size that machines no
    /// longer have.
    pub drifted: bool,
    /// The provider refused to start it a moment ago.
    pub blocked: bool,
    /// Its phase in the list; `None` if it is not listed.
    pub phase: Option<Phase>,
    /// Whether a worker on it has a fresh heartbeat.
    pub alive: bool,
}

/// All machines of the fleet, ordered by slot.
pub(super) fn units(
    listed: &MachineList,
    workers: &ByMachine<'_>,
    policy: &FleetPolicy,
    memory: &FleetState,
    now: Moment,
) -> Vec<MachineView> {
    let ours = listed.machines.iter().filter(|m| is_ours(policy, m));
    let mut units: Vec<MachineView> = ours
        .filter_map(|machine| {
            let slot = Slot::parse(&policy.app, &machine.name);
            let fresh;
            let seen = match memory.machines.get(&machine.id) {
                Some(seen) => seen,
                None => {
                    fresh = MachineRecord::new(slot, machine.phase.clone(), now);
                    &fresh
                }
            };
            let here = workers.get(&machine.id).map(Vec::as_slice).unwrap_or_default();
            let known_size = machine.size.or(seen.size);
            let size = known_size.unwrap_or(policy.sizes.base());
            let judged = classify(machine, seen, here, size, policy, now)?;
            let launch = machine.launch.as_ref().or(seen.launch.as_ref());
            let (role, since, deadline) = by_classes(judged, is_unfit(launch, here, policy));
            let outdated = machine.launch.as_ref().is_some_and(|launch| launch.is_outdated(policy, slot));
            Some(MachineView {
                id: Some(machine.id.clone()),
                slot,
                size,
                role,
                since,
                deadline,
                drifted: outdated || known_size.is_some_and(|size| !policy.sizes.contains(size)),
                blocked: seen.blocked_until.is_some_and(|until| until > now),
                phase: Some(machine.phase.clone()),
                alive: here.iter().any(|w| w.fresh),
            })
        })
        .collect();
    units.extend(unlisted(listed, workers, policy, memory, now));
    units.sort_by(|a, b| (a.slot.is_none(), a.slot, &a.id).cmp(&(b.slot.is_none(), b.slot, &b.id)));
    units
}

/// Pending creates that no list shows yet, and machines whose absence is not confirmed yet.
fn unlisted(
    listed: &MachineList,
    workers: &ByMachine<'_>,
    policy: &FleetPolicy,
    memory: &FleetState,
    now: Moment,
) -> Vec<MachineView> {
    let unit = |id: Option<&MachineId>, (slot, size): Place, role, since, deadline, alive| MachineView {
        id: id.cloned(),
        slot,
        size: size.unwrap_or(policy.sizes.base()),
        role,
        since,
        deadline,
        drifted: false,
        blocked: false,
        phase: None,
        alive,
    };
    let here = |id: Option<&MachineId>| -> &[&WorkerView] {
        id.and_then(|id| workers.get(id)).map(Vec::as_slice).unwrap_or_default()
    };
    let life = |id: Option<&MachineId>| {
        let here = here(id);
        let alive = here.iter().any(|w| w.fresh);
        let retired = here.iter().filter(|w| w.fresh).all(|w| w.retired);
        (here.iter().any(|w| w.busy), alive, alive && retired)
    };
    let shown: std::collections::BTreeSet<&MachineId> = listed.machines.iter().map(|m| &m.id).collect();
    let launches = memory
        .launches
        .iter()
        .filter(|(_, launch)| launch.machine.as_ref().is_none_or(|id| !shown.contains(id)));
    let launches = launches.map(|(slot, launch)| {
        let id = launch.machine.as_ref();
        let seen = id.and_then(|id| memory.machines.get(id));
        let settled = launch.at + if id.is_some() { policy.deadlines.boot } else { policy.deadlines.settle };
        let left = seen.filter(|s| s.had_worker).map(|s| s.no_heartbeat_since);
        let judged = match (life(id), left) {
            ((true, ..), _) => (MachineRole::Busy, launch.at, None),
            ((_, true, false), _) => {
                (MachineRole::Idle, seen.and_then(|s| s.idle_since).unwrap_or(now), None)
            }
            ((_, true, true), _) => (MachineRole::Leaving, now, Some(now + policy.deadlines.leave)),
            (_, Some(left)) => (MachineRole::Leaving, left, Some(left + policy.deadlines.leave)),
            _ if now < settled => (MachineRole::Booting, launch.at, Some(settled)),
            _ => (MachineRole::Stuck, launch.at, Some(settled)),
        };
        let launched = seen.and_then(|seen| seen.launch.as_ref());
        let (role, since, deadline) = by_classes(judged, is_unfit(launched, here(id), policy));
        unit(id, (Some(*slot), launch.size), role, since, deadline, life(id).1)
    });
    let missing = memory.missing.iter().map(|(id, missing)| {
        let (busy, alive, retired) = life(Some(id));
        let role = match (busy, alive && !retired) {
            (true, _) => MachineRole::Busy,
            (false, true) => MachineRole::Idle,
            (false, false) => MachineRole::MissingMachine,
        };
        let judged = (role, now, Some(missing.until));
        let (role, since, deadline) = by_classes(judged, is_unfit(None, here(Some(id)), policy));
        unit(Some(id), (missing.slot, missing.size), role, since, deadline, alive)
    });
    launches.chain(missing).collect()
}

/// The slot and the size of a machine, as far as they are known.
type Place = (Option<Slot>, Option<MachineSize>);

/// A role, when it began, and its deadline.
type RoleSince = (MachineRole, Moment, Option<Moment>);

type Judged = Option<RoleSince>;

/// The role, if the classes of the machine count.
fn by_classes((role, since, deadline): RoleSince, is_unfit: bool) -> RoleSince {
    match role {
        MachineRole::Idle if is_unfit => (MachineRole::Unfit, since, None),
        MachineRole::Booting if is_unfit => (MachineRole::Unfit, since, deadline),
        _ => (role, since, deadline),
    }
}

/// The role of a listed machine of this size, when it began, and its deadline. `None` if the machine is gone.
fn classify(
    machine: &Machine,
    seen: &MachineRecord,
    here: &[&WorkerView],
    size: MachineSize,
    policy: &FleetPolicy,
    now: Moment,
) -> Judged {
    let limits = &policy.deadlines;
    let since = seen.phase_since;
    let by = |role, since: Moment, limit| Some((role, since, Some(since + limit)));
    let forever = |role, since| Some((role, since, None));
    let fresh = here.iter().any(|w| w.fresh);
    if machine.phase.is_gone() {
        return None;
    }
    if here.iter().any(|w| w.busy) {
        return forever(MachineRole::Busy, since);
    }
    match seen.sent.map(|s| (s.verb, s.at)) {
        Some((OperationKind::Destroy, at)) => return by(MachineRole::Going, at, limits.stuck),
        Some((OperationKind::Stop, at)) => return by(MachineRole::Leaving, at, limits.repair),
        _ => {}
    }
    if !machine.host_reachable {
        return by(MachineRole::Unreachable, seen.unreachable_since.unwrap_or(now), limits.unreachable);
    }
    if fresh && !is_over(machine, policy) {
        return alive(machine, seen, here, size, policy, now);
    }
    let started = seen.sent.filter(|s| s.verb == OperationKind::Start).map(|s| s.at);
    if let Some(at) = started {
        // Its worker has been here and left: the machine is stopping, even if an old list shows it as
        // started.
        return if seen.had_worker {
            by(MachineRole::Leaving, seen.no_heartbeat_since, limits.leave)
        } else if now < at + limits.boot {
            by(MachineRole::Booting, at, limits.boot)
        } else {
            by(MachineRole::Stuck, at, limits.boot)
        };
    }
    let coming = |limit| {
        if now < since + limits.boot {
            by(MachineRole::Booting, since, limits.boot)
        } else {
            by(MachineRole::Stuck, since, limit)
        }
    };
    match &machine.phase {
        Phase::Created if now < since + limits.settle => by(MachineRole::Booting, since, limits.settle),
        Phase::Created => by(MachineRole::Unstarted, since, limits.stuck),
        // An image may be pulled to a new host, which takes longer than a start where images are prepared.
        Phase::Creating | Phase::Starting
            if !policy.capabilities.can_stop_and_start && now < since + limits.stuck =>
        {
            // The machines are listed when it could have started, since it may have ended instead.
            by(MachineRole::Booting, since, limits.boot)
        }
        Phase::Creating | Phase::Starting => coming(limits.stuck),
        // It counts as a machine to come for as long as it may find a host, so that no other is created for its job.
        Phase::Unschedulable if now < since + limits.stuck => by(MachineRole::Booting, since, limits.stuck),
        Phase::Unschedulable => by(MachineRole::Stuck, since, limits.stuck),
        Phase::Updating => coming(limits.updating),
        Phase::Started => {
            let (waiting, overdue) = if seen.had_worker {
                (MachineRole::Leaving, seen.no_heartbeat_since + limits.leave)
            } else {
                (MachineRole::Booting, seen.silent_from(limits))
            };
            let role = if now < overdue { waiting } else { MachineRole::Zombie };
            Some((role, seen.no_heartbeat_since, Some(overdue)))
        }
        Phase::Stopping if now < since + limits.stuck => by(MachineRole::Leaving, since, limits.stuck),
        Phase::Stopping => by(MachineRole::Stuck, since, limits.stuck),
        Phase::Stopped => forever(MachineRole::Rest, since),
        Phase::Failed => forever(MachineRole::Failed, since),
        Phase::LaunchFailed | Phase::Destroying => by(MachineRole::Going, since, limits.stuck),
        Phase::Unknown(_) => forever(MachineRole::Odd, since),
        Phase::Gone => None,
    }
}

/// Whether the list shows that the process of a machine has ended for good, whatever its last heartbeat says: a provider
/// that starts no machine again cannot have started it since.
fn is_over(machine: &Machine, policy: &FleetPolicy) -> bool {
    !policy.capabilities.can_stop_and_start && matches!(machine.phase, Phase::Stopped | Phase::Failed)
}

/// The role of a machine whose worker has a fresh heartbeat and holds no lease.
fn alive(
    machine: &Machine,
    seen: &MachineRecord,
    here: &[&WorkerView],
    size: MachineSize,
    policy: &FleetPolicy,
    now: Moment,
) -> Judged {
    let limits = &policy.deadlines;
    if here.iter().filter(|w| w.fresh).all(|w| w.retired) {
        let since = seen.retired_since.unwrap_or(now);
        return Some((MachineRole::Leaving, since, Some(since + limits.leave)));
    }
    // The machine is already stopping; its heartbeat has merely not expired yet.
    if machine.phase == Phase::Stopping {
        return Some((MachineRole::Leaving, seen.phase_since, Some(seen.phase_since + limits.stuck)));
    }
    if matches!(machine.phase, Phase::Destroying | Phase::LaunchFailed) {
        return Some((MachineRole::Going, seen.phase_since, Some(seen.phase_since + limits.stuck)));
    }
    if let Some(since) = seen.disputed_since
        && now >= since + limits.dispute
    {
        return Some((MachineRole::Disputed, since, None));
    }
    let since = seen.idle_since.unwrap_or(now);
    let stays = seen.slot.is_some_and(|slot| slot.0 <= policy.min) || policy.idle_timeout.is_zero();
    let overdue = since + policy.idle_timeout_on(size) + limits.idle_grace;
    Some((MachineRole::Idle, since, (!stays).then_some(overdue)))
}
