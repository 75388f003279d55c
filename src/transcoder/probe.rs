//! Selects the video and audio stream of a source, with the properties that the plan needs.

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::job::{AudioInfo, Dimensions, Failure, FailureCode, InputLimits, SourceInfo, VideoInfo};

use super::codecs::{is_known_audio, is_known_video};
use super::diagnose;
use super::ffprobe::{self, Report, Stream};
use super::input::MediaInput;

/// Minimum side of a picture, pixels: in a smaller one, macroblocks and even sizes leave nothing to see.
const MIN_SIDE: u32 = 16;

/// A source, as far as the plan needs to know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// FFmpeg's name of the container.
    pub format: String,
    /// Size in bytes.
    pub size: u64,
    /// Duration of the container in seconds, if it has one.
    pub duration: Option<f64>,
    /// Time at which the first stream of the container starts, seconds.
    pub start: f64,
    /// The selected video stream.
    pub video: Video,
    /// The selected audio stream.
    pub audio: Option<Audio>,
    /// Whether there are other streams, which may be longer than the selected ones.
    pub has_more: bool,
}

/// The video stream of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// Index among all streams of the file.
    pub index: u32,
    /// FFmpeg's name of the codec.
    pub codec: String,
    /// Width in pixels, as stored.
    pub width: u32,
    /// Height in pixels, as stored.
    pub height: u32,
    /// Pixel aspect ratio, width to height.
    pub sar: (u32, u32),
    /// Clockwise rotation for display in degrees, 0 to 359.
    pub rotation: u32,
    /// Transfer characteristics.
    pub transfer: Transfer,
    /// Matrix coefficients.
    pub matrix: Matrix,
    /// Whether the file specifies its color primaries.
    pub has_primaries: bool,
    /// Whether frames consist of two fields.
    pub interlaced: bool,
    /// Average frame rate; 0 if unknown.
    pub frame_rate: f64,
    /// The lowest frame rate whose grid has the times of all frames, as FFmpeg guesses it; 0 if unknown.
    pub base_rate: f64,
    /// Time at which this stream starts, seconds.
    pub start: f64,
    /// Number of frames, if the container contains it and it agrees with the other values.
    pub frames: Option<u64>,
    /// Duration of this stream in seconds.
    pub duration: Option<f64>,
    /// What a copy of it depends on; `None` if not all players play it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<PlainVideo>,
}

/// H.264 as all players play it: 4:2:0 with 8 bits, progressive, of limited range, and at most the profile High.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlainVideo {
    /// The level times ten, such as 41.
    pub level: u32,
    /// Mean bits a second.
    pub bit_rate: u64,
    /// The longest time from a keyframe to the next one, seconds; `None` if it was not read.
    pub keyframe_distance: Option<f64>,
}

/// The audio stream of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audio {
    /// Index among all streams of the file.
    pub index: u32,
    /// FFmpeg's name of the codec.
    pub codec: String,
    /// Number of channels.
    pub channels: u32,
    /// Sample rate in hertz.
    pub sample_rate: u32,
    /// Duration of this stream in seconds.
    pub duration: Option<f64>,
    /// Its language, as the file has it.
    pub language: Option<String>,
    /// Its title.
    pub title: Option<String>,
    /// Mean bits a second of AAC as all players play it: LC with one or two channels; `None` of other sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_bit_rate: Option<u64>,
}

/// Transfer characteristics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// Standard dynamic range.
    Sdr,
    /// PQ, as in HDR10 (SMPTE ST 2084).
    Pq,
    /// Hybrid log-gamma (ARIB STD-B67).
    Hlg,
}

/// Matrix coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Matrix {
    /// BT.709, high definition.
    Bt709,
    /// BT.601, standard definition.
    Bt601,
    /// Another matrix that the file specifies.
    Other,
    /// The file specifies none.
    Unknown,
}

impl Probe {
    /// The size in pixels as displayed, with rotation and pixel aspect ratio applied.
    #[must_use]
    pub fn display(&self) -> Dimensions {
        self.video.display()
    }

    /// Duration in seconds of the selected streams, as far as the file contains it.
    #[must_use]
    pub fn expected_duration(&self) -> Option<f64> {
        match (&self.audio, self.video.duration) {
            (None, Some(video)) => Some(video),
            (Some(Audio { duration: Some(audio), .. }), Some(video)) => Some(video.max(*audio)),
            _ => self.duration,
        }
    }

    /// Duration in seconds that an output must reach: [`Self::expected_duration`], except where only the
    /// container has a duration, which may be that of an omitted subtitle or audio stream.
    #[must_use]
    pub fn promised_duration(&self) -> Option<f64> {
        match (&self.audio, self.video.duration) {
            (None, Some(_)) | (Some(Audio { duration: Some(_), .. }), Some(_)) => self.expected_duration(),
            _ => self.duration.filter(|_| !self.has_more),
        }
    }

    /// The properties of the source that a job's result contains.
    #[must_use]
    pub fn info(&self) -> SourceInfo {
        let Dimensions { width, height } = self.display();
        SourceInfo {
            format: self.format.clone(),
            size: self.size,
            duration: self.duration.or(self.expected_duration()).unwrap_or_default(),
            video: VideoInfo {
                codec: self.video.codec.clone(),
                width,
                height,
                frame_rate: self.video.frame_rate,
                frames: self.video.frames,
                rotation: i32::try_from(self.video.rotation).unwrap_or_default(),
                hdr: self.video.transfer != Transfer::Sdr,
            },
            audio: self.audio.as_ref().map(|a| AudioInfo {
                codec: a.codec.clone(),
                channels: a.channels,
                sample_rate: a.sample_rate,
            }),
        }
    }

    /// Selects streams of a file with `size` bytes from ffprobe's report.
    ///
    /// # Errors
    /// If there is no usable picture.
    pub(super) fn choose(report: &Report, size: u64) -> Result<Self, Failure> {
        let unsupported = |message: String| Err(Failure::new(FailureCode::UnsupportedMedia, message));
        // The default stream first, then the largest, then the one with the lowest index.
        let rank = |s: &&Stream| (s.is_default, pixels(s), std::cmp::Reverse(s.index));
        let Some(video) = report.video().max_by_key(rank) else {
            let what =
                if report.audio().next().is_some() { "only sound" } else { "neither picture nor sound" };
            let message = format!("the file has no video stream: it holds {what}");
            return Err(Failure::new(FailureCode::InvalidMedia, message));
        };
        if matches!(video.tag.as_str(), "encv" | "drmi") {
            return unsupported("the video is encrypted (DRM); upload a copy without protection".into());
        }
        let Some(codec) = video.codec.clone() else {
            return unsupported(
                "the video is in a codec that FFmpeg does not know; convert it to H.264".into(),
            );
        };
        if !is_known_video(&codec) {
            return unsupported(format!(
                "videos in the codec {codec} are not supported; convert it to H.264"
            ));
        }
        let picture = video.index;
        let video = Video::of(video, codec);
        // A stream without a codec or channels cannot be decoded; another one may be.
        let usable = |s: &&Stream| s.codec.is_some() && s.channels > 0 && s.sample_rate > 0;
        let is_known = |s: &Stream| s.codec.as_deref().is_some_and(is_known_audio);
        let audio = report.audio().filter(usable).min_by_key(|s| (!is_known(s), !s.is_default, s.index));
        if let Some(codec) = audio.filter(|s| !is_known(s)).and_then(|s| s.codec.as_ref()) {
            return unsupported(format!("sound in the codec {codec} is not supported; convert it to AAC"));
        }
        let used = [Some(picture), audio.map(|s| s.index)];
        let has_more = report.streams.iter().any(|s| !s.is_still && !used.contains(&Some(s.index)));
        Ok(Self {
            format: report.format.clone(),
            size,
            duration: report.duration,
            start: report.start,
            video,
            audio: audio.map(Audio::of),
            has_more,
        })
    }

    /// Returns this source if its values are within limits.
    pub(super) fn checked(self, limits: &InputLimits) -> Result<Self, Failure> {
        let unsupported = |message: String| Err(Failure::new(FailureCode::UnsupportedMedia, message));
        let stored = Dimensions { width: self.video.width, height: self.video.height };
        for Dimensions { width, height } in [stored, self.display()] {
            if width == 0 || height == 0 {
                let message = "the file is damaged: its video stream has no picture size";
                return Err(Failure::new(FailureCode::InvalidMedia, message));
            }
            if u64::from(width) * u64::from(height) > limits.pixels {
                return unsupported(format!(
                    "the picture is {width}x{height}; at most {} pixels are taken",
                    limits.pixels
                ));
            }
            if width < MIN_SIDE || height < MIN_SIDE {
                return unsupported(format!(
                    "the picture is {width}x{height}; it needs 16x16 pixels or more"
                ));
            }
        }
        // Each of them is used somewhere, and a file may contradict itself.
        let sound = self.audio.as_ref().and_then(|audio| audio.duration);
        let durations = [self.duration, self.video.duration, sound].into_iter().flatten();
        // Some durations are counted from a start, which may be negative.
        let longest = durations.chain([-self.start, -self.video.start]).fold(0.0, f64::max);
        if longest > limits.seconds {
            let message = format!(
                "the file says that it lasts {:.1} hours; at most {:.1} are taken",
                // A number of 300 digits is no use to anybody.
                (longest / 3600.0).min(1e9),
                limits.seconds / 3600.0
            );
            return Err(Failure::new(FailureCode::InputTooLarge, message));
        }
        Ok(self)
    }
}

fn pixels(stream: &Stream) -> u64 {
    u64::from(stream.width) * u64::from(stream.height)
}

impl Video {
    fn of(stream: &Stream, codec: String) -> Self {
        let frame_rate = stream.average_rate.or(stream.real_rate).unwrap_or_default();
        Self {
            index: stream.index,
            codec,
            width: stream.width,
            height: stream.height,
            sar: plausible(stream.sar),
            rotation: (-stream.rotation.round()).rem_euclid(360.0) as u32,
            transfer: match stream.color_transfer.as_str() {
                "smpte2084" => Transfer::Pq,
                "arib-std-b67" => Transfer::Hlg,
                _ => Transfer::Sdr,
            },
            matrix: match stream.color_space.as_str() {
                "" | "unknown" | "reserved" => Matrix::Unknown,
                "bt709" => Matrix::Bt709,
                "smpte170m" | "bt470bg" => Matrix::Bt601,
                _ => Matrix::Other,
            },
            has_primaries: !matches!(stream.color_primaries.as_str(), "" | "unknown" | "reserved"),
            interlaced: matches!(stream.field_order.as_str(), "tt" | "bb" | "tb" | "bt"),
            frame_rate,
            base_rate: stream.real_rate.unwrap_or_default(),
            start: stream.start,
            frames: stream.frames.filter(|n| agrees(*n, stream.average_rate, stream.duration)),
            duration: stream.duration,
            plain: PlainVideo::of(stream),
        }
    }

    /// The size in pixels as displayed.
    #[must_use]
    pub fn display(&self) -> Dimensions {
        let wide = f64::from(self.width) * f64::from(self.sar.0) / f64::from(self.sar.1);
        let (width, height) = (wide.round() as u32, self.height);
        if matches!(self.rotation, 90 | 270) {
            Dimensions { width: height, height: width }
        } else {
            Dimensions { width, height }
        }
    }
}

impl PlainVideo {
    fn of(stream: &Stream) -> Option<Self> {
        // `Baseline` may use tools that decoders lack. With the tag `avc1` the headers are in the index.
        let is_plain = stream.codec.as_deref() == Some("h264")
            && stream.tag == "avc1"
            && matches!(stream.profile.as_str(), "Constrained Baseline" | "Main" | "High")
            && stream.pixel_format == "yuv420p"
            && stream.color_range != "pc"
            && stream.field_order == "progressive";
        let level = Some(stream.level).filter(|level| is_plain && *level > 0)?;
        Some(Self { level, bit_rate: stream.bit_rate?, keyframe_distance: None })
    }
}

/// The pixel aspect ratio, or 1:1 for one beyond 16:1, which is a broken header.
fn plausible(sar: Option<(u32, u32)>) -> (u32, u32) {
    let shape = |(a, b): &(u32, u32)| f64::from(*a) / f64::from(*b);
    sar.filter(|sar| (1.0 / 16.0..=16.0).contains(&shape(sar))).unwrap_or((1, 1))
}

/// A number of frames is reliable if it equals rate times duration: an edit list that shows only a part of
/// the stored frames breaks that.
fn agrees(frames: u64, rate: Option<f64>, duration: Option<f64>) -> bool {
    let (Some(rate), Some(duration)) = (rate, duration) else { return false };
    let implied = rate * duration;
    (frames as f64 - implied).abs() <= 1.0 + implied * 0.01
}

impl Audio {
    fn of(stream: &Stream) -> Self {
        Self {
            index: stream.index,
            codec: stream.codec.clone().unwrap_or_default(),
            channels: stream.channels,
            sample_rate: stream.sample_rate,
            duration: stream.duration,
            language: stream.language.clone(),
            title: stream.title.clone(),
            plain_bit_rate: stream.bit_rate.filter(|_| is_plain(stream)),
        }
    }
}

/// Whether all players play this sound.
fn is_plain(stream: &Stream) -> bool {
    let is_aac = stream.codec.as_deref() == Some("aac") && stream.tag == "mp4a" && stream.profile == "LC";
    is_aac && matches!(stream.channels, 1 | 2) && matches!(stream.sample_rate, 44_100 | 48_000)
}

/// Probes a user's file.
///
/// # Errors
/// One sentence about the file, or about this machine if ffprobe cannot run.
pub async fn probe(path: &Path, limits: &InputLimits) -> Result<Probe, Failure> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Failure::new(FailureCode::InputNotFound, "there is no such file"),
        _ => Failure::new(FailureCode::Worker, format!("the file cannot be opened: {e}")),
    })?;
    if !metadata.is_file() {
        return Err(Failure::new(FailureCode::InvalidMedia, "that is a folder or a device, not a file"));
    }
    if metadata.len() == 0 {
        return Err(Failure::new(FailureCode::InvalidMedia, "the file is empty (0 bytes); upload it again"));
    }
    read(MediaInput::File(path), metadata.len(), limits, || head(path)).await
}

/// Probes a user's file of `size` bytes behind a server on the loopback interface. `head` holds its first bytes, as
/// far as they are known: they tell a damaged video from another kind of file.
///
/// # Errors
/// One sentence about the file, or about this machine if ffprobe cannot run.
pub async fn probe_loopback(
    url: &Url,
    size: u64,
    head: &[u8],
    limits: &InputLimits,
) -> Result<Probe, Failure> {
    read(MediaInput::Loopback(url), size, limits, || head.to_vec()).await
}

async fn read(
    input: MediaInput<'_>,
    size: u64,
    limits: &InputLimits,
    head: impl FnOnce() -> Vec<u8>,
) -> Result<Probe, Failure> {
    match ffprobe::read_input(input).await {
        Ok(report) if report.streams.len() > limits.streams => {
            let message = format!(
                "the file has {} streams; at most {} are taken",
                report.streams.len(),
                limits.streams
            );
            Err(Failure::new(FailureCode::UnsupportedMedia, message))
        }
        Ok(report) => Probe::choose(&report, size).and_then(|probe| probe.checked(limits)),
        Err(error) => Err(diagnose::probe_failure(&error, &head())),
    }
}

/// The first bytes of a file, which distinguish a damaged video from another kind of file.
fn head(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(64).read_to_end(&mut bytes);
    }
    bytes
}
