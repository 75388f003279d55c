//! A real kube-apiserver and etcd for tests: a shared one, and private ones for tests that break theirs. All
//! are stopped when this process ends, however it ends.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions::is_crd_established};
use kube::{Api, Client, Config};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use super::process::spawn;
use super::system::PATIENCE;

const TOKEN: &str = "token-of-the-tests-administrator";

/// An API server with its own etcd. Both are stopped when it is dropped.
pub struct Cluster {
    folder: TempDir,
    etcd_port: u16,
    port: u16,
    api_server: Option<Child>,
    _etcd: Child,
}

/// The cluster for all tests that break nothing; it contains our CRDs.
pub async fn shared() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER
        .get_or_init(|| async {
            let cluster = Cluster::start().await;
            cluster.define().await;
            cluster
        })
        .await
}

/// The cluster for tests that run their own controllers, each for its own namespace: the shared one has a
/// controller for all namespaces.
pub async fn bare() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER
        .get_or_init(|| async {
            let cluster = Cluster::start().await;
            cluster.define().await;
            cluster
        })
        .await
}

/// The folder with kube-apiserver, etcd and kubectl that `make test` found.
fn assets() -> PathBuf {
    let said = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let whole = |folder: &PathBuf| {
        ["kube-apiserver", "etcd", "kubectl"].iter().all(|program| folder.join(program).exists())
    };
    said.filter(whole).expect(
        "no API server to test against: run `make test`, which sees to one, or set KUBEBUILDER_ASSETS to what \
         hack/envtest.sh prints",
    )
}

/// A port without a listener, for a program that binds it later. It is outside of the range of ephemeral ports, and is
/// returned once, so that no other process or test takes it meanwhile.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Two test binaries may run at once.
    let first = u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start)).unwrap();
    for _ in PORTS {
        let number = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let port = PORTS.start + number;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free")
}

fn command(program: &str, log: &Path) -> Command {
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(assets().join(program));
    command.env_clear().stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command
}

impl Cluster {
    /// Starts etcd and the API server.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("tcoder-kube-").tempdir().unwrap();
        let (etcd_port, peer_port) = (free_port(), free_port());
        let (client, peer) =
            (format!("http://127.0.0.1:{etcd_port}"), format!("http://127.0.0.1:{peer_port}"));
        let mut etcd = command("etcd", &folder.path().join("etcd.log"));
        etcd.arg("--data-dir").arg(folder.path().join("etcd"));
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        etcd.arg("--initial-cluster").arg(format!("default={peer}"));
        // No test kills it, and disks are slow.
        etcd.arg("--unsafe-no-fsync");
        let key = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(folder.path().join("sa.key"))
            .arg("2048")
            .stderr(Stdio::null())
            .status();
        assert!(key.await.expect("openssl").success());
        std::fs::write(folder.path().join("tokens.csv"), format!("{TOKEN},admin,admin,\"system:masters\"\n"))
            .unwrap();
        std::fs::write(folder.path().join("audit.yaml"), AUDIT).unwrap();
        let etcd = spawn(etcd);
        let mut cluster = Self { folder, etcd_port, port: free_port(), api_server: None, _etcd: etcd };
        std::fs::write(cluster.kubeconfig(), cluster.kubeconfig_with(TOKEN)).unwrap();
        cluster.start_api_server().await;
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the API server; after [`Self::kill_api_server`] with the same etcd and port.
    pub async fn start_api_server(&mut self) {
        let mut server = command("kube-apiserver", &self.path("kube-apiserver.log"));
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        server
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .arg(format!("--secure-port={}", self.port))
            .args([
                file("cert-dir", "certificates"),
                file("service-account-key-file", "sa.key"),
                file("service-account-signing-key-file", "sa.key"),
                file("token-auth-file", "tokens.csv"),
                file("audit-policy-file", "audit.yaml"),
                file("audit-log-path", "audit.log"),
            ])
            .args([
                "--bind-address=127.0.0.1",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
            ]);
        self.api_server = Some(spawn(server));
        let client = self.client().await;
        let began = Instant::now();
        let ready = || axum::http::Request::get("/readyz").body(Vec::new()).unwrap();
        while client.request_text(ready()).await.is_err() {
            let log = || std::fs::read_to_string(self.path("kube-apiserver.log")).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "the API server does not become ready: {}", log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills the API server with SIGKILL.
    pub async fn kill_api_server(&mut self) {
        if let Some(mut server) = self.api_server.take() {
            server.kill().await.unwrap();
        }
    }

    /// Compacts etcd: a watch from an earlier revision gets 410 Gone, unless the API server has it in its
    /// cache.
    pub async fn compact(&self) {
        let base = format!("http://127.0.0.1:{}/v3/kv", self.etcd_port);
        let http = super::system::http();
        let range = serde_json::json!({"key": "AA==", "range_end": "AA==", "count_only": true});
        let now: serde_json::Value =
            http.post(format!("{base}/range")).json(&range).send().await.unwrap().json().await.unwrap();
        let body = serde_json::json!({"revision": now["header"]["revision"], "physical": true});
        let done = http.post(format!("{base}/compaction")).json(&body).send().await.unwrap();
        assert!(done.status().is_success(), "{done:?}");
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    fn kubeconfig_with(&self, token: &str) -> String {
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        config.to_string()
    }

    async fn client_of(&self, kubeconfig: &Path) -> Client {
        tcoder::net::install_crypto();
        let config = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    /// A client with the administrator's permissions.
    pub async fn client(&self) -> Client {
        self.client_of(&self.kubeconfig()).await
    }

    /// Creates a service account and returns a kubeconfig for it.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let metadata = ObjectMeta { name: Some(account.to_owned()), ..ObjectMeta::default() };
        let object = ServiceAccount { metadata, ..ServiceAccount::default() };
        match accounts.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made.unwrap()),
        }
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec!["https://kubernetes.default.svc".to_owned()],
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        let path = self.path(&format!("kubeconfig-{namespace}-{account}"));
        std::fs::write(&path, self.kubeconfig_with(&answer.status.unwrap().token)).unwrap();
        path
    }

    /// Creates a namespace with a unique name.
    pub async fn namespace(&self, prefix: &str) -> String {
        let name = format!("{prefix}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let namespaces: Api<Namespace> = Api::all(self.client().await);
        let object = Namespace { metadata, ..Namespace::default() };
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        name
    }

    /// Creates our CRDs.
    pub async fn define(&self) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client().await);
        for crd in tcoder::crd::all() {
            crds.create(&PostParams::default(), &crd).await.unwrap();
            self.established(&crd.metadata.name.unwrap()).await;
        }
    }

    /// Waits until the API server serves a CRD. `kubectl wait` fails where it has no conditions yet.
    pub async fn established(&self, crd: &str) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client().await);
        let established = await_condition(crds, crd, is_crd_established());
        tokio::time::timeout(PATIENCE, established).await.expect("the CRD is not taken").unwrap();
    }

    /// Runs kubectl as the administrator.
    pub async fn kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_in(args, &std::env::var_os("PATH").unwrap_or_default()).await
    }

    /// Runs kubectl with this PATH, on which it looks for plugins.
    pub async fn kubectl_in(&self, args: &[&str], path: &OsStr) -> Output {
        let mut kubectl = Command::new(assets().join("kubectl"));
        kubectl
            .env("PATH", path)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.folder.path())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let ended = tokio::time::timeout(PATIENCE, spawn(kubectl).wait_with_output()).await;
        ended.expect("kubectl does not end").unwrap()
    }

    /// Runs kubectl, which must succeed; returns its output.
    pub async fn kubectl_ok(&self, args: &[&str]) -> String {
        let output = self.kubectl(args).await;
        assert!(output.status.success(), "kubectl {args:?}: {}", super::process::err(&output));
        super::process::out(&output)
    }

    /// The audited requests of service accounts, one JSON event each.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let log = std::fs::read_to_string(self.path("audit.log")).unwrap_or_default();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Audits requests of service accounts, each once.
const AUDIT: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived", "ResponseStarted"],
  "rules": [
    {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
    {"level": "None"}
  ]
}"#;
