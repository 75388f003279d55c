//! The inputs of a run: the scenario and its faults.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::controller::fleet::{Capabilities, FleetPolicy};

/// The faults of a run and their probabilities, until [`Faults::until_ms`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// The time after which no fault occurs, in milliseconds.
    pub until_ms: u64,
    /// Chance of a 429.
    pub rate_limited: f64,
    /// Chance that a write is lost before it reaches the provider.
    pub lost: f64,
    /// Chance that the response to a write is lost.
    pub lost_reply: f64,
    /// Chance that a region has no capacity.
    pub no_capacity: f64,
    /// Chance that a launch goes wrong: the machine stays created, hangs or fails, or its worker does not start, starts
    /// late or exits.
    pub bad_launch: f64,
    /// Chance that a machine starts, but its worker uses another Redis.
    pub elsewhere: f64,
    /// Chance that a stop or destroy hangs.
    pub hang: f64,
    /// Chance that a list fails.
    pub list_fails: f64,
    /// Chance that a list is empty or incomplete.
    pub list_lies: f64,
    /// Chance that the provider refuses the token.
    pub unauthorized: f64,
    /// Chance that a reconciler is suspended between its plan and its write.
    pub stall: f64,
    /// Time between faults of a machine: it disappears, its worker dies, it exits, or its host becomes unreachable.
    pub stroke_every_ms: Option<u64>,
    /// Time between outages of Redis.
    pub redis_every_ms: Option<u64>,
}

/// The parts of a split job. They become ready when the job, which plans them, ends; after them, the job is finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// How long each takes in milliseconds, in the order of the queue.
    pub lengths: Vec<u64>,
    /// How long it takes to finish the job, in milliseconds.
    pub finish: u64,
}

/// The input of a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The policy in force. Its jobs are of its classes in turn.
    pub policy: FleetPolicy,
    /// The capabilities of the provider.
    pub capabilities: Capabilities,
    /// Jobs: when each arrives and how long it takes, in milliseconds.
    pub jobs: Vec<(u64, u64)>,
    /// The number of jobs of a class that no machine of the fleet takes. They are ready from the beginning.
    pub of_another_class: u64,
    /// The parts into which the only job is split, if it is.
    pub parts: Option<Parts>,
    /// Number of reconcilers.
    pub reconcilers: u8,
    /// Whether the first reconciler runs in short invocations, like the one at the edge.
    pub one_shot: bool,
    /// The faults.
    pub faults: Faults,
    /// The time by which the fleet must have settled, in milliseconds.
    pub horizon_ms: u64,
}

const STOPS_AND_STARTS: Capabilities = Capabilities { can_stop_and_start: true };

impl Scenario {
    /// When the jobs of scenarios without random numbers arrive, in milliseconds.
    pub const ARRIVAL: u64 = 1_000;

    /// `machines` jobs at once for as many machines, without faults.
    #[must_use]
    pub fn burst(machines: u32) -> Self {
        let policy = FleetPolicy { max: machines.max(1), ..FleetPolicy::new("sim", "image:1") };
        Self {
            seed: 0,
            policy,
            capabilities: STOPS_AND_STARTS,
            jobs: vec![(Self::ARRIVAL, 600_000); machines as usize],
            of_another_class: 0,
            parts: None,
            reconcilers: 1,
            one_shot: false,
            faults: Faults::default(),
            horizon_ms: 4 * 3_600_000,
        }
    }

    /// A job that takes `planning` milliseconds to be split into these parts, without faults.
    #[must_use]
    pub fn split(policy: FleetPolicy, planning: u64, parts: Parts) -> Self {
        let jobs = vec![(Self::ARRIVAL, planning)];
        Self { policy, jobs, parts: Some(parts), ..Self::burst(1) }
    }

    /// A job that takes this many milliseconds on one machine, without faults.
    #[must_use]
    pub fn whole(policy: FleetPolicy, length: u64) -> Self {
        Self { policy, jobs: vec![(Self::ARRIVAL, length)], ..Self::burst(1) }
    }

    /// A job whose workers use another Redis for an hour.
    #[must_use]
    pub fn another_redis(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut policy = FleetPolicy::new("sim", "image:1");
        policy.idle_timeout = Duration::from_secs(rng.random_range(20..=300));
        let faults = Faults { until_ms: 3_600_000, elsewhere: 1.0, ..Faults::default() };
        Self {
            seed,
            policy,
            capabilities: STOPS_AND_STARTS,
            jobs: vec![(Self::ARRIVAL, 60_000)],
            of_another_class: 0,
            parts: None,
            reconcilers: 1,
            one_shot: false,
            faults,
            horizon_ms: 8 * 3_600_000,
        }
    }

    /// Some jobs and no faults.
    #[must_use]
    pub fn calm(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut policy = FleetPolicy::new("sim", "image:1");
        policy.max = rng.random_range(1..=6);
        policy.idle_timeout = Duration::from_secs(rng.random_range(20..=300));
        let span = rng.random_range(1_000..600_000_u64);
        let count = rng.random_range(1..=25);
        let jobs =
            (0..count).map(|_| (rng.random_range(0..span), rng.random_range(1_000..180_000))).collect();
        Self {
            seed,
            policy,
            capabilities: STOPS_AND_STARTS,
            jobs,
            of_another_class: 0,
            parts: None,
            reconcilers: rng.random_range(1..=2),
            one_shot: false,
            faults: Faults::default(),
            horizon_ms: 8 * 3_600_000,
        }
    }

    /// The same scenario with a reconciler that runs in short invocations.
    #[must_use]
    pub fn in_invocations(self) -> Self {
        Self { one_shot: true, ..self }
    }

    /// The same scenario with a provider that can only create and destroy machines.
    #[must_use]
    pub fn create_and_destroy_only(self) -> Self {
        Self { capabilities: Capabilities { can_stop_and_start: false }, ..self }
    }

    /// The same scenario with jobs of a class that no machine of the fleet takes.
    #[must_use]
    pub fn beside_another_class(self) -> Self {
        Self { of_another_class: 7, ..self }
    }

    /// The same scenario with jobs of three classes, all of which the machines take.
    #[must_use]
    pub fn of_three_classes(mut self) -> Self {
        self.policy.classes = "default,large,small".parse().unwrap_or_default();
        self
    }

    /// Random jobs with random faults.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut scenario = Self::calm(seed);
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        scenario.policy.min = rng.random_range(0..=1).min(scenario.policy.max);
        scenario.policy.regions = vec!["iad".to_owned(), "dfw".to_owned()];
        let mut chance = |most: f64| if rng.random_bool(0.4) { rng.random_range(0.0..most) } else { 0.0 };
        scenario.faults = Faults {
            until_ms: 900_000,
            rate_limited: chance(0.5),
            lost: chance(0.4),
            lost_reply: chance(0.5),
            no_capacity: chance(0.7),
            bad_launch: chance(0.6),
            elsewhere: chance(0.6),
            hang: chance(0.6),
            list_fails: chance(0.5),
            list_lies: chance(0.5),
            unauthorized: chance(0.05),
            stall: chance(0.3),
            stroke_every_ms: None,
            redis_every_ms: None,
        };
        scenario.faults.stroke_every_ms = rng.random_bool(0.5).then(|| rng.random_range(10_000..200_000));
        scenario.faults.redis_every_ms = rng.random_bool(0.3).then(|| rng.random_range(60_000..400_000));
        scenario
    }
}
