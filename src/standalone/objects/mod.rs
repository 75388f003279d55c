//! An S3 server over a folder, in this process: it replaces R2 on a laptop and in tests.
//!
//! It verifies signatures, allows browsers (CORS), lets everybody read the output bucket, like a public R2 bucket,
//! and sends a message in R2's format about every new object in the input bucket.
//!
//! | module | what it does |
//! |---|---|
//! | this one | starts and stops the server |
//! | `access` | access control |
//! | `service` | the supported operations |
//! | `refusal` | closes connections whose next request could be mistaken for a body |
//! | `object`, `multipart`, `lists` | the operations |
//! | `conditions`, `checksum`, `listing` | S3's rules for conditional requests, checksums and pages. Pure |
//! | `events` | the messages about new objects |
//! | `store` | the folder: opens it, removes leftovers, applies changes |
//! | `index`, `record` | the metadata of objects, in an embedded database |
//! | `blobs`, `body` | the bytes of objects, in files |
//! | `old` | imports folders of earlier versions |
//!
//! The crate s3s implements the protocol. This module does not process the messages.

mod access;
mod blobs;
mod body;
mod checksum;
mod conditions;
mod error;
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
use std::net::SocketAddr;
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
use uuid::Uuid;

use self::refusal::CloseAfterRefusal;
use crate::config::{BaseUrl, StorageConfig};
use crate::http_server::{ServerLimits, serve};

/// The access key for signatures.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The id of the key.
    pub access_key_id: String,
    /// The secret of the key.
    pub secret_access_key: SecretString,
}

impl Keys {
    /// Generates a new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self {
            access_key_id: Uuid::new_v4().simple().to_string(),
            secret_access_key: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()).into(),
        }
    }
}

/// The names of the buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// The bucket for uploads; the server sends messages about its new objects.
    pub input: String,
    /// The bucket for results, which everybody may read.
    pub output: String,
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The folder cannot be used.
    #[error("cannot store objects in {dir}: {source}", dir = dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The name is not a valid bucket name.
    #[error("{0:?} cannot be a bucket's name: it takes 3 to 63 lower-case letters, digits, '-' and '.'")]
    Bucket(String),
    /// The socket has no address.
    #[error("the object server's socket cannot be used: {0}")]
    Socket(io::Error),
}

/// Maximum size of a request's XML, bytes: that of a multipart upload with all 10,000 parts, twice.
const LARGEST_XML: usize = 4 << 20;

/// An S3 server over a folder.
#[derive(Debug)]
pub struct Objects;

/// A running server. Dropping the handle does not stop the server; cancelling its token does.
pub struct ObjectsHandle {
    address: SocketAddr,
    endpoint: BaseUrl,
    keys: Keys,
    buckets: Buckets,
    service: ObjectService,
    task: JoinHandle<()>,
}

/// The S3 service, which several servers may share.
pub(super) type ObjectService = Cors<CloseAfterRefusal<S3Service>>;

impl Objects {
    /// Serves the folder `dir` on `listener` until `cancel`. Messages about new objects of the input bucket go to
    /// `events`; while that is full, uploads wait, and are eventually asked to retry.
    ///
    /// # Errors
    /// If the folder cannot be used or a bucket's name is invalid.
    pub fn start(
        dir: PathBuf,
        listener: TcpListener,
        keys: Keys,
        buckets: Buckets,
        events: mpsc::Sender<Vec<u8>>,
        cancel: CancellationToken,
    ) -> Result<ObjectsHandle, ObjectsError> {
        let address = listener.local_addr().map_err(ObjectsError::Socket)?;
        let endpoint = format!("http://{address}").parse().map_err(io::Error::other);
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
        // R2 does not support POST forms; s3s would read one into memory before it calls this code.
        let mut config = S3Config::default();
        config.post_object_max_file_size = 0;
        config.form_max_fields_size = 0;
        config.xml_max_body_size = LARGEST_XML;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let service = cors().layer(CloseAfterRefusal(builder.build()));
        let task = tokio::spawn(run(listener, service.clone(), tasks, cancel));
        Ok(ObjectsHandle { address, endpoint, keys, buckets, service, task })
    }
}

impl ObjectsHandle {
    /// The address that it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The settings for clients on this machine.
    #[must_use]
    pub fn storage_config(&self) -> StorageConfig {
        self.config_at(self.endpoint.clone())
    }

    /// The service, to be served at another address as well.
    pub(super) fn service(&self) -> ObjectService {
        self.service.clone()
    }

    /// The names of the buckets.
    pub(super) const fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// The settings for addresses below another endpoint that leads to this server. A presigned address contains the host in
    /// its signature, so the host must be known beforehand.
    pub(super) fn config_at(&self, endpoint: BaseUrl) -> StorageConfig {
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

    /// Waits until the server has stopped, which takes seconds after its token was cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the object server panicked");
        }
    }
}

/// The headers that a web page of another origin needs to upload and to play. R2 is set up in the same way.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD, Method::PUT, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::ETAG, header::CONTENT_LENGTH, header::CONTENT_RANGE, header::ACCEPT_RANGES])
        .max_age(Duration::from_secs(3600))
}

async fn run(listener: TcpListener, service: ObjectService, tasks: TaskTracker, cancel: CancellationToken) {
    let limits = ServerLimits::default();
    serve(listener, service, limits, cancel).await;
    tasks.close();
    if timeout(limits.grace, tasks.wait()).await.is_err() {
        tracing::warn!(uploads = tasks.len(), "stopped before all uploads were recorded");
    }
}

/// An error that the client did not cause. It is logged here, because s3s does not log it.
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
    fn keys_generate_is_random() {
        let (a, b) = (Keys::generate(), Keys::generate());
        assert_ne!(a.access_key_id, b.access_key_id);
        assert_ne!(a.secret_access_key.expose_secret(), b.secret_access_key.expose_secret());
        assert!(a.secret_access_key.expose_secret().len() >= 64);
    }
}
