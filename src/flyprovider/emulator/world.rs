//! The machines of the emulator, and the operations that each state permits.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::faults::{EmulatedCall, Fault, Faults, Happening, TokenBucket};
use super::ids::ulid;
use super::lease::Lease;
use super::order::{self, Order};
use super::reply::{Reply, no_machine, refuse};
use super::{Options, Request};
use crate::flyprovider::{FlyMachine, HostStatus, MachineEvent, MachineId, MachineState};

/// An order to a machine's process.
#[derive(Debug)]
pub(crate) enum ProcessSignal {
    /// Send this signal, and SIGKILL after this time.
    Stop(Signal, Duration),
    /// Send SIGKILL.
    Kill,
}

/// The signal that stops a process, and the time it gets, if neither the request nor the machine specifies
/// them.
pub(crate) const DEFAULT_SIGNAL: Signal = Signal::SIGINT;
pub(crate) const DEFAULT_STOP: Duration = Duration::from_secs(5);
/// Maximum number of recorded requests.
const REQUESTS: usize = 100_000;
/// Maximum number of destroyed machines that are kept.
const GONE: usize = 1000;
/// Maximum number of events that are kept for a machine; Fly returns no more in one response.
const EVENTS: usize = 50;
/// Maximum number of versions that are kept for a machine.
const VERSIONS: usize = 20;

pub(crate) struct World {
    pub options: Options,
    pub began: Instant,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// Incremented when the state of any machine changes.
    pub changed: watch::Sender<u64>,
    state: Mutex<WorldState>,
}

#[derive(Default)]
pub(crate) struct WorldState {
    pub machines: BTreeMap<MachineId, EmulatedMachine>,
    pub faults: Faults,
    pub buckets: HashMap<(EmulatedCall, Option<MachineId>), TokenBucket>,
    pub requests: VecDeque<Request>,
    pub full_regions: BTreeSet<String>,
}

pub(crate) struct EmulatedMachine {
    /// The typed machine, for the emulator and tests.
    pub machine: FlyMachine,
    /// The configuration with all fields of the request, known or not.
    pub config: Value,
    /// Earlier versions with their configurations, newest first.
    pub past: VecDeque<(String, Value)>,
    pub lease: Option<Lease>,
    pub pid: Option<u32>,
    pub orders: Option<mpsc::Sender<ProcessSignal>>,
    pub host_lost: bool,
}

/// What caused an event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EventSource {
    User,
    Flyd,
}

impl EmulatedMachine {
    /// Changes the machine's state and records an event.
    pub(crate) fn enter(
        &mut self,
        state: MachineState,
        kind: &str,
        source: EventSource,
        request: Option<Value>,
    ) {
        self.machine.state = state;
        self.note(kind, source, request);
    }

    /// Records an event without a change of the state.
    pub(crate) fn note(&mut self, kind: &str, source: EventSource, request: Option<Value>) {
        let now = jiff::Timestamp::now();
        self.machine.updated_at = now.to_string();
        let event = MachineEvent {
            id: ulid(),
            kind: kind.to_owned(),
            status: self.machine.state.name().to_owned(),
            source: match source {
                EventSource::User => "user".to_owned(),
                EventSource::Flyd => "flyd".to_owned(),
            },
            timestamp: now.as_millisecond(),
            request,
        };
        self.machine.events.insert(0, event);
        self.machine.events.truncate(EVENTS);
    }

    /// Stops the process as the configuration says.
    fn stop_process(&self) {
        let (signal, timeout) = self.stop_config();
        self.order(ProcessSignal::Stop(signal.unwrap_or(DEFAULT_SIGNAL), timeout.unwrap_or(DEFAULT_STOP)));
    }

    /// How the configuration stops the process.
    pub(crate) fn stop_config(&self) -> (Option<Signal>, Option<Duration>) {
        let stop = self.config.get("stop_config").cloned().unwrap_or(Value::Null);
        // An invalid value was rejected when the machine was created.
        serde_json::from_value::<order::Stop>(stop).ok().and_then(|stop| stop.read().ok()).unwrap_or_default()
    }

    /// If the inbox is full, it already contains enough orders to end the process.
    pub(crate) fn order(&self, order: ProcessSignal) {
        if let Some(orders) = &self.orders {
            let _ = orders.try_send(order);
        }
    }
}

fn wrong_state(verb: &str, state: &MachineState) -> Reply {
    refuse(412, "failed_precondition", format!("unable to {verb} machine from current state: '{state}'"))
}

/// A machine that was just created.
pub(crate) struct NewMachine {
    pub id: MachineId,
    pub launches: bool,
    /// The nonce of the lease that was requested with it.
    pub nonce: Option<String>,
}

impl WorldState {
    /// The machine, unless it is destroyed.
    pub(crate) fn there(&mut self, id: &MachineId) -> Result<&mut EmulatedMachine, Reply> {
        match self.machines.get_mut(id) {
            Some(entry) if entry.host_lost => {
                Err(refuse(503, "unavailable", "the machine's host cannot be reached"))
            }
            Some(entry) if !entry.machine.state.is_gone() => Ok(entry),
            _ => Err(no_machine()),
        }
    }

    /// The machine, if `nonce` is that of its lease or it has no lease.
    fn mine(&mut self, id: &MachineId, nonce: Option<&str>) -> Result<&mut EmulatedMachine, Reply> {
        let entry = self.there(id)?;
        entry.free_for(nonce)?;
        Ok(entry)
    }

    pub(crate) fn create(&mut self, options: &Options, body: &[u8]) -> Result<NewMachine, Reply> {
        let (order, typed) = Order::read(body)?;
        let regions = order::regions(order.region.as_deref(), &options.region)?;
        let there = || self.machines.values().map(|e| &e.machine).filter(|m| !m.state.is_gone());
        let given = order.name.filter(|name| !name.is_empty());
        let name = given.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        if let Some(taken) = there().find(|m| m.name == name) {
            let text = format!(
                "unique machine name violation, machine ID {} already exists with name \"{name}\"",
                taken.id
            );
            return Err(refuse(409, "already_exists", text));
        }
        if there().count() >= options.quota {
            return Err((
                StatusCode::FORBIDDEN,
                json!({ "error": "your organization is over the allowed quota of machines" }),
            ));
        }
        let Some(region) = regions.into_iter().find(|region| !self.full_regions.contains(region)) else {
            return Err(refuse(422, "insufficient_capacity", "no capacity available in the region"));
        };
        let id = MachineId(Uuid::new_v4().simple().to_string()[..14].to_owned());
        let mut entry = EmulatedMachine {
            machine: FlyMachine {
                id: id.clone(),
                name,
                state: MachineState::Created,
                region,
                instance_id: Some(ulid()),
                host_status: HostStatus::Ok,
                config: Some(typed),
                created_at: jiff::Timestamp::now().to_string(),
                updated_at: String::new(),
                events: Vec::new(),
            },
            config: order.config,
            past: VecDeque::new(),
            lease: None,
            pid: None,
            orders: None,
            host_lost: false,
        };
        entry.note("launch", EventSource::User, None);
        let nonce = match order.lease_ttl {
            Some(ttl @ 1..) => Some(entry.take_lease(None, Some(ttl), String::new())?.nonce().to_owned()),
            _ => None,
        };
        self.forget_oldest();
        self.machines.insert(id.clone(), entry);
        Ok(NewMachine { id, launches: !order.skip_launch, nonce })
    }

    /// Creates a new version of the machine and stops its process. Returns whether the new version is
    /// launched.
    pub(crate) fn update(&mut self, id: &MachineId, body: &[u8], nonce: Option<&str>) -> Result<bool, Reply> {
        let entry = self.mine(id, nonce)?;
        let (order, typed) = Order::read(body)?;
        let current = entry.machine.instance_id.clone().unwrap_or_default();
        if order.current_version.is_some_and(|version| version != current) {
            return Err(refuse(409, "aborted", "machine version does not match current_version"));
        }
        if entry.machine.state.is_transient() || entry.machine.state == MachineState::Created {
            return Err(wrong_state("update", &entry.machine.state));
        }
        entry.stop_process();
        let old = std::mem::replace(&mut entry.config, order.config);
        entry.past.push_front((current, old));
        entry.past.truncate(VERSIONS);
        entry.machine.config = Some(typed);
        entry.machine.instance_id = Some(ulid());
        entry.enter(MachineState::Replacing, "update", EventSource::User, None);
        Ok(!order.skip_launch)
    }

    /// Restarts the machine's process.
    pub(crate) fn restart(&mut self, id: &MachineId, nonce: Option<&str>) -> Result<(), Reply> {
        let entry = self.mine(id, nonce)?;
        match entry.machine.state {
            MachineState::Started | MachineState::Stopped => {
                entry.stop_process();
                entry.enter(MachineState::Restarting, "restart", EventSource::User, None);
                Ok(())
            }
            _ => Err(wrong_state("restart", &entry.machine.state)),
        }
    }

    /// Removes the oldest destroyed machines; the latest are kept for inspection.
    fn forget_oldest(&mut self) {
        let gone = || self.machines.values().map(|e| &e.machine).filter(|m| m.state.is_gone());
        if gone().count() < GONE {
            return;
        }
        if let Some(id) = gone().min_by(|a, b| a.created_at.cmp(&b.created_at)).map(|m| m.id.clone()) {
            self.machines.remove(&id);
            self.buckets.retain(|(_, machine), _| machine.as_ref() != Some(&id));
        }
    }

    /// Whether the start is to be carried out, and the previous state.
    pub(crate) fn start(
        &mut self,
        id: &MachineId,
        nonce: Option<&str>,
    ) -> Result<(bool, MachineState), Reply> {
        let entry = self.mine(id, nonce)?;
        let before = entry.machine.state.clone();
        match before {
            MachineState::Stopped | MachineState::Suspended | MachineState::Failed => {
                entry.enter(MachineState::Starting, "start", EventSource::User, None);
                Ok((true, before))
            }
            MachineState::Started | MachineState::Starting => Ok((false, before)),
            _ => Err(wrong_state("start", &before)),
        }
    }

    /// Whether the stop is to be carried out.
    pub(crate) fn stop(&mut self, id: &MachineId, nonce: Option<&str>) -> Result<bool, Reply> {
        let entry = self.mine(id, nonce)?;
        match &entry.machine.state {
            MachineState::Started => {
                entry.enter(MachineState::Stopping, "stop", EventSource::User, None);
                Ok(true)
            }
            MachineState::Stopped | MachineState::Stopping => Ok(false),
            state => Err(wrong_state("stop", state)),
        }
    }

    pub(crate) fn destroy(&mut self, id: &MachineId, force: bool, nonce: Option<&str>) -> Result<(), Reply> {
        let entry = self.mine(id, nonce)?;
        let at_rest = matches!(
            entry.machine.state,
            MachineState::Created | MachineState::Stopped | MachineState::Suspended | MachineState::Failed
        );
        if !at_rest && !force {
            let text = "unable to destroy machine, not currently stopped, suspended, failed or created";
            return Err(refuse(412, "failed_precondition", text));
        }
        entry.enter(MachineState::Destroying, "destroy", EventSource::User, None);
        entry.order(ProcessSignal::Kill);
        Ok(())
    }

    /// Makes a spontaneous event happen to a machine. Returns whether the machine exists.
    pub(crate) fn happens(&mut self, id: &MachineId, what: Happening) -> bool {
        let Some(entry) = self.machines.get_mut(id) else { return false };
        match what {
            Happening::Crashes => entry.order(ProcessSignal::Kill),
            Happening::HostLost => entry.host_lost = true,
            Happening::HostFound => entry.host_lost = false,
            Happening::Vanishes => {
                entry.order(ProcessSignal::Kill);
                self.machines.remove(id);
            }
        }
        true
    }

    pub(crate) fn note(&mut self, request: Request) {
        if self.requests.len() == REQUESTS {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
    }
}

impl World {
    pub(crate) fn new(options: Options, stop: CancellationToken) -> Self {
        Self {
            options,
            began: Instant::now(),
            tasks: TaskTracker::new(),
            stop,
            changed: watch::Sender::new(0),
            state: Mutex::default(),
        }
    }

    /// The machines, for reading.
    pub(crate) fn look(&self) -> MutexGuard<'_, WorldState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machines, for writing; waiting requests are notified.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&mut WorldState) -> T) -> T {
        let done = work(&mut self.look());
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
        done
    }

    /// Changes the machine's state, if it is still `from`.
    pub(crate) fn turn(&self, id: &MachineId, from: &MachineState, to: MachineState, kind: &str) -> bool {
        self.change(|state| match state.machines.get_mut(id) {
            Some(entry) if entry.machine.state == *from => {
                entry.enter(to, kind, EventSource::Flyd, None);
                true
            }
            _ => false,
        })
    }

    /// Whether the request exceeds the rate limit.
    pub(crate) fn too_soon(&self, action: EmulatedCall, machine: Option<&MachineId>) -> bool {
        let Some(limits) = self.options.limits else { return false };
        let allowance = if action == EmulatedCall::Get { limits.get } else { limits.other };
        let now = self.began.elapsed();
        let mut state = self.look();
        // Only existing machines have their own bucket, so that invented ids do not use up memory.
        let machine = machine.filter(|id| state.machines.contains_key(id)).cloned();
        let bucket = state.buckets.entry((action, machine)).or_insert_with(|| TokenBucket::full(allowance));
        !bucket.take(allowance, now)
    }

    pub(crate) fn fault(&self, action: EmulatedCall) -> Option<Fault> {
        self.look().faults.take(action)
    }
}
