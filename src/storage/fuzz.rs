//! What the parsers of this module promise, for `crate::fuzz`.

use std::path::{Component, Path};
use std::sync::OnceLock;

use super::event::ObjectEvent;
use super::media::{MediaSigner, media_end};
use super::{content_type, fetch, layout};
use crate::config::{BaseUrl, Env, StorageConfig};
use crate::job::{AttemptId, Epoch, JobId, Millis, ObjectKey, safe_file_name};

pub(crate) use super::range::check_range_request as range_request;

const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

pub(crate) fn object_event(bytes: &[u8]) {
    match ObjectEvent::parse(bytes) {
        Ok(event) => {
            let created = event.created_object();
            assert_eq!(created.is_some(), event.action.creates());
            let key = created.and_then(|created| created.key.parse::<ObjectKey>().ok());
            key.iter().for_each(check_layout);
        }
        Err(error) => assert!(error.to_string().len() < 300, "{error}"),
    }
}

pub(crate) fn object_key(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(key) = text.parse::<ObjectKey>() {
        assert_eq!(key.as_str(), text);
        check_layout(&key);
        if let Ok(below) = "outputs/a".parse::<ObjectKey>().and_then(|folder| folder.join(&text)) {
            check_key(&below);
            assert!(below.as_str().starts_with("outputs/a/"), "{below}");
        }
    }
    let name = safe_file_name(&text);
    assert!((1..=100).contains(&name.len()) && !name.contains('/') && !name.starts_with('.'), "{name:?}");
    let job = JOB.parse::<JobId>().ok();
    let input = job.and_then(|job| layout::input_key(job, &text).ok());
    assert_eq!(input.and_then(|key| layout::job_of_input_key(&key)), job, "{text:?}");
}

/// Checks that a key which is taken apart is put together to the same key.
fn check_layout(key: &ObjectKey) {
    check_key(key);
    if let Some(job) = layout::job_of_input_key(key) {
        // A tenant's is below the tenant's own folder.
        let folder = format!("inputs/{job}");
        let rest = key.as_str().rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default();
        let tenant = rest.strip_suffix(&folder).unwrap_or("/");
        let is_folder = tenant.strip_suffix('/').is_some_and(|name| !name.is_empty() && !name.contains('/'));
        assert!(tenant.is_empty() || is_folder, "{key}");
    }
    if let Some((attempt, path)) = layout::attempt_of_output_key(key) {
        let again = layout::attempt_prefix(attempt).and_then(|folder| folder.join(path));
        assert_eq!(again.as_ref(), Ok(key));
        let _ = layout::stream_segment(path);
    }
    let _ = content_type(key.as_str());
}

pub(crate) fn content_range(bytes: &[u8]) {
    if let Some(span) = fetch::content_range(&text(bytes)) {
        assert!(span.total.is_none_or(|total| span.starts_at < total), "{span:?}");
    }
}

/// The signer of an installation, and a genuine token of an attempt.
fn genuine() -> Option<&'static (MediaSigner, AttemptId, String)> {
    static GENUINE: OnceLock<Option<(MediaSigner, AttemptId, String)>> = OnceLock::new();
    let make = || {
        let env = Env::of(|name| match name {
            "R2_ENDPOINT" => Some("http://127.0.0.1:9000".into()),
            "R2_PUBLIC_URL" => None,
            _ => Some("some-text".into()),
        });
        let signer = MediaSigner::new(&StorageConfig::read(&env).ok()?);
        let attempt: AttemptId = format!("{JOB}:7").parse().ok()?;
        let key = layout::attempt_prefix(attempt).ok()?.join("a.m3u8").ok()?;
        let api: BaseUrl = "https://films.example".parse().ok()?;
        let token = signer.sign(&api, &key, media_end(Millis(0)))?.path_segments()?.nth(1)?.to_owned();
        Some((signer, attempt, token))
    };
    GENUINE.get_or_init(make).as_ref()
}

/// Only the genuine token is accepted. A `#` in the bytes stands for it.
pub(crate) fn media_token(bytes: &[u8]) {
    let Some((signer, attempt, token)) = genuine() else { unreachable!("the settings are complete") };
    let given = text(bytes).replace('#', token);
    let is_accepted = |attempt| signer.check(&given, attempt, Millis(0)).is_ok();
    assert_eq!(is_accepted(*attempt), given == *token, "{given:?}");
    assert!(!is_accepted(AttemptId { epoch: Epoch(8), ..*attempt }), "{given:?}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks a key that was accepted.
fn check_key(key: &ObjectKey) {
    let text = key.as_str();
    assert!((1..=1024).contains(&text.len()) && !text.contains('\0'), "{text:?}");
    let is_plain = Path::new(text).components().all(|part| matches!(part, Component::Normal(_)));
    assert!(is_plain && text.parse::<ObjectKey>().as_ref() == Ok(key), "{text:?}");
}
