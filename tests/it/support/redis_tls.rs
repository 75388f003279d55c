//! A Redis that speaks TLS only, with a certificate of an authority that is made for it.

use std::path::PathBuf;

use tcoder::config::{Certificates, RedisConfig};

use super::certificates::TestCertificates;
use super::kube::free_port;
use super::redis::{PrivateRedis, private_redis};

/// A server with TLS. It ends when dropped.
pub struct TlsRedis {
    _redis: PrivateRedis,
    pub port: u16,
    certificates: TestCertificates,
}

impl TlsRedis {
    /// Starts a server whose certificate is for `host`.
    pub fn start(host: &str) -> Self {
        let certificates = TestCertificates::of(host);
        let port = free_port();
        let file = |name: &str| certificates.file(name).display().to_string();
        let redis = private_redis(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &file("server.pem"),
            "--tls-key-file",
            &file("server.key"),
            "--tls-auth-clients",
            "no",
            "--appendonly",
            "yes",
        ]);
        Self { _redis: redis, port, certificates }
    }

    /// The file with the certificate of the authority, or that of one that signed nothing.
    pub fn authority(&self, is_right: bool) -> PathBuf {
        self.certificates.file(if is_right { "authority.pem" } else { "stranger.pem" })
    }

    /// The settings of a process that trusts these certificates.
    pub fn config(&self, ca_cert: Option<Certificates>) -> RedisConfig {
        let url = format!("rediss://localhost:{}", self.port);
        RedisConfig { ca_cert, ..RedisConfig::new(url, "{tls}:") }
    }
}
