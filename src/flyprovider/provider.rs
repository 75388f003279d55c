//! Fly as a provider of machines: translates its states, configurations, errors and messages for the fleet.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::events::{newest_exit, newest_start, run_times};
use super::guest::CpuKind;
use super::price::list_price_per_hour;
use super::{
    CapacityScope, CreateMachine, Fly, FlyError, Guest, GuestError, HostStatus, MachineConfig, MachineState,
    Restart, Rootfs, StopConfig, StopSignal,
};
use crate::controller::fleet::{
    CLASSES, Capabilities, Exit, IDLE_TIMEOUT, Launch, MAX_INPUT_BYTES, Machine, MachineDisk, MachineId,
    MachineOrder, MachineProvider, MachineSize, MicroDollars, Phase, ProviderError, ProviderFailure,
    ProviderWords,
};
use crate::job::Millis;

/// Time between SIGTERM and SIGKILL.
const STOP: Duration = Duration::from_secs(30);
/// Metadata key with the id of the launch that created the machine. It distinguishes two creates with the
/// same name.
const LAUNCH_ID: &str = "tcoder_launch";
/// Metadata key that marks the fleet's machines.
const POOL: &str = "tcoder_pool";
/// Metadata key with the size of the machine's disk, gigabytes.
const DISK_GB: &str = "tcoder_disk_gb";

const WORDS: ProviderWords = ProviderWords {
    name: "Fly",
    list_refused: "Fly refuses the token; set FLY_API_TOKEN to one made by `fly tokens create deploy`",
    writes_refused: "Fly refuses to change machines with this token; set FLY_API_TOKEN to one that may deploy",
    no_such_app: "Fly knows no such app; check FLY_WORKER_APP, or make it with `fly apps create`",
    billing: "Fly refuses until the organisation's payment is in order; see Billing in Fly's dashboard (fly dashboard)",
    quota: "the Fly organisation's quota is reached; ask Fly for more, or lower MAX_MACHINES",
    no_capacity: "no region has capacity now; add regions to FLY_WORKER_REGIONS",
    launches_failing: "check FLY_WORKER_IMAGE and `fly logs`",
    workers_not_registering: "compare the line \"connected to Redis\" in `fly logs` with the controller's, and set \
                              REDIS_URL and REDIS_KEY_PREFIX of the app to the same with `fly secrets set`; if that \
                              line is missing, the worker never reached Redis, and its log says why",
    workers_without_classes: "set a newer image in FLY_WORKER_IMAGE, or in spec.image of the WorkerPool",
};

impl MachineProvider for Fly {
    fn words() -> &'static ProviderWords {
        &WORDS
    }

    fn price_per_hour(size: MachineSize) -> Option<MicroDollars> {
        list_price_per_hour(Guest::try_from(size).ok()?)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { can_stop_and_start: true }
    }

    async fn list(&self) -> Result<Vec<Machine>, ProviderError> {
        Ok(Self::list(self).await?.into_iter().map(Machine::from).collect())
    }

    async fn create(&self, order: &MachineOrder<'_>) -> Result<Machine, ProviderError> {
        let guest = Guest::try_from(order.size)
            .map_err(|error| FlyError::Other { status: 0, message: error.to_string() })?;
        let launch_id = Uuid::new_v4().simple().to_string();
        let asked = CreateMachine {
            name: order.name.to_owned(),
            region: Some(order.region.to_owned()),
            config: config(order, guest, launch_id),
            skip_launch: false,
        };
        Ok(Self::create(self, &asked).await?.into())
    }

    async fn start(&self, machine: &MachineId) -> Result<(), ProviderError> {
        Ok(Self::start(self, machine).await?)
    }

    async fn stop(&self, machine: &MachineId) -> Result<(), ProviderError> {
        Ok(Self::stop(self, machine, StopSignal::Terminate, STOP).await?)
    }

    async fn destroy(&self, machine: &MachineId, force: bool) -> Result<(), ProviderError> {
        Ok(Self::destroy(self, machine, force).await?)
    }
}

/// The configuration of a machine. Secrets such as `REDIS_URL` belong into the app's secrets, not here.
fn config(order: &MachineOrder<'_>, guest: Guest, launch_id: String) -> MachineConfig {
    let disk = order.launch.disk;
    let mut metadata =
        BTreeMap::from([(LAUNCH_ID.to_owned(), launch_id), (POOL.to_owned(), "workers".to_owned())]);
    metadata.extend(disk.map(|disk| (DISK_GB.to_owned(), disk.size_gb.to_string())));
    MachineConfig {
        image: order.launch.image.clone(),
        guest: Some(guest),
        env: order.environment.clone(),
        metadata,
        rootfs: disk.map(|disk| Rootfs { size_gb: disk.size_gb }),
        auto_destroy: false,
        // When the worker exits the machine stops, which ends its cost without a request.
        restart: Some(Restart { policy: "no".to_owned() }),
        stop_config: Some(StopConfig { signal: "SIGTERM".to_owned(), timeout: "30s".to_owned() }),
    }
}

/// The launch of a machine with this configuration.
fn launch(config: MachineConfig) -> Launch {
    let disk = || {
        let size_gb = config.metadata.get(DISK_GB)?.parse().ok()?;
        Some(MachineDisk { size_gb, max_input: config.env.get(MAX_INPUT_BYTES)?.parse().ok()? })
    };
    let (disk, idle_timeout) = (disk(), config.env.get(IDLE_TIMEOUT));
    Launch {
        disk,
        revision: None,
        stays: idle_timeout.is_none_or(|seconds| seconds == "0"),
        // A machine that was made before there were classes takes jobs of the default one.
        classes: config.env.get(CLASSES).and_then(|names| names.parse().ok()).unwrap_or_default(),
        image: config.image,
    }
}

impl From<super::FlyMachine> for Machine {
    fn from(machine: super::FlyMachine) -> Self {
        let (ran_seconds, since) = run_times(&machine.events);
        // A machine that was just created may have no events yet.
        let made: Option<Timestamp> = machine.created_at.parse().ok();
        let made = made.map(|at| Millis(at.as_millisecond())).filter(|_| ran_seconds == 0.0);
        let exit = newest_exit(&machine.events).map(|(at, exit)| Exit {
            at: Millis(at),
            code: exit.exit_code,
            out_of_memory: exit.oom_killed,
            requested: exit.requested_stop,
        });
        Self {
            id: machine.id,
            name: machine.name,
            phase: machine.state.into(),
            region: machine.region,
            instance: machine.instance_id,
            labelled: machine.config.as_ref().is_some_and(|c| c.metadata.contains_key(POOL)),
            size: machine.config.as_ref().and_then(|config| config.guest).map(MachineSize::from),
            launch: machine.config.map(launch),
            host_reachable: machine.host_status != HostStatus::Unreachable,
            message: None,
            created_at: machine.created_at,
            last_start: newest_start(&machine.events),
            last_exit: exit,
            ran_seconds,
            running_since: since.or(made),
        }
    }
}

impl From<MachineState> for Phase {
    fn from(state: MachineState) -> Self {
        match state {
            MachineState::Creating => Self::Creating,
            MachineState::Created => Self::Created,
            MachineState::Starting | MachineState::Restarting | MachineState::Replacing => Self::Starting,
            MachineState::Started => Self::Started,
            MachineState::Updating => Self::Updating,
            MachineState::Stopping | MachineState::Suspending => Self::Stopping,
            MachineState::Stopped | MachineState::Suspended => Self::Stopped,
            MachineState::LaunchFailed => Self::LaunchFailed,
            MachineState::Failed => Self::Failed,
            MachineState::Destroying => Self::Destroying,
            MachineState::Destroyed | MachineState::Replaced | MachineState::Migrated => Self::Gone,
            MachineState::Unknown(name) => Self::Unknown(name),
        }
    }
}

impl From<Guest> for MachineSize {
    fn from(guest: Guest) -> Self {
        let dedicated = guest.kind() == CpuKind::Performance;
        Self { dedicated, cpus: guest.cpus(), memory_mb: guest.memory_mb() }
    }
}

impl TryFrom<MachineSize> for Guest {
    type Error = GuestError;

    fn try_from(size: MachineSize) -> Result<Self, GuestError> {
        let kind = if size.dedicated { CpuKind::Performance } else { CpuKind::Shared };
        Self::new(kind, size.cpus, size.memory_mb)
    }
}

impl From<FlyError> for ProviderError {
    fn from(error: FlyError) -> Self {
        let failure = match &error {
            FlyError::RateLimited { retry_after } => {
                ProviderFailure::RateLimited { retry_after: *retry_after }
            }
            FlyError::Unavailable { .. } => ProviderFailure::Unavailable,
            FlyError::Capacity { scope: CapacityScope::Quota, .. } => ProviderFailure::Quota,
            FlyError::Capacity { scope: CapacityScope::Host | CapacityScope::Region, .. } => {
                ProviderFailure::NoCapacity
            }
            FlyError::NameTaken { by } => ProviderFailure::NameTaken(by.clone()),
            FlyError::Precondition { .. } => ProviderFailure::Precondition,
            FlyError::Auth { .. } => ProviderFailure::Unauthorized,
            FlyError::Billing { .. } => ProviderFailure::Billing,
            FlyError::NoSuchApp => ProviderFailure::NoSuchApp,
            FlyError::NotFound(_) => ProviderFailure::NotFound,
            FlyError::UnknownOutcome { .. } => ProviderFailure::UnknownOutcome,
            FlyError::Other { .. } => ProviderFailure::Rejected,
        };
        Self { failure, message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::fleet::{Condition, ListFailure};
    use crate::job::WorkerClasses;

    fn order(disk: Option<MachineDisk>, stays: bool) -> MachineOrder<'static> {
        let classes: WorkerClasses =
            if stays { "default,large".parse().unwrap() } else { WorkerClasses::default() };
        let launch = Launch { image: "image:1".to_owned(), disk, revision: None, stays, classes };
        let mut environment = BTreeMap::from([("A".to_owned(), "b".to_owned())]);
        environment.insert(IDLE_TIMEOUT.to_owned(), if stays { "0" } else { "300" }.to_owned());
        if stays {
            environment.insert(CLASSES.to_owned(), launch.classes.to_string());
        }
        environment.extend(disk.map(|disk| (MAX_INPUT_BYTES.to_owned(), disk.max_input.to_string())));
        MachineOrder {
            name: "clips-worker-01",
            region: "iad",
            size: MachineSize::default(),
            launch,
            environment,
        }
    }

    #[test]
    fn launch_round_trips_through_the_machine_config() {
        let disk = MachineDisk { size_gb: 25, max_input: 10_000_000_000 };
        for (disk, stays) in [(Some(disk), false), (Some(disk), true), (None, false), (None, true)] {
            let order = order(disk, stays);
            let config = config(&order, Guest::default(), "abc".to_owned());
            let json = serde_json::to_value(&config).unwrap();
            assert_eq!(json["rootfs"], disk.map_or(json!(null), |_| json!({"size_gb": 25})));
            assert_eq!(
                (&json["metadata"][LAUNCH_ID], &json["restart"]["policy"]),
                (&json!("abc"), &json!("no"))
            );
            assert_eq!(json["guest"], json!({"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096}));
            assert_eq!(json["env"]["A"], "b");
            assert_eq!(launch(serde_json::from_value(json.clone()).unwrap()), order.launch);
            let listed = json!({"id": "m1", "state": "stopped", "config": json});
            let listed = Machine::from(serde_json::from_value::<super::super::FlyMachine>(listed).unwrap());
            assert_eq!((listed.launch, listed.size), (Some(order.launch), Some(order.size)));
        }
    }

    #[test]
    fn launch_ignores_the_input_limit_without_a_disk() {
        let mut order = order(None, false);
        order.environment.insert(MAX_INPUT_BYTES.to_owned(), "5000000000".to_owned());
        assert_eq!(launch(config(&order, Guest::default(), String::new())), order.launch);
    }

    #[test]
    fn default_machine_size_is_offered_by_fly() {
        assert_eq!(MachineSize::from(Guest::default()), MachineSize::default());
        assert_eq!(Fly::price_per_hour(MachineSize::default()), Some(MicroDollars(86_112)));
        let odd = MachineSize { cpus: 3, ..MachineSize::default() };
        assert!(Guest::try_from(odd).is_err() && Fly::price_per_hour(odd).is_none());
    }

    #[test]
    fn machine_conversion_keeps_phase_start_and_exit() {
        let machine: super::super::FlyMachine = serde_json::from_value(json!({
            "id": "m1", "name": "other", "state": "suspended", "region": "iad", "host_status": "ok",
            "created_at": "2026-01-01T00:00:00Z", "config": {"image": "i", "metadata": {POOL: "workers"}},
            "events": [
                {"type": "exit", "status": "stopped", "timestamp": 61_000,
                 "request": {"exit_event": {"exit_code": 137, "oom_killed": true}}},
                {"type": "start", "status": "started", "timestamp": 31_000},
                {"type": "launch", "status": "created", "timestamp": 1_000},
            ],
        }))
        .unwrap();
        let machine = Machine::from(machine);
        assert_eq!((machine.phase, machine.labelled, machine.host_reachable), (Phase::Stopped, true, true));
        let start = machine.last_start.unwrap();
        assert_eq!((start.at, start.took), (Millis(31_000), Duration::from_secs(30)));
        let exit = Exit { at: Millis(61_000), code: 137, out_of_memory: true, requested: false };
        assert_eq!((machine.last_exit, machine.ran_seconds, machine.running_since), (Some(exit), 30.0, None));
        let lost = json!({"id": "m1", "state": "odd", "host_status": "unreachable",
            "created_at": "1970-01-01T00:00:07Z"});
        let lost = Machine::from(serde_json::from_value::<super::super::FlyMachine>(lost).unwrap());
        assert_eq!(
            (lost.phase, lost.launch, lost.host_reachable),
            (Phase::Unknown("odd".into()), None, false)
        );
        assert_eq!(lost.running_since, Some(Millis(7_000)), "without events the time of creation counts");
    }

    #[test]
    fn condition_messages_name_the_relevant_setting() {
        for (condition, setting) in [
            (Condition::ListUnknown(ListFailure::Unauthorized), "FLY_API_TOKEN"),
            (Condition::Unauthorized, "FLY_API_TOKEN"),
            (Condition::ListUnknown(ListFailure::NoSuchApp), "FLY_WORKER_APP"),
            (Condition::LaunchesFailing { failures: 3, said: None }, "FLY_WORKER_IMAGE"),
            (Condition::WorkersNotRegistering { failures: 3 }, "REDIS_KEY_PREFIX"),
            (Condition::NoCapacity { said: None }, "FLY_WORKER_REGIONS"),
            (Condition::Quota { said: None }, "MAX_MACHINES"),
        ] {
            let message = condition.message(Fly::words());
            assert!(message.contains(setting), "{message}");
        }
        let billing = Condition::Billing.message(Fly::words());
        assert!(billing.contains("payment") && !billing.contains("TOKEN"), "{billing}");
    }
}
