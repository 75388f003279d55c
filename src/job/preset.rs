//! Presets: the kinds of output of a job. Everything about a preset is in its row.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::quality::{Ladder, Quality};

/// What kind of output a job makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, VariantArray)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// A copy of the streams, or MP4 at a fixed bitrate.
    #[default]
    Default,
    /// MP4 at constant quality.
    WebOptimized,
    /// HLS with MPEG-TS segments.
    Hls,
    /// Adaptive streaming of fragmented MP4.
    HlsAdaptive,
}

/// The definition of a preset. The help of the command line, the schemas of the API and of TranscodeJobs, the
/// web page and the documentation are generated from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PresetRow {
    /// The name in requests, such as `web-optimized`.
    pub name: &'static str,
    /// The title on the web page.
    pub title: &'static str,
    /// A sentence about what it makes and for which purpose, without the full stop.
    pub summary: &'static str,
    /// The format of the renditions.
    pub format: Format,
    /// The video codec.
    pub video_codec: VideoCodec,
    /// The goal of the video encoder.
    pub rate_control: RateControl,
    /// The qualities if a job names none. If this is empty, the source's streams are copied.
    pub default_ladder: &'static [Quality],
}

/// How renditions are packaged, and which players can play them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
pub enum Format {
    /// The streams of the source in a new file.
    Copy,
    /// One MP4 file per rendition.
    Mp4,
    /// A playlist and MPEG-TS segments per rendition.
    HlsTs,
    /// Segments in fragmented MP4 (CMAF) with separate audio, and entry documents for all renditions.
    Cmaf,
}

impl Format {
    /// All of them.
    pub const ALL: &'static [Self] = Self::VARIANTS;
}

/// The video codec of renditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoCodec {
    /// H.264, encoded by x264.
    H264,
}

/// The goal of the video encoder. No rendition exceeds the maximum bitrate of its quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateControl {
    /// The maximum bitrate of the quality as average bitrate.
    Bitrate,
    /// Constant quality, given as x264's constant rate factor.
    ConstantQuality(u8),
}

/// There is no preset with this name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown preset {0:?}; the presets are {names}", names = Preset::names(", "))]
pub struct UnknownPreset(pub String);

impl Preset {
    /// All of them.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The definition of this preset.
    #[must_use]
    pub const fn row(self) -> &'static PresetRow {
        match self {
            Self::Default => &PresetRow {
                name: "default",
                title: "As it is",
                summary: "a copy of the streams in a new file, fast and of the same size; with qualities, MP4 (H.264, \
                          AAC) at that size and a fixed bit rate",
                format: Format::Mp4,
                video_codec: VideoCodec::H264,
                rate_control: RateControl::Bitrate,
                default_ladder: &[],
            },
            Self::WebOptimized => &PresetRow {
                name: "web-optimized",
                title: "MP4 for the web",
                summary: "one MP4 (H.264, AAC) a quality, at constant quality under a bit rate cap, that starts playing \
                          while it loads; best for downloads and simple pages",
                format: Format::Mp4,
                video_codec: VideoCodec::H264,
                rate_control: RateControl::ConstantQuality(23),
                default_ladder: &[Quality::P720],
            },
            Self::Hls => &PresetRow {
                name: "hls",
                title: "Plain HLS",
                summary: "HLS with MPEG-TS segments of 4 s, one playlist a quality, for players that choose a quality \
                          themselves",
                format: Format::HlsTs,
                video_codec: VideoCodec::H264,
                rate_control: RateControl::ConstantQuality(23),
                default_ladder: &[Quality::P720],
            },
            Self::HlsAdaptive => &PresetRow {
                name: "hls-adaptive",
                title: "Adaptive streaming",
                summary: "HLS and DASH over the same fragmented MP4, with aligned qualities and shared sound, so that players \
                          switch quality with the viewer's connection; best for a player on a page",
                format: Format::Cmaf,
                video_codec: VideoCodec::H264,
                rate_control: RateControl::ConstantQuality(23),
                default_ladder: &[Quality::P1080, Quality::P720, Quality::P360, Quality::P144],
            },
        }
    }

    /// The name, such as `web-optimized`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The names of all presets, joined with `separator`.
    #[must_use]
    pub fn names(separator: &str) -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|preset| preset.name()).collect();
        names.join(separator)
    }

    /// The rungs to encode for the requested ladder. Empty means a copy of the source's streams.
    #[must_use]
    pub fn rungs(self, asked: &Ladder) -> Vec<Quality> {
        if asked.is_empty() { self.row().default_ladder.to_vec() } else { asked.rungs().to_vec() }
    }

    /// The format of the renditions for the requested ladder.
    #[must_use]
    pub fn format(self, asked: &Ladder) -> Format {
        if self.rungs(asked).is_empty() { Format::Copy } else { self.row().format }
    }

    /// All presets with their summaries as a Markdown list.
    #[must_use]
    pub fn list() -> String {
        let items = Self::ALL.iter();
        let items = items.map(|preset| format!("- `{}`: {}.", preset.name(), preset.row().summary));
        items.collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Preset {
    type Err = UnknownPreset;
    fn from_str(text: &str) -> Result<Self, UnknownPreset> {
        Self::ALL
            .iter()
            .copied()
            .find(|p| p.name() == text)
            .ok_or_else(|| UnknownPreset(text.chars().take(40).collect()))
    }
}

impl JsonSchema for Preset {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Preset".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let presets = Self::ALL.iter().map(|preset| {
            let PresetRow { name, summary, .. } = preset.row();
            json_schema!({"type": "string", "const": name, "description": format!("{summary}.")})
        });
        json_schema!({"description": "What kind of output a job makes.", "oneOf": presets.collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_in_text_and_json() {
        for &p in Preset::ALL {
            assert_eq!(p.name().parse::<Preset>().unwrap(), p);
            assert_eq!(serde_json::to_string(&p).unwrap(), format!("\"{}\"", p.name()));
        }
        assert!("HLS".parse::<Preset>().is_err());
    }

    #[test]
    fn errors_name_every_preset() {
        assert_eq!(
            "x".parse::<Preset>().unwrap_err().to_string(),
            "unknown preset \"x\"; the presets are default, web-optimized, hls, hls-adaptive"
        );
    }

    #[test]
    fn rows_are_told_apart_and_can_be_used() {
        for &preset in Preset::ALL {
            let row = preset.row();
            let same = Preset::ALL.iter().filter(|p| p.name() == row.name || p.row().title == row.title);
            assert_eq!(same.count(), 1, "{preset}");
            assert!(row.format != Format::Copy, "{preset}: a ladder cannot be copied");
            assert!(!row.summary.ends_with('.') && !row.summary.contains('\n'), "{preset}");
            let ladder = Ladder::new(row.default_ladder.to_vec()).unwrap();
            assert_eq!(ladder.rungs(), row.default_ladder, "{preset}: large to small");
        }
    }

    #[test]
    fn what_is_asked_for_wins_over_the_presets_own_rungs() {
        let asked: Ladder = "144p".parse().unwrap();
        for &p in Preset::ALL {
            assert_eq!(p.rungs(&asked), [Quality::P144]);
            assert_eq!(p.format(&asked), p.row().format);
        }
        assert!(Preset::Default.rungs(&Ladder::default()).is_empty());
        assert_eq!(Preset::Default.format(&Ladder::default()), Format::Copy);
        assert_eq!(Preset::HlsAdaptive.rungs(&Ladder::default()).len(), 4);
    }
}
