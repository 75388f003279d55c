//! Leader election: one of several controllers acts, the one that holds a Lease.
//!
//! The rules are those of client-go. A candidate takes over if the record has not changed for the lease
//! duration by its own monotonic clock; it never compares the times in the record. The holder stops acting
//! before another may take over. Its last requests may still be in progress elsewhere, so every action must
//! be idempotent.
//! <https://pkg.go.dev/k8s.io/client-go/tools/leaderelection>

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The timing of the election.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseParams {
    /// A record that has not changed for this long may be taken over.
    pub lease: Duration,
    /// A holder that could not renew for this long stops acting.
    pub deadline: Duration,
    /// Interval between two renewals, or between two reads of another holder's record.
    pub period: Duration,
}

impl Default for LeaseParams {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            period: Duration::from_secs(2),
        }
    }
}

/// A candidate for the Lease.
pub(crate) struct Election {
    api: Api<Lease>,
    name: String,
    holder: String,
    /// What the Lease gets from each holder.
    annotations: BTreeMap<String, String>,
    times: LeaseParams,
    /// The record as it was last read, and when it was first seen in that version.
    seen: Option<(String, Instant)>,
}

/// Who the leader is, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leadership {
    /// This candidate is the leader.
    Mine,
    /// Another candidate is the leader.
    Theirs,
    /// The API server cannot be reached.
    Unknown,
}

impl Election {
    /// A candidate for the Lease `name`, which gets these annotations. No other process may use the same `holder`.
    #[must_use]
    pub(crate) fn new(
        api: Api<Lease>,
        name: &str,
        holder: &str,
        annotations: BTreeMap<String, String>,
        times: LeaseParams,
    ) -> Self {
        Self { api, name: name.to_owned(), holder: holder.to_owned(), annotations, times, seen: None }
    }

    /// Runs `lead` while this candidate holds the Lease, repeatedly until `stop`. The token passed to `lead`
    /// is cancelled when the Lease is lost or `stop` is; `lead` must then end soon. `turn` receives each
    /// change of the leadership: a Lease that expired because the API server is unreachable is not yet
    /// `Theirs`.
    pub(crate) async fn run<F: Future<Output = ()>>(
        mut self,
        turn: watch::Sender<Leadership>,
        stop: CancellationToken,
        mut lead: impl FnMut(CancellationToken) -> F,
    ) {
        while !stop.is_cancelled() {
            let began = Instant::now();
            let now = self.try_turn().await;
            turn.send_replace(now);
            if now == Leadership::Mine {
                tracing::info!(lease = self.name, holder = self.holder, "acquired leadership");
                let term = stop.child_token();
                tokio::join!(lead(term.clone()), self.keep(began, &term));
                tracing::info!(lease = self.name, holder = self.holder, "lost leadership");
                if stop.is_cancelled() {
                    self.release_lease().await;
                    return;
                }
                // Read again at once, to distinguish a Lease taken by another controller from one that
                // expired.
                continue;
            }
            tokio::select! {
                () = sleep(self.times.period) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Renews the Lease until that fails for too long or `term` ends.
    async fn keep(&mut self, began: Instant, term: &CancellationToken) {
        let mut renewed = began;
        loop {
            tokio::select! {
                () = sleep(self.times.period) => {}
                () = term.cancelled() => return,
            }
            let began = Instant::now();
            let left = (renewed + self.times.deadline).saturating_duration_since(began);
            match timeout(left, self.renew()).await {
                Ok(Leadership::Mine) => renewed = began,
                Ok(Leadership::Theirs) => {
                    tracing::warn!(lease = self.name, "another controller holds the Lease");
                    return term.cancel();
                }
                Ok(Leadership::Unknown) if renewed.elapsed() < self.times.deadline => {}
                Ok(Leadership::Unknown) | Err(_) => {
                    tracing::warn!(lease = self.name, "could not renew the lease in time");
                    return term.cancel();
                }
            }
        }
    }

    async fn renew(&mut self) -> Leadership {
        self.turn().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the lease could not be renewed; retrying");
            Leadership::Unknown
        })
    }

    async fn try_turn(&mut self) -> Leadership {
        match timeout(self.times.deadline, self.turn()).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(error)) => {
                tracing::warn!(lease = self.name, %error, "could not acquire the leader-election Lease; retrying");
                Leadership::Unknown
            }
            Err(_) => Leadership::Unknown,
        }
    }

    /// Acquires or renews the Lease, or finds that another candidate holds it.
    async fn turn(&mut self) -> kube::Result<Leadership> {
        let params = PostParams::default();
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let mut lease = Lease { metadata, spec: Some(self.record(None)) };
            self.annotate(&mut lease);
            return lost_race(self.api.create(&params, &lease).await);
        };
        let version = lease.resource_version().unwrap_or_default();
        let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.clone()).unwrap_or_default();
        if holder != self.holder {
            let since = match &self.seen {
                Some((seen, since)) if *seen == version => *since,
                _ => {
                    let now = Instant::now();
                    self.seen = Some((version, now));
                    now
                }
            };
            if !holder.is_empty() && since.elapsed() < self.times.lease {
                return Ok(Leadership::Theirs);
            }
        }
        lease.spec = Some(self.record(lease.spec.as_ref()));
        self.annotate(&mut lease);
        // With the resource version: if two candidates take over at once, one of them gets a conflict.
        lost_race(self.api.replace(&self.name, &params, &lease).await)
    }

    fn annotate(&self, lease: &mut Lease) {
        lease.annotations_mut().extend(self.annotations.clone());
    }

    fn record(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.filter(|spec| spec.holder_identity.as_deref() == Some(&self.holder));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(self.times.lease.as_secs()).ok(),
            acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if ours.is_some() { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    /// Releases the Lease, so that the next candidate need not wait.
    async fn release_lease(&self) {
        if !matches!(timeout(self.times.period, self.clear()).await, Ok(Ok(()))) {
            tracing::warn!(lease = self.name, "could not release the leader-election Lease; it expires");
        }
    }
}

impl Election {
    async fn clear(&self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
        if spec.holder_identity.as_deref() == Some(&self.holder) {
            spec.holder_identity = Some(String::new());
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

/// A conflict means that another candidate wrote first and holds the Lease.
fn lost_race(written: kube::Result<Lease>) -> kube::Result<Leadership> {
    match written {
        Ok(_) => Ok(Leadership::Mine),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Leadership::Theirs),
        Err(error) => Err(error),
    }
}
