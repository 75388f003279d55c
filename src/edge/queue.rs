//! Takes in R2's object-created messages. Each is acknowledged or sent again by itself: one that cannot be
//! read goes to the dead letters, one that Redis or a bucket could not take comes again, after the time and as
//! often as wrangler.toml says.

use std::time::Duration;

use worker::{MessageExt as _, RawMessage, RawMessageBuilder, RawMessageIter};

use super::budget::event_budget;
use super::context::EdgeContext;
use crate::api::{Ingested, UploadedObject};
use crate::controller::reconciler::InvocationOutcome;
use crate::janitor::Allowance;
use crate::job::JobId;
use crate::queue::{QueueError, UploadedOutcome};
use crate::time::timeout;

/// For one message to the dead letters.
const LIMIT: Duration = Duration::from_secs(20);

/// Takes in a batch.
pub async fn queue(messages: RawMessageIter, env: worker::Env) {
    let context = match EdgeContext::new(&env) {
        Ok(context) => context,
        Err(incomplete) => {
            tracing::error!("{incomplete}");
            messages.for_each(|message| message.retry());
            return;
        }
    };
    let mut arrived: Vec<(RawMessage, UploadedObject)> = Vec::new();
    for message in messages {
        match UploadedObject::read(&context.settings.storage.input_bucket, text(&message).as_bytes()) {
            Ok(Some(arrival)) => arrived.push((message, arrival)),
            Ok(None) => message.ack(),
            Err(error) => bury(&context, &message, &error.to_string()).await,
        }
    }
    if arrived.is_empty() {
        return;
    }
    let ids: Vec<JobId> = arrived.iter().map(|(_, arrival)| arrival.job).collect();
    let mut left = Allowance(context.settings.subrequests);
    let outcomes = match tell(&context, &ids, &mut left).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::warn!(%error, messages = ids.len(), "could not process object-created events; they are redelivered");
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
        match arrival.apply(&context.queue, &context.storage, outcome).await {
            Ok(ingested) => {
                made |= is_new && matches!(ingested, Ingested::Queued(_));
                message.ack();
            }
            Err(error) => {
                tracing::warn!(job = %arrival.job, %error, "could not process an event; it is redelivered");
                message.retry();
            }
        }
    }
    if made && let Err(error) = tell(&context, &[], &mut left).await {
        tracing::warn!(%error, "could not scale the fleet; the next scheduled run retries");
    }
}

/// Tells the queue of these inputs, and lets the fleet take its next step.
async fn tell(
    context: &EdgeContext,
    ids: &[JobId],
    left: &mut Allowance,
) -> Result<Vec<UploadedOutcome>, QueueError> {
    let Some(one_shot) = context.one_shot() else {
        left.take(1);
        return context.queue.mark_uploaded_all(ids).await;
    };
    let (outcomes, end, trips) = one_shot.visit(ids, event_budget(*left)).await?;
    left.0 = left.0.saturating_sub(trips);
    tracing::debug!(
        uploads = ids.len(),
        trips,
        more = end == InvocationOutcome::OutOfBudget,
        "visited the fleet"
    );
    Ok(outcomes)
}

/// The message's body as text: R2 sends objects, and nobody keeps others from sending something else.
fn text(message: &RawMessage) -> String {
    let body = message.body();
    let json = || worker::js_sys::JSON::stringify(&body).ok().and_then(|text| text.as_string());
    body.as_string().or_else(json).unwrap_or_default()
}

/// What nobody can read is not tried again.
async fn bury(context: &EdgeContext, message: &RawMessage, why: &str) {
    let letter = RawMessageBuilder::new(message.body());
    let letter = letter.build_with_content_type(worker::QueueContentType::V8);
    match timeout(LIMIT, context.dead_letters.send_raw(letter)).await {
        Some(Ok(())) => {
            tracing::error!(message = message.id(), why, "moved a message to the dead-letter queue");
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
