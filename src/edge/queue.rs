//! The `queue` handler: processes R2's object-created messages. Each message is acknowledged or retried by itself: an
//! unreadable one goes to the dead-letter queue, one that Redis or a bucket could not process is redelivered, after the
//! delay and as often as wrangler.toml says.

use std::time::Duration;

use worker::{MessageExt as _, RawMessage, RawMessageBuilder, RawMessageIter};

use super::budget::event_budget;
use super::context::EdgeContext;
use crate::api::{Ingested, UploadedObject};
use crate::controller::reconciler::InvocationOutcome;
use crate::janitor::SubrequestBudget;
use crate::job::space;
use crate::queue::{QueueError, UploadedInput, UploadedOutcome};
use crate::time::timeout;

/// Time limit for sending one message to the dead-letter queue.
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Processes a batch of messages.
pub async fn queue(messages: RawMessageIter, env: worker::Env) {
    let mut context = match EdgeContext::new(&env) {
        Ok(context) => context,
        Err(incomplete) => {
            tracing::error!("{incomplete}");
            messages.for_each(|message| message.retry());
            return;
        }
    };
    let mut objects: Vec<(RawMessage, UploadedObject)> = Vec::new();
    for message in messages {
        match UploadedObject::read(&context.settings.storage.input_bucket, text(&message).as_bytes()) {
            Ok(Some(object)) => objects.push((message, object)),
            Ok(None) => message.ack(),
            Err(error) => dead_letter(&context, &message, &error.to_string()).await,
        }
    }
    if objects.is_empty() {
        return;
    }
    let inputs: Vec<UploadedInput> = objects.iter().map(|(_, object)| object.0.clone()).collect();
    let mut left = SubrequestBudget(context.settings.subrequests);
    let largest = inputs.iter().map(|input| input.size).max().unwrap_or(0);
    let fits = context.queue.policy().max_input_bytes.unwrap_or(space::ALWAYS_FITS);
    if largest > fits && left.take(1) {
        match context.queue.input_limit_of(&inputs).await {
            Ok(limit) => context.queue = context.queue.clone().with_max_input_bytes(limit),
            Err(error) => {
                tracing::warn!(%error, messages = inputs.len(), "could not read the limit of inputs; the messages are redelivered");
                objects.iter().for_each(|(message, _)| message.retry());
                return;
            }
        }
    }
    let outcomes = match reconcile(&context, &inputs, &mut left).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::warn!(%error, messages = inputs.len(), "could not process object-created events; they are redelivered");
            objects.iter().for_each(|(message, _)| message.retry());
            return;
        }
    };
    let mut created = false;
    for ((message, object), outcome) in objects.into_iter().zip(outcomes) {
        let is_new = outcome == UploadedOutcome::Unknown;
        // Creating a job costs two round trips, and a look at the fleet for a large input; the buckets are reached through
        // their bindings, which do not count.
        if is_new && !left.take(3) {
            message.retry();
            continue;
        }
        match object.apply(&context.queue, &context.storage, context.settings.api.job_limits, outcome).await {
            Ok(ingested) => {
                created |= is_new && matches!(ingested, Ingested::Queued(_));
                message.ack();
            }
            Err(error) => {
                tracing::warn!(job = %object.0.job, %error, "could not process an event; it is redelivered");
                message.retry();
            }
        }
    }
    if created && let Err(error) = reconcile(&context, &[], &mut left).await {
        tracing::warn!(%error, "could not scale the fleet; the next scheduled run retries");
    }
}

/// Marks the inputs of these jobs as uploaded, and reconciles the fleet.
async fn reconcile(
    context: &EdgeContext,
    inputs: &[UploadedInput],
    left: &mut SubrequestBudget,
) -> Result<Vec<UploadedOutcome>, QueueError> {
    let Some(reconciler) = context.reconciler() else {
        left.take(1);
        return context.queue.mark_uploaded_all(inputs).await;
    };
    let (outcomes, end, trips) = reconciler.run(inputs, event_budget(*left)).await?;
    left.0 = left.0.saturating_sub(trips);
    tracing::debug!(
        uploads = inputs.len(),
        trips,
        more = end == InvocationOutcome::OutOfBudget,
        "reconciled the fleet"
    );
    Ok(outcomes)
}

/// The message's body as text. R2 sends objects, but anything can be in a queue.
fn text(message: &RawMessage) -> String {
    let body = message.body();
    let json = || worker::js_sys::JSON::stringify(&body).ok().and_then(|text| text.as_string());
    body.as_string().or_else(json).unwrap_or_default()
}

/// Moves an unreadable message to the dead-letter queue.
async fn dead_letter(context: &EdgeContext, message: &RawMessage, why: &str) {
    let letter = RawMessageBuilder::new(message.body());
    let letter = letter.build_with_content_type(worker::QueueContentType::V8);
    match timeout(DEAD_LETTER_TIMEOUT, context.dead_letters.send_raw(letter)).await {
        Some(Ok(())) => {
            tracing::error!(message = message.id(), why, "moved a message to the dead-letter queue");
            message.ack();
        }
        _ => {
            tracing::error!(
                message = message.id(),
                why,
                "could not move a message to the dead-letter queue; it is redelivered"
            );
            message.retry();
        }
    }
}
