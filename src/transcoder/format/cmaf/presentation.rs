//! The measurements of a presentation's segments, and the figures that follow from them (pure). All documents
//! that describe the segments to players are made from this.

use serde::{Deserialize, Serialize};

use super::rate;
use crate::job::Dimensions;

/// Tracks that can be played together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Presentation {
    /// The video in several qualities, largest first.
    pub video: Vec<VideoTrack>,
    /// The audio tracks for each of them, of which a player plays one. The first is the default.
    pub audio: Vec<AudioTrack>,
}

/// One quality of the video.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VideoTrack {
    /// The segments.
    pub track: Track,
    /// Size in pixels, as displayed.
    pub size: Dimensions,
}

/// An audio track.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AudioTrack {
    /// The segments.
    pub track: Track,
    /// The name in a player's menu, unique in the presentation.
    pub name: String,
    /// BCP 47 language tag.
    pub language: Option<String>,
    /// Number of channels.
    pub channels: u32,
}

/// A sequence of segments in fragmented MP4.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Track {
    /// The media playlist, relative to the output folder.
    pub playlist: String,
    /// The playlist's `EXT-X-VERSION`.
    pub version: u64,
    /// The playlist's `EXT-X-TARGETDURATION`, seconds.
    pub target_duration: u64,
    /// The codec as in RFC 6381, such as `avc1.64001f`.
    pub codec: String,
    /// The initialization section, relative to the playlist.
    pub init: String,
    /// The timescale: units per second in which fragments count time.
    pub timescale: u32,
    /// The segments in the order of playback.
    pub segments: Vec<Segment>,
}

/// A segment. Its JSON is a list, because the reports of a long video hold thousands of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(String, u64, f64, Vec<Fragment>)", into = "(String, u64, f64, Vec<Fragment>)")]
pub(crate) struct Segment {
    /// The file, relative to the playlist.
    pub file: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Duration in seconds as in the playlist (`EXTINF`).
    pub seconds: f64,
    /// The movie fragments (`moof` and `mdat`), at least one.
    pub fragments: Vec<Fragment>,
}

/// The header of a movie fragment. Its JSON is a list, in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "FragmentJson", into = "FragmentJson")]
pub(crate) struct Fragment {
    /// Offset of its `moof` in the segment, bytes.
    pub offset: u64,
    /// Offset of the end of its first sample, bytes.
    pub first_sample_end: u64,
    /// Whether its first sample is a sync sample: a keyframe.
    pub starts_with_keyframe: bool,
    /// Presentation time of its first sample, seconds.
    pub shown_at: f64,
    /// Decoding time of its first sample in the track's timescale.
    pub decoded_at: u64,
    /// Duration of its samples in the track's timescale.
    pub duration: u64,
    /// Number of samples, which are frames in a video track.
    pub samples: u64,
}

type FragmentJson = (u64, u64, bool, f64, u64, u64, u64);

impl From<FragmentJson> for Fragment {
    fn from(json: FragmentJson) -> Self {
        let (offset, first_sample_end, starts_with_keyframe, shown_at, decoded_at, duration, samples) = json;
        Self { offset, first_sample_end, starts_with_keyframe, shown_at, decoded_at, duration, samples }
    }
}

impl From<Fragment> for FragmentJson {
    fn from(f: Fragment) -> Self {
        let (start, end) = (f.offset, f.first_sample_end);
        (start, end, f.starts_with_keyframe, f.shown_at, f.decoded_at, f.duration, f.samples)
    }
}

impl From<(String, u64, f64, Vec<Fragment>)> for Segment {
    fn from((file, bytes, seconds, fragments): (String, u64, f64, Vec<Fragment>)) -> Self {
        Self { file, bytes, seconds, fragments }
    }
}

impl From<Segment> for (String, u64, f64, Vec<Fragment>) {
    fn from(Segment { file, bytes, seconds, fragments }: Segment) -> Self {
        (file, bytes, seconds, fragments)
    }
}

/// A frame that can be decoded alone, together with its `moof`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IFrame<'a> {
    /// The segment that contains it, relative to the playlist.
    pub file: &'a str,
    /// Offset in that file, bytes.
    pub offset: u64,
    /// Number of bytes from the `moof` to the end of the frame.
    pub bytes: u64,
    /// Time until the next I-frame is presented, seconds.
    pub seconds: f64,
}

/// Bit rates in bit/s, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    /// The peak segment bit rate of RFC 8216, 4.1.
    pub peak: u64,
    /// The average segment bit rate of RFC 8216, 4.1.
    pub average: u64,
}

impl Presentation {
    /// The bandwidth for a quality: the video plus the maximum of the audio tracks.
    #[must_use]
    pub(crate) fn bandwidth(&self, video: &VideoTrack) -> Bandwidth {
        let video = video.track.bit_rates();
        let audio: Vec<(f64, f64)> = self.audio.iter().map(|audio| audio.track.bit_rates()).collect();
        let most = |rate: fn(&(f64, f64)) -> f64| audio.iter().map(rate).fold(0.0, f64::max);
        Bandwidth::of(video.0 + most(|(peak, _)| *peak), video.1 + most(|(_, average)| *average))
    }

    /// All tracks.
    pub(crate) fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.video.iter().map(|video| &video.track).chain(self.audio.iter().map(|audio| &audio.track))
    }
}

impl VideoTrack {
    /// The maximum frame rate, as far as the averages of segments show it.
    #[must_use]
    pub(crate) fn frame_rate(&self) -> f64 {
        let frames = self.track.segments.iter().map(|segment| {
            let samples: u64 = segment.fragments.iter().map(|fragment| fragment.samples).sum();
            (samples as f64, segment.seconds)
        });
        rate::nominal(rate::peak(&frames.collect::<Vec<_>>(), self.track.target()))
    }

    /// The bandwidth for the I-frames only.
    #[must_use]
    pub(crate) fn iframe_bandwidth(&self) -> Bandwidth {
        let iframes = self.track.iframes();
        let bits: Vec<(f64, f64)> = iframes.iter().map(|i| (i.bytes as f64 * 8.0, i.seconds)).collect();
        Bandwidth::of(rate::peak(&bits, iframe_target(&iframes) as f64), rate::average(&bits))
    }
}

impl Track {
    /// Peak and average, bits a second.
    fn bit_rates(&self) -> (f64, f64) {
        let bits: Vec<(f64, f64)> = self.segments.iter().map(|s| (s.bytes as f64 * 8.0, s.seconds)).collect();
        (rate::peak(&bits, self.target()), rate::average(&bits))
    }

    /// The bandwidth for this track only.
    #[must_use]
    pub(crate) fn bandwidth(&self) -> Bandwidth {
        let (peak, average) = self.bit_rates();
        Bandwidth::of(peak, average)
    }

    fn target(&self) -> f64 {
        self.target_duration as f64
    }

    /// Whether each segment can be decoded independently.
    #[must_use]
    pub(crate) fn is_independent(&self) -> bool {
        self.segments.iter().all(|s| s.fragments.first().is_some_and(|f| f.starts_with_keyframe))
    }

    /// The first frame of each fragment that starts with a keyframe. A later keyframe of the same fragment
    /// cannot be read alone, because its header comes before other frames.
    #[must_use]
    pub(crate) fn iframes(&self) -> Vec<IFrame<'_>> {
        let begin = self.segments.iter().flat_map(|s| &s.fragments).map(|f| f.shown_at).next();
        let end = begin.unwrap_or_default() + self.segments.iter().map(|s| s.seconds).sum::<f64>();
        let keyframes = self.segments.iter().flat_map(|segment| {
            let keyframes = segment.fragments.iter().filter(|fragment| fragment.starts_with_keyframe);
            keyframes.map(move |fragment| (segment.file.as_str(), fragment))
        });
        let keyframes: Vec<(&str, &Fragment)> = keyframes.collect();
        let next = keyframes.iter().skip(1).map(|(_, fragment)| fragment.shown_at).chain([end]);
        let iframes = keyframes.iter().zip(next).map(|((file, fragment), next)| IFrame {
            file,
            offset: fragment.offset,
            bytes: fragment.first_sample_end.saturating_sub(fragment.offset),
            // Microseconds, as FFmpeg's playlists have them.
            seconds: ((next - fragment.shown_at).max(0.0) * 1e6).round() / 1e6,
        });
        iframes.collect()
    }
}

/// `EXT-X-TARGETDURATION` of an I-frame playlist.
#[must_use]
pub(crate) fn iframe_target(iframes: &[IFrame<'_>]) -> u64 {
    (iframes.iter().map(|i| i.seconds).fold(0.0, f64::max).round() as u64).max(1)
}

impl Bandwidth {
    fn of(peak: f64, average: f64) -> Self {
        Self { peak: peak.ceil() as u64, average: average.ceil() as u64 }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A track with segments of these sizes in bytes and durations in seconds, at 25 frames per second, each
    /// with one fragment.
    pub(crate) fn track(playlist: &str, codec: &str, segments: &[(u64, f64)]) -> Track {
        let (mut shown_at, mut decoded_at) = (0.08, 0);
        let segments = segments.iter().enumerate().map(|(n, (bytes, seconds))| {
            let fragment = Fragment {
                offset: 76,
                first_sample_end: bytes / 4,
                starts_with_keyframe: true,
                shown_at,
                decoded_at,
                duration: (seconds * 1000.0).round() as u64,
                samples: (seconds * 25.0).round() as u64,
            };
            shown_at += seconds;
            decoded_at += fragment.duration;
            let file = format!("segment_{n:05}.m4s");
            Segment { file, bytes: *bytes, seconds: *seconds, fragments: vec![fragment] }
        });
        Track {
            playlist: playlist.into(),
            version: 7,
            target_duration: 4,
            codec: codec.into(),
            init: "init_0.mp4".into(),
            timescale: 1000,
            segments: segments.collect(),
        }
    }

    pub(crate) fn video(playlist: &str, segments: &[(u64, f64)]) -> VideoTrack {
        VideoTrack {
            track: track(playlist, "avc1.64001f", segments),
            size: Dimensions { width: 640, height: 360 },
        }
    }

    pub(crate) fn audio(playlist: &str, segments: &[(u64, f64)]) -> AudioTrack {
        AudioTrack {
            track: track(playlist, "mp4a.40.2", segments),
            name: "Deutsch".into(),
            language: Some("de".into()),
            channels: 2,
        }
    }

    #[test]
    fn bandwidth_is_the_picture_and_the_sound_that_takes_most() {
        let presentation = Presentation {
            video: vec![video("v.m3u8", &[(500_000, 4.0), (1_000_000, 4.0), (10_000, 1.0)])],
            audio: vec![
                audio("a.m3u8", &[(50_000, 4.0), (50_000, 4.0), (12_500, 1.0)]),
                audio("b.m3u8", &[(10_000, 4.0), (60_000, 4.0), (10_000, 1.0)]),
            ],
        };
        // The last segment is too short to count alone; it lowers the rate of the one before it.
        let video = &presentation.video[0];
        assert_eq!(presentation.bandwidth(video).peak, 2_000_000 + 120_000);
        let average = |bytes: f64| bytes * 8.0 / 9.0;
        let expected = average(1_510_000.0) + average(112_500.0);
        assert_eq!(presentation.bandwidth(video).average, expected.ceil() as u64);
        let mute = Presentation { audio: vec![], ..presentation.clone() };
        assert_eq!(mute.bandwidth(video).peak, 2_000_000);
    }

    #[test]
    fn each_fragment_that_begins_with_a_keyframe_has_an_i_frame() {
        let mut track = track("v.m3u8", "avc1.64001f", &[(400, 4.004), (800, 4.004), (400, 1.001)]);
        let files = |track: &Track| -> Vec<(String, u64, u64, f64)> {
            track.iframes().iter().map(|i| (i.file.to_owned(), i.offset, i.bytes, i.seconds)).collect()
        };
        let one = |n: u32, bytes, seconds| (format!("segment_0000{n}.m4s"), 76, bytes, seconds);
        assert_eq!(files(&track), [one(0, 24, 4.004), one(1, 124, 4.004), one(2, 24, 1.001)]);
        assert!(track.is_independent());
        let fragment =
            Fragment { offset: 300, first_sample_end: 350, shown_at: 2.08, ..track.segments[0].fragments[0] };
        track.segments[0].fragments.push(fragment);
        track.segments[1].fragments[0].starts_with_keyframe = false;
        let second = ("segment_00000.m4s".to_owned(), 300, 50, 6.008);
        assert_eq!(files(&track), [one(0, 24, 2.0), second, one(2, 24, 1.001)]);
        assert!(!track.is_independent());
        assert_eq!(iframe_target(&track.iframes()), 6);
    }

    #[test]
    fn a_track_alone_needs_its_own_bandwidth() {
        let track = track("v.m3u8", "avc1.64001f", &[(500_000, 4.0), (1_000_000, 4.0)]);
        assert_eq!(track.bandwidth(), Bandwidth { peak: 2_000_000, average: 1_500_000 });
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        let none = video("v.m3u8", &[]);
        assert_eq!((none.frame_rate(), none.track.iframes().len()), (0.0, 0));
        assert_eq!(none.iframe_bandwidth(), Bandwidth { peak: 0, average: 0 });
    }
}
