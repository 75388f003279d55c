//! Downloads a job's renditions, playlists with everything they name.

use std::collections::VecDeque;
use std::path::Path;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncWriteExt as _;
use url::Url;

use super::client::{Client, ClientError};
use super::{CliError, show};
use crate::job::{Container, Job, ObjectKey};
use crate::transcoder::playlist_entries;

/// Files fetched at once.
const AT_ONCE: usize = 6;
/// Largest playlist that is read, bytes.
const PLAYLIST_LIMIT: usize = 8 << 20;

/// One thing to fetch.
struct Item {
    url: Url,
    /// Where it goes, relative to the output folder.
    path: String,
}

/// Fetches every output of a completed job into `dir`.
pub async fn outputs(client: &Client, job: &Job, dir: &Path) -> Result<(), CliError> {
    let Some(result) = &job.result else { return Ok(()) };
    let (mut playlists, mut files) = (VecDeque::new(), Vec::new());
    let listed = result.outputs.iter().map(|o| (&o.key, &o.url, o.container == Container::Hls));
    let master = result.master.iter().map(|m| (&m.key, &m.url, true));
    for (key, url, is_playlist) in master.chain(listed) {
        let item = Item { url: address(url.as_deref())?, path: below_attempt(key)?.to_owned() };
        if is_playlist { playlists.push_back(item) } else { files.push(item) }
    }
    let mut seen: Vec<String> = Vec::new();
    while let Some(item) = playlists.pop_front() {
        if seen.contains(&item.path) {
            continue;
        }
        seen.push(item.path.clone());
        let text = text(client, &item).await?;
        for name in playlist_entries(&text) {
            let entry = item.entry(&name)?;
            if name.ends_with(".m3u8") {
                playlists.push_back(entry);
            } else if files.iter().all(|f| f.path != entry.path) {
                files.push(entry);
            }
        }
        write_whole(&dir.join(&item.path), text.as_bytes()).await?;
    }
    let bar = show::bytes_bar("download", result.outputs.iter().map(|o| o.size).sum());
    futures::stream::iter(&files)
        .map(|item| save(client, item, dir, &bar))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    bar.finish_and_clear();
    Ok(())
}

impl Item {
    /// What a playlist names, beside the playlist.
    fn entry(&self, name: &str) -> Result<Self, CliError> {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        // The path is somebody else's word; as a key it cannot leave the folder.
        let key: ObjectKey =
            path.parse().map_err(|_| CliError::Local(format!("a playlist names {name:?}")))?;
        let mut url = self.url.join(name).map_err(CliError::local)?;
        url.set_query(self.url.query());
        Ok(Self { url, path: key.as_str().to_owned() })
    }
}

fn address(url: Option<&str>) -> Result<Url, CliError> {
    url.and_then(|url| url.parse().ok())
        .ok_or_else(|| CliError::Local("the server gave no address for an output".into()))
}

/// `outputs/<job>/<epoch>/720p.mp4` -> `720p.mp4`.
pub fn below_attempt(key: &ObjectKey) -> Result<&str, CliError> {
    let mut parts = key.as_str().splitn(4, '/');
    parts.nth(3).ok_or_else(|| CliError::Local(format!("{key} is no output of this version of tcoder")))
}

async fn get(client: &Client, item: &Item) -> Result<reqwest::Response, CliError> {
    let failed = |why: String| ClientError::Storage(format!("cannot download {}: {why}", item.path));
    let response = client.downloads().get(item.url.clone()).send().await;
    let response = response.map_err(|e| failed(e.without_url().to_string()))?;
    if response.status().is_success() {
        Ok(response)
    } else {
        Err(failed(format!("storage answered {}", response.status())).into())
    }
}

async fn text(client: &Client, item: &Item) -> Result<String, CliError> {
    let mut response = get(client, item).await?;
    let mut bytes = Vec::new();
    while let Some(piece) =
        response.chunk().await.map_err(|e| CliError::Local(e.without_url().to_string()))?
    {
        bytes.extend_from_slice(&piece);
        if bytes.len() > PLAYLIST_LIMIT {
            return Err(CliError::Local(format!("{} is too large for a playlist", item.path)));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn save(
    client: &Client,
    item: &Item,
    dir: &Path,
    bar: &indicatif::ProgressBar,
) -> Result<(), CliError> {
    let path = dir.join(&item.path);
    let cannot = |e: std::io::Error| CliError::Local(format!("cannot write {}: {e}", path.display()));
    let mut response = get(client, item).await?;
    let mut file = create(&path).await.map_err(cannot)?;
    while let Some(piece) =
        response.chunk().await.map_err(|e| CliError::Local(e.without_url().to_string()))?
    {
        bar.inc(piece.len() as u64);
        file.write_all(&piece).await.map_err(cannot)?;
    }
    file.flush().await.map_err(cannot)
}

async fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let cannot = |e: std::io::Error| CliError::Local(format!("cannot write {}: {e}", path.display()));
    let mut file = create(path).await.map_err(cannot)?;
    file.write_all(bytes).await.map_err(cannot)?;
    file.flush().await.map_err(cannot)
}

async fn create(path: &Path) -> std::io::Result<tokio::fs::File> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    tokio::fs::File::create(path).await
}
