//! Parses HLS playlists (pure): those that FFmpeg wrote, and those of a job that is downloaded.

use std::borrow::Cow;
use std::collections::HashSet;

use quick_m3u8::config::{ParsingOptions, ParsingOptionsBuilder};
use quick_m3u8::tag::KnownTag;
use quick_m3u8::tag::hls::Tag;
use quick_m3u8::{HlsLine, Reader};

use super::reference::Reference;

/// Maximum duration of a segment, seconds: 30 days.
const LONGEST_SEGMENT: f64 = 30.0 * 86_400.0;

/// A media playlist, as far as it is checked and measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct MediaPlaylist {
    /// `EXT-X-VERSION`; 1 if absent.
    pub version: u64,
    /// `EXT-X-TARGETDURATION`, seconds.
    pub target_duration: u64,
    /// The initialization section of fragmented MP4.
    pub init: Option<String>,
    /// Segments with their durations in seconds.
    pub segments: Vec<(String, f64)>,
    /// Whether `EXT-X-ENDLIST` is present.
    pub ended: bool,
}

impl MediaPlaylist {
    /// Parses a playlist; `None` if the text is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut playlist = Self { version: 1, ..Self::default() };
        let mut seconds = None;
        for line in lines(text)? {
            match line {
                HlsLine::Uri(uri) => playlist.segments.push((uri.trim().to_owned(), seconds.take()?)),
                HlsLine::KnownTag(KnownTag::Hls(tag)) => match tag {
                    Tag::Version(version) => playlist.version = version.version(),
                    Tag::Targetduration(target) => playlist.target_duration = target.target_duration(),
                    Tag::Map(map) => playlist.init = Some(map.uri().to_owned()),
                    Tag::Inf(inf) => {
                        seconds = Some(inf.duration()).filter(|s| (0.0..=LONGEST_SEGMENT).contains(s))
                    }
                    Tag::Endlist(_) => playlist.ended = true,
                    _ => {}
                },
                _ => {}
            }
        }
        Some(playlist)
    }

    /// Total duration of the segments in seconds.
    pub(crate) fn duration(&self) -> f64 {
        self.segments.iter().map(|(_, seconds)| seconds).sum()
    }

    /// Whether all files that the playlist refers to are beside it. FFmpeg writes no other playlist, but a program in its
    /// place might name files of this machine.
    pub(crate) fn is_of_one_folder(&self) -> bool {
        let is_name = |name: &str| !name.contains(['/', '\\', ':', '\0']) && !matches!(name, "" | "." | "..");
        self.files().all(is_name)
    }

    /// All files that the playlist refers to.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.init.iter().map(String::as_str).chain(self.segments.iter().map(|(name, _)| name.as_str()))
    }
}

/// All files that a playlist refers to, each once: the media and I-frame playlists of a master playlist, the
/// segments and the initialization section of a media playlist. Empty if the text is not a playlist.
pub(super) fn references(text: &str) -> Vec<Reference> {
    // Byte ranges refer to the same file repeatedly.
    let (mut references, mut seen) = (Vec::new(), HashSet::new());
    let mut is_variant = false;
    for line in lines(text).into_iter().flatten() {
        let reference = match &line {
            HlsLine::Uri(uri) if std::mem::take(&mut is_variant) => {
                Some(Reference::Document(uri.trim().into()))
            }
            HlsLine::Uri(uri) => Some(Reference::File(uri.trim().into())),
            HlsLine::KnownTag(KnownTag::Hls(tag)) => match tag {
                Tag::StreamInf(_) => {
                    is_variant = true;
                    None
                }
                Tag::Media(media) => media.uri().map(|uri| Reference::Document(uri.into())),
                Tag::IFrameStreamInf(stream) => Some(Reference::Document(stream.uri().into())),
                Tag::Map(map) => Some(Reference::File(map.uri().into())),
                _ => None,
            },
            _ => None,
        };
        references.extend(reference.filter(|reference| seen.insert(reference.uri().to_owned())));
    }
    references
}

/// The media playlist with a target duration of at least one second. FFmpeg rounds that of a video under half
/// a second to 0, which parsers treat as absent, and which leaves the segment bit rate undefined (RFC 8216,
/// 4.1).
pub(super) fn with_target_duration(text: &str) -> Cow<'_, str> {
    const NONE: &str = "\n#EXT-X-TARGETDURATION:0\n";
    // Only a whole line: the name of a segment may end like it.
    match text.contains(NONE) {
        true => text.replacen(NONE, "\n#EXT-X-TARGETDURATION:1\n", 1).into(),
        false => text.into(),
    }
}

/// The lines of a playlist without blank ones; `None` if the text does not begin like a playlist.
fn lines(text: &str) -> Option<impl Iterator<Item = HlsLine<'_>>> {
    let mut reader = Reader::from_str(text, options());
    match reader.read_line() {
        Ok(Some(HlsLine::KnownTag(KnownTag::Hls(Tag::M3u(_))))) => {}
        _ => return None,
    }
    let lines = std::iter::from_fn(move || reader.read_line().ok().flatten());
    Some(lines.filter(|line| !matches!(line, HlsLine::Uri(uri) if uri.trim().is_empty())))
}

fn options() -> ParsingOptions {
    ParsingOptionsBuilder::new().with_parsing_for_all_tags().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_segments_their_lengths_and_the_end() {
        let text = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-MAP:URI=\"init_0.mp4\"\n\
                    #EXTINF:4.000000,\ns0.m4s\r\n\n#EXTINF:1.5,\ns1.m4s\n#EXT-X-ENDLIST\n";
        let playlist = MediaPlaylist::parse(text).unwrap();
        assert_eq!(playlist.files().collect::<Vec<_>>(), ["init_0.mp4", "s0.m4s", "s1.m4s"]);
        assert_eq!((playlist.duration(), playlist.ended), (5.5, true));
        assert_eq!((playlist.version, playlist.target_duration), (7, 4));
        let bare = MediaPlaylist::parse("#EXTM3U\n").unwrap();
        assert_eq!((bare.version, bare.ended), (1, false));
    }

    #[test]
    fn files_elsewhere_are_not_of_the_playlist_s_folder() {
        let of = |name: &str| {
            let text = format!("#EXTM3U\n#EXT-X-MAP:URI=\"{name}\"\n#EXTINF:1,\n{name}\n");
            MediaPlaylist::parse(&text).unwrap().is_of_one_folder()
        };
        assert!(of("segment_00000.ts"));
        for name in
            ["/etc/passwd", "../other/input", "a/b.ts", "..", "file:a.ts", "http://h.example/a.ts", "a\\b"]
        {
            assert!(!of(name), "{name}");
        }
    }

    #[test]
    fn a_target_duration_of_nothing_becomes_a_second() {
        let text = |target: u64| format!("#EXTM3U\n#EXT-X-TARGETDURATION:{target}\n#EXTINF:0.4,\na.ts\n");
        assert_eq!(with_target_duration(&text(0)), text(1));
        assert_eq!(with_target_duration(&text(10)), text(10));
    }

    #[test]
    fn what_is_no_playlist_is_none() {
        for text in [
            "",
            "hello",
            "#EXTM3U\nno-length.ts",
            "#EXTM3U\n#EXTINF:x,\na.ts",
            "#EXTM3U\n#EXTINF:-1,\na.ts",
            "#EXTM3U\n#EXTINF:nan,\na.ts",
            "#EXTM3U\n#EXTINF:1e300,\na.ts",
        ] {
            assert_eq!(MediaPlaylist::parse(text), None, "{text}");
        }
        assert!(references("<html>\n404\n</html>").is_empty());
    }

    #[test]
    fn a_master_names_its_rungs_its_sound_and_its_i_frame_playlists() {
        let text = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"g\",NAME=\"a, URI=b\",URI=\"audio/index.m3u8\"\n\
                    #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"g\"\n360p/index.m3u8\n\n\
                    #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"360p/iframes.m3u8\"\n";
        let named = ["audio/index.m3u8", "360p/index.m3u8", "360p/iframes.m3u8"];
        assert_eq!(references(text), named.map(|uri| Reference::Document(uri.into())));
    }

    #[test]
    fn byte_ranges_of_one_file_name_it_once() {
        let text = "#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:2,\n#EXT-X-BYTERANGE:10@0\ns0.m4s\n\
                    #EXTINF:2,\n#EXT-X-BYTERANGE:10@90\ns0.m4s\n#EXTINF:2,\n#EXT-X-BYTERANGE:10@0\ns1.m4s\n";
        assert_eq!(references(text), ["init.mp4", "s0.m4s", "s1.m4s"].map(|uri| Reference::File(uri.into())));
    }
}
