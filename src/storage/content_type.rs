//! Determines the content type of outputs by their extension.

use crate::job::ObjectKey;

/// The content type of a file that the transcoder makes, by its extension.
#[must_use]
pub fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("mp4") => "video/mp4",
        Some("m3u8") => "application/vnd.apple.mpegurl",
        Some("mpd") => "application/dash+xml",
        Some("ts") => "video/mp2t",
        Some("m4s") => "video/iso.segment",
        Some("m4a") => "audio/mp4",
        Some("webm") => "video/webm",
        Some("mkv") => "video/x-matroska",
        Some("mov") => "video/quicktime",
        Some("vtt") => "text/vtt",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("png") => "image/png",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// Whether the file refers to other files by relative names: playlists to segments, DASH manifests, and the
/// WebVTT file of a storyboard to its image. A query in the URL of such a file is not applied to the others.
#[must_use]
pub fn refers_to_others(key: &ObjectKey) -> bool {
    let ending = key.file_name().rsplit_once('.').map(|(_, ending)| ending);
    matches!(ending, Some("m3u8" | "mpd" | "vtt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_those_players_expect() {
        for (name, want) in [
            ("720p.mp4", "video/mp4"),
            ("master.m3u8", "application/vnd.apple.mpegurl"),
            ("manifest.mpd", "application/dash+xml"),
            ("720p/segment_001.ts", "video/mp2t"),
            ("720p/segment_001.m4s", "video/iso.segment"),
            ("captions.vtt", "text/vtt"),
            ("thumbnail.jpg", "image/jpeg"),
            ("manifest.json", "application/json"),
            ("README", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name), want, "{name}");
        }
    }

    #[test]
    fn playlists_manifests_and_cues_refer_to_others() {
        let refers = |name: &str| refers_to_others(&name.parse().unwrap());
        for name in ["a/master.m3u8", "a/720p/index.m3u8", "a/manifest.mpd", "a/storyboard.vtt"] {
            assert!(refers(name), "{name}");
        }
        for name in ["a/720p.mp4", "a/720p/seg_00001.m4s", "a/storyboard.jpg", "a.m3u8/720p", "m3u8"] {
            assert!(!refers(name), "{name}");
        }
    }
}
