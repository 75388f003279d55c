//! HLS: the master playlist of a presentation, and the I-frame playlists for trick play (pure).
//!
//! RFC 8216, and for `CHANNELS` its successor, draft-pantos-hls-rfc8216bis.
//! <https://www.rfc-editor.org/rfc/rfc8216>
//!
//! quick-m3u8 writes the tags. Two gaps are filled here: it omits the comma after the duration of an `EXTINF`
//! (4.3.2.1), and it quotes the `NONE` of `CLOSED-CAPTIONS`, which makes it the name of a group (4.3.4.2).

use quick_m3u8::tag::hls::{
    Byterange, Endlist, IFrameStreamInf, IFramesOnly, IndependentSegments, Inf, M3u, Map, Media,
    MediaSequence, MediaType, PlaylistType, StreamInf, Targetduration, Version,
};
use quick_m3u8::tag::{DecimalResolution, HlsPlaylistType, IntoInnerTag};

use super::presentation::{IFrame, Presentation, Track, VideoTrack, iframe_target};
use crate::job::Dimensions;

/// The group of all audio tracks.
const AUDIO_GROUP: &str = "audio";
/// The version with byte ranges and, in I-frame playlists, initialization sections: RFC 8216, 7.
const IFRAMES_VERSION: u64 = 5;
/// The version with initialization sections in media playlists, as FFmpeg writes it.
pub(crate) const MEDIA_VERSION: u64 = 7;

/// The path of the I-frame playlist, which is next to the media playlist.
#[must_use]
pub(crate) fn iframe_playlist(media_playlist: &str) -> String {
    let name = "iframes.m3u8";
    media_playlist.rsplit_once('/').map_or(name.to_owned(), |(folder, _)| format!("{folder}/{name}"))
}

/// The master playlist.
#[must_use]
pub(crate) fn master(presentation: &Presentation) -> String {
    // A player needs at least the highest version of the playlists that it refers to.
    let version = presentation.tracks().map(|track| track.version).max().unwrap_or(1).max(IFRAMES_VERSION);
    let mut lines = vec![line(M3u), line(Version::new(version))];
    if presentation.tracks().all(Track::is_independent) {
        lines.push(line(IndependentSegments));
    }
    for (n, audio) in presentation.audio.iter().enumerate() {
        let mut media = Media::builder()
            .with_media_type(MediaType::Audio)
            .with_name(audio.name.as_str())
            .with_group_id(AUDIO_GROUP)
            .with_uri(audio.track.playlist.as_str())
            .with_channels(audio.channels.to_string())
            .with_autoselect();
        if let Some(language) = &audio.language {
            media = media.with_language(language.as_str());
        }
        if n == 0 {
            media = media.with_default();
        }
        lines.push(line(media.finish()));
    }
    lines.extend(presentation.video.iter().flat_map(|video| variant(presentation, video)));
    lines.extend(presentation.video.iter().map(iframe_variant));
    text(&lines)
}

/// The tag of a variant and its URI.
fn variant(presentation: &Presentation, video: &VideoTrack) -> [String; 2] {
    let bandwidth = presentation.bandwidth(video);
    let mut codecs = vec![video.track.codec.as_str()];
    for audio in &presentation.audio {
        if !codecs.contains(&audio.track.codec.as_str()) {
            codecs.push(&audio.track.codec);
        }
    }
    let mut stream = StreamInf::builder()
        .with_bandwidth(bandwidth.peak)
        .with_average_bandwidth(bandwidth.average)
        .with_codecs(codecs.join(","))
        .with_resolution(resolution(video));
    if !presentation.audio.is_empty() {
        stream = stream.with_audio(AUDIO_GROUP);
    }
    let frame_rate = video.frame_rate();
    let tag = format!("{},FRAME-RATE={frame_rate:.3},CLOSED-CAPTIONS=NONE", line(stream.finish()));
    [tag, video.track.playlist.clone()]
}

fn iframe_variant(video: &VideoTrack) -> String {
    let bandwidth = video.iframe_bandwidth();
    let stream = IFrameStreamInf::builder()
        .with_uri(iframe_playlist(&video.track.playlist))
        .with_bandwidth(bandwidth.peak)
        .with_average_bandwidth(bandwidth.average)
        .with_codecs(video.track.codec.as_str())
        .with_resolution(resolution(video));
    line(stream.finish())
}

fn resolution(video: &VideoTrack) -> DecimalResolution {
    DecimalResolution { width: video.size.width.into(), height: video.size.height.into() }
}

/// The I-frame playlist of a track. It names files relative to itself, like the media playlist next to it.
#[must_use]
pub(crate) fn iframes(track: &Track) -> String {
    let iframes = track.iframes();
    let mut lines = vec![
        line(M3u),
        line(Version::new(track.version.max(IFRAMES_VERSION))),
        line(Targetduration::new(iframe_target(&iframes))),
        line(PlaylistType::new(HlsPlaylistType::Vod)),
        line(IFramesOnly),
        line(Map::builder().with_uri(track.init.as_str()).finish()),
    ];
    for IFrame { file, offset, bytes, seconds } in iframes {
        lines.push(line(Inf::new(seconds, "")) + ",");
        lines.push(line(Byterange::new(bytes, Some(offset))));
        lines.push(file.to_owned());
    }
    lines.push(line(Endlist));
    text(&lines)
}

/// A media playlist with these segments: their files, and their durations in seconds.
#[must_use]
pub(crate) fn media<'a>(init: &str, segments: impl Iterator<Item = (&'a str, f64)> + Clone) -> String {
    let longest = segments.clone().map(|(_, seconds)| seconds).fold(0.0, f64::max);
    let mut lines = vec![
        line(M3u),
        line(Version::new(MEDIA_VERSION)),
        line(Targetduration::new((longest.round() as u64).max(1))),
        line(MediaSequence::new(0)),
        line(PlaylistType::new(HlsPlaylistType::Vod)),
        line(IndependentSegments),
        line(Map::builder().with_uri(init).finish()),
    ];
    for (file, seconds) in segments {
        lines.push(format!("#EXTINF:{seconds:.6},"));
        lines.push(file.to_owned());
    }
    lines.push(line(Endlist));
    text(&lines)
}

/// A rung of which nothing is measured yet.
pub(crate) struct NominalVariant {
    /// The media playlist, relative to the master playlist.
    pub playlist: String,
    /// Maximum bit rate with audio, bit/s.
    pub bandwidth: u64,
    /// Size in pixels, as displayed.
    pub size: Dimensions,
}

/// The master playlist of renditions of which nothing is measured yet; without codecs, because the level of H.264 is
/// not known. `audio` is the media playlist of the shared audio. A `frame_rate` of 0 is unknown.
#[must_use]
pub(crate) fn nominal_master(
    variants: &[NominalVariant],
    audio: Option<(&str, u32)>,
    frame_rate: f64,
) -> String {
    let mut lines = vec![line(M3u), line(Version::new(MEDIA_VERSION)), line(IndependentSegments)];
    if let Some((playlist, channels)) = audio {
        let media = Media::builder()
            .with_media_type(MediaType::Audio)
            .with_name("audio")
            .with_group_id(AUDIO_GROUP)
            .with_uri(playlist)
            .with_channels(channels.to_string())
            .with_autoselect()
            .with_default();
        lines.push(line(media.finish()));
    }
    for NominalVariant { playlist, bandwidth, size } in variants {
        let size = DecimalResolution { width: size.width.into(), height: size.height.into() };
        let mut stream = StreamInf::builder().with_bandwidth(*bandwidth).with_resolution(size);
        if audio.is_some() {
            stream = stream.with_audio(AUDIO_GROUP);
        }
        let rate = if frame_rate > 0.0 { format!(",FRAME-RATE={frame_rate:.3}") } else { String::new() };
        lines.push(format!("{}{rate},CLOSED-CAPTIONS=NONE", line(stream.finish())));
        lines.push(playlist.clone());
    }
    text(&lines)
}

fn line<'a>(tag: impl IntoInnerTag<'a>) -> String {
    String::from_utf8_lossy(tag.into_inner().value()).into_owned()
}

fn text(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::presentation::tests::{audio, video};
    use super::*;

    const SEGMENTS: [(u64, f64); 3] = [(500_000, 4.0), (1_000_000, 4.0), (10_000, 1.0)];

    #[test]
    fn the_master_playlist_states_what_was_measured() {
        let mut second = audio("audio-1/index.m3u8", &[(25_000, 4.0), (25_000, 4.0), (6_250, 1.0)]);
        (second.name, second.language, second.channels) = ("Mono".into(), None, 1);
        let presentation = Presentation {
            video: vec![video("720p/index.m3u8", &SEGMENTS), video("360p/index.m3u8", &SEGMENTS)],
            audio: vec![audio("audio/index.m3u8", &[(50_000, 4.0), (50_000, 4.0), (12_500, 1.0)]), second],
        };
        let variant = "#EXT-X-STREAM-INF:BANDWIDTH=2100000,AVERAGE-BANDWIDTH=1442223,\
                       CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=640x360,AUDIO=\"audio\",FRAME-RATE=25.000,\
                       CLOSED-CAPTIONS=NONE";
        let iframes = "BANDWIDTH=499848,AVERAGE-BANDWIDTH=335353,CODECS=\"avc1.64001f\",RESOLUTION=640x360";
        let expected = format!(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-MEDIA:TYPE=AUDIO,NAME=\"Deutsch\",GROUP-ID=\"audio\",URI=\"audio/index.m3u8\",\
             LANGUAGE=\"de\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,NAME=\"Mono\",GROUP-ID=\"audio\",URI=\"audio-1/index.m3u8\",\
             AUTOSELECT=YES,CHANNELS=\"1\"\n\
             {variant}\n720p/index.m3u8\n{variant}\n360p/index.m3u8\n\
             #EXT-X-I-FRAME-STREAM-INF:URI=\"720p/iframes.m3u8\",{iframes}\n\
             #EXT-X-I-FRAME-STREAM-INF:URI=\"360p/iframes.m3u8\",{iframes}\n"
        );
        assert_eq!(master(&presentation), expected);
    }

    #[test]
    fn without_sound_there_is_no_group_and_without_keyframes_no_independence() {
        let mut mute = Presentation { video: vec![video("360p/index.m3u8", &SEGMENTS)], audio: vec![] };
        let text = master(&mute);
        assert!(text.contains("CODECS=\"avc1.64001f\",RESOLUTION") && !text.contains("AUDIO"), "{text}");
        mute.video[0].track.segments[2].fragments[0].starts_with_keyframe = false;
        assert!(!master(&mute).contains("INDEPENDENT"));
    }

    #[test]
    fn an_i_frame_playlist_names_ranges_of_the_segments() {
        let found = iframes(&video("360p/index.m3u8", &[(400, 4.004), (800, 1.001)]).track);
        let expected = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-PLAYLIST-TYPE:VOD\n\
                        #EXT-X-I-FRAMES-ONLY\n#EXT-X-MAP:URI=\"init_0.mp4\"\n\
                        #EXTINF:4.004,\n#EXT-X-BYTERANGE:24@76\nsegment_00000.m4s\n\
                        #EXTINF:1.001,\n#EXT-X-BYTERANGE:124@76\nsegment_00001.m4s\n#EXT-X-ENDLIST\n";
        assert_eq!(found, expected);
        assert_eq!(iframe_playlist("index.m3u8"), "iframes.m3u8");
    }
}
