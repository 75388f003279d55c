//! What the fleet's reconcilers share in Redis: what they see of queue and pool, which of them acts, who
//! was told to leave, and what the acting one last said of the fleet.

use std::time::Duration;

use super::codec::to_json;
use super::fleet_status::{FleetStatus, Paused};
use super::scripts;
use super::workers::{RETIRED, WorkerRecord};
use super::{Command, Queue, QueueError, Reply};
use crate::job::{AttemptId, JobId, Millis, WorkerId};

/// The queue and the pool at one moment, by Redis's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetView {
    /// The moment.
    pub now: Millis,
    /// Jobs ready for a worker.
    pub pending: u64,
    /// Since when the next of them has been ready.
    pub next_ready_since: Option<Millis>,
    /// Delayed jobs whose time has come, and running ones whose lease ran out.
    pub due: u64,
    /// When the next of those is due.
    pub next_due: Option<Millis>,
    /// Every registered worker, and every holder of a lease.
    pub workers: Vec<PoolWorker>,
    /// Machines on which a worker registered within a day, and when one last did. A worker that has left
    /// since is in here too.
    pub heard: Vec<(String, Millis)>,
    /// Set while nothing is to be done about the fleet.
    pub paused: Option<Paused>,
}

/// A worker, as the fleet needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolWorker {
    /// Its name.
    pub worker: WorkerId,
    /// The machine it runs on; unknown for a holder of a lease whom the pool has forgotten.
    pub machine: Option<String>,
    /// Until when it counts as alive.
    pub alive_until: Option<Millis>,
    /// It was told to leave: its claims are refused.
    pub retired: bool,
    /// The job it holds, and until when.
    pub lease: Option<(JobId, Millis)>,
}

/// The right to act on the fleet. It is worth something only as long as Redis says the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencingToken {
    /// Who holds it.
    pub holder: String,
    /// How often it has changed hands.
    pub epoch: u64,
}

/// Whether the caller may act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockOutcome {
    /// It may, until the time is over.
    Mine(FencingToken),
    /// Somebody else does, for so long at least.
    Held(Duration),
    /// Somebody else did last and let its time run out, so long ago; it goes first should it come back.
    Lapsed(Duration),
}

/// What became of a wish to retire a machine's workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetireOutcome {
    /// None of them gets another job, nor does one that comes up there meanwhile.
    Retired,
    /// One holds a job: nothing was done.
    Busy,
    /// The caller has lost the right to act.
    Fenced,
}

impl Queue {
    /// The queue and the pool, at one moment.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn fleet_view(&self) -> Result<FleetView, QueueError> {
        let reply = self.eval(&scripts::FLEET_VIEW, Vec::new()).await?;
        parse_view(&reply).ok_or_else(|| QueueError::data("the fleet's view"))
    }

    /// Takes the right to act, or keeps it, for `time`. A process that has just started is `fresh`: what
    /// an earlier one of the same name was about to do is fenced off. Only one that has waited for the
    /// last holder to come back may `insist`.
    ///
    /// # Errors
    /// When Redis fails. Then nobody may act.
    pub async fn acquire_fleet_lock(
        &self,
        holder: &str,
        time: Duration,
        fresh: bool,
        insist: bool,
    ) -> Result<LockOutcome, QueueError> {
        let flag = |set: bool| if set { "1" } else { "0" }.to_owned();
        let args =
            vec!["hold".into(), holder.to_owned(), time.as_millis().to_string(), flag(fresh), flag(insist)];
        let reply = self.eval(&scripts::FLEET_LOCK, args).await?;
        parse_lock(&reply, holder)
            .ok_or_else(|| QueueError::data(format!("the fleet's lock answered {reply:?}")))
    }

    /// Gives the right to act away, so that nobody has to wait for its end.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn release_fleet_lock(&self, fence: &FencingToken) -> Result<(), QueueError> {
        let args = vec!["release".into(), fence.holder.clone(), fence.epoch.to_string()];
        self.eval(&scripts::FLEET_LOCK, args).await.map(drop)
    }

    /// Tells a machine's workers to leave, unless one holds a job: those in the pool, those named, and,
    /// for `time`, those that come up on it.
    ///
    /// # Errors
    /// When Redis fails. Then it is not known whether they were told.
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
        let reply = self.eval(&scripts::RETIRE, args).await?;
        match reply.list().and_then(|l| l.first()?.text()) {
            Some("RETIRED") => Ok(RetireOutcome::Retired),
            Some("BUSY") => Ok(RetireOutcome::Busy),
            Some("FENCED") => Ok(RetireOutcome::Fenced),
            _ => Err(QueueError::data(format!("retire answered {reply:?}"))),
        }
    }

    /// Workers that come up on this machine are welcome again: it is about to be started.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn readmit_machine(&self, machine: &str) -> Result<(), QueueError> {
        self.run(Command::new("ZREM").arg(self.key("machines:retired")).arg(machine)).await.map(drop)
    }

    /// Stops the reconcilers, and wakes them so that they say so. Where they are stopped already that
    /// stays so since then, for the reason given now, or without one for the one given before.
    ///
    /// # Errors
    /// When Redis fails.
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
            // Nobody can read it; what is said now can be.
            Some(Err(_)) => {}
        }
        self.run(Command::new("SET").arg(key).arg(to_json(&paused)?)).await?;
        Ok(paused)
    }

    /// Lets the reconcilers go on, and wakes them. Says whether they were stopped.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn fleet_resume(&self) -> Result<bool, QueueError> {
        let gone = Command::new("DEL").arg(self.key("fleet:paused"));
        let answers = self.pipeline(vec![gone, self.fleet_event()]).await?;
        Ok(answers.first().and_then(Reply::int) == Some(1))
    }

    /// Wakes the reconcilers.
    pub(super) fn fleet_event(&self) -> Command {
        let stream = Command::new("XADD").arg(self.key("jobs:events"));
        stream.args(["MAXLEN", "~", "10000", "*", "fleet", "changed"])
    }

    /// Puts what the acting reconciler says where everybody can read it. Says whether it still acts.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn publish_fleet_status(
        &self,
        fence: &FencingToken,
        status: &FleetStatus,
    ) -> Result<bool, QueueError> {
        let args = vec![fence.holder.clone(), fence.epoch.to_string(), to_json(status)?];
        let reply = self.eval(&scripts::FLEET_PUBLISH, args).await?;
        Ok(reply.int() == Some(1))
    }

    /// What the acting reconciler said last, and whether somebody stopped them all.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn fleet(&self) -> Result<(Option<FleetStatus>, Option<Paused>), QueueError> {
        let keys = [self.key("fleet:status"), self.key("fleet:paused")];
        let reply = self.run(Command::new("MGET").args(keys)).await?;
        let text = |at: usize| reply.list().and_then(|l| l.get(at)?.text());
        let status = text(0).map(serde_json::from_str).transpose();
        let status = status.map_err(|error| QueueError::data(format!("fleet:status: {error}")))?;
        Ok((status, text(1).and_then(parse_paused)))
    }

    /// Until when the right to act is held, if it ever was. While jobs wait the acting reconciler renews
    /// it though it has nothing new to say.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn fleet_lock_expiry(&self) -> Result<Option<Millis>, QueueError> {
        let until = Command::new("HGET").arg(self.key("fleet:lock")).arg("until");
        Ok(self.run(until).await?.int().map(Millis))
    }
}

/// Whoever set the key meant to stop them, whatever stands in it.
fn parse_paused(text: &str) -> Option<Paused> {
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
    let [now, pending, since, due, next_due, paused, pool, alive, leases, heard] = reply.list()? else {
        return None;
    };
    let mut workers: Vec<PoolWorker> = Vec::new();
    for record in pool.list()?.iter().filter_map(Reply::text) {
        let Ok(record) = serde_json::from_str::<WorkerRecord>(record) else { continue };
        let (worker, machine) = (record.worker_id, Some(record.machine_id));
        workers.push(PoolWorker { worker, machine, alive_until: None, retired: false, lease: None });
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
        let (Ok(attempt), Some(until)) = (member.parse::<AttemptId>(), until.int()) else { continue };
        let lease = Some((attempt.job, Millis(until)));
        match at(&workers, name) {
            Ok(found) => workers[found].lease = lease,
            Err(_) => strangers.push(PoolWorker {
                worker: WorkerId(name.clone()),
                machine: None,
                alive_until: None,
                retired: false,
                lease,
            }),
        }
    }
    workers.extend(strangers);
    let registered = |pair: &[Reply]| Some((pair[0].text()?.to_owned(), Millis(pair[1].int()?)));
    let heard = heard.list()?.chunks_exact(2).filter_map(registered).collect();
    let time = |reply: &Reply| reply.int().filter(|at| *at >= 0).map(Millis);
    Some(FleetView {
        now: Millis(now.int()?),
        pending: u64::try_from(pending.int()?).ok()?,
        next_ready_since: time(since),
        due: u64::try_from(due.int()?).ok()?,
        next_due: time(next_due),
        workers,
        heard,
        paused: paused.text().and_then(parse_paused),
    })
}
