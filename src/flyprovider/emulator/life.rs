//! The transitions that machines make by themselves, and their processes.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ids::private_ip;
use super::world::{EventSource, ProcessSignal, World};
use crate::child::tie_to_parent;
use crate::flyprovider::{FlyMachine, Guest, MachineId, MachineState};

/// What happens to a machine after it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It starts.
    Launches,
    /// It stays stopped.
    Rests,
    /// Its image cannot be pulled.
    Fails,
}

impl World {
    /// Waits for this time; returns `false` if the emulator stops first.
    async fn passes(&self, time: Duration) -> bool {
        tokio::select! {
            () = sleep(time) => true,
            () = self.stop.cancelled() => false,
        }
    }

    pub(crate) fn after_create(self: &Arc<Self>, id: MachineId, fate: Fate) {
        let world = self.clone();
        self.tasks.spawn(async move {
            if !world.passes(world.options.transitions.create).await {
                return;
            }
            match fate {
                Fate::Rests => drop(world.turn(&id, &MachineState::Created, MachineState::Stopped, "settle")),
                Fate::Launches => {
                    if world.turn(&id, &MachineState::Created, MachineState::Starting, "start") {
                        world.launch(id);
                    }
                }
                Fate::Fails => {
                    if world.turn(&id, &MachineState::Created, MachineState::LaunchFailed, "launch") {
                        world.fails(&id).await;
                    }
                }
            }
        });
    }

    /// The transitions of a start whose image cannot be pulled.
    pub(crate) fn after_failed_start(self: &Arc<Self>, id: MachineId) {
        let world = self.clone();
        self.tasks.spawn(async move {
            if world.passes(world.options.transitions.start).await
                && world.turn(&id, &MachineState::Starting, MachineState::LaunchFailed, "launch")
            {
                world.fails(&id).await;
            }
        });
    }

    async fn fails(&self, id: &MachineId) {
        if self.passes(self.options.transitions.launch_failed).await {
            self.turn(id, &MachineState::LaunchFailed, MachineState::Destroyed, "destroy");
        }
    }

    pub(crate) fn after_destroy(self: &Arc<Self>, id: MachineId) {
        let world = self.clone();
        self.tasks.spawn(async move {
            if world.passes(world.options.transitions.destroy).await {
                world.turn(&id, &MachineState::Destroying, MachineState::Destroyed, "destroy");
            }
        });
    }

    /// The transitions after the process of a `replacing` or `restarting` machine has exited: the next run,
    /// or a stop.
    pub(crate) fn after_exit(self: &Arc<Self>, id: MachineId, from: MachineState, launches: bool) {
        let world = self.clone();
        self.tasks.spawn(async move {
            let mut changed = world.changed.subscribe();
            let ends = || world.look().machines.get(&id).is_some_and(|entry| entry.orders.is_some());
            while ends() {
                tokio::select! {
                    changed = changed.changed() => if changed.is_err() { return },
                    () = world.stop.cancelled() => return,
                }
            }
            if !world.passes(world.options.transitions.create).await {
                return;
            }
            if !launches {
                world.turn(&id, &from, MachineState::Stopped, "settle");
            } else if world.turn(&id, &from, MachineState::Starting, "start") {
                world.launch(id);
            }
        });
    }

    /// Runs the process of a `starting` machine until it exits.
    pub(crate) fn launch(self: &Arc<Self>, id: MachineId) {
        let (orders, inbox) = mpsc::channel(8);
        let found = self.change(|state| {
            let entry = state.machines.get_mut(&id)?;
            entry.orders = Some(orders);
            Some(entry.machine.clone())
        });
        if let Some(machine) = found {
            let world = self.clone();
            self.tasks.spawn(async move { world.live(machine, inbox).await });
        }
    }

    async fn live(&self, machine: FlyMachine, mut inbox: mpsc::Receiver<ProcessSignal>) {
        let id = machine.id.clone();
        tokio::select! {
            passed = self.passes(self.options.transitions.start) => if !passed { return },
            // The machine was destroyed, vanished or crashed before the process ran.
            _ = inbox.recv() => return self.exited(&id, 137, false),
        }
        let child = match self.spawn(&machine) {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(machine = %id, %error, "could not start the machine's process");
                return self.exited(&id, 127, false);
            }
        };
        let runs = self.change(|state| match state.machines.get_mut(&id) {
            Some(entry) if entry.machine.state == MachineState::Starting => {
                entry.pid = child.id();
                entry.enter(MachineState::Started, "start", EventSource::Flyd, None);
                true
            }
            _ => false,
        });
        if runs {
            let (status, requested) = self.until_exit(child, &mut inbox).await;
            self.exited(&id, code_of(status), requested);
        }
    }

    fn spawn(&self, machine: &FlyMachine) -> std::io::Result<Child> {
        let [program, arguments @ ..] = self.options.command.as_slice() else {
            return Err(std::io::Error::other("there is no command for machines"));
        };
        let mut command = Command::new(program);
        // A machine of Fly does not inherit an environment, either.
        command.args(arguments).env_clear().stdin(Stdio::null());
        for name in &self.options.inherit {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let config = machine.config.as_ref();
        let memory = config.and_then(|config| config.guest).map_or(0, Guest::memory_mb);
        command
            .envs(&self.options.environment)
            .envs(config.iter().flat_map(|config| &config.env))
            .env("FLY_MACHINE_ID", &machine.id.0)
            .env("FLY_ALLOC_ID", &machine.id.0)
            .env("FLY_APP_NAME", &self.options.app)
            .env("FLY_PRIVATE_IP", private_ip(&machine.id.0))
            .env("FLY_VM_MEMORY_MB", memory.to_string())
            .env("FLY_REGION", &machine.region)
            .env("FLY_MACHINE_VERSION", machine.instance_id.as_deref().unwrap_or_default())
            .env("FLY_IMAGE_REF", config.map_or("", |config| &config.image));
        tie_to_parent(&mut command).spawn()
    }

    /// Waits for the exit; returns the status, and whether a stop was requested.
    async fn until_exit(
        &self,
        mut child: Child,
        inbox: &mut mpsc::Receiver<ProcessSignal>,
    ) -> (Option<ExitStatus>, bool) {
        let mut deadline: Option<Instant> = None;
        let mut ending = false;
        loop {
            let killing = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let (signal, grace) = tokio::select! {
                status = child.wait() => return (status.ok(), deadline.is_some()),
                () = killing => break,
                () = self.stop.cancelled(), if !ending => {
                    ending = true;
                    (Signal::SIGTERM, self.options.grace)
                }
                Some(order) = inbox.recv() => match order {
                    ProcessSignal::Stop(signal, grace) => (signal, grace),
                    ProcessSignal::Kill => break,
                },
            };
            // The process is not reaped yet, so the pid is still that of the child.
            if let Some(pid) = pid_of(&child) {
                let _ = kill(pid, signal);
            }
            deadline = Some(Instant::now() + grace);
        }
        // The processes of a machine end with it; they are in the group of the child.
        if let Some(pid) = pid_of(&child) {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let status = timeout(Duration::from_secs(10), child.wait()).await.ok().and_then(Result::ok);
        (status, deadline.is_some())
    }

    fn exited(&self, id: &MachineId, code: i32, requested: bool) {
        self.change(|state| {
            let Some(entry) = state.machines.get_mut(id) else { return };
            (entry.pid, entry.orders) = (None, None);
            let now = jiff::Timestamp::now().to_string();
            let exit = json!({ "exit_event": {
                "exit_code": code, "oom_killed": false, "requested_stop": requested, "restarting": false,
                "exited_at": now,
            }, "restart_count": 0 });
            let destroys = entry.machine.config.as_ref().is_some_and(|config| config.auto_destroy);
            match entry.machine.state {
                MachineState::Destroying | MachineState::Destroyed => {}
                // The next run was requested together with the stop.
                MachineState::Replacing | MachineState::Restarting => {
                    entry.note("exit", EventSource::Flyd, Some(exit));
                }
                _ if destroys => entry.enter(MachineState::Destroyed, "exit", EventSource::Flyd, Some(exit)),
                _ => entry.enter(MachineState::Stopped, "exit", EventSource::Flyd, Some(exit)),
            }
        });
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
}

/// The exit code as a shell reports it.
fn code_of(status: Option<ExitStatus>) -> i32 {
    let Some(status) = status else { return 255 };
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}
