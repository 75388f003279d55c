//! The result of a completed job: its outputs, and how they were made.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::entry::EntryKind;
use super::key::ObjectKey;
use super::quality::Quality;
use super::rendition::{Label, RenditionInfo};
use super::task::SplitInfo;

/// Makes the URLs of objects required: only the stored job lacks them, readers always get them.
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

/// A rendition in storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_addresses)]
pub struct Output {
    /// The quality, or `original` for a copy.
    pub quality: Label,
    /// The key in the output bucket of the file or the playlist.
    pub key: ObjectKey,
    /// The URL of the object, valid for at least a day. It is created for each reader, so a stored job has
    /// none. It is also absent in webhooks for HLS in a private bucket if `API_PUBLIC_URL` is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub info: RenditionInfo,
}

/// A document that players open to play all renditions of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_addresses)]
pub struct EntryDocument {
    /// The kind of document.
    pub kind: EntryKind,
    /// The key in the output bucket.
    pub key: ObjectKey,
    /// The URL of the document, like that of an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The entry documents of a job. In JSON they are `entries`; `master` repeats the entry of HLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "EntriesJson", into = "EntriesJson")]
pub struct Entries(pub Vec<EntryDocument>);

impl Entries {
    /// The document of this kind, if there is one.
    #[must_use]
    pub fn of(&self, kind: EntryKind) -> Option<&EntryDocument> {
        self.0.iter().find(|entry| entry.kind == kind)
    }

    /// All documents.
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
    /// The documents that players open to play all renditions; absent if each rendition is played by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    entries: Vec<EntryDocument>,
    /// The entry of the kind `hls` again, as in the original TCoder.
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

/// The schema of the JSON that is serialized.
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

/// The master playlist of an adaptive job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MasterPlaylist", transform = with_addresses)]
struct Master {
    /// The key in the output bucket.
    key: ObjectKey,
    /// The URL of the image, like that of an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// A still image from the beginning of the video.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_addresses)]
pub struct Poster {
    /// The key in the output bucket of the JPEG.
    pub key: ObjectKey,
    /// The URL of the image, like that of an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// Small still images from the whole video, row by row in one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_addresses)]
pub struct Storyboard {
    /// The key in the output bucket of the WebVTT file, which gives the time of each still. The image is next
    /// to it.
    pub key: ObjectKey,
    /// The URL of the image, like that of an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The key in the output bucket of the image, a JPEG.
    pub image_key: ObjectKey,
    /// The URL of the image, like that of an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    /// Size of the image in bytes.
    pub size: u64,
    /// Width of one still in pixels.
    pub width: u32,
    /// Height of one still in pixels.
    pub height: u32,
    /// Number of stills in a row.
    pub columns: u32,
    /// Number of stills.
    pub count: u32,
    /// Seconds between two stills.
    pub interval: f64,
}

/// A requested quality that was not made as requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SkippedQuality")]
pub struct Skipped {
    /// The requested quality.
    pub quality: Quality,
    /// The reason, as a sentence.
    pub reason: String,
}

/// Properties of the source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceInfo {
    /// FFmpeg's name of the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
    pub format: String,
    /// Size in bytes.
    pub size: u64,
    /// Duration in seconds.
    pub duration: f64,
    /// The video stream.
    pub video: VideoInfo,
    /// The audio stream; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioInfo>,
}

/// The video stream of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VideoInfo {
    /// The codec, such as `h264` or `hevc`.
    pub codec: String,
    /// Width in pixels, as displayed (with rotation and pixel aspect ratio applied).
    pub width: u32,
    /// Height in pixels, as displayed.
    pub height: u32,
    /// Average frame rate.
    pub frame_rate: f64,
    /// Number of frames, if the container contains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// Rotation for display, in degrees.
    pub rotation: i32,
    /// Whether it is HDR (PQ or HLG). Outputs are SDR.
    pub hdr: bool,
}

/// The audio stream of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AudioInfo {
    /// The codec, such as `aac` or `opus`.
    pub codec: String,
    /// Number of channels.
    pub channels: u32,
    /// Sample rate in hertz.
    pub sample_rate: u32,
}

/// Duration of the stages in seconds of wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// Time to download the input.
    pub download_seconds: f64,
    /// Time to probe, encode and verify.
    pub transcode_seconds: f64,
    /// Time to upload the outputs.
    pub upload_seconds: f64,
}

/// The result of a completed job. The same JSON is committed as the attempt's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobResult {
    /// The renditions, largest first.
    pub outputs: Vec<Output>,
    /// The entry documents.
    #[serde(flatten)]
    pub entries: Entries,
    /// The poster, if it was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poster: Option<Poster>,
    /// The storyboard, if it was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storyboard: Option<Storyboard>,
    /// Requested qualities that were not made as requested, with reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// Properties of the input.
    pub source: SourceInfo,
    /// Duration of the stages.
    pub timings: Timings,
    /// Seconds of video encoded per second.
    pub speed: f64,
    /// CPU seconds that FFmpeg used.
    pub cpu_seconds: f64,
    /// In how many chunks the video was encoded; absent in results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitInfo>,
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
