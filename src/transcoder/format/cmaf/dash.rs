//! DASH: a manifest (MPD) for the segments that the HLS playlists refer to (pure).
//!
//! ISO/IEC 23009-1, the profile `isoff-live` with one period: a segment template for each representation, and a
//! timeline of exact durations. <https://dashif.org/Guidelines-TimingModel/>

use std::fmt::Write as _;

use quick_xml::escape::escape;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::SEGMENT_NAME;
use super::presentation::{Fragment, Presentation, Track, VideoTrack};
use crate::transcoder::reference::Reference;

/// Maximum number of files that are read from a manifest; a day at ten qualities has fewer.
const SEGMENTS_LIMIT: usize = 200_000;
/// Maximum length of all their names, bytes: a manifest of a few kilobytes could name gigabytes.
pub(crate) const NAMES_LIMIT: usize = 16 << 20;

/// The manifest.
#[must_use]
pub(crate) fn manifest(presentation: &Presentation) -> String {
    let seconds = presentation.tracks().map(seconds).fold(0.0, f64::max);
    let target = presentation.tracks().map(|track| track.target_duration).max().unwrap_or(1);
    let mut xml = Xml(String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"));
    xml.open(
        "MPD",
        &[
            ("xmlns", "urn:mpeg:dash:schema:mpd:2011"),
            ("profiles", "urn:mpeg:dash:profile:isoff-live:2011"),
            ("type", "static"),
            ("mediaPresentationDuration", &format!("PT{seconds:.3}S")),
            ("minBufferTime", &format!("PT{target}S")),
        ],
    );
    xml.open("Period", &[("id", "0"), ("start", "PT0S")]);
    if !presentation.video.is_empty() {
        xml.open("AdaptationSet", &adaptation_set("0", "video", None));
        xml.empty("Role", &MAIN);
        for video in &presentation.video {
            picture(&mut xml, video);
        }
        xml.close("AdaptationSet");
    }
    for (n, audio) in presentation.audio.iter().enumerate() {
        let id = (n + 1).to_string();
        xml.open("AdaptationSet", &adaptation_set(&id, "audio", audio.language.as_deref()));
        let scheme = "urn:mpeg:dash:23003:3:audio_channel_configuration:2011";
        xml.empty(
            "AudioChannelConfiguration",
            &[("schemeIdUri", scheme), ("value", &audio.channels.to_string())],
        );
        xml.text("Label", &audio.name);
        if n == 0 {
            xml.empty("Role", &MAIN);
        }
        representation(&mut xml, &audio.track, &[]);
        xml.close("AdaptationSet");
    }
    xml.close("Period");
    xml.close("MPD");
    xml.0
}

const MAIN: [(&str, &str); 2] = [("schemeIdUri", "urn:mpeg:dash:role:2011"), ("value", "main")];

fn adaptation_set<'a>(id: &'a str, kind: &'a str, language: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let mime = if kind == "video" { "video/mp4" } else { "audio/mp4" };
    let mut all = vec![("id", id), ("contentType", kind), ("mimeType", mime)];
    all.extend(language.map(|language| ("lang", language)));
    // The segments of all representations are cut at the same frames, and each can be decoded alone.
    all.extend([("segmentAlignment", "true"), ("startWithSAP", "1")]);
    all
}

fn picture(xml: &mut Xml, video: &VideoTrack) {
    representation(
        xml,
        &video.track,
        &[
            ("width", &video.size.width.to_string()),
            ("height", &video.size.height.to_string()),
            ("frameRate", &fraction(video.frame_rate())),
            ("sar", "1:1"),
        ],
    );
}

fn representation(xml: &mut Xml, track: &Track, more: &[(&str, &str)]) {
    let folder = track.playlist.rsplit_once('/').map_or("", |(folder, _)| folder);
    let below = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let bandwidth = track.bandwidth().peak.to_string();
    let mut attributes = vec![("id", folder), ("bandwidth", &*bandwidth), ("codecs", &*track.codec)];
    attributes.extend_from_slice(more);
    xml.open("Representation", &attributes);
    // A dollar sign starts a variable; two are a literal one.
    let init = below(&track.init).replace('$', "$$");
    let media = below("").replace('$', "$$") + &SEGMENT_NAME.replace("%05d", "$Number%05d$");
    xml.open(
        "SegmentTemplate",
        &[
            ("timescale", &track.timescale.to_string()),
            ("startNumber", "0"),
            ("initialization", &init),
            ("media", &media),
        ],
    );
    xml.open("SegmentTimeline", &[]);
    for Run { start, duration, repeats } in runs(track) {
        let (start, duration, repeats) = (start.to_string(), duration.to_string(), repeats.to_string());
        let mut attributes = vec![("t", &*start), ("d", &*duration)];
        attributes.extend((repeats != "0").then_some(("r", &*repeats)));
        xml.empty("S", &attributes);
    }
    xml.close("SegmentTimeline");
    xml.close("SegmentTemplate");
    xml.close("Representation");
}

/// The end of the last segment in seconds.
fn seconds(track: &Track) -> f64 {
    let end = runs(track).last().map_or(0, |run| run.start + run.duration * (run.repeats + 1));
    end as f64 / f64::from(track.timescale)
}

/// Consecutive segments of the same duration, in the track's timescale.
struct Run {
    start: u64,
    duration: u64,
    /// The number of segments after the first.
    repeats: u64,
}

/// A segment lasts from its first frame until the first frame of the next one is presented. Frames are
/// decoded earlier than presented, by an offset that varies if the frame rate is variable.
fn runs(track: &Track) -> Vec<Run> {
    let firsts: Vec<&Fragment> =
        track.segments.iter().filter_map(|segment| segment.fragments.first()).collect();
    let Some(first) = firsts.first() else { return vec![] };
    let since = |fragment: &Fragment| (fragment.shown_at - first.shown_at) * f64::from(track.timescale);
    let begin = first.decoded_at;
    let starts = firsts.iter().map(|fragment| begin + since(fragment).round() as u64);
    let all = track.segments.iter().flat_map(|segment| &segment.fragments);
    let end = begin + all.map(|fragment| fragment.duration).sum::<u64>();
    let starts: Vec<u64> = starts.chain([end]).collect();
    let mut runs: Vec<Run> = Vec::new();
    for pair in starts.windows(2) {
        let (start, duration) = (pair[0], pair[1].saturating_sub(pair[0]).max(1));
        match runs.last_mut() {
            Some(run) if run.duration == duration => run.repeats += 1,
            _ => runs.push(Run { start, duration, repeats: 0 }),
        }
    }
    runs
}

/// A frame rate as a fraction of integers.
fn fraction(rate: f64) -> String {
    let ntsc = (rate * 1.001).round();
    if rate.fract() == 0.0 {
        format!("{rate}")
    } else if (rate - ntsc / 1.001).abs() < 0.001 {
        format!("{}/1001", ntsc * 1000.0)
    } else {
        format!("{:.0}/1000", rate * 1000.0)
    }
}

/// Writes indented XML.
struct Xml(String);

impl Xml {
    fn tag(&mut self, name: &str, attributes: &[(&str, &str)], end: &str) {
        let _ = write!(self.0, "<{name}");
        for (attribute, value) in attributes {
            let _ = write!(self.0, " {attribute}=\"{}\"", escape(*value));
        }
        self.0 += end;
    }

    fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes, ">\n");
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes, "/>\n");
    }

    fn text(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.0, "<{name}>{}</{name}>", escape(text));
    }

    fn close(&mut self, name: &str) {
        let _ = writeln!(self.0, "</{name}>");
    }
}

/// The initialization sections and segments of a manifest whose templates use numbers and timelines.
pub(crate) fn references(text: &str) -> Vec<Reference> {
    let mut reader = Reader::from_str(text);
    let mut references = Vec::new();
    let (mut media, mut number, mut bytes) = (String::new(), 0_u64, 0);
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag) | Event::Empty(tag)) => match tag.local_name().as_ref() {
                b"SegmentTemplate" => {
                    media = attribute(&tag, "media").unwrap_or_default();
                    number = attribute(&tag, "startNumber").and_then(|n| n.parse().ok()).unwrap_or(1);
                    let init = attribute(&tag, "initialization");
                    references.extend(init.map(|name| Reference::File(name.replace("$$", "$"))));
                }
                b"S" => {
                    let repeats: u64 = attribute(&tag, "r").and_then(|r| r.parse().ok()).unwrap_or(0);
                    for _ in 0..=repeats {
                        let name = numbered(&media, number);
                        bytes += name.len();
                        if references.len() == SEGMENTS_LIMIT || bytes > NAMES_LIMIT {
                            return references;
                        }
                        references.push(Reference::File(name));
                        number = number.saturating_add(1);
                    }
                }
                _ => {}
            },
            Ok(Event::Eof) | Err(_) => return references,
            Ok(_) => {}
        }
    }
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = tag.try_get_attribute(name).ok()??;
    Some(attribute.normalized_value(XmlVersion::Implicit1_0).ok()?.into_owned())
}

/// The name of a segment.
fn numbered(template: &str, number: u64) -> String {
    let name = template.replace("$Number%05d$", &format!("{number:05}"));
    name.replace("$Number$", &number.to_string()).replace("$$", "$")
}

#[cfg(test)]
mod tests {
    use super::super::presentation::tests::{audio, video};
    use super::*;

    const SEGMENTS: [(u64, f64); 4] = [(500_000, 4.0), (1_000_000, 4.0), (500_000, 4.0), (10_000, 1.0)];

    #[test]
    fn the_manifest_states_what_was_measured() {
        let mut sound = audio("audio/index.m3u8", &[(50_000, 4.011), (50_000, 3.989), (12_500, 1.0)]);
        sound.name = "<Deutsch & \"mehr\">".into();
        let presentation =
            Presentation { video: vec![video("720p/index.m3u8", &SEGMENTS)], audio: vec![sound] };
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-live:2011" type="static" mediaPresentationDuration="PT13.000S" minBufferTime="PT4S">
<Period id="0" start="PT0S">
<AdaptationSet id="0" contentType="video" mimeType="video/mp4" segmentAlignment="true" startWithSAP="1">
<Role schemeIdUri="urn:mpeg:dash:role:2011" value="main"/>
<Representation id="720p" bandwidth="2000000" codecs="avc1.64001f" width="640" height="360" frameRate="25" sar="1:1">
<SegmentTemplate timescale="1000" startNumber="0" initialization="720p/init_0.mp4" media="720p/segment_$Number%05d$.m4s">
<SegmentTimeline>
<S t="0" d="4000" r="2"/>
<S t="12000" d="1000"/>
</SegmentTimeline>
</SegmentTemplate>
</Representation>
</AdaptationSet>
<AdaptationSet id="1" contentType="audio" mimeType="audio/mp4" lang="de" segmentAlignment="true" startWithSAP="1">
<AudioChannelConfiguration schemeIdUri="urn:mpeg:dash:23003:3:audio_channel_configuration:2011" value="2"/>
<Label>&lt;Deutsch &amp; &quot;mehr&quot;&gt;</Label>
<Role schemeIdUri="urn:mpeg:dash:role:2011" value="main"/>
<Representation id="audio" bandwidth="100276" codecs="mp4a.40.2">
<SegmentTemplate timescale="1000" startNumber="0" initialization="audio/init_0.mp4" media="audio/segment_$Number%05d$.m4s">
<SegmentTimeline>
<S t="0" d="4011"/>
<S t="4011" d="3989"/>
<S t="8000" d="1000"/>
</SegmentTimeline>
</SegmentTemplate>
</Representation>
</AdaptationSet>
</Period>
</MPD>
"#;
        assert_eq!(manifest(&presentation), expected);
    }

    #[test]
    fn a_manifest_names_each_file_of_its_tracks() {
        let mut film = video("a$b/index.m3u8", &SEGMENTS);
        film.track.segments[2].fragments[0].shown_at += 0.1;
        let text = manifest(&Presentation { video: vec![film.clone()], audio: vec![] });
        let files = film.track.segments.iter().map(|segment| &segment.file);
        let files = [&film.track.init].into_iter().chain(files);
        let expected: Vec<Reference> = files.map(|file| Reference::File(format!("a$b/{file}"))).collect();
        assert_eq!(references(&text), expected, "{text}");
    }

    #[test]
    fn a_segment_begins_when_its_first_frame_is_shown_not_when_it_is_decoded() {
        let mut film = video("360p/index.m3u8", &SEGMENTS);
        film.track.segments[1].fragments[0].decoded_at += 100;
        film.track.segments[2].fragments[0].shown_at -= 0.2;
        let found: Vec<_> =
            runs(&film.track).iter().map(|run| (run.start, run.duration, run.repeats)).collect();
        assert_eq!(found, [(0, 4000, 0), (4000, 3800, 0), (7800, 4200, 0), (12_000, 1000, 0)]);
        assert_eq!(seconds(&film.track), 13.0);
        film.track.segments.clear();
        assert!(runs(&film.track).is_empty());
    }

    #[test]
    fn a_manifest_of_others_cannot_name_files_without_end() {
        let text = "<MPD><SegmentTemplate media=\"$Number$.m4s\"><S d=\"1\" r=\"99999999999\"/>";
        let named = references(text);
        assert_eq!(named.len(), SEGMENTS_LIMIT);
        assert_eq!(named[0], Reference::File("1.m4s".into()));
        let (long, last) = ("long".repeat(5_000), u64::MAX);
        let text =
            format!("<SegmentTemplate media=\"{long}\" startNumber=\"{last}\"/><S r=\"99999999999\"/>");
        let named: usize = references(&text).iter().map(|name| name.uri().len()).sum();
        assert!((1..=NAMES_LIMIT).contains(&named), "{named}");
        assert_eq!(references("<html>\n404\n</html>"), []);
    }

    #[test]
    fn frame_rates_are_fractions() {
        for (rate, text) in
            [(25.0, "25"), (29.97, "30000/1001"), (23.976, "24000/1001"), (10.25, "10250/1000")]
        {
            assert_eq!(fraction(rate), text);
        }
    }
}
