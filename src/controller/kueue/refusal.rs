//! What the API server refuses about a Workload, and what that means for the job. Pure.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::Name;
use crate::controller::conditions::holds;
use crate::crd::{condition, reason};

/// Maximum length of what is repeated of the API server's message, characters.
const MESSAGE: usize = 1024;

/// Why the job's Workload cannot be made or changed. Asking again does not help before somebody has done something about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The reason in CamelCase, for programs.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Refusal {
    /// The job names a WorkloadPriorityClass that does not exist.
    #[must_use]
    pub(super) fn no_class(class: &str) -> Self {
        Self {
            reason: reason::PRIORITY_CLASS_NOT_FOUND,
            message: format!(
                "there is no WorkloadPriorityClass {class}, which a label of the job names; create it, or change the label"
            ),
        }
    }

    /// The Workload that the job names belongs to another object.
    #[must_use]
    pub(super) fn not_owned(workload: &str) -> Self {
        Self {
            reason: reason::WORKLOAD_NOT_OWNED,
            message: format!(
                "the Workload {workload} exists, but belongs to another object; delete it, or this job"
            ),
        }
    }

    /// The refusal in an answer of the API server; `None` if the request may succeed when it is made again.
    #[must_use]
    pub(super) fn of(error: &kube::Error) -> Option<Self> {
        let kube::Error::Api(status) = error else { return None };
        let answer: String = status.message.chars().take(MESSAGE).collect();
        match status.code {
            // Quotas and webhooks answer 403, too, but not in the words of the authorizer.
            403 if answer.contains(" cannot ") && answer.contains(" resource ") => Some(Self {
                reason: reason::KUEUE_FORBIDDEN,
                message: format!(
                    "the controller lacks a permission for Kueue; apply manifests/overlays/kueue, or set kueue=true in the Helm chart: {answer}"
                ),
            }),
            400 | 403 | 422 => Some(Self {
                reason: reason::WORKLOAD_REFUSED,
                message: format!(
                    "the API server refuses the job's Workload, which is made from its labels and resources: {answer}"
                ),
            }),
            // The API server's own faults pass, but somebody may have to start the controller manager of Kueue again.
            500..=599 if answer.contains("failed calling webhook") => Some(Self {
                reason: reason::KUEUE_UNAVAILABLE,
                message: format!(
                    "a webhook for the job's Workload does not answer; see whether the controller manager of Kueue runs: {answer}"
                ),
            }),
            _ => None,
        }
    }
}

/// How long a message stands while the reason stays the same. What the API server says may vary with each answer, and each
/// message is a write of the job's status, after which the job is reconciled.
const STANDS: Duration = Duration::from_secs(60);

/// Whether the status of a job with these conditions tells of a refusal, perhaps to an earlier controller.
#[must_use]
pub(super) fn tells_refusal(conditions: &[Condition]) -> bool {
    const REASONS: [&str; 5] = [
        reason::PRIORITY_CLASS_NOT_FOUND,
        reason::WORKLOAD_NOT_OWNED,
        reason::KUEUE_FORBIDDEN,
        reason::KUEUE_UNAVAILABLE,
        reason::WORKLOAD_REFUSED,
    ];
    let is_stalled = holds(conditions, condition::STALLED).is_some_and(|c| REASONS.contains(&&*c.reason));
    is_stalled || holds(conditions, condition::WORKLOAD_OUTDATED).is_some()
}

/// What was refused about the Workloads of jobs.
#[derive(Default)]
pub(super) struct Refusals {
    refused: HashMap<Name, Refused>,
    /// The jobs whose status told of a refusal before a step for them was tried here, and for which one was tried since.
    tried: HashSet<Name>,
}

struct Refused {
    /// The uid of the job.
    uid: String,
    refusal: Refusal,
    /// When this message was recorded.
    since: Instant,
}

impl Refusals {
    /// What was refused about the Workload of the job with this name and uid.
    #[must_use]
    pub(super) fn get(&self, name: &Name, uid: &str) -> Option<&Refusal> {
        self.refused.get(name).filter(|refused| refused.uid == uid).map(|refused| &refused.refusal)
    }

    /// Whether it is known here if something is refused to a job whose status tells of a refusal.
    #[must_use]
    pub(super) fn knows(&self, name: &Name, uid: &str) -> bool {
        self.tried.contains(name) || self.get(name, uid).is_some()
    }

    /// Records whether the last step was refused. `tells` says whether the status of the job tells of a refusal. Returns
    /// whether there is news for the job: another message for the same reason is none.
    pub(super) fn note(
        &mut self,
        name: &Name,
        uid: &str,
        tells: bool,
        refusal: Option<Refusal>,
        now: Instant,
    ) -> bool {
        let is_first = tells && self.tried.insert(name.clone());
        let Some(refusal) = refusal else { return self.refused.remove(name).is_some() || is_first };
        let before = self.refused.get(name);
        let same = before.filter(|refused| refused.uid == uid && refused.refusal.reason == refusal.reason);
        let is_news = same.is_none();
        if same.is_none_or(|refused| now.saturating_duration_since(refused.since) >= STANDS) {
            self.refused.insert(name.clone(), Refused { uid: uid.to_owned(), refusal, since: now });
        }
        is_news
    }

    /// Forgets the job with this name.
    pub(super) fn remove(&mut self, name: &Name) {
        self.refused.remove(name);
        self.tried.remove(name);
    }

    /// Forgets the jobs for which this does not hold.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Name) -> bool) {
        self.refused.retain(|name, _| stays(name));
        self.tried.retain(stays);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: u16, message: &str) -> Option<Refusal> {
        let status = kube::core::Status { code, message: message.into(), ..Default::default() };
        Refusal::of(&kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn refusals_are_told_from_failures_that_pass() {
        let reason = |code, message| refusal(code, message).map(|refusal| refusal.reason);
        let of_roles = "workloadpriorityclasses.kueue.x-k8s.io \"urgent\" is forbidden: User \"u\" cannot get resource \
                        \"workloadpriorityclasses\" in API group \"kueue.x-k8s.io\" at the cluster scope";
        assert_eq!(reason(403, of_roles), Some(reason::KUEUE_FORBIDDEN));
        assert_eq!(reason(403, "exceeded quota: workloads"), Some(reason::WORKLOAD_REFUSED));
        let invalid = refusal(422, "spec.queueName: Invalid value").unwrap();
        assert_eq!(invalid.reason, reason::WORKLOAD_REFUSED);
        assert!(invalid.message.ends_with(": spec.queueName: Invalid value"), "{}", invalid.message);
        let webhook = "Internal error occurred: failed calling webhook \"mworkload.kb.io\": failed to call webhook: Post \
                       \"https://kueue-webhook-service.kueue-system.svc:443/mutate\": dial tcp: connection refused";
        let away = refusal(500, webhook).unwrap();
        assert_eq!(away.reason, reason::KUEUE_UNAVAILABLE);
        assert!(away.message.ends_with("connection refused"), "{}", away.message);
        for passes in [404, 409, 429, 500, 503] {
            assert_eq!(reason(passes, "m"), None, "{passes}");
        }
    }

    #[test]
    fn message_that_varies_is_no_news_and_changes_once_a_minute() {
        let (film, start) = (("films".to_owned(), "film".to_owned()), Instant::now());
        let refused = |reason, message: &str| Some(Refusal { reason, message: message.into() });
        let mut refusals = Refusals::default();
        let mut note = |uid, refusal, seconds| {
            let now = start + Duration::from_secs(seconds);
            let is_news = refusals.note(&film, uid, false, refusal, now);
            (is_news, refusals.get(&film, uid).map(|refusal| refusal.message.clone()))
        };
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(note("1", None, 0), (false, None));
        assert_eq!(note("1", refused(reason::WORKLOAD_REFUSED, "a"), 0), (true, said("a")));
        assert_eq!(note("1", refused(reason::WORKLOAD_REFUSED, "b"), 59), (false, said("a")));
        assert_eq!(note("1", refused(reason::WORKLOAD_REFUSED, "c"), 60), (false, said("c")));
        assert_eq!(note("1", refused(reason::KUEUE_FORBIDDEN, "d"), 61), (true, said("d")));
        assert_eq!(note("2", refused(reason::KUEUE_FORBIDDEN, "e"), 62), (true, said("e")));
        assert_eq!(note("2", None, 63), (true, None));
    }

    #[test]
    fn refusal_to_an_earlier_controller_stands_until_a_step_is_tried() {
        let (film, now) = (("films".to_owned(), "film".to_owned()), Instant::now());
        let refusal = || Some(Refusal { reason: reason::WORKLOAD_REFUSED, message: "m".into() });
        let mut refusals = Refusals::default();
        assert!(!refusals.knows(&film, "1"));
        // It is not refused any more, which its status has to say.
        assert!(refusals.note(&film, "1", true, None, now) && refusals.knows(&film, "1"));
        assert!(!refusals.note(&film, "1", true, None, now));
        refusals.remove(&film);
        assert!(refusals.note(&film, "1", true, refusal(), now) && refusals.knows(&film, "1"));
        assert!(!refusals.note(&film, "1", true, refusal(), now));
        refusals.retain(|name| *name != film);
        assert!(!refusals.knows(&film, "1"));
    }
}
