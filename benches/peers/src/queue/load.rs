//! What the loads on the peers have in common.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::Failure;

/// The longest time without any progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a job carries: 100 bytes as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Payload {
    n: String,
    p: String,
}

impl Payload {
    pub fn new(number: usize) -> Self {
        Self { n: format!("{number:08}"), p: "x".repeat(77) }
    }

    pub fn number(&self) -> Result<usize, std::num::ParseIntError> {
        self.n.parse()
    }
}

/// The number of jobs for each producer.
pub fn shares(jobs: usize, parts: usize) -> impl Iterator<Item = usize> {
    (0..parts).map(move |index| jobs * (index + 1) / parts - jobs * index / parts)
}

/// The values that the tasks return.
pub async fn gather(tasks: Vec<JoinHandle<Result<Vec<f64>, Failure>>>) -> Result<Vec<f64>, Failure> {
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

/// Collects a value for each job.
#[derive(Clone)]
pub struct Record {
    jobs: usize,
    began: Instant,
    values: Arc<Mutex<Vec<f64>>>,
}

impl Record {
    pub fn new(jobs: usize) -> Self {
        let values = Arc::new(Mutex::new(Vec::with_capacity(jobs)));
        Self { jobs, began: Instant::now(), values }
    }

    pub fn put(&self, value: f64) {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).push(value);
    }

    /// A job is done now.
    pub fn done(&self) {
        self.put(self.began.elapsed().as_secs_f64());
    }

    fn len(&self) -> usize {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until all jobs have a value.
    pub async fn full(&self) -> Result<Vec<f64>, Failure> {
        let (mut last, mut since) = (0, Instant::now());
        while self.len() < self.jobs {
            if self.len() != last {
                (last, since) = (self.len(), Instant::now());
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("only {last} of {} jobs were processed", self.jobs).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(self.values.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// A hundred jobs a second, and how long each waits.
#[derive(Clone)]
pub struct Pace {
    sent: Arc<[OnceLock<Instant>]>,
    waits: Record,
}

impl Pace {
    pub fn new(jobs: usize) -> Self {
        Self { sent: (0..jobs).map(|_| OnceLock::new()).collect(), waits: Record::new(jobs) }
    }

    /// A worker has this job.
    pub fn claimed(&self, number: usize) {
        if let Some(sent) = self.sent.get(number).and_then(OnceLock::get) {
            self.waits.put(sent.elapsed().as_secs_f64() * 1000.0);
        }
    }

    /// Adds the jobs with `add`. Returns the waits in milliseconds.
    pub async fn run<F: Future<Output = Result<(), Failure>>>(
        &self,
        mut add: impl FnMut(usize) -> F,
    ) -> Result<Vec<f64>, Failure> {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        for (number, sent) in self.sent.iter().enumerate() {
            tick.tick().await;
            let _ = sent.set(Instant::now());
            add(number).await?;
        }
        self.waits.full().await
    }
}
