//! Hands over the segments of a part while later ones are encoded, so that viewers need not wait for the whole of it,
//! and uploads take place beside the encode.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use super::arguments::INIT;
use super::fragments::Cutter;
use super::report::segment_file;
use super::request::SegmentSink;
use crate::job::Quality;
use crate::transcoder::format::cmaf::SHARED_AUDIO;

/// Pause between two looks for new segments. FFmpeg does not tell of them.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A part that is encoded, and whose segments are complete one after the other.
pub(super) trait GrowingPart {
    /// The files that are complete since the last call, relative to the folder of the part, or why they are not known.
    async fn new_files(&mut self) -> io::Result<Vec<PathBuf>>;
}

/// Runs `encode`, and hands over the files of `part` in `folder` as they are complete.
pub(super) async fn while_encoding<T>(
    folder: &Path,
    part: &mut impl GrowingPart,
    sink: Option<&dyn SegmentSink>,
    encode: impl Future<Output = T>,
) -> T {
    let Some(sink) = sink else { return encode.await };
    let mut encode = pin!(encode);
    loop {
        tokio::select! {
            biased;
            done = &mut encode => return done,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let files = match part.new_files().await {
            Ok(files) if files.is_empty() => continue,
            Ok(files) => files,
            // Whether the part has come out well is seen at its end.
            Err(error) => {
                tracing::debug!(%error, "could not look for new segments");
                return encode.await;
            }
        };
        tokio::select! {
            biased;
            done = &mut encode => return done,
            () = sink.take(folder, files) => {}
        }
    }
}

/// The sound, whose segments FFmpeg writes as files of their own.
pub(super) struct GrowingSound<'a> {
    folder: &'a Path,
    /// The number of the first segment that was not complete.
    next: u32,
}

impl<'a> GrowingSound<'a> {
    pub(super) const fn new(folder: &'a Path) -> Self {
        Self { folder, next: 0 }
    }
}

impl GrowingPart for GrowingSound<'_> {
    async fn new_files(&mut self) -> io::Result<Vec<PathBuf>> {
        let file = |name: &str| Path::new(SHARED_AUDIO).join(name);
        let mut files = Vec::new();
        // A segment is complete when the next one has begun.
        while self.folder.join(file(&segment_file(self.next + 1))).exists() {
            files.extend((self.next == 0).then(|| file(INIT)));
            files.push(file(&segment_file(self.next)));
            self.next += 1;
        }
        Ok(files)
    }
}

/// A chunk: one file for each rendition, of which the segments are cut off.
pub(super) struct GrowingChunk {
    /// One for each rendition; empty while a thread cuts them.
    rungs: Vec<(Quality, Cutter)>,
    /// Whether the initialization sections are among the files.
    has_init: bool,
}

impl GrowingChunk {
    /// The chunk of these renditions in `folder`, whose first segment has this number.
    pub(super) fn new(folder: &Path, qualities: impl Iterator<Item = Quality>, first: u32) -> Self {
        let cutter = |quality: Quality| {
            let file = folder.join(format!("{quality}.mp4"));
            (quality, Cutter::new(file, folder.join(quality.name()), first))
        };
        Self { rungs: qualities.map(cutter).collect(), has_init: first == 0 }
    }

    /// What cuts each rendition, to cut the rest.
    pub(super) fn into_rungs(self) -> Vec<(Quality, Cutter)> {
        self.rungs
    }
}

impl GrowingPart for GrowingChunk {
    async fn new_files(&mut self) -> io::Result<Vec<PathBuf>> {
        let (mut rungs, has_init) = (std::mem::take(&mut self.rungs), self.has_init);
        let work = tokio::task::spawn_blocking(move || {
            let files = new_files(&mut rungs, has_init);
            (rungs, files)
        });
        let (rungs, files) = work.await.map_err(io::Error::other)?;
        self.rungs = rungs;
        files
    }
}

fn new_files(rungs: &mut [(Quality, Cutter)], has_init: bool) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (quality, cutter) in rungs {
        let folder = Path::new(quality.name());
        let names = cutter.cut()?;
        let is_first = names.first().is_some_and(|name| *name == segment_file(0));
        files.extend((has_init && is_first).then(|| folder.join(INIT)));
        files.extend(names.iter().map(|name| folder.join(name)));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::{BoxFuture, FutureExt as _};
    use tokio::sync::Notify;

    use super::*;

    #[derive(Default)]
    struct Taken {
        files: Mutex<Vec<String>>,
        more: Notify,
    }

    impl SegmentSink for Taken {
        fn take<'a>(&'a self, folder: &'a Path, files: Vec<PathBuf>) -> BoxFuture<'a, ()> {
            async move {
                assert!(files.iter().all(|file| folder.join(file).exists()));
                let names = files.iter().map(|file| file.to_string_lossy().into_owned());
                self.files.lock().unwrap().extend(names);
                self.more.notify_one();
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn segments_of_the_sound_are_handed_over_once_the_next_one_has_begun() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(SHARED_AUDIO).join(name), "x").unwrap();
        std::fs::create_dir(folder.path().join(SHARED_AUDIO)).unwrap();
        let taken = Taken::default();
        let encode = async {
            write(INIT);
            (0..2).for_each(|n| write(&segment_file(n)));
            taken.more.notified().await;
            (2..4).for_each(|n| write(&segment_file(n)));
            taken.more.notified().await;
            "done"
        };
        let mut sound = GrowingSound::new(folder.path());
        assert_eq!(while_encoding(folder.path(), &mut sound, Some(&taken), encode).await, "done");
        let segment = |n| format!("{SHARED_AUDIO}/{}", segment_file(n));
        let expected = [format!("{SHARED_AUDIO}/{INIT}"), segment(0), segment(1), segment(2)];
        assert_eq!(*taken.files.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn segments_of_a_chunk_are_handed_over_and_only_the_first_chunk_has_the_header() {
        const FRAGMENT: &[u8] = b"\0\0\0\x08moof\0\0\0\x08mdat";
        for (first, header) in [(0, &["360p/init.mp4"][..]), (5, &[])] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("360p")).unwrap();
            let taken = Taken::default();
            let quality: Quality = "360p".parse().unwrap();
            let mut chunk = GrowingChunk::new(folder.path(), [quality].into_iter(), first);
            let encode = async {
                std::fs::write(folder.path().join("360p.mp4"), FRAGMENT).unwrap();
                taken.more.notified().await;
                std::fs::write(folder.path().join("360p.mp4"), FRAGMENT.repeat(2)).unwrap();
            };
            while_encoding(folder.path(), &mut chunk, Some(&taken), encode).await;
            let segment = |n| format!("360p/{}", segment_file(first + n));
            let handed: Vec<String> = header.iter().map(|s| (*s).to_owned()).chain([segment(0)]).collect();
            assert_eq!(*taken.files.lock().unwrap(), handed);
            let (_, rest) = chunk.into_rungs().remove(0);
            assert_eq!(rest.finish().unwrap(), [segment_file(first), segment_file(first + 1)]);
        }
    }
}
