//! Presets: what kind of thing a job makes.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quality::{Ladder, Quality};

/// What kind of output a job makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Without a quality the streams are copied into a new file; with one, H.264 at that bitrate.
    #[default]
    Default,
    /// H.264 at constant quality under the bitrate cap, AAC, MP4 that starts while it loads.
    WebOptimized,
    /// HLS with MPEG-TS segments of 4 s, one playlist a quality.
    Hls,
    /// HLS with fragmented MP4, aligned rungs, shared audio and one master playlist.
    HlsAdaptive,
}

/// No preset has this name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown preset {0:?}; the presets are default, web-optimized, hls, hls-adaptive")]
pub struct UnknownPreset(pub String);

impl Preset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Default, Self::WebOptimized, Self::Hls, Self::HlsAdaptive];

    /// Its name, such as `web-optimized`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::WebOptimized => "web-optimized",
            Self::Hls => "hls",
            Self::HlsAdaptive => "hls-adaptive",
        }
    }

    /// The rungs to make when a job names none. Empty means a copy of the source's streams.
    #[must_use]
    pub fn rungs(self, asked: &Ladder) -> Vec<Quality> {
        if !asked.is_empty() {
            return asked.rungs().to_vec();
        }
        match self {
            Self::Default => vec![],
            Self::WebOptimized | Self::Hls => vec![Quality::P720],
            Self::HlsAdaptive => vec![Quality::P1080, Quality::P720, Quality::P360, Quality::P144],
        }
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
            .into_iter()
            .find(|p| p.name() == text)
            .ok_or_else(|| UnknownPreset(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_in_text_and_json() {
        for p in Preset::ALL {
            assert_eq!(p.name().parse::<Preset>().unwrap(), p);
            assert_eq!(serde_json::to_string(&p).unwrap(), format!("\"{}\"", p.name()));
        }
        assert!("HLS".parse::<Preset>().is_err());
    }

    #[test]
    fn what_is_asked_for_wins_over_the_presets_own_rungs() {
        let asked: Ladder = "144p".parse().unwrap();
        for p in Preset::ALL {
            assert_eq!(p.rungs(&asked), [Quality::P144]);
        }
        assert!(Preset::Default.rungs(&Ladder::default()).is_empty());
        assert_eq!(Preset::HlsAdaptive.rungs(&Ladder::default()).len(), 4);
    }
}
