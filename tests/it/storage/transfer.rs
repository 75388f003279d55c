//! Large objects, and transfers that break off: uploads in parts, downloads and fetches.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn large_file_survives_multipart_upload_and_download() {
    let server = ObjectServer::start().await;
    let (from, to) = (server.scratch("from"), server.scratch("to"));
    marked_file(&from, 70 * MIB + 12_345);
    let sent = Arc::new(AtomicU64::new(0));
    let progress = Progress::new({
        let sent = Arc::clone(&sent);
        move |bytes| {
            sent.fetch_max(bytes, Ordering::Relaxed);
        }
    });
    let name = key("outputs/a/1/720p.mp4");
    let storage = server.storage();
    let bytes = storage.upload(&name, &from, "video/mp4", &progress, &never()).await.unwrap();
    assert_eq!(bytes, 70 * MIB + 12_345);
    assert_eq!(sent.load(Ordering::Relaxed), bytes);
    let info = storage.head(Bucket::Output, &name).await.unwrap().unwrap();
    assert_eq!(info.size, bytes);
    // With parts of 16 MiB; the entity tag of a multipart upload ends with the number of parts.
    assert!(info.etag.as_deref().unwrap().ends_with("-5"), "{info:?}");

    let got = storage.download(Bucket::Output, &name, &to, bytes, &progress, &never()).await.unwrap();
    assert_eq!(got, bytes);
    assert_eq!(hash(&to), hash(&from));
    assert_eq!(server.uploads("output").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_upload_leaves_no_object_and_no_parts() {
    let server = ObjectServer::start().await;
    let from = server.scratch("from");
    marked_file(&from, 130 * MIB);
    let cancel = never();
    let progress = Progress::new({
        let cancel = cancel.clone();
        move |_| cancel.cancel()
    });
    let name = key("outputs/a/1/720p.mp4");
    let done = server.storage().upload(&name, &from, "video/mp4", &progress, &cancel).await;
    assert!(matches!(done, Err(StorageError::Cancelled)));
    assert_eq!(server.storage().head(Bucket::Output, &name).await.unwrap(), None);
    assert_eq!(server.uploads("output").await, 0);
}

async fn through(
    server: &ObjectServer,
    budgets: Vec<u64>,
) -> (Storage, BaseUrl, tokio::sync::mpsc::Receiver<()>) {
    let (line, connections) = breaking_line(server.address, budgets).await;
    let endpoint: BaseUrl = format!("http://{line}").parse().unwrap();
    let config = StorageConfig { endpoint: endpoint.clone(), ..server.config.clone() };
    (Storage::new(&config), endpoint, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn download_resumes_after_an_interruption() {
    let server = ObjectServer::start().await;
    let (from, to) = (server.scratch("from"), server.scratch("to"));
    marked_file(&from, 8 * MIB);
    let name = key("outputs/a/1/720p.mp4");
    server.storage().upload(&name, &from, "video/mp4", &Progress::none(), &never()).await.unwrap();

    let (storage, _, mut connections) = through(&server, vec![3 * MIB, 2 * MIB, 100]).await;
    let seen = Arc::new(AtomicU64::new(0));
    let progress = Progress::new({
        let seen = Arc::clone(&seen);
        // Starting over would decrease the number.
        move |bytes| assert!(seen.swap(bytes, Ordering::Relaxed) < bytes)
    });
    let bytes = storage.download(Bucket::Output, &name, &to, 8 * MIB, &progress, &never()).await.unwrap();
    assert_eq!(bytes, 8 * MIB);
    assert_eq!(hash(&to), hash(&from));
    for connection in 1..=4 {
        assert!(connections.try_recv().is_ok(), "connection {connection}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_resumes_after_an_interruption() {
    let server = ObjectServer::start().await;
    let (from, to) = (server.scratch("from"), server.scratch("to"));
    marked_file(&from, 8 * MIB);
    let name = key("outputs/a/1/720p.mp4");
    server.storage().upload(&name, &from, "video/mp4", &Progress::none(), &never()).await.unwrap();
    let (_, endpoint, mut connections) = through(&server, vec![3 * MIB, 2 * MIB]).await;
    let url = endpoint.join(&format!("output/{name}")).unwrap();
    let fetcher = Fetcher::new(EgressPolicy::AllowPrivate).unwrap();
    let bytes = fetcher.fetch(&url, &to, 8 * MIB, &Progress::none(), &never()).await.unwrap();
    assert_eq!(bytes, 8 * MIB);
    assert_eq!(hash(&to), hash(&from));
    for connection in 1..=3 {
        assert!(connections.try_recv().is_ok(), "connection {connection}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_report_too_large_and_missing_objects() {
    let server = ObjectServer::start().await;
    server.output("outputs/a", b"0123456789").await;
    let (storage, to) = (server.storage(), server.scratch("to"));
    let fetcher = Fetcher::new(EgressPolicy::AllowPrivate).unwrap();
    let public = |name: &str| server.config.public_url.clone().unwrap().join(name).unwrap();
    let none = Progress::none();

    let (name, missing) = (key("outputs/a"), key("outputs/b"));
    let large = storage.download(Bucket::Output, &name, &to, 9, &none, &never()).await;
    assert!(matches!(large, Err(StorageError::TooLarge { limit: 9 })));
    let large = fetcher.fetch(&public("outputs/a"), &to, 9, &none, &never()).await;
    assert!(matches!(large, Err(StorageError::TooLarge { limit: 9 })));
    let absent = storage.download(Bucket::Output, &missing, &to, 9, &none, &never()).await;
    assert!(matches!(absent, Err(StorageError::NotFound { .. })));
    let absent = fetcher.fetch(&public("outputs/b"), &to, 9, &none, &never()).await;
    assert!(matches!(absent, Err(StorageError::NotFound { .. })));
    // A folder is not an object.
    let folder = storage.download(Bucket::Output, &key("outputs"), &to, 9, &none, &never()).await;
    assert!(matches!(folder, Err(StorageError::NotFound { .. })));
    assert_eq!(storage.head(Bucket::Output, &missing).await.unwrap(), None);

    let cancelled = never();
    cancelled.cancel();
    let stopped = storage.download(Bucket::Output, &name, &to, 99, &none, &cancelled).await;
    assert!(matches!(stopped, Err(StorageError::Cancelled)));
    let nowhere = server.scratch("no/such/folder");
    let disk = storage.download(Bucket::Output, &name, &nowhere, 99, &none, &never()).await;
    assert!(matches!(disk, Err(StorageError::Disk { doing: "write", .. })));
    let disk = storage.upload(&name, &nowhere, "text/plain", &none, &never()).await;
    assert!(matches!(disk, Err(StorageError::Disk { doing: "read", .. })));
    assert!(!to.exists());
    assert_eq!(storage.download(Bucket::Output, &name, &to, 10, &none, &never()).await.unwrap(), 10);
}

/// The peak memory of this process in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs itself in a separate process, so that the memory of other tests does not count.
#[tokio::test(flavor = "multi_thread")]
async fn gigabyte_transfer_uses_little_memory() {
    const INSIDE: &str = "TCODER_TEST_MEMORY";
    if std::env::var_os(INSIDE).is_none() {
        let name = "storage::transfer::gigabyte_transfer_uses_little_memory";
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let mut server = ObjectServer::start().await;
    let size = 1024 * MIB;
    let (from, to) = (server.scratch("from"), server.scratch("to"));
    marked_file(&from, size);
    server.output("small", b"x").await;
    let before = peak_memory();

    // Uploads like a browser, in one request; downloads like a worker.
    let file = tokio::fs::File::open(&from).await.unwrap();
    let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(file, 1 << 18));
    let put = http().put(server.put_url("inputs/a/b.mp4")).header("content-length", size).body(body);
    assert_eq!(put.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(ObjectEvent::parse(&server.next_event().await).unwrap().size, Some(size));
    let name = key("inputs/a/b.mp4");
    let none = Progress::none();
    assert_eq!(
        server.storage().download(Bucket::Input, &name, &to, size, &none, &never()).await.unwrap(),
        size
    );

    let grown = (peak_memory() - before) / 1024;
    assert!(grown < 100, "memory grew by {grown} MiB");
    assert!(same_size(&from, &to));
}

fn same_size(a: &Path, b: &Path) -> bool {
    std::fs::metadata(a).unwrap().len() == std::fs::metadata(b).unwrap().len()
}
