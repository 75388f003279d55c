//! Takes in R2's object-created messages. Each is acknowledged or sent again by itself: one that cannot be
//! read goes to the dead letters, one that Redis or a bucket could not take comes again, after the time and as
//! often as wrangler.toml says.

use std::time::Duration;

use worker::{MessageExt as _, RawMessage, RawMessageBuilder, RawMessageIter};

use super::pace::per_event;
use super::works::Works;
use crate::api::{Arrival, Ingested};
use crate::controller::reconciler::End;
use crate::housekeeping::Allowance;
use crate::job::JobId;
use crate::pace::within;
use crate::queue::{QueueError, UploadedOutcome};

/// For one message to the dead letters.
const LIMIT: Duration = Duration::from_secs(20);

/// Takes in a batch.
pub async fn consume(messages: RawMessageIter, env: worker::Env) {
    let works = match Works::new(&env) {
        Ok(works) => works,
        Err(incomplete) => {
            tracing::error!("{incomplete}");
            messages.for_each(|message| message.retry());
            return;
        }
    };
    let mut arrived: Vec<(RawMessage, Arrival)> = Vec::new();
    for message in messages {
        match Arrival::read(&works.settings.storage.input_bucket, text(&message).as_bytes()) {
            Ok(Some(arrival)) => arrived.push((message, arrival)),
            Ok(None) => message.ack(),
            Err(error) => bury(&works, &message, &error.to_string()).await,
        }
    }
    if arrived.is_empty() {
        return;
    }
    let ids: Vec<JobId> = arrived.iter().map(|(_, arrival)| arrival.job).collect();
    let mut left = Allowance(works.settings.subrequests);
    let outcomes = match tell(&works, &ids, &mut left).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::warn!(%error, messages = ids.len(), "events could not be taken in; they come again");
            arrived.iter().for_each(|(message, _)| message.retry());
            return;
        }
    };
    let mut made = false;
    for ((message, arrival), outcome) in arrived.into_iter().zip(outcomes) {
        let is_new = outcome == UploadedOutcome::Unknown;
        // A job that has to be made costs a round trip; the buckets are asked by their bindings.
        if is_new && !left.take(1) {
            message.retry();
            continue;
        }
        match arrival.settle(&works.queue, &works.storage, outcome).await {
            Ok(ingested) => {
                made |= is_new && matches!(ingested, Ingested::Queued(_));
                message.ack();
            }
            Err(error) => {
                tracing::warn!(job = %arrival.job, %error, "an event could not be taken in; it comes again");
                message.retry();
            }
        }
    }
    if made && let Err(error) = tell(&works, &[], &mut left).await {
        tracing::warn!(%error, "no machine was asked for; the clock does");
    }
}

/// Tells the queue of these inputs, and lets the fleet take its next step.
async fn tell(
    works: &Works,
    ids: &[JobId],
    left: &mut Allowance,
) -> Result<Vec<UploadedOutcome>, QueueError> {
    let Some(visitor) = works.visitor() else {
        left.take(1);
        return works.queue.uploaded_all(ids).await;
    };
    let (outcomes, end, trips) = visitor.visit(ids, per_event(*left)).await?;
    left.0 = left.0.saturating_sub(trips);
    tracing::debug!(uploads = ids.len(), trips, more = end == End::NoRoom, "visited the fleet");
    Ok(outcomes)
}

/// The message's body as text: R2 sends objects, and nobody keeps others from sending something else.
fn text(message: &RawMessage) -> String {
    let body = message.body();
    let json = || worker::js_sys::JSON::stringify(&body).ok().and_then(|text| text.as_string());
    body.as_string().or_else(json).unwrap_or_default()
}

/// What nobody can read is not tried again.
async fn bury(works: &Works, message: &RawMessage, why: &str) {
    let letter = RawMessageBuilder::new(message.body());
    let letter = letter.build_with_content_type(worker::QueueContentType::V8);
    match within(LIMIT, works.dead_letters.send_raw(letter)).await {
        Some(Ok(())) => {
            tracing::error!(message = message.id(), why, "a message went to the dead letters");
            message.ack();
        }
        _ => {
            tracing::error!(
                message = message.id(),
                why,
                "a message could not go to the dead letters; it comes again"
            );
            message.retry();
        }
    }
}
