//! For how long what belongs to a job is kept after its end.

use std::time::Duration;

use super::registry::{INPUT_RETENTION, JOB_RETENTION, OUTPUT_RETENTION};
use super::{ConfigErrors, Env};

/// For how long what belongs to a job is kept after its end. It is the submitter's: a job's record contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The record, with which the job can be read and retried.
    pub jobs: Duration,
    /// The uploaded input; `None` means for ever. Inputs that were in the bucket before are never deleted.
    pub inputs: Option<Duration>,
    /// The outputs; `None` means for ever.
    pub outputs: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { jobs: Duration::from_secs(7 * 24 * 3600), inputs: None, outputs: None }
    }
}

impl Retention {
    /// Reads `JOB_RETENTION`, `INPUT_RETENTION` and `OUTPUT_RETENTION`.
    ///
    /// # Errors
    /// The invalid settings.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let jobs = errors.keep(env.require(&JOB_RETENTION));
        let inputs = errors.keep(env.require(&INPUT_RETENTION));
        let outputs = errors.keep(env.require(&OUTPUT_RETENTION));
        let limited = |kept: Duration| Some(kept).filter(|kept| !kept.is_zero());
        let read = || Some(Self { jobs: jobs?, inputs: limited(inputs?), outputs: limited(outputs?) });
        errors.finish(read())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_default_is_that_of_the_settings() {
        assert_eq!(Retention::read(&Env::of(|_| None)).unwrap(), Retention::default());
    }

    #[test]
    fn retention_of_no_time_is_refused_for_records_and_for_ever_for_objects() {
        let set = |name: &'static str, value: &'static str| {
            Retention::read(&Env::of(move |asked| (asked == name).then(|| value.to_owned())))
        };
        assert!(set("JOB_RETENTION", "0").is_err());
        assert_eq!(set("JOB_RETENTION", "60").unwrap().jobs, Duration::from_secs(60));
        assert_eq!(set("INPUT_RETENTION", "0").unwrap().inputs, None);
        assert_eq!(set("INPUT_RETENTION", "60").unwrap().inputs, Some(Duration::from_secs(60)));
        assert_eq!(set("OUTPUT_RETENTION", "60").unwrap().outputs, Some(Duration::from_secs(60)));
    }
}
