//! The current values of queue and fleet, as last recorded. An unknown value is not exported: a scraper marks a
//! missing series as stale, while an old value would look current.

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

/// Maximum number of distinct values of a label; further ones are counted as `other`.
const WORDS: usize = 40;
/// States that are always exported, so that a graph shows zero instead of a gap.
const STATES: [&str; 4] = ["starting", "started", "stopping", "stopped"];
const ROLES: [&str; 4] = ["busy", "idle", "booting", "leaving"];

/// The values that are known at the moment.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// Whether Redis answered the last query.
    pub redis_up: Option<bool>,
    pub queue: Option<Stats>,
    pub fleet: Option<FleetGauges>,
}

/// The exported part of a fleet's status.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FleetGauges {
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

impl FleetGauges {
    pub(super) fn of(status: &FleetStatus) -> Self {
        let state = |machine: &FleetMachine| machine.state.clone().unwrap_or_else(|| "unknown".into());
        let desired = &status.desired;
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
            dollars_per_hour: status.billed_price().filter(|price| price.is_finite()),
        }
    }
}

/// Counts each word, and always includes `expected`. The words are read from Redis, so a malformed word, or one
/// beyond the limit, is counted as `other`.
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
                "1 if Redis answered this scrape, else 0; the gauges of the queue and the fleet are then absent",
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
            "Stored jobs by state: pending jobs are ready for a worker, scheduled jobs wait for the time of their next attempt, finished jobs are kept for JOB_RETENTION",
            "state",
            states,
        )?;
        #[expect(clippy::cast_precision_loss, reason = "nothing waits for 285,000 years")]
        let age = stats.oldest_pending_ms.unwrap_or(0).max(0) as f64 / 1000.0;
        self.one(
            "queue_oldest_pending_age",
            "How long the next job to be claimed has been ready for a worker; 0 if there is none",
            Some(&Unit::Seconds),
            age,
        )?;
        self.one("workers", "Registered workers", None, stats.workers)?;
        self.one("webhook_deliveries_pending", "Pending webhook deliveries", None, stats.pending_webhooks)
    }

    fn fleet(&mut self, fleet: &FleetGauges) -> fmt::Result {
        let words = |counts: &BTreeMap<String, u64>| counts.clone().into_iter();
        self.many(
            "fleet_machines",
            "Machines by Fly's state; unknown if no list has contained the machine yet",
            "state",
            words(&fleet.states),
        )?;
        self.many("fleet_machine_roles", "Machines by their role in the fleet", "role", words(&fleet.roles))?;
        self.one("fleet_machines_desired", "Desired number of machines", None, fleet.desired)?;
        self.one("fleet_machines_min", "Minimum number of machines: MIN_MACHINES", None, fleet.min)?;
        self.one("fleet_machines_max", "Maximum number of machines: MAX_MACHINES", None, fleet.max)?;
        self.one("fleet_machines_billed", "Machines whose CPU and memory are billed", None, fleet.billed)?;
        self.one(
            "fleet_jobs_waiting",
            "Jobs without a worker, as the reconciler counts them",
            None,
            fleet.waiting,
        )?;
        self.one("fleet_paused", "1 while the fleet is paused", None, u64::from(fleet.paused))?;
        if !fleet.conditions.is_empty() {
            let holds = fleet.conditions.keys().map(|reason| (reason.clone(), 1));
            self.many(
                "fleet_condition",
                "1 for each condition of the fleet that needs attention; absent when the condition is cleared",
                "reason",
                holds,
            )?;
        }
        if let Some(dollars) = fleet.dollars_per_hour {
            self.one(
                "fleet_dollars_per_hour",
                "Estimated cost per hour of the billed machines",
                None,
                dollars,
            )?;
        }
        self.one(
            "fleet_status_timestamp",
            "When the reconciler last published the fleet's status, Unix time by Redis's clock; the fleet's other gauges have that age",
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
