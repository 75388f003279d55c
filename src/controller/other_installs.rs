//! Other installations in the same cluster. Two that reconcile all namespaces would write to the same objects and
//! submit each job to both queues, so that only one of them acts: the one that acts already, or, of two that began at
//! the same time, the one with the older Lease. The other one waits and is not ready.
//!
//! Each installation has its Lease in its own namespace, and annotations of the Lease say which objects its
//! holders reconcile, and with which service account. As in [`super::leader_election`], the times in a Lease are never
//! compared: a holder is gone when its Lease has not changed for a while by the clock of this process.
//!
//! Everybody with the role `edit` in a namespace may write Leases there. Therefore a Lease counts only if a service
//! account of its own namespace may write the statuses of all namespaces, which only an administrator can permit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio::time::{Instant, timeout};

use crate::crd::TranscodeJob;

/// The annotation of a Lease that says which objects its holders reconcile.
pub(crate) const SCOPE_ANNOTATION: &str = "tcoder.dev/scope";
/// Its value for an installation that reconciles all namespaces.
pub(crate) const ALL_NAMESPACES: &str = "all-namespaces";
/// Its value for an installation that reconciles a single namespace.
pub(crate) const SINGLE_NAMESPACE: &str = "single-namespace";
/// The annotation of a Lease that says which service account of its namespace its holders have.
pub(crate) const ACCOUNT_ANNOTATION: &str = "tcoder.dev/service-account";
/// The service account of the manifests, which installations have that do not say theirs.
const DEFAULT_ACCOUNT: &str = "tcoder-controller";

/// A Lease that has not changed for this long has no holder. It is twice as long as another replica of the same
/// installation waits before it takes over.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// Time limit of a request to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The Lease of an installation that reconciles all namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    namespace: String,
    /// The service account that its holder claims to have in that namespace.
    account: String,
    /// When the API server created it.
    created: Option<Timestamp>,
    /// Whether a controller holds it.
    held: bool,
}

/// Another installation that reconciles all namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OtherInstall {
    /// Its own namespace.
    pub namespace: String,
}

/// Reads the Leases of all installations.
pub(crate) struct OtherInstalls {
    client: Client,
    lease: String,
    namespace: String,
    sightings: Sightings,
    /// What was logged, and is not logged again.
    logged: Logged,
    /// What was found out when the Leases were last listed.
    last: Option<OtherInstall>,
}

#[derive(Default)]
struct Logged {
    /// That the Leases may not be listed.
    no_list: bool,
    /// That the permissions of others may not be asked for.
    no_review: bool,
    /// The namespaces whose Lease does not count.
    powerless: BTreeSet<String>,
}

/// By namespace: the version in which a Lease was last read, and when it was first seen in that version.
#[derive(Default)]
struct Sightings(BTreeMap<String, (String, Instant)>);

impl OtherInstalls {
    /// For the installation in `namespace`, whose Lease has the name `lease` as those of all installations.
    #[must_use]
    pub(crate) fn new(client: Client, namespace: &str, lease: &str) -> Self {
        Self {
            client,
            lease: lease.to_owned(),
            namespace: namespace.to_owned(),
            sightings: Sightings::default(),
            logged: Logged::default(),
            last: None,
        }
    }

    /// The installation that has to act instead of this one, if there is one. `acting` says whether this one acts
    /// already. `None` also if the Leases may not be read, for which no installation should stop working.
    pub(crate) async fn acts_instead(&mut self, acting: bool) -> Option<OtherInstall> {
        match self.look(acting).await {
            Ok(found) => self.last = found,
            // It is as it was until the API server answers again.
            Err(error) => tracing::debug!(%error, "could not look for other installations in the cluster"),
        }
        self.last.clone()
    }

    async fn look(&mut self, acting: bool) -> Result<Option<OtherInstall>, LookError> {
        // The roles permit listing Leases of this name only.
        let named = ListParams::default().fields(&format!("metadata.name={}", self.lease));
        let leases: Api<Lease> = Api::all(self.client.clone());
        let leases = match within(leases.list(&named)).await {
            Err(LookError::Kube(kube::Error::Api(status))) if status.code == 403 => {
                if !std::mem::replace(&mut self.logged.no_list, true) {
                    tracing::warn!(
                        error = %status,
                        "could not look for other installations in the cluster, so that two may act at once; apply the roles in \
                         manifests/overlays/cluster-wide"
                    );
                }
                return Ok(None);
            }
            leases => leases?,
        };
        self.logged.no_list = false;
        let claims = self.sightings.claims(leases.items, Instant::now());
        for claim in preferred(&self.namespace, &claims, acting) {
            if self.may_act(claim).await? {
                return Ok(Some(OtherInstall { namespace: claim.namespace.clone() }));
            }
        }
        Ok(None)
    }

    /// Whether the service account of this claim may do in all namespaces what a controller does.
    async fn may_act(&mut self, claim: &Claim) -> Result<bool, LookError> {
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = match within(reviews.create(&PostParams::default(), &review(claim))).await {
            Err(LookError::Kube(kube::Error::Api(status))) if status.code == 403 => {
                if !std::mem::replace(&mut self.logged.no_review, true) {
                    tracing::warn!(
                        error = %status,
                        "could not ask whether another installation may act, so that everybody who may write Leases in a \
                         namespace can keep this one from acting; apply the roles in manifests/overlays/cluster-wide"
                    );
                }
                return Ok(true);
            }
            answer => answer?,
        };
        self.logged.no_review = false;
        let may = answer.status.is_some_and(|status| status.allowed);
        if may {
            self.logged.powerless.remove(&claim.namespace);
        } else if self.logged.powerless.insert(claim.namespace.clone()) {
            tracing::warn!(
                namespace = claim.namespace,
                account = claim.account,
                "a Lease says that another installation reconciles the objects of all namespaces, but its service account \
                 may not; ignoring it"
            );
        }
        Ok(may)
    }
}

/// Why it is not known whether another installation acts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error("the API server cannot be used: {0}")]
    Kube(#[from] kube::Error),
    #[error("the API server does not answer")]
    TimedOut,
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, LookError> {
    Ok(timeout(CALL_TIMEOUT, request).await.map_err(|_| LookError::TimedOut)??)
}

/// The service account of this process, if it has one in `namespace`. The API server is asked, since that knows it
/// wherever the credentials come from.
///
/// # Errors
/// If the API server does not answer. It may answer that the question is not permitted: then there is none.
pub(crate) async fn own_account(client: &Client, namespace: &str) -> Result<Option<String>, LookError> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    match within(reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await {
        Ok(answer) => {
            let user = answer.status.and_then(|status| status.user_info?.username);
            Ok(user.and_then(|user| account_of(&user, namespace)))
        }
        Err(LookError::Kube(kube::Error::Api(status)))
            if (400..500).contains(&status.code) && status.code != 429 =>
        {
            tracing::warn!(error = %status, "could not ask for the own service account; other installations assume the default");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The name of the service account that this user is, if it is one of this namespace.
fn account_of(user: &str, namespace: &str) -> Option<String> {
    let account = user.strip_prefix("system:serviceaccount:")?.strip_prefix(namespace)?.strip_prefix(':')?;
    Some(account.to_owned())
}

/// The question whether the service account of a claim may write the statuses of all namespaces. The namespace is that
/// of the Lease, whatever its annotations say.
fn review(claim: &Claim) -> SubjectAccessReview {
    let Claim { namespace, account, .. } = claim;
    let groups = [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ];
    let attributes = ResourceAttributes {
        group: Some(TranscodeJob::group(&()).into_owned()),
        resource: Some(TranscodeJob::plural(&()).into_owned()),
        subresource: Some("status".to_owned()),
        verb: Some("patch".to_owned()),
        ..ResourceAttributes::default()
    };
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{account}")),
            groups: Some(groups.to_vec()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

impl Sightings {
    /// The claims of these Leases, all that there are `now`.
    fn claims(&mut self, leases: Vec<Lease>, now: Instant) -> Vec<Claim> {
        let mut seen = BTreeMap::new();
        let mut claims = Vec::new();
        for lease in leases {
            if lease.annotations().get(SCOPE_ANNOTATION).map(String::as_str) != Some(ALL_NAMESPACES) {
                continue;
            }
            let (Some(namespace), Some(version)) = (lease.namespace(), lease.resource_version()) else {
                continue;
            };
            let since = match self.0.get(&namespace) {
                Some((known, since)) if *known == version => *since,
                _ => now,
            };
            let has_holder = lease
                .spec
                .as_ref()
                .is_some_and(|spec| spec.holder_identity.as_ref().is_some_and(|holder| !holder.is_empty()));
            claims.push(Claim {
                namespace: namespace.clone(),
                account: lease
                    .annotations()
                    .get(ACCOUNT_ANNOTATION)
                    .map_or(DEFAULT_ACCOUNT, String::as_str)
                    .to_owned(),
                created: lease.creation_timestamp().map(|time| time.0),
                held: has_holder && now.duration_since(since) < ABANDONED_AFTER,
            });
            seen.insert(namespace, (version, since));
        }
        self.0 = seen;
        claims
    }
}

/// The installations that have to act instead of the one in the namespace `own`, if they may, the oldest first: any that
/// act, as long as this one does not; afterwards only older ones.
fn preferred<'a>(own: &str, claims: &'a [Claim], acting: bool) -> Vec<&'a Claim> {
    let age = |claim: &Claim| (claim.created, claim.namespace.clone());
    let ours = claims.iter().find(|claim| claim.namespace == own).map(age);
    let others = claims.iter().filter(|claim| claim.held && claim.namespace != own);
    let mut preferred: Vec<_> =
        others.filter(|other| !acting || ours.as_ref().is_some_and(|ours| age(other) < *ours)).collect();
    preferred.sort_by_key(|other| age(other));
    preferred
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(namespace: &str, second: i64, held: bool) -> Claim {
        let created = Some(Timestamp::from_second(second).unwrap());
        Claim { namespace: namespace.to_owned(), account: "controller".to_owned(), created, held }
    }

    fn instead(claims: &[Claim], acting: bool) -> Vec<&str> {
        preferred("ours", claims, acting).into_iter().map(|other| other.namespace.as_str()).collect()
    }

    #[test]
    fn installation_that_is_alone_acts() {
        for acting in [false, true] {
            assert!(instead(&[], acting).is_empty());
            assert!(instead(&[claim("ours", 1, true)], acting).is_empty());
            assert!(instead(&[claim("ours", 2, true), claim("left", 1, false)], acting).is_empty());
        }
    }

    #[test]
    fn installation_that_does_not_act_yet_waits_for_any_that_acts() {
        let (ours, older, younger) =
            (claim("ours", 5, false), claim("older", 1, true), claim("younger", 9, true));
        assert_eq!(instead(std::slice::from_ref(&younger), false), ["younger"]);
        assert_eq!(instead(&[ours.clone(), younger.clone()], false), ["younger"]);
        // If the oldest is none, because its service account may do nothing, the next one counts.
        assert_eq!(instead(&[younger, ours, older], false), ["older", "younger"]);
    }

    #[test]
    fn of_two_that_act_the_younger_stops() {
        let (ours, older, younger) =
            (claim("ours", 5, true), claim("older", 1, true), claim("younger", 9, true));
        assert!(instead(&[ours.clone(), younger.clone()], true).is_empty());
        assert_eq!(instead(&[younger, ours.clone(), older], true), ["older"]);
        // Of the same second, the name decides.
        assert_eq!(instead(&[ours.clone(), claim("a", 5, true)], true), ["a"]);
        assert!(instead(&[ours, claim("z", 5, true)], true).is_empty());
    }

    #[test]
    fn lease_counts_while_it_changes() {
        let lease = |scope: &str, holder: &str, version: &str| -> Lease {
            serde_json::from_value(serde_json::json!({
                "metadata": {
                    "name": "l", "namespace": "other", "resourceVersion": version,
                    "annotations": {SCOPE_ANNOTATION: scope},
                },
                "spec": {"holderIdentity": holder},
            }))
            .unwrap()
        };
        let mut sightings = Sightings::default();
        let began = Instant::now();
        let mut held = |lease: Lease, after: u64| {
            let claims = sightings.claims(vec![lease], began + Duration::from_secs(after));
            claims.first().map(|claim| claim.held)
        };
        assert_eq!(held(lease(ALL_NAMESPACES, "pod", "1"), 0), Some(true));
        assert_eq!(held(lease(ALL_NAMESPACES, "pod", "1"), 29), Some(true));
        assert_eq!(held(lease(ALL_NAMESPACES, "pod", "1"), 30), Some(false));
        assert_eq!(held(lease(ALL_NAMESPACES, "pod", "2"), 31), Some(true));
        assert_eq!(held(lease(ALL_NAMESPACES, "", "3"), 32), Some(false));
        assert_eq!(held(lease(SINGLE_NAMESPACE, "pod", "4"), 33), None);
    }

    #[test]
    fn lease_stands_for_a_service_account_of_its_own_namespace() {
        let account = |annotations: serde_json::Value| {
            let lease = serde_json::json!({
                "metadata": {"name": "l", "namespace": "films", "resourceVersion": "1", "annotations": annotations},
            });
            let lease = serde_json::from_value(lease).unwrap();
            let claims = Sightings::default().claims(vec![lease], Instant::now());
            review(&claims[0]).spec.user.unwrap()
        };
        let scope = ALL_NAMESPACES;
        assert_eq!(
            account(serde_json::json!({SCOPE_ANNOTATION: scope, ACCOUNT_ANNOTATION: "second-controller"})),
            "system:serviceaccount:films:second-controller"
        );
        assert_eq!(
            account(serde_json::json!({SCOPE_ANNOTATION: scope})),
            "system:serviceaccount:films:tcoder-controller"
        );
    }

    #[test]
    fn own_account_is_known_only_in_the_own_namespace() {
        let account = |user: &str| account_of(user, "films");
        assert_eq!(account("system:serviceaccount:films:controller").as_deref(), Some("controller"));
        for other in
            ["system:serviceaccount:films-2:controller", "system:serviceaccount:other:films:c", "admin"]
        {
            assert_eq!(account(other), None, "{other}");
        }
    }
}
