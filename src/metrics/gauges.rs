//! How things stand, as last handed in. What is not known is not shown: a scraper marks a series that is
//! gone as such, while an old value would look like a fresh one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::lock;
use crate::queue::{FleetMachine, FleetStatus, Stats};

/// Different words one label takes at most; the rest is `other`.
const WORDS: usize = 40;
/// Shown though there may be none, so that a graph shows a zero and no gap.
const STATES: [&str; 4] = ["starting", "started", "stopping", "stopped"];
const ROLES: [&str; 4] = ["busy", "idle", "booting", "leaving"];

/// What is known now.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// Whether Redis said when it was last asked.
    pub redis_up: Option<bool>,
    pub queue: Option<Stats>,
    pub fleet: Option<Fleet>,
}

/// What is shown of a fleet's status.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fleet {
    states: BTreeMap<String, u64>,
    roles: BTreeMap<String, u64>,
    conditions: BTreeMap<String, u64>,
    desired: u32,
    min: u32,
    max: u32,
    billed: u32,
    waiting: u64,
    paused: bool,
    /// Unix time, seconds.
    at: f64,
    dollars_per_hour: Option<f64>,
}

impl Fleet {
    pub(super) fn of(status: &FleetStatus) -> Self {
        let state = |machine: &FleetMachine| machine.state.clone().unwrap_or_else(|| "unknown".into());
        let desired = &status.desired;
        let price = status.machine_usd_per_hour.filter(|price| price.is_finite());
        Self {
            states: count(&STATES, status.machines.iter().map(state)),
            roles: count(&ROLES, status.machines.iter().map(|machine| machine.role.clone())),
            conditions: count(&[], status.conditions.iter().map(|condition| condition.reason.clone())),
            desired: desired.machines,
            min: desired.min,
            max: desired.max,
            billed: desired.billed,
            waiting: desired.waiting,
            paused: status.paused,
            #[expect(clippy::cast_precision_loss, reason = "milliseconds stay exact for 285,000 years")]
            at: status.at.0 as f64 / 1000.0,
            dollars_per_hour: price.map(|price| price * f64::from(desired.billed)),
        }
    }
}

/// How often each word comes, those `expected` in any case. The words come out of Redis, so what does not
/// look like one of ours, or is one too many, counts as `other`.
fn count(expected: &[&str], words: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut counts: BTreeMap<String, u64> = expected.iter().map(|word| ((*word).to_owned(), 0)).collect();
    for word in words {
        let known = counts.contains_key(&word);
        let fits = (1..=40).contains(&word.len()) && word.chars().all(plain) && counts.len() < WORDS;
        let word = if known || fits { word } else { "other".to_owned() };
        *counts.entry(word).or_default() += 1;
    }
    counts
}

/// The gauges for the registry.
#[derive(Debug)]
pub(super) struct Shown(pub Arc<Mutex<Gauges>>);

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let gauges = lock(&self.0);
        let mut out = Out(encoder);
        if let Some(up) = gauges.redis_up {
            out.one(
                "redis_up",
                "1 where Redis has answered this scrape, 0 where not; then nothing is shown of the queue and the fleet",
                None,
                u64::from(up),
            )?;
        }
        if let Some(stats) = &gauges.queue {
            out.queue(stats)?;
        }
        match &gauges.fleet {
            Some(fleet) => out.fleet(fleet),
            None => Ok(()),
        }
    }
}

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn queue(&mut self, stats: &Stats) -> fmt::Result {
        let states = [
            ("uploading", stats.uploading),
            ("pending", stats.pending),
            ("scheduled", stats.scheduled),
            ("running", stats.running),
            ("completed", stats.completed),
            ("failed", stats.failed),
            ("cancelled", stats.cancelled),
        ];
        self.many(
            "jobs",
            "Jobs on record by where they stand: pending ones are ready for a worker, scheduled ones wait for the time of their next attempt, ended ones are kept for a week",
            "state",
            states,
        )?;
        #[expect(clippy::cast_precision_loss, reason = "nothing waits for 285,000 years")]
        let age = stats.oldest_pending_ms.unwrap_or(0).max(0) as f64 / 1000.0;
        self.one(
            "queue_oldest_pending_age",
            "How long the job that comes next has been ready for a worker; 0 where none is",
            Some(&Unit::Seconds),
            age,
        )?;
        self.one("workers", "Workers in the pool", None, stats.workers)?;
        self.one("webhook_deliveries_pending", "Webhook deliveries still owed", None, stats.pending_webhooks)
    }

    fn fleet(&mut self, fleet: &Fleet) -> fmt::Result {
        let words = |counts: &BTreeMap<String, u64>| counts.clone().into_iter();
        self.many(
            "fleet_machines",
            "Machines by Fly's state; unknown are those no list has shown yet",
            "state",
            words(&fleet.states),
        )?;
        self.many(
            "fleet_machine_roles",
            "Machines by what they are to the fleet",
            "role",
            words(&fleet.roles),
        )?;
        self.one("fleet_machines_desired", "Machines there should be", None, fleet.desired)?;
        self.one("fleet_machines_min", "Least machines there may be: MIN_MACHINES", None, fleet.min)?;
        self.one("fleet_machines_max", "Most machines there may be: MAX_MACHINES", None, fleet.max)?;
        self.one(
            "fleet_machines_billed",
            "Machines whose CPU and memory are on the bill",
            None,
            fleet.billed,
        )?;
        self.one("fleet_jobs_waiting", "Jobs without a worker, as the fleet sees it", None, fleet.waiting)?;
        self.one(
            "fleet_paused",
            "1 while somebody has stopped the reconcilers",
            None,
            u64::from(fleet.paused),
        )?;
        if !fleet.conditions.is_empty() {
            let holds = fleet.conditions.keys().map(|reason| (reason.clone(), 1));
            self.many(
                "fleet_condition",
                "1 for each reason for which a person should look at the fleet; gone when it holds no more",
                "reason",
                holds,
            )?;
        }
        if let Some(dollars) = fleet.dollars_per_hour {
            self.one(
                "fleet_dollars_per_hour",
                "What an hour of the machines on the bill costs, by estimate",
                None,
                dollars,
            )?;
        }
        self.one(
            "fleet_status_timestamp",
            "When the acting reconciler last said how the fleet stands, Unix time by Redis's clock; the fleet's other gauges are that old",
            Some(&Unit::Seconds),
            fleet.at,
        )
    }

    fn one(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        let help = format!("{help}.");
        let out = self.0.encode_descriptor(name, &help, unit, MetricType::Gauge)?;
        ConstGauge::new(value).encode(out)
    }

    fn many<W: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (W, u64)>,
    ) -> fmt::Result {
        let help = format!("{help}.");
        let mut out = self.0.encode_descriptor(name, &help, None, MetricType::Gauge)?;
        for (word, value) in values {
            let labels = [(label, word.as_ref())];
            ConstGauge::new(value).encode(out.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
