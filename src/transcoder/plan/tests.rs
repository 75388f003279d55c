use proptest::prelude::*;

use super::*;
use crate::job::{Container, Label, Quality};
use crate::transcoder::probe::{Audio, PlainVideo};

/// Formats define that a packet lasts until the next one.
const TRUE_DURATIONS: &str =
    "setts=pts=PTS:dts=DTS:duration=if(eq(NEXT_DTS\\,NOPTS)\\,DURATION\\,NEXT_DTS-DTS)";

fn source(width: u32, height: u32) -> Probe {
    Probe {
        format: "mov,mp4,m4a,3gp,3g2,mj2".into(),
        size: 1000,
        duration: Some(10.0),
        start: 0.0,
        video: Video { width, height, frames: Some(250), ..Video::sample() },
        audio: Some(Audio { sample_rate: 44_100, ..Audio::sample() }),
        has_more: false,
    }
}

fn mute(mut probe: Probe) -> Probe {
    probe.audio = None;
    probe
}

fn planned(source: &Probe, preset: Preset, ladder: &str) -> Plan {
    plan(source, preset, &ladder.parse().unwrap(), Stills::default()).unwrap()
}

/// FFmpeg's arguments after the input, joined with spaces.
fn after_input(source: &Probe, preset: Preset, ladder: &str) -> String {
    planned(source, preset, ladder).output_options.join(" ")
}

fn graph(source: &Probe, ladder: &str) -> String {
    let plan = planned(source, Preset::WebOptimized, ladder);
    assert_eq!(plan.output_options[0], "-filter_complex");
    plan.output_options[1].clone()
}

const SDR: &str = "out_color_matrix=bt709:out_range=tv,format=yuv420p,setsar=1,\
    setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709";
const COPY_NOTHING_ELSE: &str = "-sn -dn -map_metadata -1 -map_chapters -1 -max_muxing_queue_size 1024";

#[test]
fn the_input_is_one_argument_whatever_its_name() {
    for name in ["/a/-i", "/a/x y.mp4", "/a/'\"\n$(id).mp4", "/a/http:b"] {
        let plan = planned(&source(1920, 1080), Preset::WebOptimized, "360p");
        let arguments = plan.arguments(Path::new(name));
        let at = arguments.iter().position(|a| a == "-i").unwrap();
        assert_eq!(arguments[at + 1], *format!("file:{name}"));
        let holds_name = |a: &&OsString| a.to_string_lossy().contains(&name[3..]);
        assert_eq!(arguments.iter().filter(holds_name).count(), 1 + usize::from(name == "/a/-i"));
    }
}

#[test]
fn every_plan_begins_hardened_and_reports_itself() {
    for (preset, ladder) in Preset::ALL.iter().copied().flat_map(|p| [(p, ""), (p, "360p,144p")]) {
        let options = planned(&source(1920, 1080), preset, ladder).input_options.join(" ");
        assert!(
            options.starts_with(
                "-hide_banner -nostdin -loglevel level+info -benchmark -xerror -y -progress pipe:1 \
                 -nostats -stats_period 0.5 -protocol_whitelist file -format_whitelist mov,mp4,"
            ),
            "{options}"
        );
    }
}

#[test]
fn nothing_that_some_ffmpeg_lacks_is_used() {
    for (preset, ladder) in Preset::ALL.iter().copied().flat_map(|p| [(p, ""), (p, "720p,144p")]) {
        let plan = planned(&source(1920, 1080), preset, ladder);
        for argument in plan.arguments(Path::new("/in")) {
            let argument = argument.to_string_lossy();
            assert!(!matches!(&*argument, "-vsync" | "-map_channel" | "-filter_complex_script" | "-psnr"));
        }
    }
}

#[test]
fn web_optimized_is_one_process_with_a_cascade() {
    let found = after_input(&source(1920, 1080), Preset::WebOptimized, "720p,360p,144p");
    let output = |n: u32, name: &str, preset: &str, video: u32, audio: u32| {
        let coder = if audio > 64 { "-aac_coder fast " } else { "" };
        format!(
            "-map [v{n}] -map 0:1 -c:a aac {coder}-b:a {audio}k -ac 2 -ar 48000 -filter:a aresample=async=1000 -c:v libx264 \
             -pix_fmt yuv420p -fps_mode vfr -preset {preset} -crf 23 -maxrate {video}k -bufsize {}k {COPY_NOTHING_ELSE} \
             -movflags +faststart -f mp4 {name}.mp4",
            video * 2
        )
    };
    let expected = format!(
        "-filter_complex [0:0]scale=1280:720:{SDR},split=2[v0][c1];\
         [c1]scale=640:360,setsar=1,split=2[v1][c2];[c2]scale=256:144,setsar=1[v2] {} {} {}",
        output(0, "720p", "faster", 1500, 128),
        output(1, "360p", "fast", 400, 96),
        output(2, "144p", "fast", 100, 64)
    );
    assert_eq!(found, expected);
}

#[test]
fn default_with_a_quality_aims_at_the_bitrate() {
    let found = after_input(&mute(source(1920, 1080)), Preset::Default, "360p");
    let expected = format!(
        "-filter_complex [0:0]scale=640:360:{SDR}[v0] -map [v0] -c:v libx264 -pix_fmt yuv420p \
         -fps_mode vfr -preset fast -b:v 400k -maxrate 400k -bufsize 800k {COPY_NOTHING_ELSE} -movflags +faststart \
         -f mp4 360p.mp4"
    );
    assert_eq!(found, expected);
}

#[test]
fn hls_cuts_at_forced_keyframes() {
    let found = after_input(&source(1920, 1080), Preset::Hls, "360p");
    let expected = format!(
        "-filter_complex [0:0]scale=640:360:{SDR}[v0] -map [v0] -map 0:1 -c:a aac -aac_coder fast -b:a 96k -ac 2 -ar 48000 -filter:a aresample=async=1000 \
         -c:v libx264 -pix_fmt yuv420p -fps_mode vfr -g 48 -sc_threshold 0 \
         -force_key_frames expr:gte(t,n_forced*4) -bsf:v {TRUE_DURATIONS} -preset fast -crf 23 -maxrate 400k -bufsize 800k {COPY_NOTHING_ELSE} \
         -f hls -hls_time 4 -hls_playlist_type vod -hls_segment_type mpegts \
         -hls_flags independent_segments -hls_segment_filename 360p/segment_%05d.ts 360p/index.m3u8"
    );
    assert_eq!(found, expected);
    let plan = planned(&source(1920, 1080), Preset::Hls, "360p,144p");
    assert_eq!(plan.folders().collect::<Vec<_>>(), ["360p", "144p"]);
    assert_eq!((plan.entries, plan.shared_audio), (vec![], None));
}

const STILLS: Stills = Stills { poster: true, storyboard: true };
const JPEG: &str = "out_color_matrix=smpte170m:out_range=pc,format=yuvj420p,setsar=1";

fn with_stills(source: &Probe, preset: Preset, ladder: &str, stills: Stills) -> Plan {
    plan(source, preset, &ladder.parse().unwrap(), stills).unwrap()
}

#[test]
fn stills_are_made_of_the_smallest_rung_that_holds_them() {
    let plan = with_stills(&source(1920, 1080), Preset::WebOptimized, "1080p,720p,144p", STILLS);
    let expected = format!(
        "[0:0]scale=1920:1080:{SDR},split=2[v0][c1];[c1]scale=1280:720,setsar=1,split=3[v1][c2][p];\
         [c2]scale=256:144,setsar=1,split=2[v2][s];\
         [p]select=isnan(prev_selected_t)+gte(t-prev_selected_t\\,0.5),scale=1280:720:{JPEG},thumbnail=n=20[poster];\
         [s]fps=fps=1/2:start_time=0:round=up,scale=160:90:{JPEG},tile=10x1[board]"
    );
    assert_eq!(plan.output_options[1], expected);
    let options = plan.output_options.join(" ");
    let still = "-c:v mjpeg -q:v";
    let end = format!(
        "720p.mp4 -map [v2] -map 0:1 -c:a aac -b:a 64k -ac 2 -ar 48000 -filter:a aresample=async=1000 -c:v libx264 -pix_fmt yuv420p \
         -fps_mode vfr -preset fast -crf 23 -maxrate 100k -bufsize 200k {COPY_NOTHING_ELSE} -movflags +faststart -f mp4 144p.mp4 \
         -map [poster] -frames:v 1 {still} 3 -map_metadata -1 -update 1 -f image2 poster.jpg \
         -map [board] -frames:v 1 {still} 5 -map_metadata -1 -update 1 -f image2 storyboard.jpg"
    );
    assert!(options.ends_with(&end), "{options}");
    assert_eq!(
        plan.top_level(),
        ["1080p.mp4", "720p.mp4", "144p.mp4", "poster.jpg", "storyboard.jpg", "storyboard.vtt"]
    );
}

#[test]
fn a_copy_with_stills_decodes_for_them_alone() {
    let stills = Stills { poster: false, storyboard: true };
    let plan = with_stills(&source(1920, 1080), Preset::Default, "", stills);
    let graph = &plan.output_options[1];
    assert!(graph.starts_with("[0:0]scale=160:90:") && graph.contains("[s];[s]fps"), "{graph}");
    let options = plan.output_options.join(" ");
    assert!(options.contains("-map 0:0 -map 0:1 -c copy") && options.ends_with("-f image2 storyboard.jpg"));
    assert!(plan.input_options.iter().any(|o| o == "-max_pixels"));
}

#[test]
fn hls_adaptive_shares_the_sound_and_has_a_master() {
    let adaptive = |map: &str, audio: &str, streams: &str| {
        format!(
            "-filter_complex [0:0]scale=640:360:{SDR},split=2[v0][c1];[c1]scale=256:144,setsar=1[v1] \
             -map [v0] -map [v1]{map}{audio} -c:v libx264 -pix_fmt yuv420p -fps_mode vfr -g 48 \
             -sc_threshold 0 -force_key_frames expr:gte(t,n_forced*4) -bsf:v {TRUE_DURATIONS} \
             -preset:v:0 fast -crf:v:0 23 -maxrate:v:0 400k -bufsize:v:0 800k -preset:v:1 fast -crf:v:1 23 -maxrate:v:1 100k -bufsize:v:1 200k \
             {COPY_NOTHING_ELSE} -f hls -hls_time 4 -hls_playlist_type vod -hls_segment_type fmp4 \
             -hls_flags independent_segments -hls_fmp4_init_filename init.mp4 \
             -hls_segment_filename %v/segment_%05d.m4s \
             -var_stream_map {streams} %v/index.m3u8"
        )
    };
    assert_eq!(
        after_input(&source(1920, 1080), Preset::HlsAdaptive, "360p,144p"),
        adaptive(
            " -map 0:1",
            " -c:a aac -aac_coder fast -b:a 96k -ac 2 -ar 48000 -filter:a aresample=async=1000",
            "v:0,name:360p v:1,name:144p a:0,name:audio"
        )
    );
    assert_eq!(
        after_input(&mute(source(1920, 1080)), Preset::HlsAdaptive, "360p,144p"),
        adaptive("", "", "v:0,name:360p v:1,name:144p")
    );
    let plan = planned(&source(1920, 1080), Preset::HlsAdaptive, "360p,144p");
    assert_eq!(plan.top_level(), ["360p", "144p", "audio", "master.m3u8", "manifest.mpd"]);
    assert_eq!(planned(&mute(source(1920, 1080)), Preset::HlsAdaptive, "360p").shared_audio, None);
}

#[test]
fn presets_choose_their_rungs_when_none_are_asked_for() {
    let files = |preset| -> Vec<String> {
        planned(&source(1920, 1080), preset, "").outputs.into_iter().map(|o| o.file).collect()
    };
    assert_eq!(files(Preset::Default), ["original.mp4"]);
    assert_eq!(files(Preset::WebOptimized), ["720p.mp4"]);
    assert_eq!(files(Preset::Hls), ["720p/index.m3u8"]);
    let adaptive = ["1080p/index.m3u8", "720p/index.m3u8", "360p/index.m3u8", "144p/index.m3u8"];
    assert_eq!(files(Preset::HlsAdaptive), adaptive);
}

#[test]
fn a_copy_goes_to_mp4_where_that_can_carry_it() {
    let remuxed = |video: &str, audio: Option<&str>| {
        let mut probe = source(1920, 1080);
        probe.video.codec = video.into();
        match audio {
            Some(codec) => probe.audio.as_mut().unwrap().codec = codec.into(),
            None => probe.audio = None,
        }
        let plan = planned(&probe, Preset::Default, "");
        assert_eq!(plan.outputs[0].label, Label::ORIGINAL);
        (plan.outputs[0].container, plan.output_options.join(" "), plan.input_options.join(" "))
    };
    let (container, options, input) = remuxed("h264", Some("aac"));
    let expected =
        format!("-map 0:0 -map 0:1 -c copy {COPY_NOTHING_ELSE} -movflags +faststart -f mp4 original.mp4");
    assert_eq!((container, options), (Container::Mp4, expected));
    assert!(input.ends_with("-fflags +genpts"));
    let (container, options, _) = remuxed("vp8", Some("vorbis"));
    let expected = format!("-map 0:0 -map 0:1 -c copy {COPY_NOTHING_ELSE} -f matroska original.mkv");
    assert_eq!((container, options), (Container::Mkv, expected));
    assert_eq!(remuxed("h264", Some("pcm_s16le")).0, Container::Mkv);
    assert_eq!(remuxed("vp9", Some("opus")).0, Container::Mp4);
    assert_eq!(remuxed("prores", None).0, Container::Mkv);
    assert!(remuxed("hevc", None).1.contains("-c copy -tag:v hvc1 "));
}

#[test]
fn a_turned_video_is_not_copied_where_its_turn_would_be_lost() {
    let mut probe = source(1920, 1080);
    probe.video.rotation = 180;
    assert_eq!(planned(&probe, Preset::Default, "").outputs[0].container, Container::Mp4);
    probe.audio.as_mut().unwrap().codec = "pcm_s16le".into();
    let failure = plan(&probe, Preset::Default, &Ladder::default(), Stills::default()).unwrap_err();
    assert_eq!(failure.code, FailureCode::UnsupportedMedia);
    assert!(failure.message.contains("ask for a quality"), "{failure}");
}

#[test]
fn streams_are_named_by_their_index() {
    let mut probe = source(1920, 1080);
    probe.video.index = 3;
    probe.audio.as_mut().unwrap().index = 7;
    let found = after_input(&probe, Preset::WebOptimized, "360p");
    assert!(found.contains("[0:3]scale") && found.contains("-map 0:7"), "{found}");
}

#[test]
fn portrait_rotation_and_pixel_shape_are_resolved_before_the_boxes() {
    assert!(graph(&source(1080, 1920), "720p").starts_with("[0:0]scale=720:1280:"));
    let mut turned = source(1920, 1080);
    turned.video.rotation = 90;
    assert!(graph(&turned, "720p").starts_with("[0:0]scale=720:1280:"));
    let mut anamorphic = source(1440, 1080);
    anamorphic.video.sar = (4, 3);
    assert!(graph(&anamorphic, "720p").starts_with("[0:0]scale=1280:720:"));
}

#[test]
fn interlaced_sources_are_deinterlaced_before_they_are_scaled() {
    let mut probe = source(1920, 1080);
    probe.video.interlaced = true;
    assert!(graph(&probe, "360p").starts_with("[0:0]bwdif=mode=send_frame:deint=interlaced,scale=640:360"));
}

#[test]
fn hdr_is_mapped_after_the_first_scale_and_once() {
    let mut probe = source(3840, 2160);
    probe.video.transfer = Transfer::Pq;
    probe.video.matrix = Matrix::Other;
    let map = ",zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,\
               zscale=t=bt709:m=bt709:r=tv,format=yuv420p,setsar=1,\
               setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709";
    let expected = format!(
        "[0:0]scale=640:360,setparams=color_trc=smpte2084{map},split=2[v0][c1];[c1]scale=256:144,setsar=1[v1]"
    );
    assert_eq!(graph(&probe, "360p,144p"), expected);
    probe.video.transfer = Transfer::Hlg;
    probe.video.matrix = Matrix::Unknown;
    probe.video.has_primaries = false;
    let expected = format!(
        "[0:0]scale=640:360,setparams=color_primaries=bt2020:colorspace=bt2020nc:color_trc=arib-std-b67{map}[v0]"
    );
    assert_eq!(graph(&probe, "360p"), expected);
}

#[test]
fn colours_keep_their_matrix_and_say_it() {
    let graph_of = |matrix, height| {
        let mut probe = source(height * 4 / 3, height);
        probe.video.matrix = matrix;
        graph(&probe, "144p")
    };
    for (matrix, height, from, to) in [
        (Matrix::Bt709, 480, "", "bt709"),
        (Matrix::Bt601, 1080, "", "smpte170m"),
        (Matrix::Other, 480, "", "bt709"),
        (Matrix::Unknown, 480, ":in_color_matrix=smpte170m", "smpte170m"),
        (Matrix::Unknown, 1080, ":in_color_matrix=bt709", "bt709"),
    ] {
        let graph = graph_of(matrix, height);
        assert!(graph.contains(&format!("144{from}:out_color_matrix={to}:out_range=tv,")), "{graph}");
        assert!(graph.contains(&format!("color_primaries={to}:color_trc={to}:colorspace={to}")), "{graph}");
    }
}

#[test]
fn mono_stays_mono_and_more_becomes_stereo() {
    let of = |channels| {
        let mut probe = source(640, 360);
        probe.audio.as_mut().unwrap().channels = channels;
        after_input(&probe, Preset::WebOptimized, "360p")
    };
    assert!(of(1).contains("-ac 1 -ar 48000"));
    for channels in [2, 3, 6, 8] {
        assert!(of(channels).contains("-ac 2 -ar 48000 -filter:a aresample=async=1000 -c:v"), "{channels}");
    }
    assert!(of(16).contains("-ac 2 -ar 48000 -filter:a pan=stereo|c0=c0|c1=c1,aresample=async=1000 -c:v"));
}

#[test]
fn what_a_small_source_cannot_fill_is_said() {
    let plan = planned(&source(640, 360), Preset::HlsAdaptive, "");
    assert_eq!(plan.outputs.iter().map(|o| o.label.name()).collect::<Vec<_>>(), ["360p", "144p"]);
    assert_eq!(plan.skipped.iter().map(|s| s.quality).collect::<Vec<_>>(), [Quality::P1080, Quality::P720]);
    assert!(plan.skipped.iter().all(|s| s.reason.contains("640x360")));
}

proptest! {
    #[test]
    fn any_source_any_ladder_any_preset(
        width in 16u32..4100, height in 16u32..4100,
        sar in (1u32..100, 1u32..100).prop_filter("implausible", |(a, b)| a <= &(b * 16) && b <= &(a * 16)),
        rotation in prop::sample::select(vec![0u32, 90, 180, 270]),
        asked in prop::sample::subsequence(Quality::ALL.to_vec(), 1..=8),
        preset in prop::sample::select(Preset::ALL.to_vec()),
        sound in any::<bool>(),
    ) {
        let mut probe = source(width, height);
        probe.video.sar = sar;
        probe.video.rotation = rotation;
        if !sound {
            probe.audio = None;
        }
        let shown = probe.display();
        prop_assume!(shown.width >= 16 && shown.height >= 16);
        let plan = plan(&probe, preset, &Ladder::new(asked.clone()).unwrap(), Stills::default()).unwrap();
        prop_assert_eq!(plan.outputs.len() + plan.skipped.len(), asked.len());
        prop_assert!(!plan.outputs.is_empty());
        let mut seen = std::collections::HashSet::new();
        for output in &plan.outputs {
            let Dimensions { width, height } = output.size;
            prop_assert!(width % 2 == 0 && height % 2 == 0);
            prop_assert!(width <= shown.width && height <= shown.height);
            let Label::Quality(quality) = output.label else { panic!("a copy was not asked for") };
            let room = quality.fit();
            prop_assert!(width.max(height) <= room.width && width.min(height) <= room.height);
            prop_assert!(seen.insert((width, height)));
            let filter = format!("scale={width}:{height}");
            prop_assert!(plan.output_options[1].contains(&filter));
        }
        for n in 0..plan.outputs.len() {
            let label = format!("[v{n}]");
            prop_assert!(plan.output_options[1].contains(&label));
            prop_assert_eq!(plan.output_options.iter().filter(|o| **o == label).count(), 1);
        }
    }
}

#[test]
fn copied_rendition_is_neither_scaled_nor_encoded() {
    let plain = PlainVideo { level: 31, bit_rate: 1_000_000, keyframe_distance: Some(2.0) };
    let mut source = source(1280, 720);
    source.video.plain = Some(plain);
    let sound = "-map 0:1 -c:a aac -aac_coder fast -b:a 128k -ac 2 -ar 48000 -filter:a aresample=async=1000";
    let copy = |sound: &str| {
        format!("-map 0:0 -c:v copy {sound} {COPY_NOTHING_ELSE} -movflags +faststart -f mp4 720p.mp4")
    };
    // The copy alone would not tell whether the picture can be decoded.
    let alone = after_input(&source, Preset::WebOptimized, "720p");
    assert_eq!(alone, format!("{} -map 0:0 -fps_mode passthrough -f null -", copy(sound)));
    source.audio.as_mut().unwrap().plain_bit_rate = Some(128_000);
    let found = after_input(&source, Preset::WebOptimized, "720p,144p");
    let graph =
        format!("[0:0]scale=1280:720:{SDR},split=2[v0][c1];[c1]scale=256:144,setsar=1[v1];[v0]nullsink");
    assert!(
        found.starts_with(&format!("-filter_complex {graph} {} -map [v1] ", copy("-map 0:1 -c:a copy"))),
        "{found}"
    );
    let copies =
        |preset, ladder| planned(&source, preset, ladder).outputs.iter().filter(|o| o.is_copied).count();
    assert_eq!((copies(Preset::WebOptimized, "720p,144p"), copies(Preset::Hls, "720p,144p")), (1, 0));
    assert_eq!(copies(Preset::Default, ""), 1);
}
