//! A run in which everything goes wrong at random, and a checker that proves what must hold nevertheless: every accepted
//! job ends, once, with outputs that play and a webhook, and nothing is left behind.
//!
//! `make chaos` is a long run; the test below is a short one. `CHAOS_SEED` replays the jobs and the faults of a run, up to
//! the timing of the machine; `CHAOS_JOBS` is the number of jobs, and runs of 200 and more have all faults.
//!
//! | file | contents |
//! |---|---|
//! | `faults` | what goes wrong, and when: a pure function of the seed |
//! | `load` | the jobs, and the clients that submit them |
//! | `world` | the system: the real programs, and how faults are carried out |
//! | `roles`, `redis_pair`, `storage`, `receivers`, `clocks` | its parts |
//! | `history` | what Redis told while the run went on |
//! | `checker`, `remains` | what must hold at the end |
//! | `planted` | the checker finds what is wrong |

mod checker;
mod clocks;
mod faults;
mod history;
mod load;
mod planted;
mod receivers;
mod redis_pair;
mod remains;
mod roles;
mod storage;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tcoder::queue::Policy;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::checker::{Evidence, Report, Violation};
use self::faults::{Extent, Step, schedule};
use self::history::attempts_to_clean_up;
use self::world::{MACHINES, World};

/// How long after the end of the faults everything must be in order. A retry waits for at most 80 s, a lease that is
/// spared expires within 60 s, and a webhook that was refused comes again within minutes.
const SETTLED: Duration = Duration::from_secs(480);
/// How long after that nothing may be left in the bucket of outputs. The janitor deletes what failed attempts left after
/// two minutes, and after ten more if storage was away by then.
const CLEARED: Duration = Duration::from_secs(780);
/// Pause between two looks at everything.
const LOOK: Duration = Duration::from_secs(1);
/// The number of jobs whose outputs are decoded in a short and in a long run; of the others the sizes are compared.
const DECODED: (usize, usize) = (12, 100);
/// From this number of jobs on a run is a long one.
const LONG: usize = 200;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The faults that were played, for a failure's message.
fn told(steps: &[(Duration, Step)]) -> String {
    let lines = steps.iter().map(|(at, step)| format!("{:7.1} s  {:?}", at.as_secs_f64(), step.fault));
    lines.collect::<Vec<_>>().join("\n")
}

impl World {
    /// Submits the jobs while faults are played, until all are accepted and all faults are over.
    async fn suffer(self: &Arc<Self>, seed: u64, jobs: usize, extent: Extent) -> Vec<(Duration, Step)> {
        let began = Instant::now();
        let interval = if extent == Extent::Short { Duration::from_millis(400) } else { Duration::ZERO };
        let (clients, ended) = (self.clients.clone(), self.history.ended.clone());
        let plans = load::plans(seed, jobs);
        let load = tokio::spawn(async move { clients.submit_all(plans, interval, ended).await });
        let mut faults = JoinSet::new();
        let mut played = Vec::new();
        for step in schedule(seed, extent) {
            sleep(step.pause).await;
            if extent == Extent::Long && load.is_finished() {
                break;
            }
            played.push((began.elapsed(), step.clone()));
            let world = Arc::clone(self);
            faults.spawn(async move { world.play(step.fault).await });
        }
        load.await.unwrap();
        while let Some(over) = faults.join_next().await {
            over.unwrap();
        }
        self.restart_api().await;
        played
    }

    async fn check(&self, extent: Extent, decode: usize) -> Report {
        let (received, _) = self.receiver.lock().await.log();
        let evidence = Evidence {
            queue: &self.queue,
            storage: &self.storage.direct,
            received: &received,
            accepted: &self.clients.accepted(),
            completions: &self.history.completions(),
            doomed: &self.doomed(extent),
            forgot: self.forgot.load(Ordering::SeqCst),
        };
        let mut report = evidence.check(decode).await;
        let orphans = remains::machines(&self.fly.machines(), MACHINES);
        report.add_all(Violation::OrphanMachine, orphans);
        report
    }

    /// A short run does not wait until the janitor has deleted what it is going to.
    fn doomed(&self, extent: Extent) -> BTreeSet<String> {
        match extent {
            Extent::Short => {
                // On a busy machine an answer may come late.
                (0..10).find_map(|_| attempts_to_clean_up(&self.redis_url).ok()).unwrap_or_default()
            }
            Extent::Long => BTreeSet::new(),
        }
    }

    /// Waits until everything is in order; returns how long that took, except for the objects that are left.
    async fn settle(&self, extent: Extent) -> Duration {
        let began = Instant::now();
        let is_open = |report: &Report| report.found.keys().any(|found| *found != Violation::LeftoverObject);
        while began.elapsed() < SETTLED && is_open(&self.check(extent, 0).await) {
            sleep(LOOK).await;
        }
        let settled = Instant::now();
        loop {
            let report = self.check(extent, 0).await;
            if report.is_clean() || is_open(&report) || settled.elapsed() > CLEARED {
                return settled - began;
            }
            sleep(LOOK).await;
        }
    }

    /// What can be said when all is over, for the figures.
    async fn figures(&self, settled: Duration) -> String {
        let lease = Policy::default().lease.as_secs();
        let p99 = |all: &[f64]| all.get((all.len() * 99).div_ceil(100).saturating_sub(1)).copied();
        let (calm, disturbed) = self.history.redeliveries();
        let mut lines = vec![
            format!("chaos_settled_s {:.1} s", settled.as_secs_f64()),
            format!("chaos_storage_faults {} requests", self.storage.faults()),
            format!("chaos_refused_webhooks {} messages", self.receiver.lock().await.log().1),
            format!("chaos_killed_attempts {} attempts", calm.len() + disturbed.len()),
        ];
        let line = |name, all: &[f64]| Some(format!("{name} {:.1} s, with a lease of {lease} s", p99(all)?));
        lines.extend(line("redelivery_p99_s", &calm));
        lines.extend(line("redelivery_beside_outages_p99_s", &disturbed));
        lines.join("\n")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_end_once_and_leave_nothing_behind_whatever_fails() {
    let jobs = setting("CHAOS_JOBS").unwrap_or(40);
    let seed = setting("CHAOS_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let extent = if jobs < LONG { Extent::Short } else { Extent::Long };
    println!("CHAOS_JOBS={jobs} CHAOS_SEED={seed}");
    let began = Instant::now();
    let world = Arc::new(World::start().await);
    println!("the log is {}", world.folder.join("log").display());
    let played = world.suffer(seed, jobs, extent).await;
    println!("the faults are over after {:.0} s", began.elapsed().as_secs_f64());
    let settled = world.settle(extent).await;
    let decoded = if extent == Extent::Short { DECODED.0 } else { DECODED.1 };
    let mut report = world.check(extent, decoded).await;
    assert_eq!(report.jobs, jobs, "the clients did not submit everything");
    let letters = world.edge.letters().await;
    report.add_all(Violation::DeadLetter, letters.iter().map(ToString::to_string).collect());
    let figures = world.figures(settled).await;
    let world = Arc::into_inner(world).expect("a fault is still going on");
    let remaining = world.stop().await;
    report.add_all(Violation::LeftoverFile, remains::files(&remaining.scratch));
    let orphans = remains::processes_of(&remaining.folder);
    report.add_all(Violation::OrphanProcess, orphans.iter().map(|process| format!("{process:?}")).collect());
    println!("{}\n{figures}\nchaos_seconds {:.0} s", report.figures(), began.elapsed().as_secs_f64());
    assert!(
        report.is_clean(),
        "{:#?}\nThe log is {}. Replay it with CHAOS_JOBS={jobs} CHAOS_SEED={seed}. The faults were\n{}",
        report.found,
        remaining.folder.join("log").display(),
        told(&played),
    );
}

#[test]
fn schedule_and_jobs_follow_from_the_seed() {
    for extent in [Extent::Short, Extent::Long] {
        let steps = |seed| schedule(seed, extent).take(100).collect::<Vec<_>>();
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
    }
    assert_eq!(load::plans(7, 50), load::plans(7, 50));
    assert_ne!(load::plans(7, 50), load::plans(8, 50));
}
