//! Certificates that are made for a test, by openssl.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder with `server.pem` and `server.key`, and `authority.pem`, which signed the first; `stranger.pem` signed nothing.
pub struct TestCertificates(tempfile::TempDir);

impl TestCertificates {
    /// Makes certificates for a name, as `subjectAltName` has it: `DNS:localhost`.
    pub fn of(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("tcoder-tls-").tempdir().unwrap();
        let at = folder.path();
        make_authority(at, "authority");
        make_authority(at, "stranger");
        openssl(
            at,
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout server.key -out server.csr",
        );
        let extensions = format!("subjectAltName={name}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(at.join("server.ext"), extensions).unwrap();
        openssl(
            at,
            "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 \
             -extfile server.ext -out server.pem",
        );
        Self(folder)
    }

    /// The path of a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
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
