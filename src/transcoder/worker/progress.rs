//! Reports the progress of an encode to Redis: often enough for people who watch, and rarely enough to cost
//! almost nothing.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::queue::{Claimed, Queue};

/// Progress in percent that is worth a report, but no earlier than [`FIRST_AFTER`] or [`NOT_BEFORE`].
const STEP: f64 = 5.0;
/// The first report comes early: it shows that the encode has begun.
const FIRST_AFTER: Duration = Duration::from_secs(2);
const NOT_BEFORE: Duration = Duration::from_secs(4);
/// Maximum time between two reports, however small the progress.
const AT_LATEST: Duration = Duration::from_secs(20);
/// The first report is stored in the job's record, and then one after each such time. Storing costs three commands
/// more than telling. Only clients that ask for the job instead of following its events depend on it.
const STORE_EVERY: Duration = Duration::from_secs(15);

/// Whether to report `percent` if `told` was reported `since` ago. The end needs no report, because the job's
/// completion shows it.
fn is_due(told: f64, since: Duration, percent: f64) -> bool {
    let not_before = if told > 0.0 { NOT_BEFORE } else { FIRST_AFTER };
    percent < 100.0
        && percent > told
        && ((percent - told >= STEP && since >= not_before) || since >= AT_LATEST)
}

/// Reports `percents` for as long as it is polled.
pub(crate) async fn publish(queue: &Queue, job: &Claimed, mut percents: watch::Receiver<f64>) {
    let (mut told, mut at) = (0.0, Instant::now());
    let mut stored: Option<Instant> = None;
    while percents.changed().await.is_ok() {
        let percent = *percents.borrow_and_update();
        if !is_due(told, at.elapsed(), percent) {
            continue;
        }
        let stores = stored.is_none_or(|at| at.elapsed() >= STORE_EVERY);
        let report = if stores {
            // The heartbeat handles a lost lease.
            queue.progress(job, percent).await.map(drop)
        } else {
            queue.announce_progress(job.attempt, percent).await
        };
        match report {
            Ok(()) => {
                (told, at) = (percent, Instant::now());
                if stores {
                    stored = Some(at);
                }
            }
            Err(error) => tracing::debug!(job = %job.attempt.job, %error, "could not report progress"),
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_but_not_too_often_and_never_the_end() {
        let s = Duration::from_secs;
        assert!(is_due(0.0, s(2), 5.0));
        assert!(!is_due(0.0, Duration::from_millis(1900), 50.0));
        assert!(is_due(5.0, s(4), 10.0));
        assert!(!is_due(5.0, Duration::from_millis(3900), 50.0));
        assert!(!is_due(0.0, s(19), 4.9));
        assert!(is_due(0.0, s(20), 0.1));
        assert!(!is_due(5.0, s(60), 5.0));
        assert!(!is_due(5.0, s(60), 100.0));
    }
}
