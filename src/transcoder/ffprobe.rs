//! Runs ffprobe on a file: hardened against hostile input, with limits on time and output.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::input::MediaInput;
use super::program::Program;

/// Demuxers that inputs may need, for ffprobe and FFmpeg alike. Without this list, a playlist or an ffconcat
/// list named `.mp4` makes FFmpeg read other local files, even under `-protocol_whitelist file`. It therefore
/// contains only containers that cannot refer to other files. Audio formats are included so that the error
/// about a song is "no video".
pub(super) const INPUT_FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpegts,mpeg,asf,ogg,mxf,gxf,wtv,rm,dv,nut,\
     ivf,gif,mp3,aac,flac,wav";

const TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_ANSWER: u64 = 4 << 20;
const LONGEST_COMPLAINT: u64 = 16 << 10;
/// Maximum length of a text in its answer, and of the name of a codec, characters.
const LONGEST_TEXT: usize = 300;
const LONGEST_NAME: usize = 40;

const ENTRIES: &str = "format=format_name,duration,start_time:\
    stream=index,codec_type,codec_name,codec_tag_string,profile,level,pix_fmt,width,height,sample_aspect_ratio,field_order,\
    color_range,color_space,color_transfer,color_primaries,avg_frame_rate,r_frame_rate,nb_frames,nb_read_packets,\
    bit_rate,duration,start_time,channels,sample_rate:\
    stream_disposition=default,attached_pic,still_image,timed_thumbnails:\
    stream_side_data=side_data_type,rotation:stream_tags=DURATION,language,title";

/// Options that must be the same for ffprobe and FFmpeg, or the stream indices may differ.
pub(super) fn input_options(input: MediaInput<'_>, formats: &str) -> Vec<String> {
    let mut all = vec!["-protocol_whitelist", input.protocols(), "-format_whitelist", formats];
    all.extend(["-probesize", "20000000", "-analyzeduration", "10000000"]);
    all.extend(input.options());
    all.into_iter().map(str::to_owned).collect()
}

/// Why ffprobe returned no report.
#[derive(Debug)]
pub(super) enum ProbeError {
    /// ffprobe could not be started.
    Start(std::io::Error),
    /// ffprobe did not end in time.
    Timeout,
    /// ffprobe rejected the file with this error.
    Refused(String),
}

/// What ffprobe reports about a file, before streams are selected.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    pub format: String,
    pub duration: Option<f64>,
    /// Time at which the first of its streams starts, seconds.
    pub start: f64,
    pub streams: Vec<Stream>,
}

/// One stream of a [`Report`]. Values that ffprobe omits are absent or zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stream {
    pub index: u32,
    pub kind: String,
    pub codec: Option<String>,
    pub tag: String,
    /// FFmpeg's name of the profile: `High`, `LC`.
    pub profile: String,
    /// Of H.264, the level times ten.
    pub level: u32,
    pub pixel_format: String,
    pub width: u32,
    pub height: u32,
    pub sar: Option<(u32, u32)>,
    pub field_order: String,
    pub color_range: String,
    pub color_space: String,
    pub color_transfer: String,
    pub color_primaries: String,
    pub average_rate: Option<f64>,
    pub real_rate: Option<f64>,
    pub frames: Option<u64>,
    /// Mean bits a second.
    pub bit_rate: Option<u64>,
    pub duration: Option<f64>,
    /// Time at which it starts, seconds.
    pub start: f64,
    pub channels: u32,
    pub sample_rate: u32,
    /// The language in the file: an ISO 639 code, in some files a BCP 47 tag.
    pub language: Option<String>,
    pub title: Option<String>,
    pub is_default: bool,
    /// Whether it is a cover, a thumbnail or another still image.
    pub is_still: bool,
    /// The rotation as in the display matrix: degrees counterclockwise.
    pub rotation: f64,
}

impl Report {
    pub(crate) fn video(&self) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(|s| s.kind == "video" && !s.is_still)
    }

    pub(crate) fn audio(&self) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(|s| s.kind == "audio")
    }

    /// Parses ffprobe's JSON, without assuming that any value is present.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(json).ok()?;
        let format = json.get("format")?;
        let streams = json.get("streams").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        Some(Self {
            format: text(format, "format_name"),
            duration: seconds(format, "duration"),
            start: number(format, "start_time").unwrap_or_default(),
            streams: streams.iter().map(Stream::parse).collect(),
        })
    }
}

impl Stream {
    fn parse(json: &Value) -> Self {
        let disposition = json.get("disposition").unwrap_or(&Value::Null);
        let flag = |name| number(disposition, name).is_some_and(|n| n != 0.0);
        let side_data = json.get("side_data_list").and_then(Value::as_array);
        let rotation = side_data.into_iter().flatten().find_map(|data| number(data, "rotation"));
        let whole = |name| number(json, name).filter(|n| *n >= 0.0).map(|n| n as u64);
        let small = |name| whole(name).and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
        let tags = json.get("tags").unwrap_or(&Value::Null);
        Self {
            index: small("index"),
            kind: text(json, "codec_type"),
            codec: Some(text(json, "codec_name").chars().take(LONGEST_NAME).collect::<String>())
                .filter(|c| !matches!(c.as_str(), "" | "none" | "unknown")),
            tag: text(json, "codec_tag_string"),
            profile: text(json, "profile"),
            level: small("level"),
            pixel_format: text(json, "pix_fmt"),
            width: small("width"),
            height: small("height"),
            sar: ratio(json, "sample_aspect_ratio", ':'),
            field_order: text(json, "field_order"),
            color_range: text(json, "color_range"),
            color_space: text(json, "color_space"),
            color_transfer: text(json, "color_transfer"),
            color_primaries: text(json, "color_primaries"),
            average_rate: rate(json, "avg_frame_rate"),
            real_rate: rate(json, "r_frame_rate"),
            frames: whole("nb_read_packets").or_else(|| whole("nb_frames")).filter(|n| *n > 0),
            bit_rate: whole("bit_rate").filter(|n| *n > 0),
            duration: seconds(json, "duration").or_else(|| clock(&text(tags, "DURATION"))),
            start: number(json, "start_time").unwrap_or_default(),
            channels: small("channels"),
            sample_rate: small("sample_rate"),
            language: Some(text(tags, "language")).filter(|t| !t.is_empty()),
            title: Some(text(tags, "title")).filter(|t| !t.is_empty()),
            is_default: flag("default"),
            is_still: flag("attached_pic") || flag("still_image") || flag("timed_thumbnails"),
            rotation: rotation.unwrap_or_default(),
        }
    }
}

/// A text as one line. It may appear in a sentence for the user and in the job's result, and a program in ffprobe's place
/// might write anything.
fn text(json: &Value, name: &str) -> String {
    let text = json.get(name).and_then(Value::as_str).unwrap_or_default();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_TEXT).collect()
}

/// Parses a number, which ffprobe writes as a number or as a string.
fn number(json: &Value, name: &str) -> Option<f64> {
    let value = json.get(name)?;
    let n = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    n.is_finite().then_some(n)
}

fn seconds(json: &Value, name: &str) -> Option<f64> {
    number(json, name).filter(|s| *s > 0.0)
}

fn ratio(json: &Value, name: &str, between: char) -> Option<(u32, u32)> {
    let text = text(json, name);
    let (a, b) = text.split_once(between)?;
    let pair = (a.parse().ok()?, b.parse().ok()?);
    (pair.0 > 0 && pair.1 > 0).then_some(pair)
}

fn rate(json: &Value, name: &str) -> Option<f64> {
    ratio(json, name, '/').map(|(a, b)| f64::from(a) / f64::from(b))
}

/// Parses Matroska's `00:01:02.500000000`.
fn clock(text: &str) -> Option<f64> {
    let mut total = 0.0;
    for part in text.split(':') {
        total = total * 60.0 + part.parse::<f64>().ok()?;
    }
    (total.is_finite() && total > 0.0).then_some(total)
}

/// Probes a user's file.
pub(super) async fn read_input(input: MediaInput<'_>) -> Result<Report, ProbeError> {
    read(input, input, INPUT_FORMATS, false).await
}

/// Probes an output of tcoder with the demuxers that it needs, which are never used on a user's file. With
/// `count`, ffprobe counts the packets if the file does not contain their number.
pub(super) async fn read_output(path: &Path, demuxers: &str, count: bool) -> Result<Report, ProbeError> {
    // A playlist refers to files in its folder.
    let folder = path.parent().unwrap_or(path);
    read(MediaInput::File(path), MediaInput::File(folder), demuxers, count).await
}

/// The longest time from a keyframe of a stream to the next one or to the last packet read, within its first `seconds`;
/// `None` if it does not begin with a keyframe, or if packets have no times or are not shown.
pub(super) async fn keyframe_distance(
    input: MediaInput<'_>,
    stream: u32,
    seconds: u32,
) -> Result<Option<f64>, ProbeError> {
    let (stream, interval) = (stream.to_string(), format!("%+{seconds}"));
    let query =
        ["-select_streams", &stream, "-read_intervals", &interval, "-show_entries", "packet=pts_time,flags"];
    let (answer, complaint) = ask(input, input, INPUT_FORMATS, &query, TIMEOUT).await?;
    let json: Value = serde_json::from_slice(&answer).map_err(|_| ProbeError::Refused(complaint))?;
    let packets = json.get("packets").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    Ok(longest_distance(packets))
}

pub(super) fn longest_distance(packets: &[Value]) -> Option<f64> {
    let (mut last_keyframe, mut end, mut longest) = (None, f64::NEG_INFINITY, 0.0_f64);
    for packet in packets {
        let (time, flags) = (number(packet, "pts_time")?, text(packet, "flags"));
        if flags.contains('D') {
            return None;
        }
        if flags.starts_with('K') {
            longest = longest.max(last_keyframe.map_or(0.0, |last| time - last));
            last_keyframe = Some(time);
        }
        last_keyframe?;
        end = end.max(time);
    }
    last_keyframe.map(|last| longest.max(end - last))
}

/// Probes a video, for which ffprobe may read `permitted`.
async fn read(
    input: MediaInput<'_>,
    permitted: MediaInput<'_>,
    formats: &str,
    count: bool,
) -> Result<Report, ProbeError> {
    let mut query = vec!["-show_entries", ENTRIES];
    query.extend(count.then_some("-count_packets"));
    let timeout = if count { TIMEOUT * 10 } else { TIMEOUT };
    let (answer, complaint) = ask(input, permitted, formats, &query, timeout).await?;
    Report::parse(&answer).ok_or(ProbeError::Refused(complaint))
}

/// The JSON with which ffprobe answers a query, and what it complained about.
async fn ask(
    input: MediaInput<'_>,
    permitted: MediaInput<'_>,
    formats: &str,
    query: &[&str],
    timeout: Duration,
) -> Result<(Vec<u8>, String), ProbeError> {
    let program = Program::reading("ffprobe", Some(permitted), timeout);
    let mut command = program.command().map_err(ProbeError::Start)?;
    command.args(["-hide_banner", "-v", "error"]).args(input_options(input, formats));
    command.args(query).args(["-print_format", "json"]).arg(input.argument());
    let mut child = command.spawn().map_err(ProbeError::Start)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (mut answer, mut complaint) = (Vec::new(), Vec::new());
        let out = async {
            if let Some(mut pipe) = stdout.map(|p| p.take(LONGEST_ANSWER)) {
                let _ = pipe.read_to_end(&mut answer).await;
            }
        };
        let err = async {
            if let Some(mut pipe) = stderr {
                let _ = (&mut pipe).take(LONGEST_COMPLAINT).read_to_end(&mut complaint).await;
                let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
            }
        };
        tokio::join!(out, err);
        let status = child.wait().await;
        (answer, String::from_utf8_lossy(&complaint).into_owned(), status)
    };
    // On a timeout the child is dropped, which kills it: it writes nothing that could be left behind.
    let (answer, complaint, status) =
        tokio::time::timeout(timeout, work).await.map_err(|_| ProbeError::Timeout)?;
    match status {
        Ok(status) if status.success() => Ok((answer, complaint)),
        status => {
            tracing::debug!(status = ?status.ok(), ffprobe = %complaint, "ffprobe failed");
            Err(ProbeError::Refused(complaint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ffprobe_writes() {
        let json = br#"{"programs":[],"streams":[{"index":0,"codec_name":"h264","codec_type":"video",
            "codec_tag_string":"avc1","width":1440,"height":1080,"sample_aspect_ratio":"4:3",
            "field_order":"tt","color_space":"bt709","r_frame_rate":"50/1","avg_frame_rate":"30000/1001",
            "duration":"2.5","nb_frames":"75","disposition":{"default":1,"attached_pic":0},
            "side_data_list":[{"side_data_type":"Stereo 3D"},{"side_data_type":"Display Matrix","rotation":-90}]},
            {"index":1,"codec_type":"audio","codec_name":"aac","channels":6,"sample_rate":"48000",
            "tags":{"DURATION":"00:01:02.500000000","language":"ger","title":"Comments"}}],
            "format":{"format_name":"mov,mp4","duration":"2.500000"}}"#;
        let report = Report::parse(json).unwrap();
        let video = report.video().next().unwrap();
        assert_eq!((video.width, video.height, video.sar), (1440, 1080, Some((4, 3))));
        assert_eq!((video.rotation, video.frames, video.duration), (-90.0, Some(75), Some(2.5)));
        assert!((video.average_rate.unwrap() - 29.97).abs() < 0.001);
        let audio = report.audio().next().unwrap();
        assert_eq!((audio.channels, audio.sample_rate, audio.duration), (6, 48000, Some(62.5)));
        assert_eq!((audio.language.as_deref(), audio.title.as_deref()), (Some("ger"), Some("Comments")));
    }

    #[test]
    fn the_distance_of_keyframes_is_the_longest_one() {
        let distance = |packets: &[(f64, &str)]| {
            let packet = |(time, flags): &(f64, &str)| serde_json::json!({"pts_time": time.to_string(), "flags": flags});
            longest_distance(&packets.iter().map(packet).collect::<Vec<_>>())
        };
        assert_eq!(
            distance(&[(0.0, "K__"), (2.0, "___"), (1.0, "___"), (3.0, "K__"), (3.5, "___")]),
            Some(3.0)
        );
        // The last one may be longer than what was read of it.
        assert_eq!(distance(&[(0.0, "K__"), (1.0, "K_"), (6.0, "___")]), Some(5.0));
        assert_eq!(distance(&[(0.0, "___"), (1.0, "K__")]), None);
        assert_eq!(distance(&[(0.0, "KD_"), (1.0, "K__")]), None);
        assert_eq!(distance(&[]), None);
        assert_eq!(longest_distance(&[serde_json::json!({"flags": "K__"})]), None);
    }

    #[test]
    fn nothing_is_relied_upon() {
        assert_eq!(Report::parse(b""), None);
        assert_eq!(Report::parse(b"{}"), None);
        assert_eq!(Report::parse(br#"{"format":{}}"#).unwrap(), Report::default());
        let odd = br#"{"format":{"duration":"N/A","format_name":7},"streams":[{},7,{"codec_type":"video",
            "width":-4,"height":"x","sample_aspect_ratio":"0:1","avg_frame_rate":"0/0","nb_frames":"N/A",
            "duration":"nan","codec_name":"none","index":99999999999,"side_data_list":{}}]}"#;
        let report = Report::parse(odd).unwrap();
        assert_eq!(report.duration, None);
        let video = report.video().next().unwrap();
        assert_eq!(*video, Stream { kind: "video".into(), ..Stream::default() });
    }

    #[test]
    fn covers_are_not_video() {
        let json = br#"{"format":{},"streams":[{"codec_type":"video","disposition":{"attached_pic":1}}]}"#;
        assert_eq!(Report::parse(json).unwrap().video().count(), 0);
    }

    #[test]
    fn no_demuxer_that_opens_other_files_is_let_in() {
        let formats: Vec<&str> = INPUT_FORMATS.split(',').collect();
        assert!(formats.iter().all(|f| !f.is_empty() && f.trim() == *f), "{formats:?}");
        for dangerous in ["hls", "concat", "dash", "imf", "lavfi", "image2", "sdp", "rtsp", "avs", "tty"] {
            assert!(!formats.contains(&dangerous), "{dangerous}");
        }
    }
}
