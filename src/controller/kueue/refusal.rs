//! What the API server refuses about a Workload, and what that means for the job. Pure.

use crate::crd::reason;

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
            _ => None,
        }
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
        for passes in [404, 409, 429, 500, 503] {
            assert_eq!(reason(passes, "m"), None, "{passes}");
        }
    }
}
