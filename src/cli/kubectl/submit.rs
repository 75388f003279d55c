//! `kubectl tcoder submit`: creates a TranscodeJob and uploads its video.

use std::path::Path;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::api::{DeleteParams, PostParams, Preconditions};
use tokio::fs::File;
use tokio::time::timeout;
use url::Url;

use super::{Call, Jobs, SubmitArgs, watch};
use crate::cli::upload::{self, FileToPut, UploadTimeouts};
use crate::cli::{CliError, output};
use crate::crd::{InputSpec, TranscodeJob, TranscodeJobSpec, UploadSpec};
use crate::storage::{MediaType, content_type};

/// Maximum length of the part of a name that is made from that of the video. The API server adds five characters.
const NAME: usize = 50;
/// Time limit for deleting a TranscodeJob whose video was not uploaded.
const DELETE_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn run(jobs: &Jobs, args: SubmitArgs) -> Result<(), CliError> {
    let video = Video::find(&args).await?;
    let mut spec = TranscodeJobSpec::new(video.input());
    spec.preset = args.encode.preset;
    spec.qualities = Some(args.encode.quality.rungs().to_vec()).filter(|rungs| !rungs.is_empty());
    spec.stills = Some(Vec::from(args.encode.stills())).filter(|stills| !stills.is_empty());
    spec.priority = args.priority;
    spec.worker_class = args.worker_class;
    let mut job = TranscodeJob::new("", spec);
    job.metadata.name = args.name;
    job.metadata.generate_name = Some(format!("{}-", object_name(video.name())));
    let made = Jobs::bounded(Call::Create, jobs.api.create(&PostParams::default(), &job)).await?;
    let name = made.name_any();
    if made.spec.worker_class != job.spec.worker_class {
        eprintln!(
            "{name}: the definitions in this cluster know no workerClass, so that any worker runs the job; apply \
             manifests/crds of this version"
        );
    }
    if let Video::File(file) = video {
        file.upload(jobs, &made).await?;
    }
    if args.wait {
        return watch::to_the_end(jobs, &name, args.json).await;
    }
    if args.json {
        let job = Jobs::bounded(Call::Get, jobs.api.get(&name)).await?;
        return output::json(&job.status.unwrap_or_default());
    }
    output::outln!("transcodejob.tcoder.dev/{name} created");
    eprintln!("follow it with `kubectl tcoder watch {name}{}`", jobs.options);
    Ok(())
}

/// What is submitted.
enum Video {
    /// A file of this machine.
    File(VideoFile),
    /// An address that the worker reads.
    Url(Url),
    /// An object in the input bucket.
    Key(String),
}

/// A file to upload.
struct VideoFile {
    bytes: File,
    name: String,
    size: u64,
    media_type: Option<MediaType>,
}

impl Video {
    async fn find(args: &SubmitArgs) -> Result<Self, CliError> {
        if let Some(key) = &args.key {
            return Ok(Self::Key(key.clone()));
        }
        let input = args.input.as_deref().unwrap_or_default();
        match upload::web_address(input) {
            Some(url) => Ok(Self::Url(url)),
            None => VideoFile::open(Path::new(input)).await.map(Self::File),
        }
    }

    fn input(&self) -> InputSpec {
        match self {
            Self::File(file) => InputSpec {
                upload: Some(UploadSpec {
                    file_name: Some(file.name.clone()),
                    file_size: file.size.try_into().ok(),
                    content_type: file.media_type.as_ref().map(ToString::to_string),
                }),
                ..InputSpec::default()
            },
            Self::Url(url) => InputSpec { url: Some(url.to_string()), ..InputSpec::default() },
            Self::Key(key) => InputSpec { key: Some(key.clone()), ..InputSpec::default() },
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::File(file) => &file.name,
            Self::Url(url) => url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default(),
            Self::Key(key) => key.rsplit('/').next().unwrap_or_default(),
        }
    }
}

impl VideoFile {
    async fn open(path: &Path) -> Result<Self, CliError> {
        let (bytes, size) = upload::open(path).await?;
        if size > UploadSpec::MAX_BYTES {
            let why = "is larger than the 5 GiB that one upload can have; put it into the input bucket with an S3 client, \
                       and submit it with --key";
            return Err(CliError::Local(format!("{} {why}", path.display())));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let media_type = content_type(&name).parse().ok();
        Ok(Self { bytes, name, size, media_type })
    }

    /// Uploads the file to the address in the status. If that fails, the TranscodeJob is deleted, because it would
    /// otherwise wait for its video.
    async fn upload(self, jobs: &Jobs, job: &TranscodeJob) -> Result<(), CliError> {
        let name = job.name_any();
        let sent = tokio::select! {
            sent = self.put(jobs, &name) => sent,
            _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
        };
        let Err(error) = sent else { return Ok(()) };
        // Another one may have its name by now.
        let this = Preconditions { uid: job.uid(), ..Preconditions::default() };
        let delete = DeleteParams::default().preconditions(this);
        let deleted = tokio::select! {
            deleted = timeout(DELETE_WITHIN, jobs.api.delete(&name, &delete)) => matches!(deleted, Ok(Ok(_))),
            _ = tokio::signal::ctrl_c() => false,
        };
        if deleted {
            eprintln!("deleted the TranscodeJob {name}, whose video was not uploaded");
        } else {
            eprintln!("delete the TranscodeJob with `kubectl delete tj {name}{}`", jobs.options);
        }
        Err(error)
    }

    async fn put(self, jobs: &Jobs, name: &str) -> Result<(), CliError> {
        let url = watch::upload_url(jobs, name).await?;
        let http = upload::client().map_err(CliError::local)?;
        let bar = output::bytes_bar("upload", self.size);
        let told = bar.clone();
        let file = FileToPut { bytes: self.bytes, size: self.size, media_type: self.media_type.as_ref() };
        let sent = upload::put(&http, url, file, UploadTimeouts::default(), move |more| told.inc(more)).await;
        bar.finish_and_clear();
        sent.map(drop).map_err(|error| {
            let hint = "the storage must be reachable from here under the address that the controller has";
            CliError::Local(format!("the upload failed: {error}; {hint}"))
        })
    }
}

/// The beginning of the name of an object, made from that of a file: small letters, digits and hyphens.
fn object_name(file: &str) -> String {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let plain = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let mut name = String::new();
    for c in plain.filter(char::is_ascii) {
        if c != '-' || !(name.is_empty() || name.ends_with('-')) {
            name.push(c);
        }
    }
    name.truncate(NAME);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "video".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_name_is_one_that_kubernetes_takes() {
        for (file, name) in [
            ("Film.mov", "film"),
            ("My  holiday (2026).final.mp4", "my-holiday-2026-final"),
            ("-é-.mp4", "video"),
            ("", "video"),
            ("a.b", "a"),
            ("Übung", "bung"),
        ] {
            assert_eq!(object_name(file), name, "{file}");
        }
        assert_eq!(object_name(&"a".repeat(300)).len(), NAME);
    }
}
