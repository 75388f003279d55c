//! What the reconcilers of the fleet share in Redis: the observed queue and workers, the lock that decides
//! which of them acts, retired machines, and the published status.

use std::collections::BTreeMap;
use std::time::Duration;

use super::codec::{to_json, to_versioned_json};
use super::fleet_status::{FleetStatus, Paused};
use super::scripts;
use super::workers::{RETIRED, WorkerRecord};
use super::{Command, Queue, QueueError, Reply};
use crate::job::{JobId, LeaseId, Millis, WorkerClass, WorkerClasses, WorkerId};

/// What waits for the workers of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassView {
    /// Jobs, and parts of split jobs, that a worker can claim.
    pub pending: u64,
    /// How many of these and of those that are due are parts.
    pub parts: u64,
    /// Delayed jobs that are due, and running jobs whose lease has expired.
    pub due: u64,
    /// When the first of what can be claimed became ready.
    pub ready_since: Option<Millis>,
}

/// The queue and the workers at one moment, by Redis's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetView {
    /// Redis's time.
    pub now: Millis,
    /// What waits for the workers of each of the classes that were asked about. One for which nothing waits is absent.
    pub waiting: BTreeMap<WorkerClass, ClassView>,
    /// When the next delay or lease expires.
    pub next_due: Option<Millis>,
    /// All registered workers, and all holders of a lease.
    pub workers: Vec<PoolWorker>,
    /// Machines on which a worker registered within a day, with the time of the last registration, even if
    /// that worker has left since.
    pub heard: Vec<(String, Millis)>,
    /// Set while the fleet is paused.
    pub paused: Option<Paused>,
}

/// A worker, as far as the fleet needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolWorker {
    /// Its id.
    pub worker: WorkerId,
    /// Its machine; unknown for a holder of a lease that is no longer registered.
    pub machine: Option<String>,
    /// The classes of the jobs that it takes; only the default one for a holder that is no longer registered.
    pub classes: WorkerClasses,
    /// Until when it counts as alive.
    pub alive_until: Option<Millis>,
    /// Whether it was retired: its claims are refused.
    pub retired: bool,
    /// The job that it holds, and the deadline of the lease.
    pub lease: Option<(JobId, Millis)>,
}

impl FleetView {
    /// Whether something waits that a worker of these classes can claim, or could if a due task were looked at.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.waiting.values().any(|of| of.pending + of.due > 0)
    }
}

/// Proof that the caller holds the fleet lock. Redis checks it with each write, so an old token has no
/// effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencingToken {
    /// The holder of the lock.
    pub holder: String,
    /// How often the lock has changed hands.
    pub epoch: u64,
}

/// The outcome of acquiring the fleet lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockOutcome {
    /// The caller holds the lock for the requested time.
    Mine(FencingToken),
    /// Another process holds the lock, for at least this long.
    Held(Duration),
    /// Another process held the lock last and let it expire this long ago; it has precedence if it comes
    /// back.
    Lapsed(Duration),
}

/// The outcome of retiring a machine's workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetireOutcome {
    /// None of them gets another job, and neither does a worker that starts there in the meantime.
    Retired,
    /// One of them holds a job: nothing was done.
    Busy,
    /// The caller no longer holds the fleet lock.
    Fenced,
}

impl Queue {
    /// Reads the workers, and what waits for those of these classes, at one moment.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn fleet_view(
        &self,
        classes: impl IntoIterator<Item = &WorkerClass>,
    ) -> Result<FleetView, QueueError> {
        let reply = self.eval(&scripts::FLEET_VIEW, view_args(classes)).await?;
        parse_view(&reply).ok_or_else(|| QueueError::data("the fleet's view"))
    }

    /// Acquires or renews the fleet lock for `time`. A process that has just started passes `fresh`, which
    /// fences off operations of an earlier process with the same name. Only a process that has waited for the
    /// last holder to come back may pass `insist`.
    ///
    /// # Errors
    /// If Redis fails. Then nobody may act.
    pub async fn acquire_fleet_lock(
        &self,
        holder: &str,
        time: Duration,
        fresh: bool,
        insist: bool,
    ) -> Result<LockOutcome, QueueError> {
        let reply = self
            .eval(&scripts::FLEET_LOCK, self.fleet_args(lock_request(holder, time, fresh, insist)))
            .await?;
        parse_lock(&reply, holder)
            .ok_or_else(|| QueueError::data(format!("the fleet's lock answered {reply:?}")))
    }

    /// Like [`Queue::acquire_fleet_lock`] for the holder of `fence`; publishes the status of the fleet as well if the
    /// lock is still held with this token. Also returns whether it did.
    ///
    /// # Errors
    /// If Redis fails. Then nobody may act.
    pub async fn renew_fleet_lock_and_publish(
        &self,
        fence: &FencingToken,
        time: Duration,
        (fresh, insist): (bool, bool),
        status: &FleetStatus,
    ) -> Result<(LockOutcome, bool), QueueError> {
        let mut args = lock_request(&fence.holder, time, fresh, insist);
        args.extend([fence.epoch.to_string(), to_versioned_json(status)?]);
        let reply = self.eval(&scripts::FLEET_LOCK, self.fleet_args(args)).await?;
        let outcome = parse_lock(&reply, &fence.holder)
            .ok_or_else(|| QueueError::data(format!("the fleet's lock answered {reply:?}")))?;
        let is_published = reply.list().and_then(|parts| parts.get(2)?.int()) == Some(1);
        Ok((outcome, is_published))
    }

    /// Releases the fleet lock, so that nobody has to wait until it expires.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn release_fleet_lock(&self, fence: &FencingToken) -> Result<(), QueueError> {
        let args = vec!["release".into(), fence.holder.clone(), fence.epoch.to_string()];
        self.eval(&scripts::FLEET_LOCK, self.fleet_args(args)).await.map(drop)
    }

    /// Retires a machine's workers, unless one of them holds a job: the registered ones, the named ones, and,
    /// for `time`, those that start on the machine.
    ///
    /// # Errors
    /// If Redis fails. Then the outcome is unknown.
    pub async fn retire(
        &self,
        fence: &FencingToken,
        machine: &str,
        workers: &[WorkerId],
        time: Duration,
    ) -> Result<RetireOutcome, QueueError> {
        let mut args = vec![
            fence.holder.clone(),
            fence.epoch.to_string(),
            machine.to_owned(),
            time.as_millis().to_string(),
        ];
        args.extend(workers.iter().map(ToString::to_string));
        let reply = self.eval(&scripts::RETIRE, self.fleet_args(args)).await?;
        match reply.list().and_then(|l| l.first()?.text()) {
            Some("RETIRED") => Ok(RetireOutcome::Retired),
            Some("BUSY") => Ok(RetireOutcome::Busy),
            Some("FENCED") => Ok(RetireOutcome::Fenced),
            _ => Err(QueueError::data(format!("retire answered {reply:?}"))),
        }
    }

    /// Permits workers on a retired machine again, because it is about to be started.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn readmit_machine(&self, machine: &str) -> Result<(), QueueError> {
        self.run(Command::new("ZREM").arg(self.key("machines:retired")).arg(machine)).await.map(drop)
    }

    /// Pauses the fleet, and wakes the reconcilers so that they publish it. If the fleet is already paused,
    /// the start of the pause is kept, and so is its reason unless a new one is given.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn fleet_pause(&self, reason: Option<String>) -> Result<Paused, QueueError> {
        let key = self.key("fleet:paused");
        let since = self.clock().await?.now();
        let mut paused = Paused { since, reason };
        let set = Command::new("SET").arg(&*key).arg(to_json(&paused)?).args(["NX", "GET"]);
        let answers = self.pipeline(vec![set, self.fleet_event()]).await?;
        let before = answers.first().and_then(Reply::text).map(serde_json::from_str::<Paused>);
        match before {
            None => return Ok(paused),
            Some(Ok(before)) if paused.reason.is_none() || before.reason == paused.reason => {
                return Ok(before);
            }
            Some(Ok(before)) => paused.since = before.since,
            // The stored record is invalid; it is replaced.
            Some(Err(_)) => {}
        }
        self.run(Command::new("SET").arg(key).arg(to_json(&paused)?)).await?;
        Ok(paused)
    }

    /// Resumes the fleet and wakes the reconcilers. Returns whether it was paused.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn fleet_resume(&self) -> Result<bool, QueueError> {
        let gone = Command::new("DEL").arg(self.key("fleet:paused"));
        let answers = self.pipeline(vec![gone, self.fleet_event()]).await?;
        Ok(answers.first().and_then(Reply::int) == Some(1))
    }

    /// The command that wakes the reconcilers.
    pub(super) fn fleet_event(&self) -> Command {
        self.append_event().args(["fleet", "changed"])
    }

    /// Publishes the status of the fleet. Returns whether the caller still holds the fleet lock.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn publish_fleet_status(
        &self,
        fence: &FencingToken,
        status: &FleetStatus,
    ) -> Result<bool, QueueError> {
        let args = vec![fence.holder.clone(), fence.epoch.to_string(), to_versioned_json(status)?];
        let reply = self.eval(&scripts::FLEET_PUBLISH, self.fleet_args(args)).await?;
        Ok(reply.int() == Some(1))
    }
}

/// The arguments of `fleet_view.lua`.
pub(super) fn view_args<'a>(classes: impl IntoIterator<Item = &'a WorkerClass>) -> Vec<String> {
    classes.into_iter().map(ToString::to_string).collect()
}

/// The arguments of the script that acquires the fleet lock.
fn lock_request(holder: &str, time: Duration, fresh: bool, insist: bool) -> Vec<String> {
    let flag = |set: bool| if set { "1" } else { "0" }.to_owned();
    vec!["hold".into(), holder.to_owned(), time.as_millis().to_string(), flag(fresh), flag(insist)]
}

/// The key pauses the fleet whatever its content is.
pub(super) fn parse_paused(text: &str) -> Option<Paused> {
    let unreadable = || Paused { since: Millis(0), reason: None };
    (!text.is_empty()).then(|| serde_json::from_str(text).unwrap_or_else(|_| unreadable()))
}

pub(super) fn parse_lock(reply: &Reply, holder: &str) -> Option<LockOutcome> {
    let parts = reply.list()?;
    let number = u64::try_from(parts.get(1)?.int()?).ok()?;
    match parts.first()?.text()? {
        "MINE" => Some(LockOutcome::Mine(FencingToken { holder: holder.to_owned(), epoch: number })),
        "HELD" => Some(LockOutcome::Held(Duration::from_millis(number))),
        "LAPSED" => Some(LockOutcome::Lapsed(Duration::from_millis(number))),
        _ => None,
    }
}

pub(super) fn parse_view(reply: &Reply) -> Option<FleetView> {
    let [now, waiting, next_due, paused, pool, alive, leases, heard] = reply.list()? else {
        return None;
    };
    let time = |reply: &Reply| reply.int().filter(|at| *at >= 0).map(Millis);
    let class = |of: &[Reply]| {
        let number = |at: usize| u64::try_from(of[at].int()?).ok();
        let view =
            ClassView { pending: number(1)?, parts: number(2)?, due: number(3)?, ready_since: time(&of[4]) };
        Some((of[0].text()?.parse().ok()?, view))
    };
    let mut waiting: BTreeMap<_, _> = waiting.list()?.chunks_exact(5).map(class).collect::<Option<_>>()?;
    waiting.retain(|_, view| *view != ClassView::default());
    let mut workers: Vec<PoolWorker> = Vec::new();
    for record in pool.list()?.iter().filter_map(Reply::text) {
        let Ok(record) = serde_json::from_str::<WorkerRecord>(record) else { continue };
        workers.push(PoolWorker {
            worker: record.worker_id,
            machine: Some(record.machine_id),
            classes: record.worker_classes,
            alive_until: None,
            retired: false,
            lease: None,
        });
    }
    workers.sort_by(|a, b| a.worker.cmp(&b.worker));
    let at = |workers: &[PoolWorker], name: &str| workers.binary_search_by(|w| w.worker.0.as_str().cmp(name));
    for pair in alive.list()?.chunks_exact(2) {
        let (Some(name), Some(score)) = (pair[0].text(), pair[1].int()) else { continue };
        if let Ok(found) = at(&workers, name) {
            workers[found].retired = score >= RETIRED;
            let until = if score >= RETIRED { score - RETIRED } else { score };
            workers[found].alive_until = Some(Millis(until));
        }
    }
    let mut strangers = Vec::new();
    for lease in leases.list()?.chunks_exact(3) {
        let [Reply::Text(member), until, Reply::Text(name)] = lease else { continue };
        let (Ok(attempt), Some(until)) = (member.parse::<LeaseId>(), until.int()) else { continue };
        let lease = Some((attempt.job, Millis(until)));
        match at(&workers, name) {
            Ok(found) => workers[found].lease = lease,
            Err(_) => strangers.push(PoolWorker {
                worker: WorkerId(name.clone()),
                machine: None,
                classes: WorkerClasses::default(),
                alive_until: None,
                retired: false,
                lease,
            }),
        }
    }
    workers.extend(strangers);
    let registered = |pair: &[Reply]| Some((pair[0].text()?.to_owned(), Millis(pair[1].int()?)));
    let heard = heard.list()?.chunks_exact(2).filter_map(registered).collect();
    Some(FleetView {
        now: Millis(now.int()?),
        waiting,
        next_due: time(next_due),
        workers,
        heard,
        paused: paused.text().and_then(parse_paused),
    })
}
