//! An object server for a single test, a client for any S3 server, test files, and an unreliable connection.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tcoder::config::StorageConfig;
use tcoder::standalone::objects::{Buckets, Keys, Objects, ObjectsHandle};
use tcoder::storage::Storage;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A running object server over a folder that is removed with it.
pub struct ObjectServer {
    pub dir: TempDir,
    pub config: StorageConfig,
    pub address: SocketAddr,
    pub events: mpsc::Receiver<Vec<u8>>,
    pub cancel: CancellationToken,
    pub handle: Option<ObjectsHandle>,
}

impl ObjectServer {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("objects");
        Self::serve(dir, folder).await
    }

    /// A server over an existing folder.
    pub async fn over(folder: &Path) -> Self {
        Self::serve(tempfile::tempdir().unwrap(), folder.to_owned()).await
    }

    /// Stops the server and starts another one over the same folder.
    pub async fn restart(mut self) -> Self {
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        self.stop().await;
        let folder = dir.path().join("objects");
        Self::serve(dir, folder).await
    }

    pub async fn stop(mut self) {
        self.cancel.cancel();
        self.handle.take().unwrap().stopped().await;
    }

    async fn serve(dir: TempDir, folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sender, events) = mpsc::channel(64);
        let buckets = Buckets { input: "input".into(), output: "output".into() };
        let cancel = CancellationToken::new();
        let handle =
            Objects::start(folder, listener, Keys::generate(), buckets, sender, cancel.clone()).unwrap();
        let (config, address) = (handle.storage_config(), handle.address());
        Self { dir, config, address, events, cancel, handle: Some(handle) }
    }

    pub fn storage(&self) -> Storage {
        Storage::new(&self.config)
    }

    /// A path below the server's folder that does not belong to an object.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// All files below the server's folder whose name satisfies `wanted`.
    pub fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if wanted(path.file_name().unwrap().to_str().unwrap()) {
                    found.push(path);
                }
            }
        }
        found
    }
}

/// A client that accepts any key, unlike ours.
pub fn client(config: &StorageConfig) -> aws_sdk_s3::Client {
    use secrecy::ExposeSecret as _;
    let http = aws_smithy_http_client::Builder::new().build_http();
    let credentials = aws_sdk_s3::config::Credentials::new(
        &config.access_key_id,
        config.secret_access_key.expose_secret(),
        None,
        None,
        "test",
    );
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
        .http_client(http)
        .endpoint_url(config.endpoint.as_str())
        .region(aws_sdk_s3::config::Region::new(config.region.clone()))
        .credentials_provider(credentials)
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// The keys below a prefix, relative to it; all keys of the bucket if it is empty.
pub async fn keys_below(config: &StorageConfig, bucket: &str, prefix: &str) -> Vec<String> {
    let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let mut pages = client(config).list_objects_v2().bucket(bucket).prefix(&below).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        for object in page.unwrap().contents() {
            keys.push(object.key().unwrap()[below.len()..].to_owned());
        }
    }
    keys
}

/// The variables of a role that uses these buckets.
pub fn environment(config: &StorageConfig) -> Vec<(&'static str, String)> {
    vec![
        ("R2_ENDPOINT", config.endpoint.to_string()),
        ("R2_REGION", config.region.clone()),
        ("R2_ACCESS_KEY_ID", config.access_key_id.clone()),
        ("R2_SECRET_ACCESS_KEY", config.secret_access_key.expose_secret().to_owned()),
        ("R2_INPUT_BUCKET_NAME", config.input_bucket.clone()),
        ("R2_OUTPUT_BUCKET_NAME", config.output_bucket.clone()),
    ]
}

/// Puts an object into the input bucket.
pub async fn put_input(config: &StorageConfig, key: &str, bytes: Vec<u8>) {
    let put = client(config).put_object().bucket(&config.input_bucket).key(key).body(bytes.into());
    put.send().await.unwrap();
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A file of `size` bytes, mostly holes, with a distinct mark in every MiB.
pub fn marked_file(path: &Path, size: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for mib in 0..size >> 20 {
        file.seek(SeekFrom::Start((mib << 20) + mib)).unwrap();
        file.write_all(&mib.to_be_bytes()).unwrap();
    }
}

pub fn hash(path: &Path) -> Vec<u8> {
    let mut file = std::fs::File::open(path).unwrap();
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finalize().to_vec(),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// A proxy to `upstream` that breaks connections: each transfers as many bytes of the response as its entry
/// in `budgets`; later ones are unlimited. Reports each connection.
pub async fn breaking_line(upstream: SocketAddr, budgets: Vec<u64>) -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (opened, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut budgets = budgets.into_iter();
        while let Ok((client, _)) = listener.accept().await {
            let _ = opened.try_send(());
            tokio::spawn(carry(client, upstream, budgets.next().unwrap_or(u64::MAX)));
        }
    });
    (address, connections)
}

async fn carry(mut client: TcpStream, upstream: SocketAddr, budget: u64) {
    let mut server = TcpStream::connect(upstream).await.unwrap();
    let (mut from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let mut answer = from_server.take(budget);
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        _ = tokio::io::copy(&mut answer, &mut to_client) => {}
    }
}

/// One HTTP exchange with exactly these bytes, which clients would normalize.
pub async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
