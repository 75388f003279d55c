//! The data folder. Only one `tcoder up` at a time uses it, and it contains the secrets that `tcoder up` generated.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::objects::Keys;

/// The data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The folder cannot be read or written.
    #[error("cannot use the data folder {path}: {source}; choose another with --data", path = path.display())]
    Folder {
        /// The path that failed.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another process uses the folder.
    #[error("another `tcoder up` uses the data folder {path}; stop it, or choose another folder with --data", path = .0.display())]
    Taken(PathBuf),
    /// The file with the secrets is damaged.
    #[error("{path} cannot be read; remove it, and new keys are made at the next start", path = .0.display())]
    Secrets(PathBuf),
}

/// An open data folder. Its lock is released when it is dropped, and also when the process dies.
pub(crate) struct DataDir {
    path: PathBuf,
    secrets: Secrets,
    _lock: File,
}

impl DataDir {
    /// Opens the folder, and creates it if it does not exist.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let wrong = |source| DataError::Folder { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(path).map_err(wrong)?;
        let path = path.canonicalize().map_err(wrong)?;
        // The folder exists, from an earlier version or created by hand. It may belong to another user, like a
        // mounted volume.
        if let Err(error) = make_private(&path) {
            tracing::warn!(%error, path = %path.display(), "other users of this machine can read the data folder");
        }
        let lock = File::create(path.join("lock")).map_err(wrong)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataError::Taken(path)),
            Err(TryLockError::Error(source)) => return Err(wrong(source)),
        }
        let secrets = Secrets::load(&path.join("secrets.json"))?;
        Ok(Self { path, secrets, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// A folder inside the data folder, created if it does not exist.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, DataError> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(|source| DataError::Folder { path: path.clone(), source })?;
        Ok(path)
    }
}

/// The folder contains people's videos and everything in Redis.
const PRIVATE: u32 = 0o700;

fn make_private(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE)) }
}

/// Keys that a system on one machine generates for itself, once. Only their owner can read them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Secrets {
    access_key_id: String,
    secret_access_key: String,
    webhook_secret: String,
}

impl Secrets {
    fn load(path: &Path) -> Result<Self, DataError> {
        match fs::read(path) {
            Ok(json) => serde_json::from_slice(&json).map_err(|_| DataError::Secrets(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secrets = Self::generate();
                secrets.save(path).map_err(|source| DataError::Folder { path: path.to_owned(), source })?;
                Ok(secrets)
            }
            Err(source) => Err(DataError::Folder { path: path.to_owned(), source }),
        }
    }

    fn generate() -> Self {
        use base64::Engine as _;
        use secrecy::ExposeSecret as _;
        let keys = Keys::generate();
        let webhook: [u8; 32] = rand::random();
        Self {
            access_key_id: keys.access_key_id,
            secret_access_key: keys.secret_access_key.expose_secret().to_owned(),
            webhook_secret: format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(webhook)),
        }
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        // A new file first: a half-written file would prevent the next start.
        let aside = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(aside, path)
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys {
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone().into(),
        }
    }

    pub(crate) fn webhook(&self) -> SecretString {
        self.webhook_secret.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn secrets_are_generated_once_and_private_to_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let webhook = first.secrets().webhook();
        let mode = fs::metadata(dir.path().join("secrets.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(first);
        let second = DataDir::open(dir.path()).unwrap();
        assert_eq!(second.secrets().webhook().expose_secret(), webhook.expose_secret());
    }

    #[test]
    fn data_folder_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let old = dir.path().join("old");
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
        for path in [old, dir.path().join("new")] {
            DataDir::open(&path).unwrap();
            assert_eq!(mode(&path), 0o700, "{}", path.display());
        }
    }

    #[test]
    fn data_folder_allows_one_user_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataError::Taken(_))));
        drop(first);
        assert!(DataDir::open(dir.path()).is_ok());
    }
}
