//! What only the object server of `tcoder up` does: its permissions, its keys, its messages about inputs, and its end.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn cors_permits_uploads_from_other_origins() {
    let server = ObjectServer::start().await;
    let url = server.put_url("inputs/a/b.mp4");
    let preflight = http()
        .request(Method::OPTIONS, url.clone())
        .header("origin", "https://example.com")
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "content-type")
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), StatusCode::OK);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    assert!(preflight.headers()["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
    assert_eq!(preflight.headers()["access-control-allow-headers"], "content-type");

    let put = http().put(url).header("origin", "https://example.com").body("x").send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    assert_eq!(put.headers()["access-control-allow-origin"], "*");
    let exposed = put.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
    assert!(exposed.contains("etag"), "{exposed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_requests_read_outputs_only() {
    let server = ObjectServer::start().await;
    server.output("outputs/a/1/a.txt", b"made").await;
    http().put(server.put_url("inputs/a/b.mp4")).body("secret").send().await.unwrap();
    let at = |path: &str| server.config.endpoint.join(path).unwrap();
    let output = at("output/outputs/a/1/a.txt");

    let read = http().get(output.clone()).header("range", "bytes=1-2").send().await.unwrap();
    assert_eq!(read.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(read.text().await.unwrap(), "ad");
    assert_eq!(http().head(output.clone()).send().await.unwrap().status(), StatusCode::OK);

    for (method, url) in [
        (Method::GET, at("input/inputs/a/b.mp4")),
        (Method::HEAD, at("input/inputs/a/b.mp4")),
        (Method::GET, at("output")),
        (Method::GET, at("output?list-type=2")),
        (Method::GET, at("")),
        (Method::PUT, output.clone()),
        (Method::PUT, at("output/new.txt")),
        (Method::DELETE, output.clone()),
        (Method::POST, at("output/new.txt?uploads")),
    ] {
        let answer = http().request(method.clone(), url.clone()).body("").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {url}");
    }
    assert_eq!(http().get(output).send().await.unwrap().text().await.unwrap(), "made");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_cannot_escape_their_bucket() {
    let server = ObjectServer::start().await;
    let client = client(&server.config);
    for evil in ["../../evil", "../output/evil", "a/../../../evil", "./evil"] {
        let url = client
            .put_object()
            .bucket("input")
            .key(evil)
            .presigned(aws_sdk_s3::presigning::PresigningConfig::expires_in(UPLOAD_WINDOW).unwrap())
            .await
            .unwrap();
        let start = url.uri().find("/input/").unwrap();
        let target = &url.uri()[start..];
        let (path, query) = target.split_once('?').unwrap();
        for path in [
            path.to_owned(),
            path.replace('.', "%2e"),
            path.replace('.', "%2E").replace('/', "%2F").replacen("%2Finput%2F", "/input/", 1),
        ] {
            let request = format!(
                "PUT {path}?{query} HTTP/1.1\r\nhost: {}\r\ncontent-length: 4\r\nconnection: close\r\n\r\nevil",
                server.address
            );
            let answer = raw(server.address, &request).await;
            assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("InvalidURI"), "{path}: {answer}");
        }
    }
    // Through the header of a copy and through a list in a body, too.
    server.output("a", b"x").await;
    for source in ["output/../../../Cargo.toml", "output/%2e%2e/input/x", "elsewhere/a"] {
        let copy = client.copy_object().copy_source(source).bucket("input").key("stolen").send().await;
        assert!(copy.is_err(), "{source}");
    }
    use aws_sdk_s3::types::{Delete, ObjectIdentifier};
    std::fs::write(server.scratch("precious"), "x").unwrap();
    let evil = ObjectIdentifier::builder().key("../../precious").build().unwrap();
    let delete = Delete::builder().objects(evil).build().unwrap();
    assert!(client.delete_objects().bucket("input").delete(delete).send().await.is_err());
    assert!(server.scratch("precious").exists());
    // Keys that look like paths are not special.
    let strange = ["a//evil", "..\\evil", "/evil", "evil/", "C:evil"];
    for key in strange {
        client.put_object().bucket("input").key(key).body(b"x".to_vec().into()).send().await.unwrap();
    }
    let mut stored = keys_below(&server.config, "input", "").await;
    stored.sort();
    let mut expected = strange.map(str::to_owned);
    expected.sort();
    assert_eq!(stored, expected);
    assert_eq!(keys_below(&server.config, "output", "").await, ["a"]);
    assert_eq!(server.files(|name| name.contains("evil") || name.contains("stolen")), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_inputs_send_messages_in_r2_format() {
    let mut server = ObjectServer::start().await;
    let client = client(&server.config);
    http().put(server.put_url("inputs/a/b.mp4")).body("12345").send().await.unwrap();
    let message: serde_json::Value = serde_json::from_slice(&server.next_event().await).unwrap();
    let time = message["eventTime"].as_str().unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z') && time.len() == 24, "{time}");
    assert_eq!(
        message,
        serde_json::json!({
            "account": "local",
            "action": "PutObject",
            "bucket": "input",
            "object": {"key": "inputs/a/b.mp4", "size": 5, "eTag": "827ccb0eea8a706c4c34a16891f84e7b"},
            "eventTime": time,
        })
    );

    let copy = client.copy_object().copy_source("input/inputs/a/b.mp4").bucket("input").key("inputs/a/c.mp4");
    copy.send().await.unwrap();
    let bytes = server.next_event().await;
    let message: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(message["copySource"], serde_json::json!({"bucket": "input", "object": "inputs/a/b.mp4"}));
    let event = ObjectEvent::parse(&bytes).unwrap();
    assert_eq!(
        (&event.action, event.key.as_str(), event.size),
        (&Action::CopyObject, "inputs/a/c.mp4", Some(5))
    );

    let create = client.create_multipart_upload().bucket("input").key("inputs/a/d.mp4");
    let id = create.send().await.unwrap().upload_id.unwrap();
    let part = client.upload_part().bucket("input").key("inputs/a/d.mp4").upload_id(&id).part_number(1);
    let tag = part.body(vec![7; 100].into()).send().await.unwrap().e_tag.unwrap();
    use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
    let parts = CompletedMultipartUpload::builder()
        .parts(CompletedPart::builder().part_number(1).e_tag(tag).build())
        .build();
    let complete = client.complete_multipart_upload().bucket("input").key("inputs/a/d.mp4").upload_id(&id);
    complete.multipart_upload(parts).send().await.unwrap();
    let event = ObjectEvent::parse(&server.next_event().await).unwrap();
    assert_eq!(event.action, Action::CompleteMultipartUpload);
    let created = event.created_object().unwrap();
    assert_eq!((created.bucket, created.key, created.size), ("input", "inputs/a/d.mp4", 100));
    assert!(created.etag.unwrap().ends_with("-1"), "{created:?}");

    // Deletions, failures and outputs cause no event: the next event is that of the next upload.
    client.delete_object().bucket("input").key("inputs/a/d.mp4").send().await.unwrap();
    server.output("outputs/a", b"x").await;
    http().put(server.put_url("inputs/a/b.mp4")).header("if-none-match", "*").body("x").send().await.unwrap();
    let empty = http().put(server.put_url("inputs/a/e.mp4")).body("").send().await.unwrap();
    assert_eq!(empty.status(), StatusCode::OK, "{}", empty.text().await.unwrap());
    let event = ObjectEvent::parse(&server.next_event().await).unwrap();
    assert_eq!((event.key.as_str(), event.size), ("inputs/a/e.mp4", Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_upload_leaves_no_object_and_sends_no_message() {
    let mut server = ObjectServer::start().await;
    let url = server.put_url("inputs/a/b.mp4");
    let head = format!(
        "PUT {}?{} HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000000\r\n\r\n",
        url.path(),
        url.query().unwrap(),
        server.address
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[1; 500_000]).await.unwrap();
    let begun = || !server.data().is_empty();
    let until = async |wanted: bool| {
        while begun() != wanted {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, until(true)).await.expect("the server never began to write");
    drop(stream);
    tokio::time::timeout(limit, until(false)).await.expect("the half of an object stays");
    // The next event is that of the next upload.
    http().put(server.put_url("inputs/a/c.mp4")).body("x").send().await.unwrap();
    let event = ObjectEvent::parse(&server.next_event().await).unwrap();
    assert_eq!(event.key, "inputs/a/c.mp4");
}

#[tokio::test(flavor = "multi_thread")]
async fn object_server_stops_and_closes_its_channel() {
    let mut server = ObjectServer::start().await;
    server.output("a", b"x").await;
    server.cancel.cancel();
    server.handle.take().unwrap().stopped().await;
    assert_eq!(server.events.recv().await, None);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn object_server_delays_uploads_while_the_event_queue_is_full() {
    let mut server = ObjectServer::start().await;
    for n in 0..64 {
        let put = http().put(server.put_url(&format!("inputs/a/{n}.mp4"))).body("x").send().await.unwrap();
        assert_eq!(put.status(), StatusCode::OK);
    }
    let waiting = tokio::spawn(http().put(server.put_url("inputs/a/64.mp4")).body("x").send());
    let mut told = Vec::new();
    while told.len() < 65 {
        let bytes = server.next_event().await;
        told.push(ObjectEvent::parse(&bytes).unwrap().key);
    }
    assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(told[64], "inputs/a/64.mp4");
}
