//! Machines that run but whose workers use another Redis: after FLEET_LAUNCH_FAILURES of them the fleet
//! pauses launching and reports what to compare. Once a worker registers, everything continues.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tcoder::controller::fleet::{Deadlines, FleetPolicy};
use tcoder::controller::reconciler::{InvocationBudget, OneShotReconciler};
use tcoder::flyprovider::emulator::EmulatedCall;
use tcoder::flyprovider::{Fly, MachineState};
use tcoder::queue::{FleetStatus, RequestRate};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

use crate::fleet::{Cloud, count, policy, there};
use crate::support::redis::{PrivateRedis, private_redis};
use crate::support::system::{Setup, fly_of_workers};

/// A port that leads to one Redis and later to another, which has the effect of a new REDIS_URL for the next
/// worker.
struct Redirect {
    port: u16,
    socket: watch::Sender<PathBuf>,
}

impl Redirect {
    async fn to(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (socket, leads) = watch::channel(socket.to_owned());
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let socket = leads.borrow().clone();
                tokio::spawn(async move {
                    if let Ok(mut to) = UnixStream::connect(socket).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self { port, socket }
    }
}

fn socket_of(url: &str) -> PathBuf {
    url.strip_prefix("redis+unix://").unwrap().into()
}

/// An installation whose workers use another Redis, which exists.
async fn astray() -> (Cloud, Redirect, PrivateRedis) {
    use secrecy::ExposeSecret as _;
    let system = Setup::default().workers(0).start().await;
    let other = private_redis(&[]);
    let redirect = Redirect::to(&socket_of(other.config().url.expose_secret())).await;
    let mut environment = system.role_environment();
    for (name, value) in &mut environment {
        if *name == "REDIS_URL" {
            *value = format!("redis://127.0.0.1:{}", redirect.port);
        }
    }
    environment.push(("WORKER_SCRATCH_DIR", system.data.join("scratch").to_str().unwrap().to_owned()));
    environment.push(("RUST_LOG", "error".into()));
    let fly = fly_of_workers("clips", &environment).await;
    (Cloud::over(system, fly).await, redirect, other)
}

/// A policy in which a worker has this many seconds to register.
fn heard_within(boot: u64) -> FleetPolicy {
    let s = Duration::from_secs;
    let deadlines = Deadlines { boot: s(boot), settle: s(2), hold: s(15), ..Deadlines::default() };
    FleetPolicy { deadlines, idle_timeout: s(300), ..policy(1) }
}

fn is_silent(status: &FleetStatus) -> bool {
    status.conditions.iter().any(|c| c.reason == "WorkersNotRegistering")
}

fn launches(cloud: &Cloud) -> usize {
    cloud.writes().iter().filter(|r| matches!(r.action, EmulatedCall::Create | EmulatedCall::Start)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn launches_without_registration_stop_until_a_worker_registers() {
    let (cloud, redirect, _other) = astray().await;
    let (wanted, policy) = watch::channel(heard_within(3));
    let running = cloud.follows("one", policy, &cloud.fly.fly_config());
    let mut ids = cloud.jobs(1).await;
    let status = cloud.says("the workers are silent", is_silent).await;
    let message = &status.conditions.iter().find(|c| c.reason == "WorkersNotRegistering").unwrap().message;
    assert!(message.starts_with("3 launches in a row"), "{message}");
    for words in ["REDIS_URL", "REDIS_KEY_PREFIX", "connected to Redis", "fly logs"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(launches(&cloud), 3);
    // From now on no machine is launched before the hold is over.
    cloud.until("the last one is stopped", |all| count(all, &MachineState::Stopped) == there(all)).await;
    ids.extend(cloud.jobs(1).await);
    let status = cloud.says("it saw the second job", |s| is_silent(s) && s.desired.waiting == 2).await;
    assert!(status.plan.iter().all(|step| step.action != "start" && step.action != "create"), "{status:?}");
    assert_eq!(launches(&cloud), 3);

    // The operator compares the settings and corrects them.
    wanted.send_replace(heard_within(120));
    redirect.socket.send_replace(socket_of(&cloud.system.redis_url()));
    cloud.all_completed(&ids).await;
    cloud.says("nothing is wrong any more", |s| s.conditions.is_empty()).await;
    assert_eq!(launches(&cloud), 4, "one was tried after the hold, and was enough");
    running.stop().await;
    cloud.system.stop().await;
}

/// Each one-shot reconciler knows what its predecessor stored in Redis, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn one_shot_reconcilers_count_launches_without_registration() {
    let (cloud, _redirect, _other) = astray().await;
    cloud.jobs(1).await;
    cloud.queue_has(1).await;
    let room = InvocationBudget { requests: 3, trips: 20, time: Duration::from_secs(20) };
    let count_until_silent = async {
        loop {
            let visitor = OneShotReconciler {
                queue: cloud.queue.clone(),
                provider: Fly::new(&cloud.fly.fly_config()).unwrap(),
                policy: FleetPolicy { launch_failures: 2, ..heard_within(3) },
                environment: BTreeMap::new(),
                group: "visitor".into(),
                rate: RequestRate::default(),
            };
            visitor.run(&[], room).await.unwrap();
            if cloud.queue.fleet().await.unwrap().0.is_some_and(|status| is_silent(&status)) {
                break;
            }
            assert!(launches(&cloud) <= 2, "{:?}", cloud.writes());
        }
    };
    crate::fleet::soon("the visits see that the workers are silent", count_until_silent).await;
    assert_eq!(launches(&cloud), 2);
    let memory: String = redis::cmd("GET").arg("fleet:memory").query(&mut cloud.system.redis()).unwrap();
    assert!(memory.contains("\"launchFailures\":2"), "{memory}");
    cloud.system.stop().await;
}
