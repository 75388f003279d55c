//! Explores every interleaving of the lease protocol for a few workers and jobs, with workers that crash,
//! stall, and lose answers. The model is the one that the random tests compare with Redis.
//!
//! Time does not pass here: the expiry of a lease or a delay is an event that may happen at any moment, which
//! covers every clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stateright::{Checker, Model as Explored, Property};
use tcoder::job::{AttemptId, Epoch, FailureCode, JobId, LeaseId, State};
use tcoder::queue::CompleteOutcome;
use uuid::Uuid;

use super::model::{Begin, Claim, Model, Mutant, Task, Terms};

const WORKERS: usize = 2;
const ATTEMPTS: u32 = 2;
/// Only a mutant that does not count its attempts exceeds this number.
const MOST_EPOCHS: u64 = 4;

struct Protocol {
    jobs: u8,
    /// How often workers may release a job. Releases do not count as attempts, so without a limit the state space would
    /// be infinite.
    releases: u8,
    mutant: Mutant,
}

/// A job that a worker believes to hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Held {
    claim: Claim,
    /// The manifest that it continues with, after it has written its own or found another one.
    manifest: Option<Epoch>,
    /// Its completion was accepted, but the answer was lost.
    unheard: bool,
    /// It has written a manifest without hearing of it.
    put: bool,
    /// It has found that no result stands, and that none can any more: it is about to fail the job.
    sealed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    model: Model,
    workers: [Option<Held>; WORKERS],
    /// Manifests that were written and not refused, by job.
    puts: BTreeMap<JobId, Vec<Epoch>>,
    releases: u8,
    /// Epochs whose completion was accepted, by job.
    done: BTreeMap<JobId, Vec<Epoch>>,
    /// The first promise that an answer broke.
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Act {
    Claim(usize),
    Renew(usize),
    Commit(usize),
    /// The manifest is written, and the answer lost.
    CommitUnheard(usize),
    Complete(usize),
    CompleteUnheard(usize),
    Fail(usize, bool),
    /// Storage does not say whether a manifest stands.
    FailUnverified(usize),
    Release(usize),
    Crash(usize),
    Expire(LeaseId),
    Due(Task),
    Cancel(JobId),
}

fn id(n: u8) -> JobId {
    JobId::from_uuid(Uuid::from_u128(u128::from(n) + 1))
}

impl Explored for Protocol {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let mut model = Model::new(self.mutant);
        for n in 0..self.jobs {
            model.submit(
                id(n),
                Terms { max: ATTEMPTS, boost: 0, hook: true, from_storage: false, class: 0 },
                Begin::Now,
                0,
            );
        }
        model.events.clear();
        let (puts, done) = (BTreeMap::new(), BTreeMap::new());
        vec![World { model, workers: [const { None }; WORKERS], puts, releases: 0, done, broken: None }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        for (n, worker) in world.workers.iter().enumerate() {
            let Some(held) = worker else {
                acts.push(Act::Claim(n));
                continue;
            };
            acts.push(Act::Crash(n));
            if held.manifest.is_some() {
                acts.extend([Act::Complete(n), Act::CompleteUnheard(n)]);
                continue;
            }
            if held.sealed {
                acts.push(Act::Fail(n, false));
                continue;
            }
            let lost = !world.holds(held);
            acts.extend((lost || world.releases < self.releases).then_some(Act::Release(n)));
            acts.extend([Act::Renew(n), Act::Fail(n, false)]);
            if !held.claim.verify {
                acts.extend([Act::Commit(n), Act::Fail(n, true)]);
                acts.extend((!held.put).then_some(Act::CommitUnheard(n)));
            }
            if held.claim.earlier || held.put {
                acts.push(Act::FailUnverified(n));
            }
        }
        acts.extend(world.model.leases.keys().map(|name| Act::Expire(*name)));
        acts.extend(world.model.scheduled.keys().map(|id| Act::Due(*id)));
        acts.extend(world.model.jobs.keys().map(|id| Act::Cancel(*id)));
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut world = last.clone();
        world.act(act);
        world.model.events.clear();
        // Workers are interchangeable.
        world.workers.sort();
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every job stands in one place", |_, w: &World| w.model.violation().is_none()),
            Property::always("answers keep their promises", |_, w: &World| w.broken.is_none()),
            Property::always("at most one manifest is put", |_, w: &World| {
                w.puts.values().all(|puts| puts.len() <= 1)
            }),
            Property::always("at most one attempt completes", |_, w: &World| {
                w.done.values().all(|done| done.len() <= 1)
            }),
            Property::always("a completed job shows the manifest that stands", |_, w: &World| {
                let stands = |(id, job): (&JobId, &super::model::Job)| {
                    job.state != State::Completed || job.result == w.model.manifests.get(id).copied()
                };
                w.model.jobs.iter().all(stands)
            }),
            Property::always("a job whose manifest stands is never failed", |_, w: &World| {
                let fails = |(id, job): (&JobId, &super::model::Job)| {
                    job.state == State::Failed && w.model.manifests.contains_key(id)
                };
                !w.model.jobs.iter().any(fails)
            }),
            Property::sometimes(
                "a lost last attempt had committed, and its job is completed",
                |_, w: &World| w.model.jobs.values().any(|j| j.state == State::Completed && j.verify),
            ),
            Property::always("the newest attempt is the only one that may act", |_, w: &World| {
                let mut live = w.workers.iter().flatten().filter(|h| w.holds(h));
                live.all(|h| w.model.jobs[&h.claim.attempt.job].epoch == h.claim.attempt.epoch)
            }),
            Property::sometimes("a later attempt adopts an earlier manifest", |_, w: &World| {
                w.model.jobs.values().any(|j| j.state == State::Completed && j.result != Some(j.epoch))
            }),
            Property::sometimes("a job is lost too often and fails", |_, w: &World| {
                w.model
                    .jobs
                    .values()
                    .any(|j| j.error == Some(FailureCode::WorkerLost) && j.finished.is_some())
            }),
            Property::sometimes("a zombie and its successor live at once", |_, w: &World| match &w.workers {
                [Some(Held { claim: a, .. }), Some(Held { claim: b, .. })] => {
                    a.attempt.job == b.attempt.job && a.attempt != b.attempt
                }
                _ => false,
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.model.jobs.values().all(|job| job.epoch.0 < MOST_EPOCHS)
    }
}

impl World {
    /// Whether the worker's lease is valid.
    fn holds(&self, held: &Held) -> bool {
        self.model.leases.contains_key(&self.model.lease(held.claim.attempt))
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Claim(n) => {
                let claim = self.model.claim(0, &[0], 0, 1);
                self.workers[n] = claim.map(|claim| Held {
                    claim,
                    manifest: None,
                    unheard: false,
                    put: false,
                    sealed: false,
                });
            }
            Act::Crash(n) => self.workers[n] = None,
            Act::Renew(n) => self.with(n, |model, held| model.renew(held.claim.attempt, 1)),
            Act::Commit(n) => {
                let Some(mut held) = self.workers[n].take() else { return };
                held.manifest = self.commit(held.claim.attempt);
                // Without a manifest it came too late: the job has failed meanwhile.
                self.workers[n] = Some(held).filter(|held| held.manifest.is_some());
            }
            Act::CommitUnheard(n) => {
                let Some(mut held) = self.workers[n].take() else { return };
                self.commit(held.claim.attempt);
                held.put = true;
                self.workers[n] = Some(held);
            }
            Act::Complete(n) => drop(self.complete(n)),
            Act::CompleteUnheard(n) => {
                let Some(mut held) = self.complete(n) else { return };
                held.unheard = true;
                self.workers[n] = Some(held);
            }
            Act::Fail(n, again) => {
                let Some(mut held) = self.workers[n].take() else { return };
                let Claim { attempt, number, earlier, verify, .. } = held.claim;
                let last = !again || number >= ATTEMPTS;
                if last && !held.sealed && (earlier || held.put) {
                    // It looks at the manifest first, and acts on that afterwards.
                    held.manifest = self.model.seal(attempt);
                    held.sealed = held.manifest.is_none();
                    self.workers[n] = Some(held);
                    return;
                }
                let own = if again { FailureCode::EncodeFailed } else { FailureCode::InvalidMedia };
                let code = self.model.jobs[&attempt.job].error.filter(|_| verify).unwrap_or(own);
                self.model.fail(attempt, code, (!last).then_some(0), false, 0);
            }
            Act::FailUnverified(n) => self.with(n, |model, held| {
                let code = FailureCode::Storage;
                model.fail(held.claim.attempt, code, Some(0), true, 0);
                false
            }),
            Act::Release(n) => {
                let Some(held) = self.workers[n].take() else { return };
                self.releases += u8::from(self.model.release(held.claim.attempt, 0));
            }
            Act::Expire(name) => drop(self.model.reap(name, 0)),
            Act::Due(id) => self.model.promote(id, 0),
            Act::Cancel(id) => drop(self.model.cancel(id, 0)),
        }
    }

    /// Writes a manifest; returns the epoch of the one that stands.
    fn commit(&mut self, attempt: AttemptId) -> Option<Epoch> {
        let before = self.model.manifests.get(&attempt.job).copied();
        let stands = self.model.commit(attempt);
        if let Some(stands) = stands.filter(|stands| before != Some(*stands)) {
            self.puts.entry(attempt.job).or_default().push(stands);
        }
        stands
    }

    /// A call of a worker, which continues afterwards if the call returns true.
    fn with(&mut self, n: usize, call: impl FnOnce(&mut Model, &Held) -> bool) {
        let Some(held) = self.workers[n].take() else { return };
        if call(&mut self.model, &held) {
            self.workers[n] = Some(held);
        }
    }

    /// Completes the job and compares the answer with what the worker may expect. The worker is then finished
    /// with it.
    fn complete(&mut self, n: usize) -> Option<Held> {
        let held = self.workers[n].take()?;
        let AttemptId { job: id, epoch } = held.claim.attempt;
        let newest = self.model.jobs[&id].epoch == epoch;
        let was = self.model.jobs[&id].state;
        let completed_before = self.done.get(&id).is_some_and(|done| done.contains(&epoch));
        let outcome = self.model.complete(held.claim.attempt, held.manifest?, 0);
        match outcome {
            CompleteOutcome::Done => {
                self.done.entry(id).or_default().push(epoch);
                if !newest || was != State::Running {
                    self.broken = Some("an attempt that had lost its job completed it");
                }
            }
            CompleteOutcome::Already if !completed_before => {
                self.broken = Some("an attempt was told that it had completed, and it had not");
            }
            CompleteOutcome::Lost(_) if completed_before => {
                self.broken = Some("an attempt that completed was told that it had lost");
            }
            CompleteOutcome::Already | CompleteOutcome::Lost(_) => {}
        }
        Some(held)
    }
}

/// Explores all states. Returns the names of violated properties, and the number of states.
fn explore(protocol: Protocol) -> (BTreeSet<&'static str>, usize) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    let found = checker.discoveries();
    let failing = checker.model().properties().into_iter().filter(|p| {
        // Both a counterexample and a missing example are failures.
        found.contains_key(p.name) == p.expectation.discovery_is_failure()
    });
    (failing.map(|p| p.name).collect(), checker.unique_state_count())
}

#[test]
fn lease_model_holds_for_every_interleaving() {
    // Two jobs with a release are 1.5 million states, which take minutes.
    for (jobs, releases) in [(1, 1), (2, 0)] {
        let (failing, states) = explore(Protocol { jobs, releases, mutant: Mutant::Sound });
        assert_eq!(failing, BTreeSet::new(), "{jobs} jobs");
        assert!(states > 300, "only {states} states: the exploration is cut short");
        println!("lease protocol, {jobs} jobs: {states} states");
    }
}

#[test]
fn lease_model_detects_every_mutant() {
    let expected = [
        (Mutant::Unfenced, "answers keep their promises"),
        (Mutant::Uncounted, "every job stands in one place"),
        (Mutant::Overwrites, "at most one manifest is put"),
        (Mutant::Forgets, "every job stands in one place"),
        (Mutant::Unverified, "a job whose manifest stands is never failed"),
    ];
    for (mutant, broken) in expected {
        let (failing, _) = explore(Protocol { jobs: 1, releases: 1, mutant });
        assert!(failing.contains(broken), "{mutant:?} breaks only {failing:?}");
    }
}

/// The number of states from which no sequence of events ends every job.
fn stuck(protocol: &Protocol) -> usize {
    let ended = |world: &World| world.model.jobs.values().all(|job| job.state.is_terminal());
    let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
    let (mut worlds, mut origins): (Vec<World>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
    let mut queue: VecDeque<usize> = VecDeque::new();
    let mut number = |world: World, worlds: &mut Vec<World>, origins: &mut Vec<Vec<usize>>| {
        let print = fingerprint(&world);
        *numbers.entry(print).or_insert_with(|| {
            worlds.push(world);
            origins.push(Vec::new());
            worlds.len() - 1
        })
    };
    for world in protocol.init_states() {
        queue.push_back(number(world, &mut worlds, &mut origins));
    }
    while let Some(at) = queue.pop_front() {
        let mut acts = Vec::new();
        protocol.actions(&worlds[at], &mut acts);
        // A cancellation is not guaranteed, so a job must be able to end without it.
        // Beyond the boundary it goes on in the same way.
        if !protocol.within_boundary(&worlds[at]) {
            continue;
        }
        for act in acts.into_iter().filter(|act| !matches!(act, Act::Cancel(_))) {
            let Some(next) = protocol.next_state(&worlds[at], act) else { continue };
            let known = worlds.len();
            let to = number(next, &mut worlds, &mut origins);
            origins[to].push(at);
            if to == known {
                queue.push_back(to);
            }
        }
    }
    let is_good = |world: &World| ended(world) || !protocol.within_boundary(world);
    let mut good: BTreeSet<usize> = (0..worlds.len()).filter(|at| is_good(&worlds[*at])).collect();
    let mut spread: Vec<usize> = good.iter().copied().collect();
    while let Some(at) = spread.pop() {
        spread.extend(origins[at].iter().filter(|from| good.insert(**from)));
    }
    worlds.len() - good.len()
}

fn fingerprint(world: &World) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(world)
}

#[test]
fn lease_model_lets_every_job_end_from_every_state() {
    assert_eq!(stuck(&Protocol { jobs: 1, releases: 1, mutant: Mutant::Sound }), 0);
    // A protocol that loses a job is detected.
    assert!(stuck(&Protocol { jobs: 1, releases: 1, mutant: Mutant::Forgets }) > 0);
}
