//! An S3 server over a folder, in this process: it plays the part of R2 on a laptop and in tests.
//!
//! Signatures are checked, browsers are let in (CORS), the output bucket can be read by everybody, as
//! a public R2 bucket can, and a message like R2's is sent about every new object of the input bucket.
//!
//! | part | what it does |
//! |---|---|
//! | here | starts and stops the server |
//! | `access` | who may do what |
//! | `service` | which operations there are |
//! | `refusal` | ends connections whose next request could be taken for a body |
//! | `object`, `multipart`, `lists` | the operations |
//! | `conditions`, `checksum`, `listing` | what S3 says of conditional requests, checksums and pages. Pure |
//! | `events` | the messages about new objects |
//! | `store` | the folder: opened, cleared of leftovers, changed |
//! | `index`, `record` | what objects there are, in an embedded database |
//! | `blobs`, `body` | their bytes, in files |
//! | `old` | folders of earlier versions |
//!
//! The bytes on the wire are s3s'. Not here: what is made of the messages.

mod access;
mod blobs;
mod body;
mod checksum;
mod conditions;
mod events;
mod index;
mod listing;
mod lists;
mod multipart;
mod object;
mod old;
mod record;
mod refusal;
mod service;
mod store;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, header};
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Error, S3ErrorCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer as _;
use tower_http::cors::{AllowHeaders, Any, Cors, CorsLayer};
use url::Host;
use uuid::Uuid;

use self::refusal::CloseAfterRefusal;
use crate::config::{BaseUrl, StorageConfig};
use crate::http_server::{Limits, serve};

/// The key that signs requests.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Key id.
    pub access_key_id: String,
    /// Key.
    pub secret_access_key: SecretString,
}

impl Keys {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self {
            access_key_id: Uuid::new_v4().simple().to_string(),
            secret_access_key: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()).into(),
        }
    }
}

/// Which buckets there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// Where uploads go; its new objects are told.
    pub input: String,
    /// Where results go; everybody may read it.
    pub output: String,
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The folder or the socket.
    #[error("cannot store objects in {dir}: {source}", dir = dir.display())]
    Folder {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a name S3 takes.
    #[error("{0:?} cannot be a bucket's name: it takes 3 to 63 lower-case letters, digits, '-' and '.'")]
    Bucket(String),
    /// The listener says nothing about itself.
    #[error("the object server's socket cannot be used: {0}")]
    Socket(io::Error),
}

/// An S3 server over a folder.
#[derive(Debug)]
pub struct Objects;

/// A running server. Dropping it leaves the server running; it stops with its token.
#[derive(Debug)]
pub struct ObjectsHandle {
    address: SocketAddr,
    endpoint: BaseUrl,
    keys: Keys,
    buckets: Buckets,
    task: JoinHandle<()>,
}

impl Objects {
    /// Serves the folder `dir` on `listener` until `cancel`. Messages about new objects of the input
    /// bucket go to `events`; while that is full, uploads wait and are in the end told to come again.
    ///
    /// # Errors
    /// When the folder cannot be used or a bucket's name is none.
    pub fn start(
        dir: PathBuf,
        listener: TcpListener,
        keys: Keys,
        buckets: Buckets,
        events: mpsc::Sender<Vec<u8>>,
        cancel: CancellationToken,
    ) -> Result<ObjectsHandle, ObjectsError> {
        let address = listener.local_addr().map_err(ObjectsError::Socket)?;
        let endpoint = address_of(address, None).parse().map_err(io::Error::other);
        let endpoint = endpoint.map_err(ObjectsError::Socket)?;
        for bucket in [&buckets.input, &buckets.output] {
            if !s3s::path::check_bucket_name(bucket) {
                return Err(ObjectsError::Bucket(bucket.clone()));
            }
        }
        let tasks = TaskTracker::new();
        let events = events::Events { bucket: buckets.input.clone(), queue: events };
        let store = store::Store::open(&dir, &buckets, events, tasks.clone());
        let store = store.map_err(|error| ObjectsError::Folder { dir, source: io::Error::other(error) })?;
        let access = access::Access { public: buckets.output.clone(), index: store.index.clone() };
        let served = [buckets.input.clone(), buckets.output.clone()];
        let mut builder = S3ServiceBuilder::new(service::Service { store, served });
        builder.set_auth(SimpleAuth::from_single(
            keys.access_key_id.clone(),
            keys.secret_access_key.expose_secret(),
        ));
        builder.set_access(access);
        // R2 takes no POST forms; s3s would read one into memory before it asks us.
        let mut config = S3Config::default();
        config.post_object_max_file_size = 0;
        config.form_max_fields_size = 0;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let service = cors().layer(CloseAfterRefusal(builder.build()));
        let task = tokio::spawn(run(listener, service, tasks, cancel));
        Ok(ObjectsHandle { address, endpoint, keys, buckets, task })
    }
}

impl ObjectsHandle {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The settings with which this machine uses it.
    #[must_use]
    pub fn storage_config(&self) -> StorageConfig {
        self.config_at(self.endpoint.clone())
    }

    /// The settings for addresses that are given out: `host` is this machine's name elsewhere. Presigned
    /// addresses are signed for a host, so the one they are called at has to be known beforehand.
    ///
    /// # Errors
    /// When no address can be made of it.
    pub fn public_config(&self, host: Option<&Host>) -> Result<StorageConfig, ObjectsError> {
        let endpoint = address_of(self.address, host).parse().map_err(io::Error::other);
        Ok(self.config_at(endpoint.map_err(ObjectsError::Socket)?))
    }

    fn config_at(&self, endpoint: BaseUrl) -> StorageConfig {
        StorageConfig {
            public_url: endpoint.join(&format!("{}/", self.buckets.output)).ok(),
            endpoint,
            region: "auto".to_owned(),
            access_key_id: self.keys.access_key_id.clone(),
            secret_access_key: self.keys.secret_access_key.clone(),
            input_bucket: self.buckets.input.clone(),
            output_bucket: self.buckets.output.clone(),
        }
    }

    /// Waits until it has stopped, which it does within seconds once its token is cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the object server panicked");
        }
    }
}

/// The address at which `listening` is reached: by `host` where that is given, else from this machine.
#[must_use]
pub fn address_of(listening: SocketAddr, host: Option<&Host>) -> String {
    let port = listening.port();
    match host {
        Some(host) => format!("http://{host}:{port}"),
        None => {
            let ip = match listening.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            format!("http://{}", SocketAddr::new(ip, port))
        }
    }
}

/// What a page on another origin needs to upload and to play: R2 is set up the same way.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD, Method::PUT, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::ETAG, header::CONTENT_LENGTH, header::CONTENT_RANGE, header::ACCEPT_RANGES])
        .max_age(Duration::from_secs(3600))
}

async fn run(
    listener: TcpListener,
    service: Cors<CloseAfterRefusal<S3Service>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let limits = Limits::default();
    serve(listener, service, limits, cancel).await;
    tasks.close();
    if timeout(limits.grace, tasks.wait()).await.is_err() {
        tracing::warn!(uploads = tasks.len(), "stopped before all uploads were recorded");
    }
}

/// A failure that is not the client's: logged here, since s3s keeps it to itself.
fn internal(error: io::Error) -> S3Error {
    tracing::error!(%error, "the object store cannot use its folder");
    let mut answer = S3Error::with_source(S3ErrorCode::InternalError, error.into());
    answer.set_message("The object store's folder does not work; see the server's log.");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_reached_by_its_public_name_or_from_this_machine() {
        let host = Host::parse("films.example").unwrap();
        for (listening, here) in [
            ("127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("0.0.0.0:8081", "http://127.0.0.1:8081"),
            ("10.0.0.5:8081", "http://10.0.0.5:8081"),
            ("[::]:8081", "http://[::1]:8081"),
        ] {
            let listening = listening.parse().unwrap();
            assert_eq!(address_of(listening, None), here);
            assert_eq!(address_of(listening, Some(&host)), "http://films.example:8081");
        }
    }

    #[test]
    fn keys_are_new_each_time() {
        let (a, b) = (Keys::generate(), Keys::generate());
        assert_ne!(a.access_key_id, b.access_key_id);
        assert_ne!(a.secret_access_key.expose_secret(), b.secret_access_key.expose_secret());
        assert!(a.secret_access_key.expose_secret().len() >= 64);
    }
}
