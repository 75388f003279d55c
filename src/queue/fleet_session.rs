//! Several calls in one round trip, for a visitor to the fleet: somebody who comes when something has
//! happened, does what is next and leaves, and for whom each round trip counts.

use std::time::Duration;

use super::codec::to_json;
use super::fleet::{parse_lock, parse_view};
use super::rate_limit::{micros, parse_permit};
use super::scripts::{self, Script};
use super::{
    Command, FencingToken, FleetStatus, FleetView, LockOutcome, Permit, Queue, QueueError, Reply,
    RequestClass, RequestRate, UploadedOutcome,
};
use crate::job::JobId;

/// What a visitor asks for: the right to act, and with it a request to the provider.
#[derive(Clone, Copy, Debug)]
pub struct LockRequest<'a> {
    /// The visit's name: its group's, a colon, and its own. One at a time acts, also within a group.
    pub holder: &'a str,
    /// For how long it may act, unless it asks again.
    pub time: Duration,
    /// The visit begins.
    pub fresh: bool,
    /// It has waited for the last holder to come back.
    pub insist: bool,
    /// How often the provider is asked.
    pub rate: RequestRate,
    /// What the provider will be asked.
    pub priority: RequestClass,
    /// How long the visitor would wait for that.
    pub budget: Duration,
    /// A machine that will be started: workers that come up on it are welcome again.
    pub starts: Option<&'a str>,
}

/// Whether a visitor may act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockState {
    /// It may, and may ask the provider now, or after a wait (then it has to ask again).
    Mine(FencingToken, Permit),
    /// Somebody else does, for so long at least.
    Held(Duration),
    /// Somebody else did last and let its time run out, so long ago.
    Lapsed(Duration),
}

/// What a visitor leaves.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// By which right.
    pub fence: FencingToken,
    /// What is to be said of the fleet.
    pub status: FleetStatus,
    /// What its next visit has to know, as JSON.
    pub memory: String,
}

/// What a visitor finds.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What became of the uploads it told of, in their order.
    pub uploads: Vec<UploadedOutcome>,
    /// The queue and the pool after that.
    pub view: FleetView,
    /// Whether it may act.
    pub turn: LockState,
    /// What the last visit left.
    pub memory: Option<String>,
}

impl Queue {
    /// A visitor's look: inputs that have arrived are told of, a note is left, then queue and pool are
    /// seen and a turn is asked for. All of it in one round trip; what is done twice does nothing more.
    ///
    /// # Errors
    /// When Redis fails. Some of it may have happened.
    pub async fn look(
        &self,
        uploads: &[JobId],
        note: Option<&Checkpoint>,
        ask: &LockRequest<'_>,
    ) -> Result<Snapshot, QueueError> {
        let flag = |set: bool| if set { "1" } else { "0" }.to_owned();
        let mut calls: Vec<(&Script, Vec<String>)> = Vec::new();
        calls.extend(uploads.iter().map(|id| (&scripts::UPLOADED, vec![id.to_string()])));
        if let Some(Checkpoint { fence, status, memory }) = note {
            let args = vec![fence.holder.clone(), fence.epoch.to_string(), to_json(status)?, memory.clone()];
            calls.push((&scripts::FLEET_PUBLISH, args));
        }
        calls.push((&scripts::FLEET_VIEW, Vec::new()));
        let mut turn = vec![
            ask.holder.to_owned(),
            ask.time.as_millis().to_string(),
            flag(ask.fresh),
            flag(ask.insist),
            micros(ask.rate.interval),
            micros(ask.rate.age),
            (ask.priority as u8).to_string(),
            micros(ask.budget),
        ];
        turn.extend(ask.starts.map(str::to_owned));
        calls.push((&scripts::FLEET_SESSION, turn));
        let memory = Command::new("GET").arg(self.key("fleet:memory"));
        let answers = self.eval_all(&calls, ask.fresh.then_some(memory)).await?;

        let (told, rest) = answers.split_at_checked(uploads.len()).unwrap_or_default();
        let uploads = told.iter().map(UploadedOutcome::parse).collect::<Result<_, _>>()?;
        let [view, turn, memory @ ..] = rest.get(usize::from(note.is_some())..).unwrap_or_default() else {
            return Err(QueueError::data("a look has too few answers"));
        };
        Ok(Snapshot {
            uploads,
            view: parse_view(view).ok_or_else(|| QueueError::data("the fleet's view"))?,
            turn: parse_turn(turn, ask.holder)
                .ok_or_else(|| QueueError::data(format!("the fleet's turn answered {turn:?}")))?,
            memory: memory.first().and_then(Reply::text).map(str::to_owned),
        })
    }

    /// Leaves a note. Says whether its right still holds.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn save_checkpoint(&self, note: &Checkpoint) -> Result<bool, QueueError> {
        let args = vec![
            note.fence.holder.clone(),
            note.fence.epoch.to_string(),
            to_json(&note.status)?,
            note.memory.clone(),
        ];
        Ok(self.eval(&scripts::FLEET_PUBLISH, args).await?.int() == Some(1))
    }

    /// Tells of inputs that have arrived; answers in their order.
    ///
    /// # Errors
    /// When Redis fails. Some may be queued by then.
    pub async fn mark_uploaded_all(&self, ids: &[JobId]) -> Result<Vec<UploadedOutcome>, QueueError> {
        let calls: Vec<_> = ids.iter().map(|id| (&scripts::UPLOADED, vec![id.to_string()])).collect();
        self.eval_all(&calls, None).await?.iter().map(UploadedOutcome::parse).collect()
    }

    /// Scripts and a command after them, in one round trip. Where the server has not seen one, all are
    /// handed to it and run again: only for those of which a second run changes nothing more.
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

fn parse_turn(reply: &Reply, holder: &str) -> Option<LockState> {
    let parts = reply.list()?;
    Some(match parse_lock(parts.first()?, holder)? {
        LockOutcome::Mine(fence) => LockState::Mine(fence, parse_permit(parts.get(1)?)?),
        LockOutcome::Held(left) => LockState::Held(left),
        LockOutcome::Lapsed(ago) => LockState::Lapsed(ago),
    })
}
