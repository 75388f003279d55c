//! The kinds of documents that players open to play all renditions of a job.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// A kind of document that players open to play all renditions of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum EntryKind {
    /// The master playlist of HLS.
    Hls,
    /// The manifest (MPD) of DASH.
    Dash,
}

impl EntryKind {
    /// All of them.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name: `hls`, `dash`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The common name of such a document.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Hls => "HLS master playlist",
            Self::Dash => "DASH manifest",
        }
    }

    /// The players that open it.
    #[must_use]
    pub const fn players(self) -> &'static str {
        match self {
            Self::Hls => "Safari and everything else of Apple's, hls.js, Shaka Player, ExoPlayer, VLC",
            Self::Dash => "dash.js, Shaka Player, ExoPlayer, VLC, television sets",
        }
    }
}

impl JsonSchema for EntryKind {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EntryKind".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let kinds = Self::ALL.iter();
        let kinds = kinds
            .map(|kind| json_schema!({"type": "string", "const": kind.name(), "description": format!("{}.", kind.title())}));
        json_schema!({
            "description": "A kind of document that players open to play all renditions of a job.",
            "oneOf": kinds.collect::<Vec<_>>(),
        })
    }
}
