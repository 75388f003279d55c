//! What a completed job holds: its outputs and how they came about.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::key::ObjectKey;
use super::quality::Quality;
use super::rendition::{Label, RenditionInfo};

/// Requires the addresses of objects: they are absent only where a job is stored, and its readers always find them.
fn with_addresses(schema: &mut Schema) {
    for name in ["url", "imageUrl"] {
        let Some(serde_json::Value::Object(properties)) = schema.get_mut("properties") else { return };
        let Some(serde_json::Value::Object(address)) = properties.get_mut(name) else { continue };
        address.insert("type".into(), "string".into());
        address.insert("format".into(), "uri".into());
        let required = schema.ensure_object().entry("required").or_insert_with(|| serde_json::json!([]));
        if let Some(required) = required.as_array_mut() {
            required.push(name.into());
        }
    }
}

/// One rendition that stands in storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_addresses)]
pub struct Output {
    /// Which rendition.
    pub quality: Label,
    /// Its object in the output bucket: the file, or the playlist.
    pub key: ObjectKey,
    /// Where to fetch it, for a day at least. Made anew for every reader, so it is absent where the job is stored;
    /// and in webhooks for HLS in a private bucket where `API_PUBLIC_URL` is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub info: RenditionInfo,
}

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

    /// Its name: `hls`, `dash`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// What people call such a document.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Hls => "HLS master playlist",
            Self::Dash => "DASH manifest",
        }
    }

    /// Who opens it.
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

/// A document that players open to play all renditions of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_addresses)]
pub struct EntryDocument {
    /// Which kind of document.
    pub kind: EntryKind,
    /// Its object in the output bucket.
    pub key: ObjectKey,
    /// Where to fetch it, as an output's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The entry documents of a job. In JSON they are `entries`, beside a `master` that repeats the one of HLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "EntriesJson", into = "EntriesJson")]
pub struct Entries(pub Vec<EntryDocument>);

impl Entries {
    /// The document of this kind.
    #[must_use]
    pub fn of(&self, kind: EntryKind) -> Option<&EntryDocument> {
        self.0.iter().find(|entry| entry.kind == kind)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &EntryDocument> {
        self.0.iter()
    }
}

impl FromIterator<EntryDocument> for Entries {
    fn from_iter<T: IntoIterator<Item = EntryDocument>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct EntriesJson {
    /// The documents that players open to play all renditions; absent where each rendition is played by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    entries: Vec<EntryDocument>,
    /// The entry of the kind `hls` once more, as the original TCoder has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    master: Option<Master>,
}

impl From<EntriesJson> for Entries {
    fn from(json: EntriesJson) -> Self {
        Self(json.entries)
    }
}

impl From<Entries> for EntriesJson {
    fn from(entries: Entries) -> Self {
        let master = entries.of(EntryKind::Hls);
        let master = master.map(|entry| Master { key: entry.key.clone(), url: entry.url.clone() });
        Self { entries: entries.0, master }
    }
}

/// As of the JSON: what is serialised is what is documented.
impl JsonSchema for Entries {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Entries".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        EntriesJson::json_schema(generator)
    }
}

/// The playlist over all renditions of an adaptive job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MasterPlaylist", transform = with_addresses)]
struct Master {
    /// Its object in the output bucket.
    key: ObjectKey,
    /// Where to fetch it, as an output's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// A still of the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_addresses)]
pub struct Poster {
    /// Its object in the output bucket, a JPEG.
    pub key: ObjectKey,
    /// Where to fetch it, as an output's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// Small stills of the whole length, row by row in one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_addresses)]
pub struct Storyboard {
    /// The WebVTT that says which still is of when, in the output bucket beside the picture.
    pub key: ObjectKey,
    /// Where to fetch it, as an output's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The picture, a JPEG.
    pub image_key: ObjectKey,
    /// Where to fetch it, as an output's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    /// Bytes of the picture.
    pub size: u64,
    /// Pixels across of one still.
    pub width: u32,
    /// Pixels down of one still.
    pub height: u32,
    /// Stills in a row.
    pub columns: u32,
    /// How many stills.
    pub count: u32,
    /// Seconds from one to the next.
    pub interval: f64,
}

/// A quality that was asked for and not made as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SkippedQuality")]
pub struct Skipped {
    /// Which.
    pub quality: Quality,
    /// One sentence why.
    pub reason: String,
}

/// What the source is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceInfo {
    /// FFmpeg's name of the container: `mov,mp4,m4a,3gp,3g2,mj2`.
    pub format: String,
    /// Bytes.
    pub size: u64,
    /// Seconds.
    pub duration: f64,
    /// The picture.
    pub video: VideoInfo,
    /// The sound that is used; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioInfo>,
}

/// The picture of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VideoInfo {
    /// `h264`, `hevc`, ...
    pub codec: String,
    /// Pixels across, as displayed (rotation and pixel shape applied).
    pub width: u32,
    /// Pixels down, as displayed.
    pub height: u32,
    /// Mean frames a second.
    pub frame_rate: f64,
    /// Frames, where the container says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// Degrees the stored picture is turned by for display.
    pub rotation: i32,
    /// Whether it is HDR (PQ or HLG); outputs are SDR.
    pub hdr: bool,
}

/// The sound of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AudioInfo {
    /// `aac`, `opus`, ...
    pub codec: String,
    /// How many channels.
    pub channels: u32,
    /// Samples a second.
    pub sample_rate: u32,
}

/// How long the stages took, in seconds of wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// Fetching the input.
    pub download_seconds: f64,
    /// Probing, encoding and checking.
    pub transcode_seconds: f64,
    /// Storing the outputs.
    pub upload_seconds: f64,
}

/// What a completed job holds. The very JSON that is committed as the attempt's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobResult {
    /// The renditions, large to small.
    pub outputs: Vec<Output>,
    /// The documents that players open to play all of them.
    #[serde(flatten)]
    pub entries: Entries,
    /// The still, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poster: Option<Poster>,
    /// The stills of the whole length, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storyboard: Option<Storyboard>,
    /// What was asked for and not made as asked, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// What the input was.
    pub source: SourceInfo,
    /// How long it took.
    pub timings: Timings,
    /// Seconds of video a second of encoding made.
    pub speed: f64,
    /// CPU seconds FFmpeg took.
    pub cpu_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_kinds_agree_in_text_and_json() {
        for kind in EntryKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        let known = serde_json::from_str::<EntryKind>("\"\"").unwrap_err().to_string();
        assert_eq!(known.matches('`').count(), 2 * (EntryKind::ALL.len() + 1), "{known}");
    }

    #[test]
    fn the_master_playlist_stands_in_json_beside_the_entries_it_is_one_of() {
        let key: ObjectKey = "outputs/a/1/master.m3u8".parse().unwrap();
        let url = Some("https://h/master.m3u8".to_owned());
        let entries: Entries = [EntryDocument { kind: EntryKind::Hls, key, url }].into_iter().collect();
        let json = serde_json::to_value(&entries).unwrap();
        let file = serde_json::json!({"key": "outputs/a/1/master.m3u8", "url": "https://h/master.m3u8"});
        assert_eq!(json["master"], file);
        assert_eq!(json["entries"][0]["kind"], "hls");
        assert_eq!(json["entries"][0]["key"], file["key"]);
        assert_eq!(serde_json::from_value::<Entries>(json).unwrap(), entries);
        assert_eq!(serde_json::to_string(&Entries::default()).unwrap(), "{}");
    }
}
