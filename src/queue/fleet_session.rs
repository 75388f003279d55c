//! Combines several calls into one round trip for a one-shot reconciler, which an event or a timer starts and which
//! ends after the next operations. The number of its round trips is limited.

use std::time::Duration;

use super::codec::to_versioned_json;
use super::fleet::{parse_lock, parse_view, view_args};
use super::rate_limit::{micros, parse_permit};
use super::scripts::{self, Script};
use super::{
    Command, FencingToken, FleetStatus, FleetView, LockOutcome, Permit, Queue, QueueError, Reply,
    RequestClass, RequestRate, UploadedInput, UploadedOutcome,
};
use crate::job::WorkerClasses;

/// A request for the fleet lock, and with it for a permit to send a request to the provider.
#[derive(Clone, Copy, Debug)]
pub struct LockRequest<'a> {
    /// The name of the invocation: its group, a colon, and a unique id. Only one invocation at a time holds the lock,
    /// also within a group.
    pub holder: &'a str,
    /// How long the lock is held unless it is renewed.
    pub time: Duration,
    /// Whether the holder has just started.
    pub fresh: bool,
    /// Whether to take over the expired lock of another holder.
    pub insist: bool,
    /// The rate of requests to the provider.
    pub rate: RequestRate,
    /// The class of the request to the provider.
    pub priority: RequestClass,
    /// How long the caller would wait for a permit.
    pub budget: Duration,
    /// A machine that will be started: its workers may claim jobs again.
    pub starts: Option<&'a str>,
}

/// The outcome of a lock request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockState {
    /// The caller holds the lock. The permit says whether it may send its request now, or has to ask again
    /// after a wait.
    Mine(FencingToken, Permit),
    /// Another process holds the lock, for at least this long.
    Held(Duration),
    /// Another process held the lock last and let it expire this long ago.
    Lapsed(Duration),
}

/// What a one-shot reconciler stores for the next one.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The lock under which it is written.
    pub fence: FencingToken,
    /// The status to publish.
    pub status: FleetStatus,
    /// The state for the next reconciler, as JSON.
    pub memory: String,
}

/// What a one-shot reconciler finds.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The outcome of each reported upload, in order.
    pub uploads: Vec<UploadedOutcome>,
    /// The queue and the workers after that.
    pub view: FleetView,
    /// Whether the caller holds the fleet lock.
    pub lock: LockState,
    /// The state that the last reconciler stored.
    pub memory: Option<String>,
}

impl Queue {
    /// Does four things in one round trip: reports the given uploads, stores the previous checkpoint, reads
    /// the workers and what waits for those of these classes, and requests the fleet lock with a permit. Idempotent.
    ///
    /// # Errors
    /// If Redis fails. Some of the calls may have taken effect.
    pub async fn open_session(
        &self,
        uploads: &[UploadedInput],
        checkpoint: Option<&Checkpoint>,
        classes: &WorkerClasses,
        request: &LockRequest<'_>,
    ) -> Result<Snapshot, QueueError> {
        let input_limit = self.policy.max_input_bytes;
        let flag = |set: bool| if set { "1" } else { "0" }.to_owned();
        let mut calls: Vec<(&Script, Vec<String>)> = Vec::new();
        for upload in uploads {
            calls.push((&scripts::UPLOADED, upload.args(input_limit)?));
        }
        if let Some(checkpoint) = checkpoint {
            calls.push((&scripts::FLEET_PUBLISH, self.checkpoint_args(checkpoint)?));
        }
        calls.push((&scripts::FLEET_VIEW, view_args(classes)));
        let mut args = vec![
            request.holder.to_owned(),
            request.time.as_millis().to_string(),
            flag(request.fresh),
            flag(request.insist),
            micros(request.rate.interval),
            micros(request.rate.age),
            (request.priority as u8).to_string(),
            micros(request.budget),
        ];
        args.extend(request.starts.map(str::to_owned));
        calls.push((&scripts::FLEET_SESSION, args));
        let memory = Command::new("GET").arg(self.key("fleet:memory"));
        let answers = self.eval_all(&calls, request.fresh.then_some(memory)).await?;

        let (told, rest) = answers.split_at_checked(uploads.len()).unwrap_or_default();
        let uploads = told.iter().map(UploadedOutcome::parse).collect::<Result<_, _>>()?;
        let [view, lock, memory @ ..] = rest.get(usize::from(checkpoint.is_some())..).unwrap_or_default()
        else {
            return Err(QueueError::data("the snapshot of the fleet has too few replies"));
        };
        Ok(Snapshot {
            uploads,
            view: parse_view(view).ok_or_else(|| QueueError::data("the view of the fleet is malformed"))?,
            lock: parse_lock_state(lock, request.holder)
                .ok_or_else(|| QueueError::data(format!("the fleet lock replied {lock:?}")))?,
            memory: memory.first().and_then(Reply::text).map(str::to_owned),
        })
    }

    /// Stores a checkpoint. Returns whether the caller still holds the fleet lock.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn save_checkpoint(&self, checkpoint: &Checkpoint) -> Result<bool, QueueError> {
        Ok(self.eval(&scripts::FLEET_PUBLISH, self.checkpoint_args(checkpoint)?).await?.int() == Some(1))
    }

    fn checkpoint_args(&self, checkpoint: &Checkpoint) -> Result<Vec<String>, QueueError> {
        let Checkpoint { fence, status, memory } = checkpoint;
        let args =
            [fence.holder.clone(), fence.epoch.to_string(), to_versioned_json(status)?, memory.clone()];
        Ok(self.fleet_args(args))
    }

    /// Reports uploads; returns the outcomes in order.
    ///
    /// # Errors
    /// If Redis fails. Some of the jobs may have been queued.
    pub async fn mark_uploaded_all(
        &self,
        uploads: &[UploadedInput],
    ) -> Result<Vec<UploadedOutcome>, QueueError> {
        let limit = self.policy.max_input_bytes;
        let call = |upload: &UploadedInput| Ok((&scripts::UPLOADED, upload.args(limit)?));
        let calls: Vec<_> = uploads.iter().map(call).collect::<Result<_, QueueError>>()?;
        self.eval_all(&calls, None).await?.iter().map(UploadedOutcome::parse).collect()
    }

    /// Runs scripts and then a command in one round trip. If the server does not have one of the scripts
    /// cached, all are sent to it and run again, so they must be idempotent.
    async fn eval_all(
        &self,
        calls: &[(&Script, Vec<String>)],
        last: Option<Command>,
    ) -> Result<Vec<Reply>, QueueError> {
        let anchor = self.key("jobs");
        let run = |(script, args): &(&Script, Vec<String>)| {
            let call = Command::new("EVALSHA").arg(script.sha1()).arg("1").arg(&*anchor).arg(&*self.prefix);
            call.args(args)
        };
        let all = || calls.iter().map(run).chain(last.clone()).collect::<Vec<_>>();
        match self.pipeline(all()).await {
            Err(QueueError::NoScript) => {
                let mut texts: Vec<&str> = calls.iter().map(|(script, _)| script.text()).collect();
                texts.sort_unstable();
                texts.dedup();
                let load = |text| Command::new("SCRIPT").arg("LOAD").arg(text);
                self.pipeline(texts.into_iter().map(load).collect()).await?;
                self.pipeline(all()).await
            }
            other => other,
        }
    }
}

pub(super) fn parse_lock_state(reply: &Reply, holder: &str) -> Option<LockState> {
    let parts = reply.list()?;
    Some(match parse_lock(parts.first()?, holder)? {
        LockOutcome::Mine(fence) => LockState::Mine(fence, parse_permit(parts.get(1)?)?),
        LockOutcome::Held(left) => LockState::Held(left),
        LockOutcome::Lapsed(ago) => LockState::Lapsed(ago),
    })
}
