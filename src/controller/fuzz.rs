//! What the parsers of specs promise, for `crate::fuzz`.

use super::transcode_job::{Rules, to_submission};
use super::worker_pool::{FleetTarget, target};
use crate::config::Env;
use crate::crd::{TranscodeJob, TranscodeJobSpec, WorkerPool, WorkerPoolSpec};
use crate::job::{Input, JobId, JobLimits, Priority};
use crate::net::{self, EgressPolicy};

/// The spec of a TranscodeJob, in JSON.
pub(crate) fn transcode_job(bytes: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<TranscodeJobSpec>(bytes) else { return };
    let mut object = TranscodeJob::new("film", spec);
    object.metadata.namespace = Some("films".to_owned());
    let few = JobLimits { deadline_seconds: 600, attempts: 2, priority: Priority::default() };
    for (limits, tenant_prefixes) in [(JobLimits::HIGHEST, false), (few, true)] {
        let rules = Rules { guard: EgressPolicy::PublicOnly, limits, tenant_prefixes };
        check_submission(&object, rules);
    }
}

fn check_submission(object: &TranscodeJob, rules: Rules) {
    match to_submission(object, JobId::default(), rules) {
        Ok(submission) => {
            let spec = submission.spec;
            assert_eq!(spec.clone().checked(&rules.limits).as_ref(), Ok(&spec));
            if let (true, Input::Key(key)) = (rules.tenant_prefixes, &spec.input) {
                assert!(key.as_str().starts_with("films/"), "{key}");
            }
            assert!(spec.webhook_key.as_ref().is_none_or(|secret| secret.namespace == "films"));
            let input = match &spec.input {
                Input::Url(url) => Some(url),
                Input::Key(_) => None,
            };
            for url in input.into_iter().chain(&spec.webhook_url) {
                assert_eq!(net::check_url(EgressPolicy::PublicOnly, url), Ok(()));
            }
        }
        Err(refusal) => assert!(refusal.message.len() < 2_000, "{refusal}"),
    }
}

/// The spec of a WorkerPool, in JSON.
pub(crate) fn worker_pool(bytes: &[u8]) {
    let Ok(pool) = serde_json::from_slice::<WorkerPoolSpec>(bytes) else { return };
    let env = Env::of(|name| match name {
        "FLY_WORKER_APP" => Some("clips".into()),
        "FLY_WORKER_IMAGE" => Some("registry.fly.io/clips:1".into()),
        "FLY_WORKER_REGIONS" => Some("iad".into()),
        _ => None,
    });
    match target(Some(&WorkerPool::new("pool", pool)), &env) {
        Ok(target) => {
            let policy = target.policy();
            assert!(policy.min <= policy.max && !policy.image.is_empty(), "{policy:?}");
            if let FleetTarget::Pods(pool, _) = &target {
                assert_eq!(policy.revision.as_deref(), Some(pool.template.revision()));
            }
        }
        Err(error) => assert!(!error.is_empty()),
    }
}
