//! Webhook deliveries that are owed. A job's end puts one in, in the same script that ends it, so none
//! is lost; it leaves when it was delivered or given up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::jobs::to_json;
use super::workers::text_items;
use super::{Command, Queue, QueueError, Reply, scripts};
use crate::job::{Epoch, JobId, JobSpec, Millis, State};

/// Who sends a delivery: whoever has the key that signs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Outbox {
    /// The housekeeping of the API, with the installation's own key.
    #[default]
    Installation,
    /// The controller, with the key in a Secret of its cluster.
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

    /// What a job's hash and the scripts call it; 0 is a job without a webhook.
    pub(super) fn delivery_kind(spec: &JobSpec) -> String {
        match (&spec.webhook_url, &spec.webhook_key) {
            (None, _) => "0",
            (Some(_), None) => "1",
            (Some(_), Some(_)) => "2",
        }
        .to_owned()
    }
}

/// One delivery that is owed. Its text form, `<job>:<epoch>:<state>`, names it for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// Whose end is told.
    pub job: JobId,
    /// By which attempt.
    pub epoch: Epoch,
    /// Which end.
    pub state: State,
    /// Who sends it.
    pub outbox: Outbox,
}

impl std::fmt::Display for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.job, self.epoch, self.state)
    }
}

impl Delivery {
    fn parse(member: &str, outbox: Outbox) -> Option<Self> {
        let mut parts = member.split(':');
        let delivery = Self {
            job: parts.next()?.parse().ok()?,
            epoch: Epoch(parts.next()?.parse().ok()?),
            state: parts.next()?.parse().ok()?,
            outbox,
        };
        parts.next().is_none().then_some(delivery)
    }
}

/// What was tried of a delivery so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryState {
    /// Tries that failed.
    pub failures: u32,
    /// When the first one was made.
    pub first_try: Option<Millis>,
    /// How the last one failed.
    pub last_error: Option<String>,
}

impl Queue {
    /// Takes up to `limit` due deliveries for `hold`: for that long nobody else gets them, and after
    /// it they are due again, should the taker die. Also says when the next one is due.
    ///
    /// # Errors
    /// When Redis fails.
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
        // Not repeated when the answer is lost: what was taken unheard is due again after `hold`.
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

    /// A try failed; the next one is due at `at`.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn retry_delivery(
        &self,
        delivery: &Delivery,
        state: &DeliveryState,
        at: Millis,
    ) -> Result<(), QueueError> {
        let name = delivery.to_string();
        self.pipeline(vec![
            Command::new("HSET").arg(self.key("webhooks:tries")).arg(&*name).arg(to_json(state)?),
            Command::new("ZADD")
                .arg(self.key(delivery.outbox.key()))
                .arg("XX")
                .arg(at.0.to_string())
                .arg(&*name),
        ])
        .await
        .map(drop)
    }

    /// A delivery is done or given up.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn remove_delivery(&self, delivery: &Delivery) -> Result<(), QueueError> {
        let name = delivery.to_string();
        self.pipeline(vec![
            Command::new("ZREM").arg(self.key(delivery.outbox.key())).arg(&*name),
            Command::new("HDEL").arg(self.key("webhooks:tries")).arg(&*name),
        ])
        .await
        .map(drop)
    }

    /// What is owed, soonest first, at most 100 by each.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn deliveries(&self) -> Result<Vec<Delivery>, QueueError> {
        let first = |outbox: Outbox| Command::new("ZRANGE").arg(self.key(outbox.key())).args(["0", "99"]);
        let replies = self.pipeline(Outbox::ALL.map(first).into()).await?;
        let owed = Outbox::ALL.iter().zip(&replies);
        Ok(owed
            .flat_map(|(outbox, reply)| text_items(reply).filter_map(|m| Delivery::parse(m, *outbox)))
            .collect())
    }
}
