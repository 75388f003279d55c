//! The S3 server of `tcoder up` behaves as S3 clients expect, and keeps its data.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use nix::sys::signal::Signal;
use secrecy::ExposeSecret as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::objects::{ObjectServer, client, keys_below, put_input};
use crate::support::process::{eventually, spawn};
use crate::support::system::{PATIENCE, Setup};

/// Runs boto3, the AWS command line, and the cases of ceph/s3-tests that tests/s3/ceph.txt lists.
#[tokio::test(flavor = "multi_thread")]
async fn s3_server_passes_clients_and_ceph_cases() {
    let mut server = ObjectServer::start().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("hack/s3-test.sh"));
    command
        .arg(format!("http://{}", server.address))
        .env("AWS_ACCESS_KEY_ID", &server.config.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", server.config.secret_access_key.expose_secret())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // About 200 tests, and possibly the installation of their packages.
    let ended = tokio::time::timeout(PATIENCE * 4, spawn(command).wait_with_output()).await;
    let output = ended.expect("the tests do not end").unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(output.status.success(), "{printed}");
    let cases = std::fs::read_to_string(root.join("tests/s3/ceph.txt")).unwrap();
    let cases = cases.lines().filter(|line| line.starts_with("test_")).count();
    assert!(cases > 100 && printed.contains(&format!("{cases} passed in")), "{printed}");
    assert!(!printed.contains("skipped") && !printed.contains("xfailed"), "{printed}");
    // None of their buckets is the input bucket, the only one with events.
    assert!(server.events.try_recv().is_err());
}

/// Includes multipart uploads and headers.
#[tokio::test(flavor = "multi_thread")]
async fn s3_server_restart_keeps_objects_and_removes_leftovers() {
    let server = ObjectServer::start().await;
    let s3 = client(&server.config);
    s3.put_object().bucket("output").key("a").body(b"one".to_vec().into()).send().await.unwrap();
    let put = s3.put_object().bucket("output").key("b").content_type("text/b").metadata("name", "value");
    put.body(b"two".to_vec().into()).send().await.unwrap();
    let upload = s3.create_multipart_upload().bucket("output").key("c").send().await.unwrap();
    let id = upload.upload_id.unwrap();
    let part = s3.upload_part().bucket("output").key("c").upload_id(&id).part_number(1);
    part.body(b"three".to_vec().into()).send().await.unwrap();
    s3.delete_object().bucket("output").key("a").send().await.unwrap();
    let data = server.scratch("objects/_data");
    std::fs::write(data.join("0190000000007000800000000000000a"), "of a write that a crash interrupted")
        .unwrap();

    let server = server.restart().await;
    let s3 = client(&server.config);
    assert_eq!(keys_below(&server.config, "output", "").await, ["b"]);
    let found = s3.get_object().bucket("output").key("b").send().await.unwrap();
    assert_eq!(
        (found.content_type(), &found.metadata().unwrap()["name"]),
        (Some("text/b"), &"value".to_owned())
    );
    assert_eq!(&found.body.collect().await.unwrap().into_bytes()[..], b"two");
    // The upload can be continued.
    let parts = s3.list_parts().bucket("output").key("c").upload_id(&id).send().await.unwrap();
    assert_eq!(parts.parts()[0].size(), Some(5));
    // One file for the object, and one for the part.
    assert_eq!(std::fs::read_dir(data).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_server_killed_keeps_exactly_the_confirmed_writes() {
    let system = Setup::default().workers(0).start().await;
    let (config, data) = (system.storage_config(), system.data.clone());
    put_input(&config, "films/a", b"confirmed".to_vec()).await;
    let put = client(&config).put_object().bucket("input").key("films/b");
    let put = put.presigned(PresigningConfig::expires_in(Duration::from_secs(600)).unwrap()).await.unwrap();
    let path = put.uri().strip_prefix(config.endpoint.as_str()).unwrap();
    let address = config.endpoint.as_url().socket_addrs(|| None).unwrap()[0];
    let head = format!("PUT /{path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 1000000\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[1; 500_000]).await.unwrap();
    let files = || std::fs::read_dir(data.join("objects/_data")).unwrap().count();
    eventually("the second object is being written", || files() == 2).await;
    system.signal(Signal::SIGKILL);
    system.over().await;
    assert_eq!(files(), 2);

    let system = Setup::over(&data).workers(0).start().await;
    let config = system.storage_config();
    assert_eq!(keys_below(&config, "input", "").await, ["films/a"]);
    let found = client(&config).get_object().bucket("input").key("films/a").send().await.unwrap();
    assert_eq!(&found.body.collect().await.unwrap().into_bytes()[..], b"confirmed");
    assert_eq!(files(), 1);
    system.stop().await;
}

/// A folder in the first format of the server, in which an object was a file named after its key.
#[tokio::test(flavor = "multi_thread")]
async fn s3_server_serves_objects_of_an_earlier_versions_folder() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("output/outputs/a/1/720p.mp4");
    std::fs::create_dir_all(key.parent().unwrap()).unwrap();
    std::fs::write(&key, b"film").unwrap();
    // base64url of "output" and of the key.
    let sidecar = ".bucket-b3V0cHV0.object-b3V0cHV0cy9hLzEvNzIwcC5tcDQ";
    std::fs::write(
        folder.path().join(format!("{sidecar}.metadata.json")),
        r#"{"user_metadata":{"name":"value"},"content_type":"video/mp4","cache_control":"immutable"}"#,
    )
    .unwrap();
    std::fs::write(
        folder.path().join(format!("{sidecar}.internal.json")),
        r#"{"e_tag":"d41d8cd98f00b204e9800998ecf8427e"}"#,
    )
    .unwrap();
    let server = ObjectServer::over(folder.path()).await;
    let s3 = client(&server.config);
    let found = s3.get_object().bucket("output").key("outputs/a/1/720p.mp4").send().await.unwrap();
    assert_eq!((found.content_type(), found.cache_control()), (Some("video/mp4"), Some("immutable")));
    assert_eq!(found.e_tag(), Some("\"d41d8cd98f00b204e9800998ecf8427e\""));
    assert_eq!(found.metadata().unwrap()["name"], "value");
    assert_eq!(&found.body.collect().await.unwrap().into_bytes()[..], b"film");
    assert!(!folder.path().join("output").exists());
}
