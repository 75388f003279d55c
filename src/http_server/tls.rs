//! TLS of a server: its certificate and its key, from files in PEM format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has no certificate or key.
    #[error("cannot read {what} from {path}: {source}; it must be a file in PEM format", path = path.display())]
    File {
        /// What it must contain.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        source: pem::Error,
    },
    /// The certificate and the key cannot be used together.
    #[error("the certificate in {path} cannot be used with this key: {source}", path = path.display())]
    Certificate {
        /// The file with the certificate.
        path: PathBuf,
        /// The error.
        source: rustls::Error,
    },
}

/// Accepts TLS connections with the certificate chain and the private key in these files. They are read once.
///
/// # Errors
/// If a file cannot be read, or the key is not that of the certificate.
pub(crate) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let file = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { what, path, source }
    };
    let failed = || file("a certificate", certificate);
    let chain = CertificateDer::pem_file_iter(certificate).map_err(failed())?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(failed())?;
    if chain.is_empty() {
        return Err(failed()(pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(file("a private key", key))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let mut config =
        config.map_err(|source| TlsError::Certificate { path: certificate.to_owned(), source })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}
