//! The keys of objects in the buckets.
//!
//! Inputs are stored at `inputs/<job>/<file name>`; where each tenant has a prefix of its own, below that. The outputs of an attempt are stored at
//! `outputs/<job>/<epoch>/...`; creating `outputs/<job>/manifest.json` makes one attempt the result of the job.

use crate::job::{AttemptId, InvalidKey, Job, JobId, ObjectKey, StreamSegment, safe_file_name};

/// Maximum length of a file name in a key, characters. An earlier local S3 server turned the whole key into the name
/// of one file, which a longer name would overflow.
const FILE_NAME: usize = 64;

/// The folder of uploads.
const INPUTS: &str = "inputs";

/// The master playlist in the folder of an attempt.
pub const MASTER_PLAYLIST: &str = "master.m3u8";

/// The query of segments in playlists that are written before the segments: the API waits for such a segment. Object
/// storage ignores it.
pub const AWAITED: &str = "awaited";

/// The folder of the sound that all renditions share.
pub const SHARED_AUDIO: &str = "audio";

/// The segment at `path` below the folder of an attempt: `720p/segment_00042.m4s`. A header is stored with the first
/// segment. `None` if the file is not part of a stream.
#[must_use]
pub fn stream_segment(path: &str) -> Option<StreamSegment> {
    let (folder, file) = path.split_once('/')?;
    let number = if file == "init.mp4" {
        0
    } else {
        let digits = file.strip_prefix("segment_")?.strip_suffix(".m4s")?;
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())??
    };
    Some(if folder == SHARED_AUDIO { StreamSegment::Audio(number) } else { StreamSegment::Video(number) })
}

/// The key of a job's input: the job's id and the sanitised name that its sender gave it.
///
/// # Errors
/// Never for a name from [`safe_file_name`]; the type of the key requires it.
pub fn input_key(job: JobId, file_name: &str) -> Result<ObjectKey, InvalidKey> {
    input_prefix(job)?.join(&short_name(file_name))
}

/// The same below the prefix of a tenant, which is the name of its namespace.
///
/// # Errors
/// If the tenant's name cannot be part of a key.
pub fn tenant_input_key(tenant: &str, job: JobId, file_name: &str) -> Result<ObjectKey, InvalidKey> {
    format!("{tenant}/{}", input_key(job, file_name)?).parse()
}

/// Whether a key belongs to this tenant. A tenant with the name of a folder of the installation has no keys.
#[must_use]
pub fn is_of_tenant(tenant: &str, key: &ObjectKey) -> bool {
    let rest = key.as_str().strip_prefix(tenant).and_then(|rest| rest.strip_prefix('/'));
    !tenant.is_empty() && !is_reserved(tenant) && rest.is_some()
}

/// Whether a folder of this name is the installation's own.
#[must_use]
pub fn is_reserved(folder: &str) -> bool {
    [INPUTS, "outputs", "probes"].contains(&folder)
}

/// A sanitised file name of limited length.
fn short_name(file_name: &str) -> String {
    let safe = safe_file_name(file_name);
    let short = &safe[safe.len().saturating_sub(FILE_NAME)..];
    let short = match short.trim_start_matches(['.', '-']) {
        "" => "video",
        name => name,
    };
    short.to_owned()
}

/// The folder of a job's uploaded input.
///
/// # Errors
/// Never; the type of the key requires it.
pub fn input_prefix(job: JobId) -> Result<ObjectKey, InvalidKey> {
    format!("{INPUTS}/{job}").parse()
}

/// The job whose input has the key `key`, also if it is below the prefix of a tenant; `None` if the key has another form.
#[must_use]
pub fn job_of_input_key(key: &ObjectKey) -> Option<JobId> {
    let parts: Vec<&str> = key.as_str().split('/').collect();
    let job = match parts[..] {
        [INPUTS, job, _] | [_, INPUTS, job, _] => job,
        _ => return None,
    };
    let id: JobId = job.parse().ok()?;
    // The folder of a job has only one spelling, so that two keys never belong to the same job's input.
    (id.to_string() == job).then_some(id)
}

/// Whether an upload is not below the prefix of a tenant.
#[must_use]
pub fn is_shared_upload(key: &ObjectKey) -> bool {
    let folder = job_of_input_key(key).and_then(|job| folder_of_upload(job, key).zip(input_prefix(job).ok()));
    folder.is_some_and(|(folder, shared)| folder == shared)
}

/// The folder of the input that was uploaded for the job; `None` if the key is not that of an upload for it.
#[must_use]
pub fn folder_of_upload(job: JobId, key: &ObjectKey) -> Option<ObjectKey> {
    let (folder, _) = key.as_str().rsplit_once('/')?;
    (job_of_input_key(key) == Some(job)).then(|| folder.parse().ok())?
}

/// The folder of all outputs of a job and its manifest.
///
/// # Errors
/// Never; the type of the key requires it.
pub fn job_prefix(job: JobId) -> Result<ObjectKey, InvalidKey> {
    format!("outputs/{job}").parse()
}

/// The folder of the outputs of one attempt.
///
/// # Errors
/// Never; the type of the key requires it.
pub fn attempt_prefix(attempt: AttemptId) -> Result<ObjectKey, InvalidKey> {
    let AttemptId { job, epoch } = attempt;
    format!("outputs/{job}/{epoch}").parse()
}

/// The attempt that made the output at `key`, and the output's path below the attempt's folder; `None` if the key has
/// another form.
#[must_use]
pub fn attempt_of_output_key(key: &ObjectKey) -> Option<(AttemptId, &str)> {
    let mut parts = key.as_str().strip_prefix("outputs/")?.splitn(3, '/');
    let (job, epoch, path) = (parts.next()?, parts.next()?, parts.next()?);
    let attempt = AttemptId { job: job.parse().ok()?, epoch: epoch.parse().ok()? };
    // As of an input's key, there is only one spelling.
    (attempt.job.to_string() == job).then_some((attempt, path))
}

/// `outputs/<job>/<epoch>/720p.mp4` -> `720p.mp4`; `None` if the key has another form.
#[must_use]
pub fn relative_output_path(key: &ObjectKey) -> Option<&str> {
    attempt_of_output_key(key).map(|(_, path)| path)
}

/// The key of the master playlist of a job whose video can be played before it has ended.
#[must_use]
pub fn early_entry(job: &Job) -> Option<ObjectKey> {
    let attempt = job.split_by().filter(|_| job.plays_early())?;
    attempt_prefix(attempt).and_then(|folder| folder.join(MASTER_PLAYLIST)).ok()
}

/// The object that commits an attempt as the result of the job.
///
/// # Errors
/// Never; the type of the key requires it.
pub fn manifest_key(job: JobId) -> Result<ObjectKey, InvalidKey> {
    format!("outputs/{job}/manifest.json").parse()
}

/// The key of the object by which workers find out whether storage honours conditions for writes.
///
/// # Errors
/// Never; the type of the key requires it.
pub fn probe_key() -> Result<ObjectKey, InvalidKey> {
    "probes/conditions".parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Epoch;
    use proptest::prelude::*;

    fn job() -> JobId {
        "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()
    }

    #[test]
    fn stream_segment_is_that_of_a_rendition_or_of_the_sound() {
        use StreamSegment::{Audio, Video};
        for (path, segment) in [
            ("720p/segment_00042.m4s", Some(Video(42))),
            ("144p/segment_123456.m4s", Some(Video(123_456))),
            ("144p/init.mp4", Some(Video(0))),
            ("audio/init.mp4", Some(Audio(0))),
            ("audio/segment_00007.m4s", Some(Audio(7))),
            ("", None),
            ("segment_00001.m4s", None),
            ("720p/index.m3u8", None),
            ("720p/segment_+1.m4s", None),
            ("720p/segment_99999999999.m4s", None),
        ] {
            assert_eq!(stream_segment(path), segment, "{path}");
        }
    }

    fn job_of(key: &str) -> Option<JobId> {
        job_of_input_key(&key.parse().unwrap())
    }

    #[test]
    fn layout_keys_have_the_documented_form() {
        let id = job();
        let attempt = AttemptId { job: id, epoch: Epoch(12) };
        assert_eq!(input_key(id, "C:\\My film.mp4").unwrap().as_str(), format!("inputs/{id}/My-film.mp4"));
        assert_eq!(attempt_prefix(attempt).unwrap().as_str(), format!("outputs/{id}/12"));
        assert_eq!(manifest_key(id).unwrap().as_str(), format!("outputs/{id}/manifest.json"));
    }

    #[test]
    fn job_of_input_key_accepts_only_keys_of_the_layout() {
        let id = job();
        assert_eq!(job_of(&format!("inputs/{id}/a.mp4")), Some(id));
        for key in [
            format!("outputs/{id}/a.mp4"),
            format!("inputs/{id}"),
            format!("inputs/{id}/deep/a.mp4"),
            format!("x/y/inputs/{id}/a.mp4"),
            format!("x/{id}/a.mp4"),
            format!("inputs/{}/a.mp4", id.to_string().to_uppercase()),
            "inputs/holiday/a.mp4".to_owned(),
            "a.mp4".to_owned(),
        ] {
            assert_eq!(job_of(&key), None, "{key}");
        }
    }

    #[test]
    fn input_of_a_tenant_is_below_its_prefix_and_belongs_to_its_job() {
        let id = job();
        let key = tenant_input_key("films", id, "My film.mp4").unwrap();
        assert_eq!(key.as_str(), format!("films/inputs/{id}/My-film.mp4"));
        assert_eq!(job_of_input_key(&key), Some(id));
        assert_eq!(folder_of_upload(id, &key).unwrap().as_str(), format!("films/inputs/{id}"));
        assert!(is_of_tenant("films", &key) && !is_shared_upload(&key));
        let shared = input_key(id, "a.mp4").unwrap();
        assert!(is_shared_upload(&shared));
        assert_eq!(folder_of_upload(id, &shared).unwrap(), input_prefix(id).unwrap());
        assert_eq!(folder_of_upload(id, &"films/a.mp4".parse().unwrap()), None);
        // The uploads of the installation belong to no tenant.
        for (tenant, key) in
            [("film", key.as_str()), ("", key.as_str()), ("inputs", shared.as_str()), ("films", "films")]
        {
            assert!(!is_of_tenant(tenant, &key.parse().unwrap()), "{tenant} {key}");
        }
    }

    #[test]
    fn attempt_of_output_key_accepts_only_keys_of_the_layout() {
        let id = job();
        let of = |key: &str| {
            let key = key.parse().unwrap();
            attempt_of_output_key(&key).map(|(attempt, path)| (attempt, path.to_owned()))
        };
        let attempt = AttemptId { job: id, epoch: Epoch(12) };
        let path = "v0/720p.m3u8";
        let made = attempt_prefix(attempt).unwrap().join(path).unwrap();
        assert_eq!(of(made.as_str()), Some((attempt, path.to_owned())));
        for key in [
            format!("outputs/{id}/manifest.json"),
            format!("outputs/{id}/12"),
            format!("outputs/{id}/012/a.mp4"),
            format!("outputs/{id}/+12/a.mp4"),
            format!("outputs/{}/12/a.mp4", id.to_string().to_uppercase()),
            format!("inputs/{id}/12/a.mp4"),
            "a.mp4".to_owned(),
        ] {
            assert_eq!(of(&key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn input_key_of_any_file_name_belongs_to_its_job(name in any::<String>()) {
            let key = input_key(job(), &name).unwrap();
            prop_assert_eq!(job_of_input_key(&key), Some(job()));
            prop_assert!(key.file_name().len() <= FILE_NAME);
        }
    }
}
