//! A machine and its worker -> what it is to us.

use strum::IntoStaticStr;

use super::machine::{Machine, MachineId, Phase};
use super::observation::{MachineList, Moment, WorkerView};
use super::observe::{ByMachine, is_ours};
use super::policy::FleetPolicy;
use super::slot::Slot;
use super::state::{FleetState, MachineRecord, OperationKind};

/// What a machine is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum MachineRole {
    /// Its worker holds a lease: it is never touched.
    Busy,
    /// Its worker waits for a job.
    Idle,
    /// Its worker is yet to come.
    Booting,
    /// On its way to rest.
    Leaving,
    /// Stopped; a start brings it back, where the provider can start it.
    Rest,
    /// Made, but not started by itself as it should have been.
    Unstarted,
    /// Between two states for too long.
    Stuck,
    /// Started, and without a worker for too long.
    Zombie,
    /// On a host that its provider cannot reach.
    Unreachable,
    /// Will not run again.
    Failed,
    /// On its way out of existence.
    Going,
    /// At rest by the list, alive by its heartbeat.
    Disputed,
    /// Not in the list, which is not believed yet.
    #[strum(serialize = "missing")]
    MissingMachine,
    /// In a state not known here.
    Odd,
}

impl MachineRole {
    /// Its name, for people and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// It takes, or soon takes, a job.
    #[must_use]
    pub const fn is_capacity(self) -> bool {
        matches!(self, Self::Busy | Self::Idle | Self::Booting)
    }

    /// Its CPU and memory may be on the bill.
    #[must_use]
    pub const fn is_billed(self) -> bool {
        !matches!(self, Self::Rest | Self::Unstarted | Self::Failed | Self::Going)
    }
}

/// A machine of the fleet, listed or about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineView {
    /// Its id, where it is known.
    pub id: Option<MachineId>,
    /// Its place.
    pub slot: Option<Slot>,
    /// What it is to us.
    pub role: MachineRole,
    /// Since when, or as good as.
    pub since: Moment,
    /// When something is to be done about it if nothing changes.
    pub deadline: Option<Moment>,
    /// It was made from another image, with another disk, or for another place.
    pub drifted: bool,
    /// A start was refused a moment ago.
    pub blocked: bool,
    /// Where it is in its life by the list; nothing where no list shows it.
    pub phase: Option<Phase>,
    /// A worker's heartbeat is fresh.
    pub alive: bool,
}

/// Every machine of the fleet, by slot.
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
            let (role, since, deadline) = classify(machine, seen, here, policy, now)?;
            Some(MachineView {
                id: Some(machine.id.clone()),
                slot,
                role,
                since,
                deadline,
                drifted: machine.launch.as_ref().is_some_and(|launch| launch.is_outdated(policy, slot)),
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

/// Launches no list has shown yet, and machines whose absence is not believed yet.
fn unlisted(
    listed: &MachineList,
    workers: &ByMachine<'_>,
    policy: &FleetPolicy,
    memory: &FleetState,
    now: Moment,
) -> Vec<MachineView> {
    let unit = |id: Option<&MachineId>, slot, role, since, deadline, alive| MachineView {
        id: id.cloned(),
        slot,
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
        let (role, since, deadline) = match (life(id), left) {
            ((true, ..), _) => (MachineRole::Busy, launch.at, None),
            ((_, true, false), _) => {
                (MachineRole::Idle, seen.and_then(|s| s.idle_since).unwrap_or(now), None)
            }
            ((_, true, true), _) => (MachineRole::Leaving, now, Some(now + policy.deadlines.leave)),
            (_, Some(left)) => (MachineRole::Leaving, left, Some(left + policy.deadlines.leave)),
            _ if now < settled => (MachineRole::Booting, launch.at, Some(settled)),
            _ => (MachineRole::Stuck, launch.at, Some(settled)),
        };
        unit(id, Some(*slot), role, since, deadline, life(id).1)
    });
    let missing = memory.missing.iter().map(|(id, missing)| {
        let (busy, alive, retired) = life(Some(id));
        let role = match (busy, alive && !retired) {
            (true, _) => MachineRole::Busy,
            (false, true) => MachineRole::Idle,
            (false, false) => MachineRole::MissingMachine,
        };
        unit(Some(id), missing.slot, role, now, Some(missing.until), alive)
    });
    launches.chain(missing).collect()
}

type Judged = Option<(MachineRole, Moment, Option<Moment>)>;

/// What a listed machine is, since when, and until when that is fine. Nothing for those that are gone.
fn classify(
    machine: &Machine,
    seen: &MachineRecord,
    here: &[&WorkerView],
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
    if fresh {
        return alive(machine, seen, here, policy, now);
    }
    let started = seen.sent.filter(|s| s.verb == OperationKind::Start).map(|s| s.at);
    if let Some(at) = started {
        // Its worker came and went: it is on its way to rest again, whatever an old list says.
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
        Phase::Creating | Phase::Starting => coming(limits.stuck),
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

/// A machine whose worker's heartbeat is fresh and that holds no lease.
fn alive(
    machine: &Machine,
    seen: &MachineRecord,
    here: &[&WorkerView],
    policy: &FleetPolicy,
    now: Moment,
) -> Judged {
    let limits = &policy.deadlines;
    if here.iter().filter(|w| w.fresh).all(|w| w.retired) {
        let since = seen.retired_since.unwrap_or(now);
        return Some((MachineRole::Leaving, since, Some(since + limits.leave)));
    }
    // A stop or worse is under way; its heartbeat is only not stale yet.
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
    let overdue = since + policy.idle_timeout + limits.idle_grace;
    Some((MachineRole::Idle, since, (!stays).then_some(overdue)))
}
