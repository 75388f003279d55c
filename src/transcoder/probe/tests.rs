use super::*;

fn video() -> Stream {
    Stream {
        kind: "video".into(),
        codec: Some("h264".into()),
        width: 1920,
        height: 1080,
        is_default: true,
        ..Stream::default()
    }
}

fn audio(index: u32, is_default: bool) -> Stream {
    Stream {
        index,
        kind: "audio".into(),
        codec: Some("aac".into()),
        channels: 2,
        sample_rate: 48_000,
        is_default,
        ..Stream::default()
    }
}

fn chosen(streams: Vec<Stream>) -> Result<Probe, Failure> {
    let report = Report { format: "mov".into(), duration: Some(2.0), start: 0.0, streams };
    Probe::choose(&report, 1000).and_then(|probe| probe.checked(&InputLimits::default()))
}

fn refused(streams: Vec<Stream>) -> (FailureCode, String) {
    let failure = chosen(streams).unwrap_err();
    (failure.code, failure.message)
}

#[test]
fn the_default_picture_wins_then_the_largest() {
    let small = Stream { index: 0, width: 640, height: 360, is_default: false, ..video() };
    let large = Stream { index: 1, is_default: false, ..video() };
    let preferred = Stream { index: 2, width: 320, height: 180, ..video() };
    let of = |s: &[&Stream]| chosen(s.iter().map(|s| (*s).clone()).collect()).unwrap().video.index;
    assert_eq!(of(&[&small, &large, &preferred]), 2);
    assert_eq!(of(&[&small, &large]), 1);
    let twin = Stream { index: 5, ..large.clone() };
    assert_eq!(of(&[&large, &twin]), 1);
}

#[test]
fn the_default_sound_wins_then_the_first_that_can_be_decoded() {
    let of = |s: Vec<Stream>| chosen([vec![video()], s].concat()).unwrap().audio.map(|a| a.index);
    assert_eq!(of(vec![]), None);
    assert_eq!(of(vec![audio(1, false), audio(2, true), audio(3, true)]), Some(2));
    assert_eq!(of(vec![audio(1, false), audio(2, false)]), Some(1));
    let broken = Stream { codec: None, ..audio(1, true) };
    let mute = Stream { channels: 0, ..audio(2, true) };
    assert_eq!(of(vec![broken.clone(), mute, audio(3, false)]), Some(3));
    assert_eq!(of(vec![broken]), None);
}

#[test]
fn what_cannot_be_shown_is_refused_in_one_sentence() {
    use FailureCode::{InputTooLarge, InvalidMedia, UnsupportedMedia};
    let check = |streams, code, words: &str| {
        let (found, message) = refused(streams);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(words), "{message}");
    };
    check(vec![], InvalidMedia, "neither picture nor sound");
    check(vec![audio(0, true)], InvalidMedia, "only sound");
    let cover = Stream { is_still: true, ..video() };
    check(vec![audio(0, true), cover], InvalidMedia, "only sound");
    check(vec![Stream { codec: None, ..video() }], UnsupportedMedia, "codec");
    check(vec![Stream { tag: "encv".into(), ..video() }], UnsupportedMedia, "DRM");
    check(vec![Stream { width: 0, ..video() }], InvalidMedia, "no picture size");
    check(vec![Stream { width: 8193, height: 8192, ..video() }], UnsupportedMedia, "8193x8192");
    check(
        vec![Stream { width: 8000, height: 8000, sar: Some((4, 1)), ..video() }],
        UnsupportedMedia,
        "32000",
    );
    check(vec![Stream { width: 15, ..video() }], UnsupportedMedia, "15x1080");
    let sound = Stream { duration: Some(90_000.0), ..audio(1, true) };
    check(vec![video(), sound], InputTooLarge, "25.0 hours; at most 24.0");
    let endless = Stream { duration: Some(1e300), ..video() };
    check(vec![endless, audio(1, true)], InputTooLarge, "hours; at most 24.0");
    check(vec![Stream { start: -1e9, ..video() }], InputTooLarge, "hours; at most 24.0");
    check(vec![Stream { duration: Some(90_000.0), ..video() }], InputTooLarge, "25.0 hours; at most 24.0");
    assert!(chosen(vec![Stream { width: 8192, height: 8192, ..video() }]).is_ok());
}

#[test]
fn rotation_and_pixel_shape_make_the_displayed_size() {
    let shown = |sar, rotation| {
        let stream = Stream { width: 1440, height: 1080, sar, rotation, ..video() };
        let probe = chosen(vec![stream]).unwrap();
        (probe.display().width, probe.display().height, probe.video.rotation)
    };
    assert_eq!(shown(None, 0.0), (1440, 1080, 0));
    assert_eq!(shown(Some((4, 3)), 0.0), (1920, 1080, 0));
    assert_eq!(shown(Some((4, 3)), -90.0), (1080, 1920, 90));
    assert_eq!(shown(None, 90.0), (1080, 1440, 270));
    assert_eq!(shown(None, 180.0), (1440, 1080, 180));
    assert_eq!(shown(Some((1, 1000)), -0.0), (1440, 1080, 0));
}

#[test]
fn a_frame_count_that_an_edit_list_contradicts_is_not_used() {
    let frames = |duration| {
        let stream = Stream { frames: Some(300), average_rate: Some(30.0), duration, ..video() };
        chosen(vec![stream]).unwrap().video.frames
    };
    assert_eq!(frames(Some(10.0)), Some(300));
    assert_eq!(frames(Some(5.0)), None);
    assert_eq!(frames(None), None);
}

#[test]
fn expects_as_long_as_the_longer_of_picture_and_sound() {
    let probe = |v, a: Option<Option<f64>>| {
        let video = Stream { duration: v, ..video() };
        let audio = a.map(|duration| Stream { duration, ..audio(1, true) });
        chosen([video].into_iter().chain(audio).collect()).unwrap().expected_duration()
    };
    assert_eq!(probe(Some(1.0), None), Some(1.0));
    assert_eq!(probe(Some(1.0), Some(Some(1.5))), Some(1.5));
    assert_eq!(probe(Some(1.0), Some(None)), Some(2.0));
    assert_eq!(probe(None, None), Some(2.0));
}

#[test]
fn the_container_promises_nothing_where_it_may_speak_of_a_stream_that_is_left_out() {
    let probe = |more: Vec<Stream>| {
        let video = Stream { duration: None, ..video() };
        chosen([vec![video], more].concat()).unwrap().promised_duration()
    };
    assert_eq!(probe(vec![]), Some(2.0));
    assert_eq!(probe(vec![audio(1, true)]), Some(2.0));
    assert_eq!(probe(vec![audio(1, true), audio(2, false)]), None);
    let subtitle = Stream { index: 3, kind: "subtitle".into(), ..Stream::default() };
    assert_eq!(probe(vec![audio(1, true), subtitle]), None);
    let timed = Stream { duration: Some(1.0), ..video() };
    let probe = chosen(vec![timed, Stream { index: 4, ..Stream::default() }]).unwrap();
    assert_eq!(probe.promised_duration(), Some(1.0));
}

#[test]
fn only_known_codecs_are_taken() {
    let of = |video: Stream, audio: Vec<Stream>| {
        let streams = std::iter::once(video).chain(audio).collect();
        Probe::choose(&Report { streams, ..Report::default() }, 1000)
    };
    let sound = |codec: &str| Stream { codec: Some(codec.into()), ..audio(1, true) };
    let failure = of(Stream { codec: Some("bethsoftvid".into()), ..video() }, vec![]).unwrap_err();
    assert_eq!(failure.code, FailureCode::UnsupportedMedia);
    assert!(failure.message.contains("bethsoftvid") && failure.message.contains("H.264"), "{failure}");
    let failure = of(video(), vec![sound("roq_dpcm")]).unwrap_err();
    assert!(failure.message.contains("roq_dpcm") && failure.message.contains("AAC"), "{failure}");
    // Another track that is known is taken, though it is not the default.
    let other = Stream { codec: Some("aac".into()), ..audio(2, false) };
    assert_eq!(of(video(), vec![sound("roq_dpcm"), other]).unwrap().audio.unwrap().index, 2);
}
