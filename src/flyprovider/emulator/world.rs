//! The machines of the emulator, and what may be done to one in which state.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::faults::{Action, Bucket, Fault, Faults, Happening};
use super::{Options, Request};
use crate::flyprovider::{HostStatus, Machine, MachineEvent, MachineId, MachineState};

/// What is answered.
pub type Reply = (StatusCode, Value);

/// What a machine's process is told.
#[derive(Debug)]
pub enum Order {
    /// This signal, and SIGKILL after this long.
    Stop(nix::sys::signal::Signal, Duration),
    /// SIGKILL.
    Kill,
}

/// The newest requests that are kept to be looked at.
const REQUESTS: usize = 100_000;
/// The newest machines that are kept though they are gone.
const GONE: usize = 1000;
/// The newest events that are kept of a machine.
const EVENTS: usize = 20;

pub struct World {
    pub options: Options,
    pub began: Instant,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// Changes with each machine's state.
    pub changed: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub machines: BTreeMap<MachineId, Entry>,
    pub faults: Faults,
    pub buckets: HashMap<(Action, Option<MachineId>), Bucket>,
    pub requests: VecDeque<Request>,
    pub full_regions: BTreeSet<String>,
}

pub struct Entry {
    pub machine: Machine,
    pub pid: Option<u32>,
    pub orders: Option<mpsc::Sender<Order>>,
    pub host_lost: bool,
}

impl Entry {
    /// As Fly shows it.
    pub fn shown(&self) -> Machine {
        let machine = self.machine.clone();
        if self.host_lost {
            return Machine { config: None, host_status: HostStatus::Unreachable, ..machine };
        }
        machine
    }

    pub fn enter(&mut self, state: MachineState, kind: &str, request: Option<Value>) {
        let now = jiff::Timestamp::now();
        self.machine.updated_at = now.to_string();
        let event = MachineEvent {
            kind: kind.to_owned(),
            status: state.name().to_owned(),
            timestamp: now.as_millisecond(),
            request,
        };
        self.machine.events.insert(0, event);
        self.machine.events.truncate(EVENTS);
        self.machine.state = state;
    }

    /// A full inbox holds enough to end the process already.
    pub fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.try_send(order);
        }
    }
}

/// A refusal in Fly's words.
pub fn refuse(status: u16, code: &str, text: impl std::fmt::Display) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, json!({ "error": format!("{code}: {text}"), "status": code }))
}

pub fn ok(value: Value) -> Reply {
    (StatusCode::OK, value)
}

pub fn no_machine() -> Reply {
    refuse(404, "not_found", "machine not found")
}

fn wrong_state(verb: &str, state: &MachineState) -> Reply {
    refuse(412, "failed_precondition", format!("unable to {verb} machine from current state: '{state}'"))
}

/// The new machine's name and the rest of the order for it.
pub struct NewMachine {
    pub id: MachineId,
    pub launches: bool,
}

impl State {
    /// The machine, unless it is gone.
    fn there(&mut self, id: &MachineId) -> Result<&mut Entry, Reply> {
        match self.machines.get_mut(id) {
            Some(entry) if entry.host_lost => {
                Err(refuse(503, "unavailable", "the machine's host cannot be reached"))
            }
            Some(entry) if !entry.machine.state.is_gone() => Ok(entry),
            _ => Err(no_machine()),
        }
    }

    pub fn create(
        &mut self,
        options: &Options,
        order: crate::flyprovider::CreateMachine,
    ) -> Result<NewMachine, Reply> {
        if order.config.image.is_empty() {
            return Err(refuse(400, "invalid_argument", "config.image is required"));
        }
        if order.config.restart.as_ref().is_some_and(|restart| restart.policy != "no") {
            let text = "this emulator knows only the restart policy no";
            return Err(refuse(422, "invalid_argument", text));
        }
        let there = || self.machines.values().map(|e| &e.machine).filter(|m| !m.state.is_gone());
        let name = if order.name.is_empty() { Uuid::new_v4().simple().to_string() } else { order.name };
        if let Some(taken) = there().find(|m| m.name == name) {
            let text = format!("unique machine name violation, machine ID {} already exists", taken.id);
            return Err(refuse(409, "already_exists", text));
        }
        if there().count() >= options.quota {
            return Err((
                StatusCode::FORBIDDEN,
                json!({ "error": "your organization is over the allowed quota of machines" }),
            ));
        }
        let Some(region) = self.place(options, order.region.as_deref()) else {
            return Err(refuse(422, "insufficient_capacity", "no capacity available in the region"));
        };
        let id = MachineId(Uuid::new_v4().simple().to_string()[..14].to_owned());
        let mut entry = Entry {
            machine: Machine {
                id: id.clone(),
                name,
                state: MachineState::Creating,
                region,
                instance_id: Some(Uuid::new_v4().simple().to_string()),
                host_status: HostStatus::Ok,
                config: Some(order.config),
                created_at: jiff::Timestamp::now().to_string(),
                updated_at: String::new(),
                events: Vec::new(),
            },
            pid: None,
            orders: None,
            host_lost: false,
        };
        entry.enter(MachineState::Created, "launch", None);
        self.forget_oldest();
        self.machines.insert(id.clone(), entry);
        Ok(NewMachine { id, launches: !order.skip_launch })
    }

    /// Those that are gone are kept to be looked at, but not without end.
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

    /// The first region named that has room.
    fn place(&self, options: &Options, wish: Option<&str>) -> Option<String> {
        let wish = wish.filter(|wish| !wish.is_empty()).unwrap_or(&options.region);
        wish.split(',').map(str::trim).find_map(|name| {
            // `any` finds room everywhere but where there is none.
            let candidates =
                if name == "any" { vec![options.region.as_str(), "dfw", "ams"] } else { vec![name] };
            candidates.into_iter().find(|c| !self.full_regions.contains(*c)).map(str::to_owned)
        })
    }

    /// Whether the start is to be carried out, and the state before it.
    pub fn start(&mut self, id: &MachineId) -> Result<(bool, MachineState), Reply> {
        let entry = self.there(id)?;
        let before = entry.machine.state.clone();
        match before {
            MachineState::Stopped | MachineState::Suspended | MachineState::Failed => {
                entry.enter(MachineState::Starting, "start", None);
                Ok((true, before))
            }
            MachineState::Started | MachineState::Starting => Ok((false, before)),
            _ => Err(wrong_state("start", &before)),
        }
    }

    /// Whether the stop is to be carried out.
    pub fn stop(&mut self, id: &MachineId) -> Result<bool, Reply> {
        let entry = self.there(id)?;
        match &entry.machine.state {
            MachineState::Started => {
                entry.enter(MachineState::Stopping, "stop", None);
                Ok(true)
            }
            MachineState::Stopped | MachineState::Stopping => Ok(false),
            state => Err(wrong_state("stop", state)),
        }
    }

    pub fn destroy(&mut self, id: &MachineId, force: bool) -> Result<(), Reply> {
        let entry = self.there(id)?;
        let at_rest = matches!(
            entry.machine.state,
            MachineState::Created | MachineState::Stopped | MachineState::Suspended | MachineState::Failed
        );
        if !at_rest && !force {
            return Err(wrong_state("destroy", &entry.machine.state));
        }
        entry.enter(MachineState::Destroying, "destroy", None);
        entry.order(Order::Kill);
        Ok(())
    }

    /// Something happens to a machine by itself. Says whether there is such a machine.
    pub fn happens(&mut self, id: &MachineId, what: Happening) -> bool {
        let Some(entry) = self.machines.get_mut(id) else { return false };
        match what {
            Happening::Crashes => entry.order(Order::Kill),
            Happening::HostLost => entry.host_lost = true,
            Happening::HostFound => entry.host_lost = false,
            Happening::Vanishes => {
                entry.order(Order::Kill);
                self.machines.remove(id);
            }
        }
        true
    }

    pub fn note(&mut self, request: Request) {
        if self.requests.len() == REQUESTS {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
    }
}

impl World {
    pub fn new(options: Options, stop: CancellationToken) -> Self {
        Self {
            options,
            began: Instant::now(),
            tasks: TaskTracker::new(),
            stop,
            changed: watch::Sender::new(0),
            state: Mutex::default(),
        }
    }

    /// The machines, to look at.
    pub fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machines, to change them; whoever waits is told.
    pub fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let done = work(&mut self.look());
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
        done
    }

    /// The machine's state changes if it is still as it was.
    pub fn turn(&self, id: &MachineId, from: &MachineState, to: MachineState, kind: &str) -> bool {
        self.change(|state| match state.machines.get_mut(id) {
            Some(entry) if entry.machine.state == *from => {
                entry.enter(to, kind, None);
                true
            }
            _ => false,
        })
    }

    /// Whether the call comes too soon after others of its kind.
    pub fn too_soon(&self, action: Action, machine: Option<&MachineId>) -> bool {
        let Some(limits) = self.options.limits else { return false };
        let allowance = if action == Action::Get { limits.get } else { limits.other };
        let now = self.began.elapsed();
        let mut state = self.look();
        // Only machines that exist have a bucket of their own, so that made-up ids fill no memory.
        let machine = machine.filter(|id| state.machines.contains_key(id)).cloned();
        let bucket = state.buckets.entry((action, machine)).or_insert_with(|| Bucket::full(allowance));
        !bucket.take(allowance, now)
    }

    pub fn fault(&self, action: Action) -> Option<Fault> {
        self.look().faults.take(action)
    }
}
