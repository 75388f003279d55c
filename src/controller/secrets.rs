//! Reads the Secrets that sign webhooks when they are needed, and caches nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use secrecy::SecretString;
use tokio::time::timeout;

use crate::job::SecretRef;
use crate::webhook::Key;

/// Time limit of a request to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a Secret signs no webhook.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// What is wrong with it, and what to do.
    #[error("{0}")]
    Unusable(String),
    /// The API server does not answer, or fails.
    #[error("{0}")]
    Unreadable(String),
}

/// Checks that this Secret can sign webhooks.
///
/// # Errors
/// If it cannot, or if that is not known.
pub(crate) async fn usable(client: &Client, secret: &SecretRef) -> Result<(), SecretError> {
    read(client, secret).await.map(drop)
}

/// Reads a key of a Secret.
///
/// # Errors
/// If there is none that can sign, or if that is not known.
pub(super) async fn read(client: &Client, wanted: &SecretRef) -> Result<Key, SecretError> {
    let SecretRef { namespace, name, key } = wanted;
    let what = format!("the Secret {name} in namespace {namespace}, which is to sign the webhook,");
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = match timeout(CALL_TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            let why = format!("{what} may not be read by the controller; grant it get on that Secret");
            return Err(SecretError::Unusable(why));
        }
        // Do not include the error, which may quote the Secret.
        Ok(Err(_)) | Err(_) => {
            return Err(SecretError::Unreadable(format!("{what} cannot be read at the moment; retrying")));
        }
    };
    let Some(secret) = found else {
        return Err(SecretError::Unusable(format!(
            "{what} does not exist; make it: kubectl -n {namespace} create secret generic {name} \
             --from-literal={key}=whsec_$(openssl rand -base64 32)"
        )));
    };
    let bytes = secret.data.unwrap_or_default().remove(key);
    let Some(bytes) = bytes else {
        return Err(SecretError::Unusable(format!("{what} has no key {key}; add it")));
    };
    let text = String::from_utf8(bytes.0).map(|text| SecretString::from(text.trim().to_owned()));
    let sound = text.ok().and_then(|text| Key::new(&text).ok());
    sound.ok_or_else(|| {
        let rule = "it must be whsec_ and 24 to 64 bytes in base64";
        SecretError::Unusable(format!("{what} has a key {key} that cannot sign: {rule}"))
    })
}
