//! Qualities: the named boxes that renditions are scaled to fit, with their maximum bitrates.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use strum::VariantArray;

/// A named quality, ordered from small to large.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, VariantArray,
)]
// Identifiers cannot start with a digit.
#[schemars(extend("x-enum-varnames" = Self::identifiers().collect::<Vec<_>>()))]
pub enum Quality {
    /// 256x144, 100 kbit/s.
    #[serde(rename = "144p")]
    P144,
    /// 426x240, 250 kbit/s.
    #[serde(rename = "240p")]
    P240,
    /// 640x360, 400 kbit/s.
    #[serde(rename = "360p")]
    P360,
    /// 854x480, 800 kbit/s.
    #[serde(rename = "480p")]
    P480,
    /// 1280x720, 1500 kbit/s.
    #[serde(rename = "720p")]
    P720,
    /// 1920x1080, 3000 kbit/s.
    #[serde(rename = "1080p")]
    P1080,
    /// 2560x1440, 6000 kbit/s.
    #[serde(rename = "1440p")]
    P1440,
    /// 3840x2160, 12000 kbit/s.
    #[serde(rename = "2160p")]
    P2160,
}

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Dimensions {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// There is no quality with this name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown quality {0:?}; the qualities are {names}", names = Quality::names(", "))]
pub struct UnknownQuality(pub String);

impl Quality {
    /// All qualities, smallest first.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// Name, box, maximum video bitrate and audio bitrate (kbit/s), and the common name: the only table of
    /// these values.
    const fn row(self) -> (&'static str, u32, u32, u32, u32, &'static str) {
        match self {
            Self::P144 => ("144p", 256, 144, 100, 64, "poor connections"),
            Self::P240 => ("240p", 426, 240, 250, 64, ""),
            Self::P360 => ("360p", 640, 360, 400, 96, "phones"),
            Self::P480 => ("480p", 854, 480, 800, 96, ""),
            Self::P720 => ("720p", 1280, 720, 1500, 128, "HD"),
            Self::P1080 => ("1080p", 1920, 1080, 3000, 160, "Full HD"),
            Self::P1440 => ("1440p", 2560, 1440, 6000, 192, ""),
            Self::P2160 => ("2160p", 3840, 2160, 12000, 192, "4K"),
        }
    }

    /// The name, such as `720p`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The names of all qualities, joined with `separator`.
    #[must_use]
    pub fn names(separator: &str) -> String {
        let names: Vec<&str> = Self::ALL.iter().map(|quality| quality.name()).collect();
        names.join(separator)
    }

    /// The common name or purpose; empty if there is none.
    #[must_use]
    pub const fn alias(self) -> &'static str {
        self.row().5
    }

    /// The names of all qualities where a name must not begin with a digit: `P720`.
    pub(super) fn identifiers() -> impl Iterator<Item = String> {
        Self::ALL.iter().map(|quality| format!("{quality:?}"))
    }

    /// The box, in landscape, that renditions are scaled to fit.
    #[must_use]
    pub const fn fit(self) -> Dimensions {
        Dimensions { width: self.row().1, height: self.row().2 }
    }

    /// Maximum video bitrate, kbit/s.
    #[must_use]
    pub const fn video_kbps(self) -> u32 {
        self.row().3
    }

    /// Audio bitrate, kbit/s.
    #[must_use]
    pub const fn audio_kbps(self) -> u32 {
        self.row().4
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Quality {
    type Err = UnknownQuality;
    fn from_str(text: &str) -> Result<Self, UnknownQuality> {
        Self::ALL
            .iter()
            .copied()
            .find(|q| q.name() == text)
            .ok_or_else(|| UnknownQuality(text.chars().take(40).collect()))
    }
}

/// The requested qualities of a job: each at most once, largest first. If it is empty, the preset decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Quality>", into = "Vec<Quality>")]
pub struct Ladder(Vec<Quality>);

/// A list of qualities that is not a valid ladder.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidLadder {
    /// A quality occurs twice.
    #[error("{0} is asked for twice; name each quality once")]
    Twice(Quality),
    /// There is no quality with this name.
    #[error(transparent)]
    Unknown(#[from] UnknownQuality),
}

impl Ladder {
    /// A ladder of these qualities, given in any order.
    ///
    /// # Errors
    /// If a quality occurs twice.
    pub fn new(mut qualities: Vec<Quality>) -> Result<Self, InvalidLadder> {
        qualities.sort_unstable_by(|a, b| b.cmp(a));
        match qualities.windows(2).find(|w| w[0] == w[1]) {
            Some(w) => Err(InvalidLadder::Twice(w[0])),
            None => Ok(Self(qualities)),
        }
    }

    /// The qualities, largest first.
    #[must_use]
    pub fn rungs(&self) -> &[Quality] {
        &self.0
    }

    /// Whether no quality is requested.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Vec<Quality>> for Ladder {
    type Error = InvalidLadder;
    fn try_from(qualities: Vec<Quality>) -> Result<Self, InvalidLadder> {
        Self::new(qualities)
    }
}

impl From<Ladder> for Vec<Quality> {
    fn from(ladder: Ladder) -> Self {
        ladder.0
    }
}

/// Parses names that are separated by commas, such as `720p,360p`.
impl FromStr for Ladder {
    type Err = InvalidLadder;
    fn from_str(text: &str) -> Result<Self, InvalidLadder> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self::new(names.map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl JsonSchema for Ladder {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ladder".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let quality = generator.subschema_for::<Quality>();
        json_schema!({"type": "array", "items": quality, "maxItems": Quality::ALL.len(), "uniqueItems": true})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_original_numbers() {
        let row = |q: Quality| (q.fit().width, q.fit().height, q.video_kbps(), q.audio_kbps());
        assert_eq!(row(Quality::P144), (256, 144, 100, 64));
        assert_eq!(row(Quality::P360), (640, 360, 400, 96));
        assert_eq!(row(Quality::P720), (1280, 720, 1500, 128));
    }

    #[test]
    fn every_number_grows_with_the_quality() {
        for pair in Quality::ALL.windows(2) {
            assert!(pair[0].fit().width < pair[1].fit().width);
            assert!(pair[0].fit().height < pair[1].fit().height);
            assert!(pair[0].video_kbps() < pair[1].video_kbps());
            assert!(pair[0].audio_kbps() <= pair[1].audio_kbps());
        }
    }

    #[test]
    fn names_agree_in_text_and_json() {
        for &q in Quality::ALL {
            assert_eq!(q.name().parse::<Quality>().unwrap(), q);
            assert_eq!(serde_json::to_string(&q).unwrap(), format!("\"{}\"", q.name()));
        }
        let unknown = "721p".parse::<Quality>().unwrap_err().to_string();
        assert!(unknown.ends_with("the qualities are 144p, 240p, 360p, 480p, 720p, 1080p, 1440p, 2160p"));
    }

    #[test]
    fn a_ladder_is_sorted_and_has_no_rung_twice() {
        let ladder: Ladder = "144p, 720p,360p".parse().unwrap();
        assert_eq!(ladder.rungs(), [Quality::P720, Quality::P360, Quality::P144]);
        assert_eq!("360p,360p".parse::<Ladder>(), Err(InvalidLadder::Twice(Quality::P360)));
        assert!(serde_json::from_str::<Ladder>(r#"["360p","360p"]"#).is_err());
    }
}
