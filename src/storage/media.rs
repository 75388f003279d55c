//! Addresses below the API that give access to the outputs of an attempt for a limited time:
//! `media/<token>/<job>/<epoch>/<path>`. Pure.
//!
//! A presigned address is valid for one object, and its signature is in the query. A playlist contains relative
//! addresses of its segments, and players resolve them against the path, so the query is lost. Here the signature is
//! in the path before the names, so every file that a playlist names has it, too.
//!
//! A token consists of its expiry in seconds and an HMAC over the attempt and that expiry. It is not stored: every
//! process that has the key of the storage can sign and verify it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256, Sha512};
use url::Url;

use super::layout;
use crate::config::{BaseUrl, StorageConfig};
use crate::job::{AttemptId, Millis, ObjectKey};

/// Minimum validity of an address, milliseconds: a day, which is longer than any film.
const WINDOW: i64 = 24 * 3_600_000;
/// Expiry times are full hours, so that a file keeps its address within an hour, which helps caches.
const STEP: i64 = 3_600_000;

/// The expiry of an address that is made at `now`.
#[must_use]
pub fn media_end(now: Millis) -> Millis {
    Millis(now.plus(WINDOW + STEP).0.div_euclid(STEP).saturating_mul(STEP))
}

/// Signs and verifies addresses of an attempt's outputs.
#[derive(Clone)]
pub struct MediaSigner(Hmac<Sha256>);

impl fmt::Debug for MediaSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MediaSigner")
    }
}

/// Why an address is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaRefused {
    /// The signature is missing, or was made with another key or for another attempt.
    #[error("the address is not signed, or it was changed")]
    Unsigned,
    /// The address expired at this time.
    #[error("the address expired at {0}")]
    Expired(Millis),
}

impl MediaSigner {
    /// A signer whose key is derived from the key of the storage, so that it needs no setting of its own.
    #[must_use]
    pub fn new(config: &StorageConfig) -> Self {
        let key = Sha512::new()
            .chain_update("tcoder media addresses\n")
            .chain_update(&config.output_bucket)
            .chain_update("\n")
            .chain_update(config.secret_access_key.expose_secret())
            .finalize();
        // SHA-512 returns exactly as many bytes as a block of SHA-256, which is the size of a key for HMAC.
        Self(Hmac::new(&key))
    }

    fn mac(&self, attempt: AttemptId, end: &str) -> Hmac<Sha256> {
        let AttemptId { job, epoch } = attempt;
        self.0.clone().chain_update(format!("{job}/{epoch}/{end}"))
    }

    /// The address of the output at `key` below `api`, valid until `end`, rounded down to seconds. `None` if the key
    /// does not belong to an attempt's output.
    #[must_use]
    pub fn sign(&self, api: &BaseUrl, key: &ObjectKey, end: Millis) -> Option<Url> {
        let (attempt, path) = layout::attempt_of_output_key(key)?;
        let end = end.0.div_euclid(1000).to_string();
        let mac = URL_SAFE_NO_PAD.encode(self.mac(attempt, &end).finalize().into_bytes());
        let (token, job, epoch) =
            (format!("{end}-{mac}"), attempt.job.to_string(), attempt.epoch.to_string());
        Some(api.below(["media", &token, &job, &epoch].into_iter().chain(path.split('/'))))
    }

    /// Verifies a token for this attempt and returns its expiry.
    ///
    /// # Errors
    /// If the token is invalid, belongs to another attempt, or has expired.
    pub fn check(&self, token: &str, attempt: AttemptId, now: Millis) -> Result<Millis, MediaRefused> {
        let (end, mac) = token.split_once('-').ok_or(MediaRefused::Unsigned)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| MediaRefused::Unsigned)?;
        // This comparison takes constant time.
        self.mac(attempt, end).verify_slice(&mac).map_err(|_| MediaRefused::Unsigned)?;
        let end: i64 = end.parse().map_err(|_| MediaRefused::Unsigned)?;
        let end = Millis(end.saturating_mul(1000));
        if end <= now { Err(MediaRefused::Expired(end)) } else { Ok(end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;
    use crate::job::Epoch;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_700_000_000_123);
    const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    const OTHER: &str = "01890a5d-ac96-774b-bcce-b302099a8058";

    fn of(secret: &'static str, bucket: &'static str) -> MediaSigner {
        let env = Env::of(move |name| match name {
            "R2_ENDPOINT" => Some("http://127.0.0.1:9000".into()),
            "R2_SECRET_ACCESS_KEY" => Some(secret.into()),
            "R2_OUTPUT_BUCKET_NAME" => Some(bucket.into()),
            "R2_PUBLIC_URL" => None,
            _ => Some("some-text".into()),
        });
        MediaSigner::new(&StorageConfig::read(&env).unwrap())
    }

    fn ours() -> MediaSigner {
        of("hush", "output")
    }

    fn key(path: &str) -> ObjectKey {
        format!("outputs/{JOB}/7/{path}").parse().unwrap()
    }

    fn api() -> BaseUrl {
        "https://films.example/tcoder".parse().unwrap()
    }

    fn token(signer: &MediaSigner) -> String {
        let url = signer.sign(&api(), &key("master.m3u8"), media_end(NOW)).unwrap();
        url.path().split('/').nth(3).unwrap().to_owned()
    }

    fn attempt(job: &str, epoch: u64) -> AttemptId {
        AttemptId { job: job.parse().unwrap(), epoch: Epoch(epoch) }
    }

    #[test]
    fn media_address_keeps_its_signature_for_relative_names() {
        let end = media_end(NOW);
        let url = ours().sign(&api(), &key("v0/720p.m3u8"), end).unwrap();
        assert!(url.as_str().starts_with("https://films.example/tcoder/media/"), "{url}");
        assert!(url.path().ends_with(&format!("/{JOB}/7/v0/720p.m3u8")) && url.query().is_none(), "{url}");
        let segment = url.join("seg_1.m4s").unwrap();
        let mut parts = segment.path().split('/').skip(3);
        let (token, id, epoch) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let attempt = attempt(id, epoch.parse().unwrap());
        assert_eq!(ours().check(token, attempt, NOW), Ok(end));
    }

    #[test]
    fn media_end_is_a_day_ahead_and_constant_for_an_hour() {
        let hour = Millis(1_699_999_200_000);
        assert_eq!(media_end(hour), media_end(hour.plus(3_599_999)));
        assert_ne!(media_end(hour), media_end(hour.plus(3_600_000)));
        for ms in [0, 1, 999, 1000, 3_599_999, 3_600_000] {
            let now = hour.plus(ms);
            let left = media_end(now).0 - now.0;
            assert!((86_400_001..=90_000_000).contains(&left), "{ms}: {left}");
        }
    }

    #[test]
    fn media_token_is_valid_for_its_attempt_until_it_expires() {
        let (signer, token) = (ours(), token(&ours()));
        let end = signer.check(&token, attempt(JOB, 7), NOW).unwrap();
        assert_eq!(signer.check(&token, attempt(JOB, 7), end.plus(-1)), Ok(end));
        assert_eq!(signer.check(&token, attempt(JOB, 7), end), Err(MediaRefused::Expired(end)));
        assert_eq!(signer.check(&token, attempt(OTHER, 7), NOW), Err(MediaRefused::Unsigned));
        assert_eq!(signer.check(&token, attempt(JOB, 8), NOW), Err(MediaRefused::Unsigned));
        for other in [of("else", "output"), of("hush", "else")] {
            assert_eq!(other.check(&token, attempt(JOB, 7), NOW), Err(MediaRefused::Unsigned));
        }
        let (_, mac) = token.split_once('-').unwrap();
        let later = format!("{}-{mac}", end.0 / 1000 + 3600);
        let plus = format!("+{token}");
        for bad in ["", "-", "1-", mac, &later, &plus, &token[..token.len() - 2], &format!("{token}A")] {
            assert_eq!(signer.check(bad, attempt(JOB, 7), NOW), Err(MediaRefused::Unsigned), "{bad}");
        }
    }

    #[test]
    fn media_sign_ignores_keys_that_are_not_outputs() {
        for key in [format!("outputs/{JOB}/manifest.json"), "inputs/a/b.mp4".to_owned()] {
            assert_eq!(ours().sign(&api(), &key.parse().unwrap(), media_end(NOW)), None, "{key}");
        }
    }

    #[test]
    fn media_signer_debug_output_hides_the_key() {
        assert_eq!(format!("{:?}", ours()), "MediaSigner");
    }

    proptest! {
        #[test]
        fn media_check_rejects_any_other_token(text in "\\PC{0,80}", now in any::<i64>()) {
            prop_assert_eq!(ours().check(&text, attempt(JOB, 7), Millis(now)), Err(MediaRefused::Unsigned));
        }

        #[test]
        fn media_sign_accepts_any_time(now in any::<i64>()) {
            prop_assert!(ours().sign(&api(), &key("a.m3u8"), media_end(Millis(now))).is_some());
        }
    }
}
