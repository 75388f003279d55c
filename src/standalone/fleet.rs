//! The fleet of one machine: an emulator of Fly's API, whose machines are worker processes, and the reconciler, which
//! uses it like Fly.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Options, UpError};
use crate::config::Env;
use crate::config::registry::{WORKER_CLASSES, WORKER_IDLE_TIMEOUT};
use crate::controller::fleet::{FleetPolicy, MicroDollars};
use crate::controller::reconciler::{Reconciler, ReconcilerDeps, forwarded_env};
use crate::event_bus::EventBus;
use crate::flyprovider::Fly;
use crate::flyprovider::emulator::{self, Emulator, EmulatorHandle};
use crate::metrics::Metrics;
use crate::queue::{Queue, RequestRate};

/// The app that the machines belong to; their names start with it.
const APP: &str = "local";
/// The only region.
const REGION: &str = "here";
/// A worker releases its job in less than a second; this is enough for a very busy machine.
const GRACE: Duration = Duration::from_secs(5);

/// A running fleet.
pub(crate) struct LocalFleet {
    emulator: EmulatorHandle,
    reconciler: JoinHandle<()>,
    stop_reconciler: CancellationToken,
    stop_emulator: CancellationToken,
    policy: FleetPolicy,
}

impl LocalFleet {
    /// Starts the emulator and the reconciler. `environment` is the environment of the machines; `holder` is the
    /// reconciler's name; it learns of changes from `event_bus`.
    pub(crate) async fn start(
        options: &Options,
        env: &Env<'_>,
        environment: Vec<(&'static str, String)>,
        queue: Queue,
        holder: String,
        metrics: Arc<Metrics>,
        event_bus: &EventBus,
    ) -> Result<Self, UpError> {
        let failed = |error: &dyn std::fmt::Display| UpError::Fleet(error.to_string());
        let policy = FleetPolicy {
            min: options.min_machines,
            max: options.max_machines,
            idle_timeout: env.require(&WORKER_IDLE_TIMEOUT)?,
            classes: env.require(&WORKER_CLASSES)?,
            regions: vec![REGION.to_owned()],
            // The disk is that of this machine.
            disk: None,
            // These machines cost nothing.
            price: Some(MicroDollars(0)),
            ..FleetPolicy::new(APP, "local")
        };
        let program = std::env::current_exe().map_err(|e| failed(&e))?;
        let machines = emulator::Options {
            app: APP.to_owned(),
            region: REGION.to_owned(),
            environment: environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            grace: GRACE,
            ..emulator::Options::new([program.into_os_string(), OsString::from("worker")])
        };
        // Only the reconciler, in this process, knows the port and the token.
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| failed(&e))?;
        let (stop_reconciler, stop_emulator) = (CancellationToken::new(), CancellationToken::new());
        let emulator = Emulator::start(machines, listener, stop_emulator.clone()).map_err(|e| failed(&e))?;
        let guard = stop_emulator.clone().drop_guard();
        let mut forwarded_env: BTreeMap<String, String> = forwarded_env(env);
        for name in ["ALLOW_PRIVATE_URLS", "WORKER_DISK_BYTES"] {
            forwarded_env.extend(env.text(name).map(|value| (name.to_owned(), value)));
        }
        let parts = ReconcilerDeps {
            provider: Fly::new(&emulator.fly_config()).map_err(|e| failed(&e))?,
            rate: RequestRate::default(),
            queue,
            policy: watch::channel(policy.clone()).1,
            status: watch::Sender::new(None),
            environment: forwarded_env,
            holder,
            metrics,
        };
        let reconciler = Reconciler::new(parts).listening_to(event_bus);
        let reconciler = tokio::spawn(reconciler.run(stop_reconciler.clone()));
        guard.disarm();
        Ok(Self { emulator, reconciler, stop_reconciler, stop_emulator, policy })
    }

    /// The number of workers, as text.
    pub(crate) fn summary(&self) -> String {
        match (self.policy.min, self.policy.max) {
            (min, max) if min == max => format!("{max}"),
            (min, max) => format!("{min} to {max}, as jobs come"),
        }
    }

    /// Stops the reconciler first, because it would replace stopped machines, and then the machines.
    pub(crate) async fn stop(self) {
        self.stop_reconciler.cancel();
        if let Err(error) = self.reconciler.await {
            tracing::error!(%error, "the reconciler panicked");
        }
        self.stop_emulator.cancel();
        self.emulator.stopped().await;
    }
}
