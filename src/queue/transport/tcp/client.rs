//! What is needed to open a connection: the address, the login, TLS, and the limits of TCP.

use std::path::Path;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::ExposeSecret as _;

use super::super::QueueError;
use super::cluster::Node;
use crate::config::{Certificates, RedisConfig};
use crate::net;

/// After this long without a packet from the other side, a TCP connection is considered dead.
const GONE: Duration = Duration::from_secs(15);

/// The client of the configured address.
pub(super) async fn of(config: &RedisConfig) -> Result<Client, QueueError> {
    net::install_crypto();
    let info = config.url.expose_secret().into_connection_info()?.set_tcp_settings(tcp_settings());
    let Some(certificates) = &config.ca_cert else { return Ok(Client::open(info)?) };
    let root_cert = match certificates {
        Certificates::Pem(text) => text.clone().into_bytes(),
        Certificates::File(path) => read(path).await?,
    };
    let is_certificate = |found: Result<_, _>| found.is_ok();
    let mut found = CertificateDer::pem_slice_iter(&root_cert).peekable();
    if found.peek().is_none() || !found.all(is_certificate) {
        return Err(QueueError::Certificate("REDIS_CA_CERT has no certificates in PEM format".into()));
    }
    drop(found);
    Ok(Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(root_cert) })?)
}

async fn read(path: &Path) -> Result<Vec<u8>, QueueError> {
    let failed = |error| format!("REDIS_CA_CERT cannot be read: {}: {error}", path.display());
    tokio::fs::read(path).await.map_err(|error| QueueError::Certificate(failed(error)))
}

/// A client of this node of the same cluster, with the same login and TLS; `None` for a Unix socket.
pub(super) fn at(named_by: &Client, node: &Node) -> Option<Client> {
    let info = named_by.get_connection_info();
    let address = move_to(info.addr(), node)?;
    Client::open(ConnectionInfo::clone(info).set_addr(address)).ok()
}

fn move_to(address: &ConnectionAddr, node: &Node) -> Option<ConnectionAddr> {
    let host = |named_by: &String| if node.host.is_empty() { named_by.clone() } else { node.host.clone() };
    match address {
        ConnectionAddr::Tcp(named_by, _) => Some(ConnectionAddr::Tcp(host(named_by), node.port)),
        ConnectionAddr::TcpTls { host: named_by, insecure, tls_params, .. } => Some(ConnectionAddr::TcpTls {
            host: host(named_by),
            port: node.port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        }),
        _ => None,
    }
}

/// Detects within seconds that the other side has disappeared, even on a connection that only waits.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(GONE).with_interval(Duration::from_secs(5));
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(GONE);
    settings
}
