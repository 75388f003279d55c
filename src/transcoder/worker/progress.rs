//! Reports the progress of an encode to Redis: often enough for people who watch, and rarely enough to cost
//! almost nothing.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::job::AttemptId;
use crate::queue::Queue;

/// Progress in percent that is worth a report, but no earlier than [`NOT_BEFORE`].
const STEP: f64 = 5.0;
const NOT_BEFORE: Duration = Duration::from_secs(2);
/// Maximum time between two reports, however small the progress.
const AT_LATEST: Duration = Duration::from_secs(20);

/// Whether to report `percent` if `told` was reported `since` ago. The end needs no report, because the job's
/// completion shows it.
fn is_due(told: f64, since: Duration, percent: f64) -> bool {
    percent < 100.0
        && percent > told
        && ((percent - told >= STEP && since >= NOT_BEFORE) || since >= AT_LATEST)
}

/// Reports `percents` for as long as it is polled.
pub(crate) async fn publish(queue: &Queue, attempt: AttemptId, mut percents: watch::Receiver<f64>) {
    let (mut told, mut at) = (0.0, Instant::now());
    while percents.changed().await.is_ok() {
        let percent = *percents.borrow_and_update();
        if !is_due(told, at.elapsed(), percent) {
            continue;
        }
        match queue.progress(attempt, percent).await {
            // The heartbeat handles a lost lease.
            Ok(_) => (told, at) = (percent, Instant::now()),
            Err(error) => tracing::debug!(job = %attempt.job, %error, "could not report progress"),
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
        assert!(!is_due(0.0, s(19), 4.9));
        assert!(is_due(0.0, s(20), 0.1));
        assert!(!is_due(5.0, s(60), 5.0));
        assert!(!is_due(5.0, s(60), 100.0));
    }
}
