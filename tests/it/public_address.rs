//! `tcoder up` for other machines: with TLS of its own, or behind a proxy that has it.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::certificates::TestCertificates;
use crate::support::clips::clip;
use crate::support::kube::free_port;
use crate::support::process::{err, out, run, spawn};
use crate::support::system::{PATIENCE, Setup, System, TOKEN, folder};

/// A client that trusts the authority of the test.
fn trusting(certificates: &TestCertificates) -> reqwest::Client {
    let authority = std::fs::read(certificates.file("authority.pem")).unwrap();
    let authority = reqwest::Certificate::from_pem(&authority).unwrap();
    reqwest::Client::builder().tls_certs_only([authority]).pool_max_idle_per_host(0).build().unwrap()
}

/// What curl prints, which is linked with another implementation of TLS.
async fn curl(certificates: &TestCertificates, args: &[&str]) -> (bool, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--cacert"]);
    command.arg(certificates.file("authority.pem")).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawn(command).wait_with_output().await.unwrap();
    (output.status.success(), format!("{}{}", out(&output), err(&output)))
}

/// A video goes in by the command line and comes out by the addresses of the job, all of them at the address of the system.
async fn video_is_transcoded_over_tls(system: &System, certificates: &TestCertificates) {
    assert!(system.url.starts_with("https://localhost:"), "{}", system.url);
    let authority = certificates.file("authority.pem");
    let dir = folder("tls");
    let environment = [
        ("TCODER_URL", system.url.as_str()),
        ("TCODER_TOKEN", TOKEN),
        ("SSL_CERT_FILE", authority.to_str().unwrap()),
    ];
    let film = clip().to_str().unwrap();
    let arguments =
        ["submit", film, "--preset", "hls-adaptive", "--quality", "144p", "--output", "out", "--json"];
    let done = run(&arguments, &environment, &dir).await;
    assert!(done.status.success(), "{}\n{}", err(&done), system.log());
    assert!(dir.join("out/144p/index.m3u8").exists());
    let job: serde_json::Value = serde_json::from_str(&out(&done)).unwrap();
    for address in [&job["entries"][0]["url"], &job["outputs"][0]["url"]] {
        let address = address.as_str().unwrap();
        assert!(address.starts_with(&format!("{}/output/", system.url)), "{address}");
        let (is_read, said) = curl(certificates, &["--dump-header", "-", address]).await;
        assert!(is_read && said.contains("#EXTM3U"), "{said}");
        // A page of this address could use the token of somebody who entered it there.
        assert!(
            said.to_lowercase().contains("content-security-policy: default-src 'none'; sandbox"),
            "{said}"
        );
    }
    let page = format!("{}/", system.url);
    let (is_read, said) = curl(certificates, &[&page]).await;
    assert!(is_read && said.contains("<html"), "{said}");
}

#[tokio::test]
async fn up_with_a_certificate_speaks_tls_alone_at_one_address() {
    let certificates = TestCertificates::of("DNS:localhost");
    let file = |name: &str| certificates.file(name).display().to_string();
    let setup = || {
        Setup { listen: "0.0.0.0:0".into(), ..Setup::default() }
            .env("API_TOKENS", TOKEN)
            .env("TCODER_PUBLIC_HOST", "localhost")
            .env("TCODER_TLS_CERT", &file("server.pem"))
    };
    // The key of another certificate, and a file that is none.
    for (key, words) in [("authority.key", "cannot be used with this key"), ("server.ext", "PEM format")] {
        let (code, said) = setup().env("TCODER_TLS_KEY", &file(key)).fails().await;
        assert_eq!(code, 5, "{said}");
        assert!(said.contains(words), "{said}");
    }
    let mut system = setup().env("TCODER_TLS_KEY", &file("server.key")).start().await;
    system.api.http = trusting(&certificates);
    video_is_transcoded_over_tls(&system, &certificates).await;

    // An address of an upload is for this name, and takes the video through the same port.
    let id = system.upload(clip(), &json!({"outputQualities": ["144p"], "fileName": "a.mp4"})).await;
    assert_eq!(system.completed(&id).await["status"], "completed");

    // Without TLS, and for clients that do not know the authority, there is nothing.
    let plain = system.url.replace("https://", "http://");
    let (is_read, said) = curl(&certificates, &[&format!("{plain}/livez")]).await;
    assert!(!is_read, "{said}");
    let strangers = TestCertificates::of("DNS:localhost");
    let (is_read, said) = curl(&strangers, &[&format!("{}/livez", system.url)]).await;
    assert!(!is_read && said.contains("certificate"), "{said}");
    // A connection that begins no handshake does not keep it from stopping.
    let address = system.url.trim_start_matches("https://").to_owned();
    let silent = tokio::net::TcpStream::connect(address).await.unwrap();
    system.stop().await;
    drop(silent);
}

#[tokio::test]
async fn up_behind_a_proxy_gives_the_addresses_of_the_proxy() {
    let certificates = TestCertificates::of("DNS:localhost");
    let (port, at) = (free_port(), free_port());
    let system = Setup { listen: format!("127.0.0.1:{at}"), ..Setup::default() }
        .env("API_TOKENS", TOKEN)
        .env("API_PUBLIC_URL", &format!("https://localhost:{port}"));
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/node.sh"));
    command.args(["tests/client/proxy.mjs", &port.to_string(), &at.to_string()]);
    command.args([certificates.file("server.pem"), certificates.file("server.key")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut proxy = spawn(command);
    let mut lines = BufReader::new(proxy.stdout.take().unwrap()).lines();
    let ready = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the proxy does not start");
    assert_eq!(ready.unwrap().as_deref(), Some("ready"));

    let mut system = system.start().await;
    system.api.http = trusting(&certificates);
    video_is_transcoded_over_tls(&system, &certificates).await;
    proxy.kill().await.unwrap();
    system.stop().await;
}
