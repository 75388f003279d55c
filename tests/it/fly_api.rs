//! Creates, starts, stops and destroys machines, and distinguishes all failures: the real client with the
//! emulator, with real processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tcoder::config::FlyConfig;
use tcoder::flyprovider::emulator::{
    EmulatedCall, Emulator, EmulatorHandle, Fault, Happening, Limits, Options, RequestAllowance, Transitions,
};
use tcoder::flyprovider::{
    CapacityScope, CreateMachine, ExitEvent, Fly, FlyError, FlyMachine, HostStatus, MachineConfig, MachineId,
    MachineState, StopSignal,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use crate::support::fly::{self, FlyGuard};
use crate::support::process;

const MOMENT: Duration = Duration::from_millis(20);
const NEVER: Duration = Duration::from_secs(3600);
const SLEEPS: &str = "exec sleep 1000";

struct Cloud {
    emulator: EmulatorHandle,
    fly: Fly,
    _guard: FlyGuard,
}

fn options(script: &str) -> Options {
    Options {
        transitions: Transitions { create: MOMENT, start: MOMENT, destroy: MOMENT, launch_failed: NEVER },
        limits: None,
        ..Options::new(["sh", "-c", script])
    }
}

async fn cloud_of(options: Options) -> Cloud {
    let (emulator, guard) = fly::start(options).await;
    let fly = Fly::new(&emulator.fly_config()).unwrap();
    Cloud { emulator, fly, _guard: guard }
}

async fn cloud(script: &str) -> Cloud {
    cloud_of(options(script)).await
}

fn order(name: &str) -> CreateMachine {
    let config = MachineConfig { image: "worker:1".into(), ..MachineConfig::default() };
    CreateMachine { name: name.into(), region: None, config, skip_launch: false }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it did not happen within 30 s")
}

impl Cloud {
    async fn reaches(&self, id: &MachineId, state: MachineState) {
        soon(self.emulator.until_state(id, &state)).await;
    }

    async fn started(&self, name: &str) -> MachineId {
        let machine = self.fly.create(&order(name)).await.unwrap();
        self.reaches(&machine.id, MachineState::Started).await;
        machine.id
    }

    async fn stopped(&self, name: &str) -> MachineId {
        let machine = self.fly.create(&CreateMachine { skip_launch: true, ..order(name) }).await.unwrap();
        self.reaches(&machine.id, MachineState::Stopped).await;
        machine.id
    }

    async fn exit(&self, id: &MachineId) -> ExitEvent {
        self.get(id).await.unwrap().events.iter().find_map(|event| event.exit()).unwrap()
    }

    async fn list(&self) -> Vec<FlyMachine> {
        self.fly.list().await.unwrap()
    }

    async fn get(&self, id: &MachineId) -> Option<FlyMachine> {
        self.list().await.into_iter().find(|machine| machine.id == *id)
    }

    async fn state(&self, id: &MachineId) -> MachineState {
        self.get(id).await.unwrap().state
    }

    fn calls(&self, action: EmulatedCall) -> usize {
        self.emulator.requests().iter().filter(|request| request.action == action).count()
    }
}

fn runs(pid: u32) -> bool {
    // Checks the state rather than the command line, which is empty for a moment during exec.
    process::lives(pid)
}

/// A pipe through which a machine's process reports that it is ready.
struct Ready {
    _dir: TempDir,
    path: PathBuf,
    pipe: pipe::Receiver,
}

impl Ready {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(&path).unwrap();
        Self { _dir: dir, path, pipe }
    }

    async fn come(&mut self) {
        soon(self.pipe.read_u8()).await.unwrap();
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_is_a_process_whose_exit_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let cloud = cloud(
        r#"echo "$FLY_MACHINE_ID $FLY_APP_NAME $FLY_REGION $FLY_IMAGE_REF $CARGO_MANIFEST_DIR." > "$OUT"; exit 3"#,
    )
    .await;
    let mut order = CreateMachine { region: Some("ams,fra".into()), ..order("one") };
    order.config.env.insert("OUT".into(), text(&out));
    let made = cloud.fly.create(&order).await.unwrap();
    assert_eq!((made.state, made.name.as_str()), (MachineState::Created, "one"));
    cloud.reaches(&made.id, MachineState::Stopped).await;
    let said = std::fs::read_to_string(out).unwrap();
    assert_eq!(said, format!("{} tcoder-workers ams worker:1 .\n", made.id));
    let exit = ExitEvent { exit_code: 3, oom_killed: false, requested_stop: false };
    assert_eq!(cloud.exit(&made.id).await, exit);
    let events = cloud.get(&made.id).await.unwrap().events;
    let kinds: Vec<_> = events.into_iter().map(|e| (e.kind, e.status)).collect();
    let pair = |kind: &str, status: &str| (kind.to_owned(), status.to_owned());
    let all = [("exit", "stopped"), ("start", "started"), ("start", "starting"), ("launch", "created")];
    assert_eq!(kinds, all.map(|(kind, status)| pair(kind, status)));
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_stops_restarts_and_is_destroyed() {
    let cloud = cloud(SLEEPS).await;
    let id = cloud.started("one").await;
    let pid = cloud.emulator.pid(&id).unwrap();
    cloud.fly.stop(&id, StopSignal::Terminate, Duration::from_secs(20)).await.unwrap();
    cloud.reaches(&id, MachineState::Stopped).await;
    let exit = ExitEvent { exit_code: 143, oom_killed: false, requested_stop: true };
    assert_eq!((cloud.exit(&id).await, runs(pid)), (exit, false));
    // Stopping a stopped machine is not an error.
    cloud.fly.stop(&id, StopSignal::Terminate, Duration::from_secs(20)).await.unwrap();

    let before = cloud.get(&id).await.unwrap().instance_id;
    cloud.fly.start(&id).await.unwrap();
    cloud.reaches(&id, MachineState::Started).await;
    // The instance id belongs to the machine's version, not to its run (fly-go, `Machine.InstanceID`).
    assert_eq!(cloud.get(&id).await.unwrap().instance_id, before);
    cloud.fly.start(&id).await.unwrap();
    let pid = cloud.emulator.pid(&id).unwrap();

    cloud.fly.destroy(&id, true).await.unwrap();
    cloud.reaches(&id, MachineState::Destroyed).await;
    soon(cloud.emulator.until(|_| cloud.emulator.pid(&id).is_none())).await;
    assert!(!runs(pid));
    assert_eq!(cloud.list().await, []);
    assert_eq!(cloud.fly.destroy(&id, true).await, Err(FlyError::NotFound(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_process_that_ignores_the_signal_is_killed_after_the_timeout() {
    let mut ready = Ready::new();
    let cloud = cloud(r#"trap '' TERM; echo x > "$READY"; while :; do sleep 1000; done"#).await;
    let mut order = order("deaf");
    order.config.env.insert("READY".into(), text(&ready.path));
    let id = cloud.fly.create(&order).await.unwrap().id;
    ready.come().await;
    cloud.reaches(&id, MachineState::Started).await;
    let pid = cloud.emulator.pid(&id).unwrap();
    cloud.fly.stop(&id, StopSignal::Terminate, Duration::from_secs(5)).await.unwrap();
    assert_eq!(cloud.state(&id).await, MachineState::Stopping);
    let refused = cloud.fly.start(&id).await;
    assert!(matches!(refused, Err(FlyError::Precondition { .. })), "{refused:?}");
    cloud.reaches(&id, MachineState::Stopped).await;
    let exit = ExitEvent { exit_code: 137, oom_killed: false, requested_stop: true };
    assert_eq!((cloud.exit(&id).await, runs(pid)), (exit, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_process_that_dies_leaves_a_stopped_machine() {
    let cloud = cloud(SLEEPS).await;
    let id = cloud.started("one").await;
    assert!(cloud.emulator.happens(&id, Happening::Crashes));
    cloud.reaches(&id, MachineState::Stopped).await;
    let exit = ExitEvent { exit_code: 137, oom_killed: false, requested_stop: false };
    assert_eq!(cloud.exit(&id).await, exit);
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_with_auto_destroy_is_gone_after_its_exit() {
    let cloud = cloud("exit 0").await;
    let mut order = order("one");
    order.config.auto_destroy = true;
    let id = cloud.fly.create(&order).await.unwrap().id;
    cloud.reaches(&id, MachineState::Destroyed).await;
    assert_eq!(cloud.list().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_operation_in_a_wrong_state_is_a_precondition_error() {
    let mut slow = options(SLEEPS);
    slow.transitions.create = NEVER;
    let cloud = cloud_of(slow).await;
    let id = cloud.fly.create(&order("one")).await.unwrap().id;
    for refused in
        [cloud.fly.start(&id).await, cloud.fly.stop(&id, StopSignal::Terminate, Duration::from_secs(1)).await]
    {
        let Err(FlyError::Precondition { message }) = refused else { panic!("{refused:?}") };
        assert!(message.contains("'created'"), "{message}");
    }
    cloud.fly.destroy(&id, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn running_machine_is_destroyed_only_by_force() {
    let cloud = cloud(SLEEPS).await;
    let id = cloud.started("one").await;
    let refused = cloud.fly.destroy(&id, false).await;
    assert!(matches!(refused, Err(FlyError::Precondition { .. })), "{refused:?}");
    assert_eq!(cloud.state(&id).await, MachineState::Started);
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_name_is_taken_until_the_machine_is_destroyed() {
    let cloud = cloud(SLEEPS).await;
    let id = cloud.stopped("one").await;
    assert_eq!(cloud.fly.create(&order("one")).await, Err(FlyError::NameTaken { by: Some(id.clone()) }));
    cloud.fly.destroy(&id, false).await.unwrap();
    cloud.reaches(&id, MachineState::Destroyed).await;
    assert_ne!(cloud.fly.create(&order("one")).await.unwrap().id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn macaroon_is_accepted_and_wrong_token_or_app_is_reported() {
    let macaroon = Options { token: "fm2_abc,fm2_def".to_owned().into(), ..options(SLEEPS) };
    let cloud = cloud_of(macaroon).await;
    assert_eq!(cloud.list().await, []);
    let config = cloud.emulator.fly_config();
    let with_scheme = FlyConfig { token: "FlyV1 fm2_abc,fm2_def".to_owned().into(), ..config.clone() };
    assert_eq!(Fly::new(&with_scheme).unwrap().list().await, Ok(vec![]));
    let wrong = FlyConfig { token: "fm2_wrong".to_owned().into(), ..config.clone() };
    let wrong = Fly::new(&wrong).unwrap();
    assert_eq!(wrong.list().await, Err(FlyError::Auth { status: 401 }));
    assert_eq!(wrong.create(&order("one")).await, Err(FlyError::Auth { status: 401 }));
    let wrong = Fly::new(&FlyConfig { app: "other".into(), ..config }).unwrap();
    assert_eq!(wrong.list().await, Err(FlyError::NoSuchApp));
    assert_eq!(wrong.start(&MachineId("m".into())).await, Err(FlyError::NoSuchApp));
    let nobody = MachineId("nobody".into());
    assert_eq!(cloud.fly.start(&nobody).await, Err(FlyError::NotFound(nobody)));
}

#[tokio::test(flavor = "multi_thread")]
async fn lack_of_capacity_is_reported_by_region_and_host() {
    let cloud = cloud_of(Options { quota: 2, ..options(SLEEPS) }).await;
    let scope = async |order: &CreateMachine| match cloud.fly.create(order).await {
        Err(FlyError::Capacity { scope, .. }) => scope,
        other => panic!("{other:?}"),
    };
    for (fault, expected) in [
        (Fault::HostFull, CapacityScope::Host),
        (Fault::HostClosed, CapacityScope::Host),
        (Fault::RegionFull, CapacityScope::Region),
        (Fault::Quota, CapacityScope::Quota),
    ] {
        cloud.emulator.inject(EmulatedCall::Create, fault, 1);
        assert_eq!(scope(&order("one")).await, expected);
    }
    cloud.emulator.inject(EmulatedCall::Create, Fault::Billing, 1);
    let unpaid = cloud.fly.create(&order("one")).await;
    assert!(matches!(unpaid, Err(FlyError::Billing { .. })), "{unpaid:?}");
    cloud.emulator.set_region_full("iad", true);
    assert_eq!(
        scope(&CreateMachine { region: Some("iad".into()), ..order("one") }).await,
        CapacityScope::Region
    );
    for (name, region, placed) in [("one", "iad,fra", "fra"), ("two", "any", "dfw")] {
        let made = cloud.fly.create(&CreateMachine { region: Some(region.into()), ..order(name) }).await;
        assert_eq!(made.unwrap().region, placed);
    }
    assert_eq!(scope(&order("three")).await, CapacityScope::Quota);
    assert_eq!(cloud.list().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_response_to_a_create_is_resolved_by_the_name() {
    let cloud = cloud(SLEEPS).await;
    cloud.emulator.inject(EmulatedCall::Create, Fault::LostReply, 1);
    let lost = cloud.fly.create(&order("one")).await;
    assert!(matches!(lost, Err(FlyError::UnknownOutcome { .. })), "{lost:?}");
    let made = cloud.list().await;
    assert_eq!(made.len(), 1);
    let again = cloud.fly.create(&order("one")).await;
    assert_eq!(again, Err(FlyError::NameTaken { by: Some(made[0].id.clone()) }));
    // Each is sent once: the client never repeats a write.
    assert_eq!(cloud.calls(EmulatedCall::Create), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_error_on_a_write_leaves_the_outcome_unknown() {
    let cloud = cloud(SLEEPS).await;
    cloud.emulator.inject(EmulatedCall::Create, Fault::Status { status: 503 }, 1);
    cloud.emulator.inject(EmulatedCall::Create, Fault::DoneThen { status: 502 }, 1);
    for name in ["undone", "done"] {
        let doubtful = cloud.fly.create(&order(name)).await;
        assert!(matches!(doubtful, Err(FlyError::UnknownOutcome { .. })), "{doubtful:?}");
    }
    let names: Vec<_> = cloud.list().await.into_iter().map(|machine| machine.name).collect();
    assert_eq!(names, ["done"]);
    cloud.emulator.inject(EmulatedCall::Create, Fault::Status { status: 400 }, 1);
    let refused = cloud.fly.create(&order("bad")).await;
    assert!(matches!(refused, Err(FlyError::Other { status: 400, .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_list_is_one_request_for_its_one_permit() {
    let cloud = cloud(SLEEPS).await;
    for (asked, fault) in [Fault::Status { status: 503 }, Fault::LostReply].into_iter().enumerate() {
        cloud.emulator.inject(EmulatedCall::List, fault, 1);
        let error = cloud.fly.list().await;
        assert!(matches!(error, Err(FlyError::Unavailable { .. })), "{error:?}");
        assert_eq!(cloud.calls(EmulatedCall::List), asked + 1);
    }
    assert_eq!(cloud.fly.list().await, Ok(vec![]));
    assert_eq!(cloud.calls(EmulatedCall::List), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connection_means_that_the_write_was_not_done() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let cloud = cloud(SLEEPS).await;
    let base = format!("http://127.0.0.1:{port}").parse().unwrap();
    let fly = Fly::new(&FlyConfig { base, ..cloud.emulator.fly_config() }).unwrap();
    let error = fly.create(&order("one")).await;
    assert!(matches!(error, Err(FlyError::Unavailable { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_response_is_parsed_with_and_without_retry_after() {
    let allowance = RequestAllowance { per_second: 0.0, burst: 3.0 };
    let limits = Some(Limits { get: allowance, other: allowance });
    let cloud = cloud_of(Options { limits, ..options(SLEEPS) }).await;
    cloud.emulator.inject(EmulatedCall::Create, Fault::RateLimited { retry_after: Some(7) }, 1);
    let limited = cloud.fly.create(&order("one")).await;
    assert_eq!(limited, Err(FlyError::RateLimited { retry_after: Some(Duration::from_secs(7)) }));
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        ids.push(cloud.fly.create(&order(name)).await.unwrap().id);
    }
    let limited = FlyError::RateLimited { retry_after: None };
    assert_eq!(cloud.fly.create(&order("three")).await, Err(limited.clone()));
    let statuses: Vec<_> = cloud.emulator.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [429, 200, 200, 429]);
    // Each machine and each action has its own rate limit.
    for id in &ids {
        for _ in 0..3 {
            let taken = cloud.fly.start(id).await;
            assert!(!matches!(taken, Err(FlyError::RateLimited { .. })), "{taken:?}");
        }
        assert_eq!(cloud.fly.start(id).await, Err(limited.clone()));
    }
    assert_eq!(cloud.list().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_machines_stay_stuck_and_can_be_destroyed() {
    let cloud = cloud(SLEEPS).await;
    cloud.emulator.inject(EmulatedCall::Create, Fault::NeverStarts, 1);
    cloud.emulator.inject(EmulatedCall::Create, Fault::Stuck, 1);
    let never = cloud.fly.create(&order("never")).await.unwrap().id;
    let stuck = cloud.fly.create(&order("stuck")).await.unwrap().id;
    let starting = cloud.stopped("starting").await;
    cloud.emulator.inject(EmulatedCall::Start, Fault::Stuck, 1);
    cloud.fly.start(&starting).await.unwrap();
    let stopping = cloud.started("stopping").await;
    cloud.emulator.inject(EmulatedCall::Stop, Fault::Stuck, 1);
    cloud.fly.stop(&stopping, StopSignal::Terminate, Duration::from_secs(1)).await.unwrap();
    assert!(runs(cloud.emulator.pid(&stopping).unwrap()), "nobody stopped it");
    // A later machine that runs shows that the others had enough time.
    cloud.started("witness").await;
    for (id, state) in [
        (never, MachineState::Created),
        (stuck, MachineState::Creating),
        (starting, MachineState::Starting),
        (stopping, MachineState::Stopping),
    ] {
        assert_eq!(cloud.state(&id).await, state);
        cloud.fly.destroy(&id, true).await.unwrap();
        cloud.reaches(&id, MachineState::Destroyed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn image_that_cannot_be_pulled_fails_the_launch() {
    let cloud = cloud(SLEEPS).await;
    cloud.emulator.inject(EmulatedCall::Create, Fault::ImagePull, 1);
    let made = cloud.fly.create(&order("one")).await.unwrap().id;
    cloud.reaches(&made, MachineState::LaunchFailed).await;
    let other = cloud.stopped("two").await;
    cloud.emulator.inject(EmulatedCall::Start, Fault::ImagePull, 1);
    cloud.fly.start(&other).await.unwrap();
    cloud.reaches(&other, MachineState::LaunchFailed).await;
    assert!(cloud.list().await.iter().all(|machine| machine.state == MachineState::LaunchFailed));
}

#[tokio::test(flavor = "multi_thread")]
async fn emulator_faults_lose_hosts_and_machines_and_shorten_lists() {
    let cloud = cloud(SLEEPS).await;
    let (lost, gone) = (cloud.started("lost").await, cloud.started("gone").await);
    cloud.emulator.happens(&lost, Happening::HostLost);
    let shown = cloud.get(&lost).await.unwrap();
    assert_eq!((shown.host_status, shown.config), (HostStatus::Unreachable, None));
    let stop = cloud.fly.stop(&lost, StopSignal::Terminate, Duration::from_secs(1)).await;
    assert!(matches!(stop, Err(FlyError::UnknownOutcome { .. })), "{stop:?}");
    assert!(runs(cloud.emulator.pid(&lost).unwrap()));
    cloud.emulator.happens(&lost, Happening::HostFound);
    assert!(cloud.get(&lost).await.unwrap().config.is_some());

    cloud.emulator.inject(EmulatedCall::List, Fault::PartialList { machines: 1 }, 1);
    cloud.emulator.inject(EmulatedCall::List, Fault::PartialList { machines: 0 }, 1);
    cloud.emulator.inject(EmulatedCall::List, Fault::Slow { ms: 5 }, 1);
    assert_eq!([cloud.list().await.len(), cloud.list().await.len(), cloud.list().await.len()], [1, 0, 2]);

    assert!(cloud.emulator.happens(&gone, Happening::Vanishes));
    assert_eq!(cloud.get(&gone).await, None);
    assert_eq!(cloud.fly.start(&gone).await, Err(FlyError::NotFound(gone.clone())));
    assert!(!cloud.emulator.happens(&gone, Happening::Vanishes));
}

#[tokio::test(flavor = "multi_thread")]
async fn emulator_faults_over_http_require_the_token() {
    use secrecy::ExposeSecret as _;
    let cloud = cloud(SLEEPS).await;
    tcoder::net::install_crypto();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = cloud.emulator.url().join("_faults").unwrap();
    let fault = serde_json::json!({ "action": "create", "fault": "quota" });
    let refused = http.post(url.clone()).json(&fault).send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 401);
    let token = cloud.emulator.token();
    let taken = http.post(url).bearer_auth(token.expose_secret()).json(&fault).send().await.unwrap();
    assert_eq!(taken.status().as_u16(), 204);
    let full = cloud.fly.create(&order("one")).await;
    assert!(matches!(full, Err(FlyError::Capacity { scope: CapacityScope::Quota, .. })), "{full:?}");
    cloud.fly.create(&order("one")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_end_with_the_emulator() {
    let mut ready = Ready::new();
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grace = Duration::from_millis(100);
    let options = Options { grace, ..options(r#"trap '' TERM; echo x > "$READY"; exec sleep 1000"#) };
    let emulator = Emulator::start(options, listener, stop.clone()).unwrap();
    let fly = Fly::new(&emulator.fly_config()).unwrap();
    let mut order = order("one");
    order.config.env.insert("READY".into(), text(&ready.path));
    let id = fly.create(&order).await.unwrap().id;
    ready.come().await;
    soon(emulator.until_state(&id, &MachineState::Started)).await;
    let pid = emulator.pid(&id).unwrap();
    assert!(runs(pid));
    stop.cancel();
    soon(emulator.stopped()).await;
    assert!(!runs(pid));
}
