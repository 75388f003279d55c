//! A Redis that speaks TLS only, with a certificate of an authority that is made for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tcoder::config::{Certificates, RedisConfig};

use super::kube::free_port;
use super::redis::{PrivateRedis, private_redis};

/// A server with TLS. It ends when dropped.
pub struct TlsRedis {
    _redis: PrivateRedis,
    pub port: u16,
    folder: tempfile::TempDir,
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, args: &str) {
    let mut command = Command::new("openssl");
    command.args(args.split_whitespace()).current_dir(folder).stdin(Stdio::null());
    let done = command.output().expect("openssl");
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Makes an authority, `NAME.pem` and `NAME.key`.
fn make_authority(folder: &Path, name: &str) {
    openssl(
        folder,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
             -addext basicConstraints=critical,CA:TRUE -keyout {name}.key -out {name}.pem"
        ),
    );
}

impl TlsRedis {
    /// Starts a server whose certificate is for `host`.
    pub fn start(host: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("tcoder-tls-").tempdir().unwrap();
        let at = folder.path();
        make_authority(at, "authority");
        make_authority(at, "stranger");
        openssl(
            at,
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=redis -keyout server.key -out server.csr",
        );
        std::fs::write(at.join("server.ext"), format!("subjectAltName={host}\nbasicConstraints=CA:FALSE\n"))
            .unwrap();
        openssl(
            at,
            "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 \
             -extfile server.ext -out server.pem",
        );
        let port = free_port();
        let file = |name: &str| at.join(name).display().to_string();
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
        Self { _redis: redis, port, folder }
    }

    /// The file with the certificate of the authority, or that of one that signed nothing.
    pub fn authority(&self, is_right: bool) -> PathBuf {
        self.folder.path().join(if is_right { "authority.pem" } else { "stranger.pem" })
    }

    /// The settings of a process that trusts these certificates.
    pub fn config(&self, ca_cert: Option<Certificates>) -> RedisConfig {
        let url = format!("rediss://localhost:{}", self.port);
        RedisConfig { ca_cert, ..RedisConfig::new(url, "{tls}:") }
    }
}
