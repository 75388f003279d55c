//! Other installations in the same cluster. Two that reconcile all namespaces would write to the same objects and
//! submit each job to both queues, so that only one of them acts: the one that acts already, or, of two that began at
//! the same time, the one with the older Lease. The other one waits and is not ready.
//!
//! Each installation has its Lease in its own namespace, and an annotation of the Lease says which objects its
//! holders reconcile. As in [`super::leader_election`], the times in a Lease are never compared: a holder is gone
//! when its Lease has not changed for a while by the clock of this process.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::{Instant, timeout};

/// The annotation of a Lease that says which objects its holders reconcile.
pub(crate) const SCOPE_ANNOTATION: &str = "tcoder.dev/scope";
/// Its value for an installation that reconciles all namespaces.
pub(crate) const ALL_NAMESPACES: &str = "all-namespaces";
/// Its value for an installation that reconciles a single namespace.
pub(crate) const SINGLE_NAMESPACE: &str = "single-namespace";

/// A Lease that has not changed for this long has no holder. It is twice as long as another replica of the same
/// installation waits before it takes over.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// Time limit of a request to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The Lease of an installation that reconciles all namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    namespace: String,
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
    /// Whether the Leases may not be listed, which was logged then.
    is_refused: bool,
    /// What was found out when the Leases were last listed.
    last: Option<OtherInstall>,
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
            is_refused: false,
            last: None,
        }
    }

    /// The installation that has to act instead of this one, if there is one. `acting` says whether this one acts
    /// already. `None` also if the Leases may not be read, for which no installation should stop working.
    pub(crate) async fn acts_instead(&mut self, acting: bool) -> Option<OtherInstall> {
        // The roles permit listing Leases of this name only.
        let named = ListParams::default().fields(&format!("metadata.name={}", self.lease));
        let leases: Api<Lease> = Api::all(self.client.clone());
        match timeout(CALL_TIMEOUT, leases.list(&named)).await {
            Ok(Ok(leases)) => {
                self.is_refused = false;
                let claims = self.sightings.claims(leases.items, Instant::now());
                self.last = acts_instead(&self.namespace, &claims, acting);
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                if !std::mem::replace(&mut self.is_refused, true) {
                    tracing::warn!(
                        error = %status,
                        "could not look for other installations in the cluster, so that two may act at once; apply the roles in \
                         manifests/overlays/cluster-wide"
                    );
                }
                self.last = None;
            }
            // It is as it was until the API server answers again.
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not look for other installations in the cluster")
            }
            Err(_) => {}
        }
        self.last.clone()
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
                created: lease.creation_timestamp().map(|time| time.0),
                held: has_holder && now.duration_since(since) < ABANDONED_AFTER,
            });
            seen.insert(namespace, (version, since));
        }
        self.0 = seen;
        claims
    }
}

/// The installation that has to act instead of the one in the namespace `own`: any that acts, as long as this one does
/// not; afterwards only an older one.
fn acts_instead(own: &str, claims: &[Claim], acting: bool) -> Option<OtherInstall> {
    let age = |claim: &Claim| (claim.created, claim.namespace.clone());
    let ours = claims.iter().find(|claim| claim.namespace == own).map(age);
    let others = claims.iter().filter(|claim| claim.held && claim.namespace != own);
    let preferred = others.filter(|other| !acting || ours.as_ref().is_some_and(|ours| age(other) < *ours));
    let oldest = preferred.min_by_key(|other| age(other))?;
    Some(OtherInstall { namespace: oldest.namespace.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(namespace: &str, second: i64, held: bool) -> Claim {
        let created = Some(Timestamp::from_second(second).unwrap());
        Claim { namespace: namespace.to_owned(), created, held }
    }

    fn instead(claims: &[Claim], acting: bool) -> Option<String> {
        acts_instead("ours", claims, acting).map(|other| other.namespace)
    }

    #[test]
    fn installation_that_is_alone_acts() {
        for acting in [false, true] {
            assert_eq!(instead(&[], acting), None);
            assert_eq!(instead(&[claim("ours", 1, true)], acting), None);
            assert_eq!(instead(&[claim("ours", 2, true), claim("left", 1, false)], acting), None);
        }
    }

    #[test]
    fn installation_that_does_not_act_yet_waits_for_any_that_acts() {
        let (ours, older, younger) =
            (claim("ours", 5, false), claim("older", 1, true), claim("younger", 9, true));
        assert_eq!(instead(std::slice::from_ref(&younger), false).as_deref(), Some("younger"));
        assert_eq!(instead(&[ours.clone(), younger.clone()], false).as_deref(), Some("younger"));
        assert_eq!(instead(&[younger, ours, older], false).as_deref(), Some("older"));
    }

    #[test]
    fn of_two_that_act_the_younger_stops() {
        let (ours, older, younger) =
            (claim("ours", 5, true), claim("older", 1, true), claim("younger", 9, true));
        assert_eq!(instead(&[ours.clone(), younger.clone()], true), None);
        assert_eq!(instead(&[younger, ours.clone(), older], true).as_deref(), Some("older"));
        // Of the same second, the name decides.
        assert_eq!(instead(&[ours.clone(), claim("a", 5, true)], true).as_deref(), Some("a"));
        assert_eq!(instead(&[ours, claim("z", 5, true)], true), None);
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
}
