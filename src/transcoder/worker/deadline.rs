//! What to do about an attempt that took too long: who set its deadline depends on how the job was submitted. Pure.

use crate::job::{Failure, FailureCode, JobLimits, JobSpec, Origin};

/// Adds to the failure of an attempt that reached its deadline what to change; other failures are as they were.
pub(super) fn with_remedy(failure: Failure, spec: &JobSpec) -> Failure {
    if failure.code != FailureCode::DeadlineExceeded {
        return failure;
    }
    let JobSpec { deadline_seconds: seconds, origin, .. } = spec;
    let remedy = match origin {
        _ if *seconds >= JobLimits::HIGHEST.deadline_seconds => "",
        Origin::Api => "raise deadlineSeconds, or ",
        // The controller enforces activeDeadlineSeconds itself. One of an older version made it the deadline of an attempt.
        Origin::Kubernetes => {
            "raise JOB_MAX_DEADLINE_SECONDS of the controller (or, if an older controller has submitted the job, make it anew with a \
             larger spec.activeDeadlineSeconds), or "
        }
        Origin::Storage => "submit a job for the object, with a larger deadlineSeconds, or ",
    };
    let message = format!("{} ({seconds} s); {remedy}ask for fewer or smaller qualities", failure.message);
    Failure::new(failure.code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Input, Ladder, Preset};

    #[test]
    fn remedy_names_the_field_or_the_setting_that_set_the_deadline() {
        let input = Input::Key("films/a.mp4".parse().unwrap());
        let mut spec = JobSpec::new(input, Preset::default(), Ladder::default());
        spec.deadline_seconds = 60;
        for (origin, names) in [
            (Origin::Api, "raise deadlineSeconds,"),
            (Origin::Kubernetes, "raise JOB_MAX_DEADLINE_SECONDS of the controller"),
            (Origin::Storage, "submit a job for the object, with a larger deadlineSeconds"),
        ] {
            spec.origin = origin;
            let late = Failure::new(FailureCode::DeadlineExceeded, "the attempt reached its deadline");
            let told = with_remedy(late, &spec);
            assert_eq!(told.code, FailureCode::DeadlineExceeded);
            let begin = "the attempt reached its deadline (60 s); ";
            assert!(told.message.starts_with(begin) && told.message.contains(names), "{told}");
            let other = Failure::new(FailureCode::InvalidMedia, "it is no video");
            assert_eq!(with_remedy(other.clone(), &spec), other);
            // It cannot be raised any further.
            let longest = JobSpec { deadline_seconds: JobLimits::HIGHEST.deadline_seconds, ..spec.clone() };
            let late = Failure::new(FailureCode::DeadlineExceeded, "the attempt reached its deadline");
            let told = with_remedy(late, &longest).message;
            assert!(told.ends_with(" s); ask for fewer or smaller qualities"), "{told}");
        }
    }
}
