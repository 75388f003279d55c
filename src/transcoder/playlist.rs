//! Reads back the HLS playlists FFmpeg wrote (pure).

/// A media playlist, as far as it must be checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MediaPlaylist {
    /// The initialisation section of fragmented MP4.
    pub init: Option<String>,
    /// Segments with their seconds.
    pub segments: Vec<(String, f64)>,
    /// Whether it says that nothing more comes.
    pub ended: bool,
}

impl MediaPlaylist {
    /// Parses a playlist; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        if lines.next() != Some("#EXTM3U") {
            return None;
        }
        let mut playlist = Self { init: None, segments: vec![], ended: false };
        let mut seconds = None;
        for line in lines.filter(|l| !l.is_empty()) {
            if let Some(rest) = line.strip_prefix("#EXTINF:") {
                let number = rest.split(',').next().unwrap_or_default();
                seconds = Some(number.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0)?);
            } else if let Some(rest) = line.strip_prefix("#EXT-X-MAP:") {
                playlist.init = Some(attribute(rest, "URI")?.to_owned());
            } else if line == "#EXT-X-ENDLIST" {
                playlist.ended = true;
            } else if !line.starts_with('#') {
                playlist.segments.push((line.to_owned(), seconds.take()?));
            }
        }
        Some(playlist)
    }

    /// Seconds of all segments.
    pub fn duration(&self) -> f64 {
        self.segments.iter().map(|(_, seconds)| seconds).sum()
    }

    /// Every file it names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.init.iter().map(String::as_str).chain(self.segments.iter().map(|(name, _)| name.as_str()))
    }
}

/// The playlists a master playlist names, those of alternative sound included.
pub(super) fn master_entries(text: &str) -> Vec<String> {
    let media = text.lines().filter_map(|l| l.trim().strip_prefix("#EXT-X-MEDIA:"));
    let sound = media.filter_map(|attributes| attribute(attributes, "URI"));
    let variants = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    sound.chain(variants).map(str::to_owned).collect()
}

/// The quoted value of an attribute.
fn attribute<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let start = list.find(&format!("{name}=\""))? + name.len() + 2;
    let rest = list.get(start..)?;
    rest.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_segments_their_lengths_and_the_end() {
        let text = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-MAP:URI=\"init_0.mp4\"\n#EXTINF:4.000000,\ns0.m4s\r\n\
                    #EXTINF:1.5,\ns1.m4s\n#EXT-X-ENDLIST\n";
        let playlist = MediaPlaylist::parse(text).unwrap();
        assert_eq!(playlist.files().collect::<Vec<_>>(), ["init_0.mp4", "s0.m4s", "s1.m4s"]);
        assert_eq!((playlist.duration(), playlist.ended), (5.5, true));
        assert!(!MediaPlaylist::parse("#EXTM3U\n").unwrap().ended);
    }

    #[test]
    fn what_is_no_playlist_is_none() {
        for text in ["", "hello", "#EXTM3U\nno-length.ts", "#EXTM3U\n#EXTINF:x,\na.ts"] {
            assert_eq!(MediaPlaylist::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_master_names_its_rungs_and_its_sound() {
        let text = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,NAME=\"a\",DEFAULT=YES,URI=\"audio/index.m3u8\"\n\
                    #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"g\"\n360p/index.m3u8\n\n";
        assert_eq!(master_entries(text), ["audio/index.m3u8", "360p/index.m3u8"]);
    }
}
