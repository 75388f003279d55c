//! Several installations in one cluster: none changes or deletes what another one or the cluster owns, and of two that
//! would reconcile the same objects one waits.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tcoder::crd::TranscodeJob;

use super::{Controller, Site, object};
use crate::support::clips::clip;
use crate::support::kube::Cluster;
use crate::support::process::{err, eventually, out};
use crate::support::system::{PATIENCE, Setup, System};

/// An installation with its controllers' permissions, by its namespace and the name of their ServiceAccount.
#[derive(Clone, Copy)]
pub struct Install<'a> {
    pub namespace: &'a str,
    pub account: &'a str,
}

/// Whether the controllers of an installation may list TranscodeJobs: in their namespace, and in all of them.
pub async fn may_list(cluster: &Cluster, install: Install<'_>) -> (bool, bool) {
    let user = format!("--as=system:serviceaccount:{}:{}", install.namespace, install.account);
    let mut may = Vec::new();
    for scope in [&["-n", install.namespace][..], &["-A"]] {
        let question = [&["auth", "can-i", "list", "transcodejobs.tcoder.dev", &user], scope].concat();
        let output = cluster.kubectl(&question).await;
        let answer = out(&output);
        assert!(matches!(answer.trim(), "yes" | "no"), "{answer}{}", err(&output));
        may.push(answer.trim() == "yes");
    }
    (may[0], may[1])
}

/// Creates a TranscodeJob in the namespace `default`, and returns its uid.
pub async fn job_of_a_user(cluster: &Cluster) -> String {
    let jobs: Api<TranscodeJob> = Api::namespaced(cluster.client().await, "default");
    let job = object("film", json!({"input": {"key": "films/film.mp4"}, "suspend": true}));
    jobs.create(&PostParams::default(), &job).await.unwrap().metadata.uid.unwrap()
}

/// Asserts that the TranscodeJob still exists.
pub async fn assert_job_is_there(cluster: &Cluster, uid: &str) {
    let jobs: Api<TranscodeJob> = Api::namespaced(cluster.client().await, "default");
    let job = jobs.get("film").await.unwrap();
    assert_eq!((job.metadata.uid.as_deref(), job.metadata.deletion_timestamp), (Some(uid), None));
}

fn manifests(folder: &str) -> String {
    format!("{}/manifests/{folder}", env!("CARGO_MANIFEST_DIR"))
}

/// The folders as they are, applied and deleted as docs/kubernetes.md says.
#[tokio::test]
async fn kustomize_installs_do_not_touch_each_other() {
    let cluster = Cluster::start().await;
    let apply = async |folder: &str| cluster.kubectl_ok(&["apply", "-k", &manifests(folder)]).await;
    // No controller of Kubernetes runs here that would end the deletion of a namespace.
    let delete = async |folder: &str| {
        cluster.kubectl_ok(&["delete", "--wait=false", "-k", &manifests(folder)]).await;
    };
    let usual = Install { namespace: "tcoder-system", account: "tcoder-controller" };
    let try_out = Install { namespace: "tcoder-try-out", ..usual };
    let films = Install { namespace: "films", ..usual };

    apply("crds").await;
    cluster.kubectl_ok(&["create", "namespace", "films"]).await;
    for folder in ["", "overlays/namespaced", "overlays/try-out"] {
        apply(folder).await;
    }
    for _ in 0..2 {
        assert_eq!(may_list(&cluster, usual).await, (true, true));
        assert_eq!(may_list(&cluster, try_out).await, (true, true));
        assert_eq!(may_list(&cluster, films).await, (true, false));
        // An upgrade of one changes nothing of the others.
        apply("").await;
    }
    let job = job_of_a_user(&cluster).await;

    delete("overlays/try-out").await;
    assert_eq!(may_list(&cluster, try_out).await, (false, false));
    assert_eq!(may_list(&cluster, usual).await, (true, true));
    assert_eq!(may_list(&cluster, films).await, (true, false));
    assert_job_is_there(&cluster, &job).await;

    delete("").await;
    assert_eq!(may_list(&cluster, usual).await, (false, false));
    assert_eq!(may_list(&cluster, films).await, (true, false));
    delete("overlays/namespaced").await;
    assert_eq!(may_list(&cluster, films).await, (false, false));
    assert_job_is_there(&cluster, &job).await;
}

/// Starts a controller for all namespaces, in a namespace and with a queue of its own.
async fn cluster_wide(cluster: &Cluster, system: &System, name: &str) -> (Controller, String) {
    let own = cluster.namespace(name).await;
    let account = format!("--serviceaccount={own}:controller");
    cluster
        .kubectl_ok(&["create", "clusterrolebinding", &own, "--clusterrole=cluster-admin", &account])
        .await;
    (cluster_wide_in(cluster, system, &own).await, own)
}

/// Starts a controller for all namespaces in this namespace, with the service account `controller`.
async fn cluster_wide_in(cluster: &Cluster, system: &System, own: &str) -> Controller {
    let kubeconfig = cluster.kubeconfig_of(own, "controller").await;
    let env = [("POD_NAMESPACE", own), ("MIRROR_MAX", "0"), ("RUST_LOG", "warn,tcoder=info")];
    Controller::start(system, &kubeconfig, &["--all-namespaces"], &env)
}

/// Waits until a controller is not ready for a reason that contains this text.
async fn says(controller: &Controller, text: &str) {
    let http = crate::support::system::http();
    let said = async {
        loop {
            if let Ok(answer) = http.get(format!("{}/readyz", controller.url)).send().await
                && answer.status() == 503
                && answer.text().await.unwrap().contains(text)
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("it does not say: {text}"));
}

#[tokio::test]
async fn second_cluster_wide_installation_waits_for_the_first() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start().await));
    cluster.define().await;
    let system: &'static System = Box::leak(Box::new(Setup::default().start().await));
    let other_system = Setup::default().workers(0).start().await;
    let (first, home) = cluster_wide(cluster, system, "first").await;
    first.ready().await;
    eventually("the first one is the leader", || first.log().contains("acquired leadership")).await;
    let (second, other_home) = cluster_wide(cluster, &other_system, "second").await;
    says(&second, &format!("another installation, in the namespace {home},")).await;

    // Only the first one gets the job.
    let site = Site::on(cluster, system, "films").await;
    let key = site.input(clip()).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"]});
    site.make("film", spec.clone()).await;
    site.phase("film", "Complete").await;
    assert!(!second.log().contains("acquired leadership"), "{}", second.log());
    let jobs = other_system.get("/api/jobs").await.body;
    assert_eq!(jobs["jobs"], json!([]), "the second installation has queued something");

    // Without the first one, the second one acts; the first one then waits.
    first.stop().await;
    second.ready().await;
    eventually("the second one is the leader", || second.log().contains("acquired leadership")).await;
    let first = cluster_wide_in(cluster, system, &home).await;
    says(&first, &format!("another installation, in the namespace {other_home},")).await;
    first.stop().await;
    second.stop().await;
    other_system.stop().await;
}

/// Makes a Lease such as that of an installation for all namespaces.
pub async fn lease_of_all_namespaces(cluster: &Cluster, namespace: &str, holder: &str) -> Api<Lease> {
    let leases: Api<Lease> = Api::namespaced(cluster.client().await, namespace);
    let lease = json!({
        "metadata": {"name": "tcoder-controller", "annotations": {"tcoder.dev/scope": "all-namespaces"}},
        "spec": {"holderIdentity": holder},
    });
    leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
    leases
}

/// Everybody with the role `edit` in a namespace may write Leases there, before or after the installation.
#[tokio::test]
async fn lease_without_a_cluster_wide_service_account_holds_up_no_installation() {
    let cluster = Cluster::start().await;
    cluster.define().await;
    let system = Setup::default().workers(0).start().await;
    let tenant = cluster.namespace("tenant").await;
    let leases = lease_of_all_namespaces(&cluster, &tenant, "pod").await;
    let account = json!({"metadata": {"annotations": {"tcoder.dev/service-account": "../system:admin"}}});
    leases.patch("tcoder-controller", &PatchParams::default(), &Patch::Merge(account)).await.unwrap();
    let (controller, _) = cluster_wide(&cluster, &system, "genuine").await;
    eventually("it is the leader", || controller.log().contains("acquired leadership")).await;
    let log = controller.log();
    assert!(log.contains("its service account may not; ignoring it") && log.contains(&tenant), "{log}");
    // The controller looks again while it acts: that Lease is the older one.
    let asked = || {
        let reviews = |event: &&serde_json::Value| event["objectRef"]["resource"] == "subjectaccessreviews";
        cluster.audit().iter().filter(reviews).count()
    };
    let held = json!({"spec": {"holderIdentity": "other"}});
    leases.patch("tcoder-controller", &PatchParams::default(), &Patch::Merge(held)).await.unwrap();
    eventually("it looks while it acts", || asked() >= 2).await;
    controller.ready().await;
    assert!(!controller.stop().await.contains("this one stops"));
    system.stop().await;
}

/// Two that began at the same time, as after an outage of the cluster. The test itself is the older one.
#[tokio::test]
async fn of_two_cluster_wide_installations_that_act_the_younger_stops() {
    let cluster = Cluster::start().await;
    cluster.define().await;
    let system = Setup::default().workers(0).start().await;
    let home = cluster.namespace("older").await;
    let account = format!("--serviceaccount={home}:tcoder-controller");
    cluster
        .kubectl_ok(&["create", "clusterrolebinding", &home, "--clusterrole=cluster-admin", &account])
        .await;
    let leases = lease_of_all_namespaces(&cluster, &home, "").await;
    let (younger, _) = cluster_wide(&cluster, &system, "younger").await;
    eventually("it is the leader", || younger.log().contains("acquired leadership")).await;

    let held = json!({"spec": {"holderIdentity": "pod"}});
    leases.patch("tcoder-controller", &PatchParams::default(), &Patch::Merge(held)).await.unwrap();
    says(&younger, &format!("another installation, in the namespace {home},")).await;
    let log = younger.log();
    assert!(log.contains("an older installation reconciles") && log.contains("lost leadership"), "{log}");
    // Nobody renews that Lease, so that it ends.
    let terms = || younger.log().matches("acquired leadership").count();
    eventually("it is the leader again", || terms() == 2).await;
    younger.stop().await;
    system.stop().await;
}
