//! What went wrong, from the errors of the redis crate.

use std::error::Error;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};
use rustls::CertificateError;

use super::super::{QueueError, of_code};

impl From<RedisError> for QueueError {
    fn from(error: RedisError) -> Self {
        let (code, text) = (error.code(), error.detail().unwrap_or_default());
        if let Some(special) = of_code(code, text) {
            let answer = || format!("{} {text}", code.unwrap_or_default());
            return match special {
                Self::Connection(_) => Self::Connection(answer()),
                Self::Unavailable(_) => Self::Unavailable(answer()),
                Self::NotPrimary(_) => Self::NotPrimary(answer()),
                other => other,
            };
        }
        if let Some(tls) = tls_error(&error) {
            return of_tls(tls);
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Auth(String::new()),
            ErrorKind::InvalidClientConfig => Self::Refused("REDIS_URL is not a Redis address".into()),
            _ if error.is_timeout() => Self::TimedOut,
            // The text of the error would name the address, which may contain a password.
            _ if error.is_connection_refusal() => Self::Connection("connection refused".into()),
            _ if error.is_io_error() || error.is_connection_dropped() => {
                Self::Connection("connection lost".into())
            }
            _ => Self::Refused(error.detail().map_or_else(|| error.to_string(), str::to_owned)),
        }
    }
}

/// The error of the TLS handshake within an error, if it is one.
fn tls_error(error: &RedisError) -> Option<&rustls::Error> {
    let shared = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    shared.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref()
}

fn of_tls(error: &rustls::Error) -> QueueError {
    let rustls::Error::InvalidCertificate(reason) = error else {
        return QueueError::Connection(format!("TLS: {error}"));
    };
    QueueError::Certificate(match reason {
        CertificateError::UnknownIssuer => {
            "its certificate is signed by an authority that is not known here; set \
             REDIS_CA_CERT to the certificate of that authority"
                .into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another host; name the host in REDIS_URL as the certificate does".into()
        }
        other => format!("its certificate is not valid: {other}"),
    })
}
