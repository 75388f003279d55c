//! What the viewers of a split job wait for while its parts are encoded.

#[cfg(not(target_arch = "wasm32"))]
use std::sync::Arc;
#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

use super::codec::ScriptReply;
use super::{Queue, QueueError, scripts};
use crate::job::{AttemptId, State, StreamSegment};
#[cfg(not(target_arch = "wasm32"))]
use crate::job::{JobSpec, Part};

/// Whether a segment of a split job is in storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// It is.
    Ready,
    /// It is encoded next.
    Waiting,
    /// The job has ended in this state.
    Ended(State),
    /// There is no such segment, or no such job.
    Unknown,
}

/// The sound around a chunk, which a viewer waits for while the sound as a whole has not come that far.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Debug, PartialEq)]
pub struct AwaitedSound {
    /// The attempt that split the job.
    pub split: AttemptId,
    /// The number of the chunk.
    pub chunk: u32,
    /// What the job encodes, and how.
    pub spec: JobSpec,
    /// The plan, as the attempt wrote it that split the job.
    pub plan: Arc<str>,
}

impl Queue {
    /// Whether a segment of the job that this attempt split is in storage. If it is not, the part that it belongs to is
    /// encoded next. Where the sound is missing, a busy worker is asked for the sound that is played with the viewer's chunk
    /// ([`Queue::wait_for_awaited_sound`]).
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn await_segment(
        &self,
        by: AttemptId,
        segment: StreamSegment,
    ) -> Result<SegmentState, QueueError> {
        let (stream, number) = match segment {
            StreamSegment::Video(number) => ("video", number),
            StreamSegment::Audio(number) => ("audio", number),
        };
        let args = vec![by.job.to_string(), by.epoch.to_string(), stream.to_owned(), number.to_string()];
        let reply = self.eval_idempotent(&scripts::AWAIT_SEGMENT, args).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "READY" => Ok(SegmentState::Ready),
            "WAIT" => Ok(SegmentState::Waiting),
            "ENDED" => Ok(SegmentState::Ended(answer.state()?)),
            "UNKNOWN" => Ok(SegmentState::Unknown),
            _ => Err(answer.unexpected()),
        }
    }

    /// Waits, at most `limit`, until a viewer waits for the sound around a chunk. `None` if nobody does, or the job has
    /// ended meanwhile. Nobody else learns of it: a viewer who still waits after 5 s is told to somebody again. The call
    /// blocks its connection, so use a separate one ([`Queue::reconnect`]).
    ///
    /// # Errors
    /// If Redis fails.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn wait_for_awaited_sound(&self, limit: Duration) -> Result<Option<AwaitedSound>, QueueError> {
        let Some(place) = self.wait_for_bell(&["jobs:bell:sound".to_owned()], limit).await? else {
            return Ok(None);
        };
        let unreadable = || QueueError::data(format!("{place:?} among the awaited sounds"));
        let (split, chunk) = place.rsplit_once(':').ok_or_else(unreadable)?;
        let split: AttemptId = split.parse().map_err(|_| unreadable())?;
        let chunk = chunk.parse().map_err(|_| unreadable())?;
        // Not those of the last claim: the job may have ended since then.
        let Some(terms) = self.newest_terms(split, Some(Part::Audio)).await? else { return Ok(None) };
        Ok(terms.plan.map(|plan| AwaitedSound { split, chunk, spec: terms.spec, plan }))
    }
}
