//! Pending webhook deliveries. The script that ends a job also writes its delivery, so no delivery is lost. A
//! delivery is removed when it was delivered or abandoned.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::codec::{text_items, to_json};
use super::{Command, Queue, QueueError, Reply, scripts};
use crate::job::{AttemptId, JobSpec, Millis, State};

/// Selects the process that sends a delivery: the one that has the signing key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Outbox {
    /// The janitor of the API sends it, with the installation's own key.
    #[default]
    Installation,
    /// The controller sends it, with the key in a Secret of its cluster.
    Kubernetes,
}

impl Outbox {
    const ALL: [Self; 2] = [Self::Installation, Self::Kubernetes];

    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Installation => "webhooks:outbox",
            Self::Kubernetes => "webhooks:outbox:kubernetes",
        }
    }

    /// The value in a job's hash and in the scripts; 0 is a job without a webhook.
    pub(super) fn delivery_kind(spec: &JobSpec) -> String {
        match (&spec.webhook_url, &spec.webhook_key) {
            (None, _) => "0",
            (Some(_), None) => "1",
            (Some(_), Some(_)) => "2",
        }
        .to_owned()
    }
}

/// A pending delivery. Its text form, `<job>:<epoch>:<state>`, is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// The job that ended, and its newest attempt by then.
    pub attempt: AttemptId,
    /// The state that it ended in.
    pub state: State,
    /// Where the delivery is stored.
    pub outbox: Outbox,
}

impl std::fmt::Display for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.attempt, self.state)
    }
}

impl Delivery {
    pub(super) fn parse(member: &str, outbox: Outbox) -> Option<Self> {
        let (attempt, state) = member.rsplit_once(':')?;
        Some(Self { attempt: attempt.parse().ok()?, state: state.parse().ok()?, outbox })
    }
}

/// Previous attempts of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryState {
    /// Number of failed attempts.
    pub failures: u32,
    /// When the first attempt was made.
    pub first_try: Option<Millis>,
    /// The error of the last attempt.
    pub last_error: Option<String>,
}

impl Queue {
    /// Claims up to `limit` due deliveries for `hold`. Nobody else can claim them during that time; afterwards they
    /// are due again, in case the claimer died. Also returns when the next delivery is due.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn claim_deliveries(
        &self,
        outbox: Outbox,
        now: Millis,
        limit: u32,
        hold: Duration,
    ) -> Result<(Vec<(Delivery, DeliveryState)>, Option<Millis>), QueueError> {
        let held_until = now.plus(i64::try_from(hold.as_millis()).unwrap_or(i64::MAX));
        let args =
            vec![outbox.key().to_owned(), now.0.to_string(), held_until.0.to_string(), limit.to_string()];
        // The call is not repeated if the reply is lost: its deliveries are due again after `hold`.
        let reply = self.eval(&scripts::CLAIM_DELIVERIES, args).await?;
        let unexpected = || QueueError::data(format!("take answered {reply:?}"));
        let (due, taken) = reply.list().and_then(<[Reply]>::split_first).ok_or_else(unexpected)?;
        let next_due = due.int().ok_or_else(unexpected)?;
        let mut deliveries = Vec::with_capacity(taken.len() / 2);
        for pair in taken.chunks_exact(2) {
            let name = pair[0].text().ok_or_else(unexpected)?;
            let Some(delivery) = Delivery::parse(name, outbox) else {
                tracing::warn!(name, "dropped an unreadable outbox entry");
                self.run(Command::new("ZREM").arg(self.key(outbox.key())).arg(name)).await?;
                continue;
            };
            let state = pair[1].text().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
            deliveries.push((delivery, state));
        }
        Ok((deliveries, Some(next_due).filter(|due| *due >= 0).map(Millis)))
    }

    /// Records a failed attempt. The next one is due at `at`.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn retry_delivery(
        &self,
        delivery: &Delivery,
        state: &DeliveryState,
        at: Millis,
    ) -> Result<(), QueueError> {
        let args =
            vec![delivery.outbox.key().to_owned(), delivery.to_string(), to_json(state)?, at.0.to_string()];
        self.eval_idempotent(&scripts::RETRY_DELIVERY, args).await.map(drop)
    }

    /// Removes a delivery that was delivered or abandoned.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn remove_delivery(&self, delivery: &Delivery) -> Result<(), QueueError> {
        let name = delivery.to_string();
        self.pipeline(vec![
            Command::new("ZREM").arg(self.key(delivery.outbox.key())).arg(&*name),
            Command::new("HDEL").arg(self.key("webhooks:tries")).arg(&*name),
        ])
        .await
        .map(drop)
    }

    /// Lists pending deliveries, soonest first, at most 100 of each outbox.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn deliveries(&self) -> Result<Vec<Delivery>, QueueError> {
        let first = |outbox: Outbox| Command::new("ZRANGE").arg(self.key(outbox.key())).args(["0", "99"]);
        let replies = self.pipeline(Outbox::ALL.map(first).into()).await?;
        let outboxes = Outbox::ALL.iter().zip(&replies);
        Ok(outboxes
            .flat_map(|(outbox, reply)| text_items(reply).filter_map(|m| Delivery::parse(m, *outbox)))
            .collect())
    }
}
