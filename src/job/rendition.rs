//! Renditions: which one, and what it is.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::entry::EntryKind;
use super::quality::Quality;

/// Which rendition an output is: a quality, or the source's own streams copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// Encoded at a quality.
    Quality(Quality),
    /// Copied without encoding.
    Original(Original),
}

/// The name `original`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Original {
    /// The source's own streams.
    Original,
}

impl Label {
    /// The label of a copy.
    pub const ORIGINAL: Self = Self::Original(Original::Original);

    /// Its name: `720p`, `original`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quality(q) => q.name(),
            Self::Original(_) => "original",
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Label {
    type Err = super::quality::UnknownQuality;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "original" { Ok(Self::ORIGINAL) } else { text.parse().map(Self::Quality) }
    }
}

/// One enum, where the derived schema would be a union of two.
impl JsonSchema for Label {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OutputQuality".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = Quality::ALL.iter().map(|quality| quality.name()).chain([Self::ORIGINAL.name()]);
        let identifiers = Quality::identifiers().chain(["Original".to_owned()]);
        json_schema!({
            "type": "string",
            "description": "Which rendition an output is: a quality, or `original`, the source's own streams copied.",
            "enum": names.collect::<Vec<_>>(),
            "x-enum-varnames": identifiers.collect::<Vec<_>>(),
        })
    }
}

/// How an output is packaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Container {
    /// One MP4 file.
    Mp4,
    /// One Matroska file (copies of streams that MP4 cannot carry).
    Mkv,
    /// A playlist and its segments.
    Hls,
}

impl Container {
    /// Its name: `mp4`, `mkv`, `hls`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// What an output's file is read as, where it names other files.
    #[must_use]
    pub const fn document(self) -> Option<EntryKind> {
        match self {
            Self::Mp4 | Self::Mkv => None,
            Self::Hls => Some(EntryKind::Hls),
        }
    }
}

/// What a rendition is, wherever its file is: in a folder of the transcoder, in storage, or in a table of the command
/// line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RenditionInfo {
    /// How it is packaged.
    pub container: Container,
    /// Bytes, of all its segments where it has them.
    // Sound that renditions share belongs to none of them.
    pub size: u64,
    /// Pixels across, as displayed.
    pub width: u32,
    /// Pixels down, as displayed.
    pub height: u32,
    /// Video codec, in FFmpeg's word: `h264`.
    pub codec: String,
    /// Audio codec; absent without sound.
    // Where renditions share their sound, that of the shared sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_codec: Option<String>,
    /// Mean bits a second, of video and sound.
    // And packaging: what a viewer fetches.
    pub bitrate: u64,
    /// Seconds.
    pub duration: f64,
    /// Whether the picture is the source's own, which was copied and not encoded again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", rename = "copied")]
    pub is_copied: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_agree_in_text_and_json() {
        for text in ["720p", "original"] {
            let label: Label = text.parse().unwrap();
            assert_eq!(label.to_string(), text);
            assert_eq!(serde_json::to_value(label).unwrap(), text);
            assert_eq!(serde_json::from_value::<Label>(text.into()).unwrap(), label);
        }
    }
}
