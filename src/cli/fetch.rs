//! Downloads a job's renditions and entry documents, with all files that they refer to.

use std::collections::VecDeque;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::header::CONTENT_TYPE;
use tempfile::TempPath;
use tokio::io::AsyncWriteExt as _;
use url::Url;

use super::client::{ApiClient, ClientError};
use super::upload::root_cause;
use super::{CliError, output};
use crate::api::ProblemBody;
use crate::job::{EntryKind, Job, ObjectKey};
use crate::storage::layout;
use crate::transcoder::{Reference, references};

/// Maximum number of concurrent downloads.
const MAX_CONCURRENT_DOWNLOADS: usize = 6;
/// Maximum size of a playlist or manifest, bytes.
const DOCUMENT_LIMIT: usize = 8 << 20;

/// A file to download.
struct Item {
    url: Url,
    /// The target, relative to the output folder.
    path: String,
    /// The kind of document, if the file refers to others.
    document: Option<EntryKind>,
}

/// Downloads all outputs of a completed job to `dir`. Each file appears there when it is complete, and then
/// replaces a file of the same name; an interrupted download leaves the previous file.
pub(crate) async fn outputs(client: &ApiClient, job: &Job, dir: &Path) -> Result<(), CliError> {
    let Some(result) = &job.result else { return Ok(()) };
    let (mut documents, mut files) = (VecDeque::new(), Vec::new());
    let entries = result.entries.iter().map(|e| (&e.key, &e.url, Some(e.kind)));
    let listed = result.outputs.iter().map(|o| (&o.key, &o.url, o.info.container.document()));
    let poster = result.poster.iter().map(|p| (&p.key, &p.url, None));
    let board =
        result.storyboard.iter().flat_map(|b| [(&b.image_key, &b.image_url, None), (&b.key, &b.url, None)]);
    for (key, url, document) in entries.chain(listed).chain(poster).chain(board) {
        let path = layout::relative_output_path(key).ok_or_else(|| not_ours(key))?.to_owned();
        let item = Item { url: address(url.as_deref())?, path, document };
        if document.is_some() { documents.push_back(item) } else { files.push(item) }
    }
    let mut texts: Vec<(String, String)> = Vec::new();
    while let Some(item) = documents.pop_front() {
        if texts.iter().any(|(path, _)| *path == item.path) {
            continue;
        }
        let text = text(client, &item).await?;
        for reference in item.document.map_or_else(Vec::new, |kind| references(kind, &text)) {
            let named = item.named(&reference)?;
            if named.document.is_some() {
                documents.push_back(named);
            } else if files.iter().all(|f| f.path != named.path) {
                files.push(named);
            }
        }
        texts.push((item.path, text));
    }
    // Files that several playlists share are not included in the size of any rendition, so the total is
    // unknown.
    let bar = match texts.is_empty() {
        true => output::bytes_bar("download", result.outputs.iter().map(|o| o.info.size).sum()),
        false => output::bytes_count("download"),
    };
    futures::stream::iter(&files)
        .map(|item| save(client, item, dir, &bar))
        .buffer_unordered(MAX_CONCURRENT_DOWNLOADS)
        .try_collect::<Vec<()>>()
        .await?;
    // Documents are written last, so that all their files exist.
    for (path, text) in texts.iter().rev() {
        let mut file = Incoming::create(dir.join(path)).await?;
        file.write(text.as_bytes()).await?;
        file.whole().await?;
    }
    bar.finish_and_clear();
    Ok(())
}

impl Item {
    fn failed(&self, why: impl std::fmt::Display) -> CliError {
        ClientError::Storage(format!("cannot download {}: {why}", self.path)).into()
    }

    /// The file that a document refers to, with the name resolved relative to the document, as players do.
    fn named(&self, reference: &Reference) -> Result<Self, CliError> {
        let name = reference.uri();
        let document = match reference {
            Reference::Document(_) => self.document,
            Reference::File(_) => None,
        };
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        // The path comes from the document; as an object key it cannot leave the folder.
        let key: ObjectKey =
            path.parse().map_err(|_| CliError::Local(format!("{} names {name:?}", self.path)))?;
        let url = self.url.join(name).map_err(CliError::local)?;
        Ok(Self { url, path: key.as_str().to_owned(), document })
    }
}

fn address(url: Option<&str>) -> Result<Url, CliError> {
    url.and_then(|url| url.parse().ok())
        .ok_or_else(|| CliError::Local("the server gave no address for an output".into()))
}

fn not_ours(key: &ObjectKey) -> CliError {
    CliError::Local(format!("{key} is no output of this version of tcoder"))
}

async fn get(client: &ApiClient, item: &Item) -> Result<reqwest::Response, CliError> {
    let response = client.downloads().get(item.url.clone()).send().await;
    let response = response.map_err(|e| item.failed(root_cause(e)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    // The API serves the files of a private bucket, and explains errors.
    let is_problem = response.headers().get(CONTENT_TYPE).is_some_and(|t| t == "application/problem+json");
    let problem = if is_problem { response.json().await.ok() } else { None };
    Err(match problem {
        Some(ProblemBody { detail, .. }) => item.failed(detail),
        None => item.failed(format!("storage answered {status}")),
    })
}

async fn text(client: &ApiClient, item: &Item) -> Result<String, CliError> {
    let mut response = get(client, item).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| item.failed(root_cause(e)))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > DOCUMENT_LIMIT {
            return Err(CliError::Local(format!("{} is too large for a playlist or manifest", item.path)));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn save(
    client: &ApiClient,
    item: &Item,
    dir: &Path,
    bar: &indicatif::ProgressBar,
) -> Result<(), CliError> {
    let mut response = get(client, item).await?;
    let mut file = Incoming::create(dir.join(&item.path)).await?;
    while let Some(piece) = response.chunk().await.map_err(|e| item.failed(root_cause(e)))? {
        bar.inc(piece.len() as u64);
        file.write(&piece).await?;
    }
    file.whole().await
}

/// A file that is being downloaded. It has a temporary name in the same folder until it is complete, and is
/// removed if it never is.
struct Incoming {
    path: PathBuf,
    aside: TempPath,
    file: tokio::fs::File,
}

impl Incoming {
    async fn create(path: PathBuf) -> Result<Self, CliError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let made = async {
            tokio::fs::create_dir_all(folder).await?;
            tempfile::Builder::new()
                .prefix(".")
                .suffix(".part")
                // The permissions of any new file; temporary files are readable only by their owner.
                .permissions(Permissions::from_mode(0o666))
                .tempfile_in(folder)
        };
        let (file, aside) = made.await.map_err(|e| cannot_write(&path, &e))?.into_parts();
        Ok(Self { file: file.into(), aside, path })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.file.write_all(bytes).await.map_err(|e| cannot_write(&self.path, &e))
    }

    async fn whole(mut self) -> Result<(), CliError> {
        self.file.flush().await.map_err(|e| cannot_write(&self.path, &e))?;
        self.aside.persist(&self.path).map_err(|e| cannot_write(&self.path, &e.error))
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> CliError {
    CliError::Local(format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_takes_its_place_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v0/720p.mp4");
        for (text, whole, there) in
            [("first", true, "first"), ("half", false, "first"), ("next", true, "next")]
        {
            let mut file = Incoming::create(path.clone()).await.unwrap();
            file.write(text.as_bytes()).await.unwrap();
            if whole {
                file.whole().await.unwrap();
            } else {
                drop(file);
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), there);
            assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        }
    }
}
