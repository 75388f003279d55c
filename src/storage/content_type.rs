//! Content types: those of the files that the transcoder makes, by their extension, and those that clients name.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::job::ObjectKey;

/// Maximum length of a content type that a client names, characters.
const MAX_MEDIA_TYPE: usize = 127;

/// A content type that a client names for its upload, such as `video/mp4`. It is signed, so it has only one spelling as the
/// value of a header: visible characters, and single spaces between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MediaType(String);

/// The text is not a content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a content type is a type and a subtype of at most 127 characters, such as video/mp4")]
pub struct InvalidMediaType;

impl MediaType {
    /// The value of the header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MediaType {
    type Err = InvalidMediaType;

    fn from_str(text: &str) -> Result<Self, InvalidMediaType> {
        let is_token = |text: &str| {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
            !text.is_empty() && text.chars().all(is_allowed)
        };
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let is_type = essence.split_once('/').is_some_and(|(of, sub)| is_token(of) && is_token(sub));
        let is_visible = parameters.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        let is_clear = is_visible && !parameters.contains("  ") && !parameters.ends_with(' ');
        if is_type && is_clear && text.len() <= MAX_MEDIA_TYPE {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidMediaType)
        }
    }
}

impl TryFrom<String> for MediaType {
    type Error = InvalidMediaType;

    fn try_from(text: String) -> Result<Self, InvalidMediaType> {
        text.parse()
    }
}

impl From<MediaType> for String {
    fn from(MediaType(text): MediaType) -> Self {
        text
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for MediaType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MediaType".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": MAX_MEDIA_TYPE, "examples": ["video/mp4"]})
    }
}

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
    fn media_type_is_a_type_with_a_subtype_in_one_spelling() {
        for text in
            ["video/mp4", "video/x-matroska", "application/octet-stream", "video/mp4; codecs=\"avc1\""]
        {
            assert_eq!(text.parse::<MediaType>().unwrap().as_str(), text);
        }
        let long = format!("video/{}", "a".repeat(MAX_MEDIA_TYPE));
        for text in [
            "",
            "video",
            "/mp4",
            "video/",
            "video/mp4\r\nx: y",
            " video/mp4",
            "video/mp4;  a",
            "vidéo/mp4",
            &long,
        ] {
            assert_eq!(text.parse::<MediaType>(), Err(InvalidMediaType), "{text:?}");
        }
    }

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
