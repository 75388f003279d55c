//! Hands over the segments of the sound while later ones are encoded, so that viewers need not wait for the whole of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::INIT;
use super::report::segment_file;
use super::request::SegmentSink;
use crate::transcoder::format::cmaf::SHARED_AUDIO;

/// Pause between two looks for new segments. FFmpeg does not tell of them.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs `encode`, and hands over the segments of the sound in `folder` as they are complete.
pub(super) async fn while_encoding<T>(
    folder: &Path,
    sink: Option<&dyn SegmentSink>,
    encode: impl Future<Output = T>,
) -> T {
    let Some(sink) = sink else { return encode.await };
    tokio::select! {
        biased;
        done = encode => done,
        never = hand_over(folder, sink) => match never {},
    }
}

async fn hand_over(folder: &Path, sink: &dyn SegmentSink) -> std::convert::Infallible {
    let mut next = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut files = Vec::new();
        // A segment is complete when the next one has begun.
        while folder.join(sound_file(&segment_file(next + 1))).exists() {
            files.extend((next == 0).then(|| sound_file(INIT)));
            files.push(sound_file(&segment_file(next)));
            next += 1;
        }
        if !files.is_empty() {
            sink.take(folder, files).await;
        }
    }
}

fn sound_file(name: &str) -> PathBuf {
    Path::new(SHARED_AUDIO).join(name)
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
    async fn segments_are_handed_over_once_the_next_one_has_begun() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(sound_file(name)), "x").unwrap();
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
        assert_eq!(while_encoding(folder.path(), Some(&taken), encode).await, "done");
        let segment = |n| format!("{SHARED_AUDIO}/{}", segment_file(n));
        let expected = [format!("{SHARED_AUDIO}/{INIT}"), segment(0), segment(1), segment(2)];
        assert_eq!(*taken.files.lock().unwrap(), expected);
    }
}
