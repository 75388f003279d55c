//! Transcodes real files: videos from cameras, phones and other encoders become H.264 and AAC that plays
//! everywhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tcoder::config::SandboxMode;
use tcoder::job::{Container, InputLimits, Label, Ladder, Preset, Quality, Stills};
use tcoder::transcoder::{EncodeProgress, Encoded, TranscodeError, TranscodeRequest, check_tools, transcode};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::clips::{
    files_in, made, made_by, normal, probed, shown_at, stream, three_segments, turned,
};

/// Transcodes into `out` with generous time limits.
pub async fn into(
    input: &Path,
    out: &Path,
    preset: Preset,
    qualities: &str,
) -> Result<Encoded, TranscodeError> {
    with_stills(input, out, preset, qualities, Stills::default()).await
}

/// Like [`into`], with stills besides the renditions.
pub async fn with_stills(
    input: &Path,
    out: &Path,
    preset: Preset,
    qualities: &str,
    stills: Stills,
) -> Result<Encoded, TranscodeError> {
    let ladder: Ladder = qualities.parse().unwrap();
    let on_progress = |_: EncodeProgress| {};
    transcode(TranscodeRequest {
        input,
        out_dir: out,
        preset,
        ladder: &ladder,
        stills,
        input_limits: InputLimits::default(),
        disk_bytes: None,
        stall_timeout: Duration::from_secs(120),
        deadline: Duration::from_secs(600),
        cancel: CancellationToken::new(),
        on_progress: &on_progress,
    })
    .await
}

async fn encoded(input: &Path, preset: Preset, qualities: &str) -> (Encoded, TempDir) {
    let out = TempDir::new().unwrap();
    let encoded = into(input, out.path(), preset, qualities).await.unwrap();
    let mut told: Vec<String> = encoded.files.iter().map(|f| f.to_str().unwrap().to_owned()).collect();
    told.sort();
    assert_eq!(told, files_in(out.path()), "exactly the files it tells of are there");
    (encoded, out)
}

/// Width, height, pixel format and number of frames of an output that must be plain H.264.
fn picture(path: &Path) -> (u64, u64, String, u64) {
    let probed = probed(path);
    let video = stream(&probed, "video").unwrap();
    assert_eq!(video["codec_name"], "h264");
    assert_eq!(video["side_data_list"].as_array().map_or(0, Vec::len), 0, "no rotation is left");
    assert!(matches!(video["sample_aspect_ratio"].as_str(), None | Some("1:1")), "{video}");
    let frames = video["nb_read_packets"].as_str().unwrap().parse().unwrap();
    let format = video["pix_fmt"].as_str().unwrap().to_owned();
    (video["width"].as_u64().unwrap(), video["height"].as_u64().unwrap(), format, frames)
}

fn plain(width: u64, height: u64, frames: u64) -> (u64, u64, String, u64) {
    (width, height, "yuv420p".into(), frames)
}

fn seconds(probed: &Value) -> f64 {
    probed["format"]["duration"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn installed_ffmpeg_supports_all_presets() {
    let found = check_tools(SandboxMode::Preferred).await.unwrap();
    assert!(found.ffmpeg.starts_with(|c: char| c.is_ascii_alphanumeric()), "{found:?}");
}

#[tokio::test]
async fn web_optimized_encodes_every_quality_from_one_decode() {
    let (encoded, out) = encoded(&normal(), Preset::WebOptimized, "720p,240p,144p").await;
    let told: Vec<_> =
        encoded.outputs.iter().map(|o| (o.quality.name(), o.info.width, o.info.height)).collect();
    assert_eq!(told, [("720p", 640, 360), ("240p", 426, 240), ("144p", 256, 144)]);
    for output in &encoded.outputs {
        let path = out.path().join(&output.file);
        let (w, h) = (output.info.width.into(), output.info.height.into());
        assert_eq!(picture(&path), plain(w, h, 75));
        let probed = probed(&path);
        let audio = stream(&probed, "audio").unwrap();
        assert_eq!((&audio["codec_name"], &audio["channels"]), (&"aac".into(), &2.into()));
        assert_eq!(audio["sample_rate"], "48000");
        assert!((seconds(&probed) - 3.0).abs() < 0.1);
        assert_eq!(probed["format"]["tags"]["title"], Value::Null, "titles are not carried over");
        assert_eq!(output.info.size, std::fs::metadata(&path).unwrap().len());
        assert_eq!((output.info.codec.as_str(), output.info.audio_codec.as_deref()), ("h264", Some("aac")));
        assert!(output.info.bitrate > 10_000 && output.info.container == Container::Mp4);
        let bytes = std::fs::read(&path).unwrap();
        let at = |name: &[u8]| bytes.windows(4).position(|w| w == name).unwrap();
        assert!(at(b"moov") < at(b"mdat"), "it starts while it loads");
        let video = stream(&probed, "video").unwrap();
        assert_eq!((&video["color_space"], &video["color_range"]), (&"smpte170m".into(), &"tv".into()));
    }
    assert!(encoded.cpu_seconds > 0.0 && encoded.speed > 0.0);
    let source = encoded.source;
    assert_eq!((source.video.width, source.video.height, source.video.frames), (640, 360, Some(75)));
    assert_eq!((source.video.codec.as_str(), source.video.hdr), ("h264", false));
    assert_eq!(source.audio.unwrap().channels, 2);
}

#[tokio::test]
async fn default_without_quality_copies_the_streams() {
    let (encoded, out) = encoded(&normal(), Preset::Default, "").await;
    let output = &encoded.outputs[0];
    assert_eq!((output.quality, output.file.as_str()), (Label::ORIGINAL, "original.mp4"));
    let (source, copy) = (shown_at(&normal()), shown_at(&out.path().join("original.mp4")));
    assert_eq!(source, copy);
}

#[tokio::test]
async fn default_copy_of_streams_unfit_for_mp4_is_matroska() {
    let clip = made(
        "pcm.mov",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=2 -f lavfi -i sine=d=2 -c:v libx264 -preset ultrafast \
         -pix_fmt yuv420p -c:a pcm_s16le",
    );
    let (encoded, out) = encoded(&clip, Preset::Default, "").await;
    assert_eq!(encoded.outputs[0].info.container, Container::Mkv);
    assert_eq!(encoded.outputs[0].info.audio_codec.as_deref(), Some("pcm_s16le"));
    assert_eq!(picture(&out.path().join("original.mkv")), plain(320, 180, 50));
}

#[tokio::test]
async fn default_with_a_quality_stays_under_its_bitrate() {
    let (encoded, out) = encoded(&three_segments(), Preset::Default, "144p").await;
    assert_eq!(picture(&out.path().join("144p.mp4")), plain(256, 144, 225));
    let cap = u64::from(Quality::P144.video_kbps() + Quality::P144.audio_kbps()) * 1000;
    assert!(encoded.outputs[0].info.bitrate < cap * 5 / 4, "{}", encoded.outputs[0].info.bitrate);
}

#[tokio::test]
async fn hls_segments_start_with_keyframes() {
    let (encoded, out) = encoded(&three_segments(), Preset::Hls, "360p,144p").await;
    assert_eq!(encoded.entries, []);
    assert_eq!(segment_lengths(&out.path().join("360p/index.m3u8")), [4.0, 4.0, 1.0]);
    for output in &encoded.outputs {
        let playlist = out.path().join(&output.file);
        assert_eq!(segment_lengths(&playlist), segment_lengths(&out.path().join("360p/index.m3u8")));
        assert_eq!(picture(&playlist), plain(output.info.width.into(), output.info.height.into(), 225));
        assert!(stream(&probed(&playlist), "audio").is_some());
        for n in 0..3 {
            let segment = playlist.with_file_name(format!("segment_{n:05}.ts"));
            assert!(shown_at(&segment)[0].1, "{}", segment.display());
        }
    }
    let files = encoded.files.iter().filter(|f| f.starts_with("144p"));
    let bytes: u64 = files.map(|f| std::fs::metadata(out.path().join(f)).unwrap().len()).sum();
    assert_eq!(encoded.outputs[1].info.size, bytes);
}

#[tokio::test]
async fn hls_adaptive_rungs_have_aligned_segments_and_shared_sound() {
    let (encoded, out) = encoded(&three_segments(), Preset::HlsAdaptive, "720p,240p,144p").await;
    assert_eq!(encoded.outputs.len(), 2, "240p already shows all of 320x180");
    assert_eq!(encoded.skipped[0].quality, Quality::P720);
    let entries: Vec<&Path> = encoded.entries.iter().map(|entry| Path::new(&entry.file)).collect();
    assert!(
        encoded.files.ends_with(&entries.iter().map(PathBuf::from).collect::<Vec<_>>())
            && entries[0] == Path::new("master.m3u8")
    );
    let master = std::fs::read_to_string(out.path().join(&encoded.entries[0].file)).unwrap();
    assert!(master.contains("URI=\"audio/index.m3u8\""), "{master}");
    assert_eq!(master.matches("#EXT-X-STREAM-INF:BANDWIDTH=").count(), 2, "{master}");
    assert_eq!(master.matches("#EXT-X-I-FRAME-STREAM-INF:").count(), 2, "{master}");
    let mut starts = Vec::new();
    for output in &encoded.outputs {
        assert!(master.lines().any(|l| l == output.file), "{master}");
        assert!(
            master.contains(&format!("RESOLUTION={}x{}", output.info.width, output.info.height)),
            "{master}"
        );
        assert_eq!(output.info.audio_codec.as_deref(), Some("aac"));
        let playlist = out.path().join(&output.file);
        assert_eq!(segment_lengths(&playlist), [4.0, 4.0, 1.0]);
        assert_eq!(picture(&playlist), plain(output.info.width.into(), output.info.height.into(), 225));
        assert!(stream(&probed(&playlist), "audio").is_none(), "the sound is stored once");
        let text = std::fs::read_to_string(&playlist).unwrap();
        let init = text.split("URI=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let first_frames: Vec<(f64, bool)> = (0..3)
            .map(|n| {
                // A segment has no header; it can be read after the initialization section.
                let mut bytes = std::fs::read(playlist.with_file_name(&init)).unwrap();
                bytes.extend(std::fs::read(playlist.with_file_name(format!("segment_{n:05}.m4s"))).unwrap());
                let whole = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
                std::fs::write(whole.path(), bytes).unwrap();
                shown_at(whole.path())[0]
            })
            .collect();
        starts.push(first_frames);
    }
    assert_eq!(starts[0], starts[1]);
    assert!(starts[0].iter().all(|(_, key)| *key), "{starts:?}");
    let sound = probed(&out.path().join("audio/index.m3u8"));
    assert!(stream(&sound, "video").is_none() && stream(&sound, "audio").is_some());
}

fn segment_lengths(playlist: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(playlist).unwrap();
    assert!(text.contains("#EXT-X-ENDLIST") && text.contains("#EXT-X-PLAYLIST-TYPE:VOD"), "{text}");
    let lengths = text.lines().filter_map(|l| l.strip_prefix("#EXTINF:"));
    lengths.map(|l| l.trim_end_matches(',').parse().unwrap()).collect()
}

#[tokio::test]
async fn every_preset_works_without_sound() {
    let clip = made(
        "mute.mp4",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=2 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    );
    for (preset, qualities) in Preset::ALL.iter().map(|p| (*p, "144p")).chain([(Preset::Default, "")]) {
        let (encoded, out) = encoded(&clip, preset, qualities).await;
        let output = &encoded.outputs[0];
        assert_eq!(output.info.audio_codec, None, "{preset}");
        assert_eq!(encoded.source.audio, None);
        assert!(stream(&probed(&out.path().join(&output.file)), "audio").is_none());
        assert_eq!(!encoded.entries.is_empty(), preset == Preset::HlsAdaptive);
    }
}

#[tokio::test]
async fn portrait_video_fills_the_portrait_box() {
    let clip = made(
        "portrait.mp4",
        "-f lavfi -i testsrc2=s=360x640:r=25:d=1 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    );
    let (_, out) = encoded(&clip, Preset::WebOptimized, "144p").await;
    assert_eq!(picture(&out.path().join("144p.mp4")), plain(144, 256, 25));
}

#[tokio::test]
async fn rotated_phone_video_is_upright() {
    let clip = turned(&normal(), "turned.mp4");
    let (done, out) = encoded(&clip, Preset::WebOptimized, "144p").await;
    assert_eq!(picture(&out.path().join("144p.mp4")), plain(144, 256, 75));
    assert_eq!((done.source.video.width, done.source.video.height), (360, 640));
    assert_eq!(done.source.video.rotation, 90);
    let (copy, out) = encoded(&clip, Preset::Default, "").await;
    assert_eq!((copy.outputs[0].info.width, copy.outputs[0].info.height), (360, 640));
    let video = stream(&probed(&out.path().join("original.mp4")), "video").unwrap();
    assert_eq!(video["side_data_list"][0]["rotation"], -90, "a copy keeps what turns it");
}

#[tokio::test]
async fn odd_sizes_become_even_and_never_larger() {
    let clip = made(
        "odd.webm",
        "-f lavfi -i testsrc2=s=321x181:r=25:d=1 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 \
         -pix_fmt yuv420p",
    );
    let (_, out) = encoded(&clip, Preset::WebOptimized, "720p,144p").await;
    assert_eq!(picture(&out.path().join("720p.mp4")), plain(320, 180, 25));
    assert_eq!(picture(&out.path().join("144p.mp4")), plain(256, 144, 25));
}

#[tokio::test]
async fn anamorphic_pixels_become_square() {
    let clip = made(
        "anamorphic.mp4",
        "-f lavfi -i testsrc2=s=240x180:r=25:d=1,setsar=4/3 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    );
    let (done, out) = encoded(&clip, Preset::WebOptimized, "360p,144p").await;
    assert_eq!((done.source.video.width, done.source.video.height), (320, 180));
    assert_eq!(picture(&out.path().join("360p.mp4")), plain(320, 180, 25));
    assert_eq!(picture(&out.path().join("144p.mp4")), plain(256, 144, 25));
    encoded(&clip, Preset::Default, "").await;
}

#[tokio::test]
async fn hdr_becomes_sdr_that_browsers_play() {
    for (transfer, tags) in
        [("smpte2084", "-color_primaries bt2020 -colorspace bt2020nc -color_range tv"), ("arib-std-b67", "")]
    {
        let recipe = format!(
            "-f lavfi -i testsrc2=s=320x180:r=25:d=1 -c:v libx264 -preset ultrafast -pix_fmt yuv420p10le \
             -color_trc {transfer} {tags}"
        );
        let (done, out) = encoded(&made("hdr.mp4", &recipe), Preset::WebOptimized, "360p,144p").await;
        assert!(done.source.video.hdr);
        for (file, width, height) in [("360p.mp4", 320, 180), ("144p.mp4", 256, 144)] {
            let path = out.path().join(file);
            assert_eq!(picture(&path), plain(width, height, 25));
            let video = stream(&probed(&path), "video").unwrap();
            assert_eq!(video["profile"], "High");
            for tag in ["color_transfer", "color_primaries", "color_space"] {
                assert_eq!(video[tag], "bt709", "{tag}");
            }
        }
    }
}

#[tokio::test]
async fn variable_frame_rate_keeps_the_time_of_every_frame() {
    let clip = made(
        "vfr.mp4",
        "-f lavfi -i testsrc2=s=320x180:r=60:d=6 -vf select='not(mod(n,7))+lt(mod(n,31),9)' -fps_mode vfr \
         -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    );
    let source = shown_at(&clip);
    let gaps: std::collections::HashSet<i64> =
        source.windows(2).map(|w| ((w[1].0 - w[0].0) * 1000.0) as i64).collect();
    assert!(gaps.len() > 2, "the source's rate does vary: {gaps:?}");
    for preset in [Preset::WebOptimized, Preset::Hls, Preset::HlsAdaptive] {
        let (done, out) = encoded(&clip, preset, "144p").await;
        let file = out.path().join(&done.outputs[0].file);
        assert!(
            (done.outputs[0].info.duration - 6.0).abs() < 0.2,
            "{preset}: {}",
            done.outputs[0].info.duration
        );
        let made = shown_at(&file);
        assert_eq!(made.len(), source.len(), "{preset}");
        let (first_made, first) = (made[0].0, source[0].0);
        for (made, source) in made.iter().zip(&source) {
            let off = (made.0 - first_made) - (source.0 - first);
            // FFmpeg's fragmented MP4 presents the first frame of a segment up to one frame gap early.
            let first_of_segment = preset == Preset::HlsAdaptive && made.1;
            let slack = if first_of_segment { 7.0 / 60.0 } else { 0.002 };
            assert!(off.abs() < slack, "{preset}: {made:?} {source:?}");
        }
    }
}

#[tokio::test]
async fn interlaced_video_becomes_progressive_at_the_same_rate() {
    let clip = made(
        "interlaced.mp4",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=2 -vf setfield=tff -flags +ildct+ilme -c:v libx264 \
         -preset ultrafast -x264-params tff=1 -pix_fmt yuv420p",
    );
    assert_eq!(stream(&probed(&clip), "video").unwrap()["field_order"], "tt");
    let (_, out) = encoded(&clip, Preset::WebOptimized, "144p").await;
    let path = out.path().join("144p.mp4");
    assert_eq!(picture(&path), plain(256, 144, 50));
    assert_eq!(stream(&probed(&path), "video").unwrap()["field_order"], "progressive");
}

#[tokio::test]
async fn other_containers_and_codecs_work_with_all_presets() {
    let webm = made(
        "vp9.webm",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=2 -f lavfi -i sine=d=2 -c:v libvpx-vp9 -deadline realtime \
         -cpu-used 8 -pix_fmt yuv420p -c:a libopus",
    );
    let ts = made(
        "stream.ts",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=2 -f lavfi -i sine=d=2 -c:v libx264 -preset ultrafast -bf 2 \
         -pix_fmt yuv420p -c:a aac",
    );
    let avi = made(
        "old.avi",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=2 -f lavfi -i sine=d=2 -c:v mpeg4 -bf 2 -c:a mp3",
    );
    for clip in [webm, ts, avi] {
        for (preset, qualities) in Preset::ALL.iter().map(|p| (*p, "144p")).chain([(Preset::Default, "")]) {
            let (done, out) = encoded(&clip, preset, qualities).await;
            let probed = probed(&out.path().join(&done.outputs[0].file));
            let frames = stream(&probed, "video").unwrap()["nb_read_packets"].clone();
            assert_eq!(frames, "50", "{preset} of {}", clip.display());
            assert!(done.outputs[0].info.audio_codec.is_some());
        }
    }
}

#[tokio::test]
async fn default_audio_track_is_selected() {
    let clip = made(
        "languages.mkv",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=1 -f lavfi -i sine=f=300:d=1 -f lavfi -i sine=f=900:d=1 \
         -map 0 -map 1 -map 2 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac -ac:a:0 1 -ac:a:1 2 \
         -disposition:a:0 0 -disposition:a:1 default",
    );
    let (done, out) = encoded(&clip, Preset::WebOptimized, "144p").await;
    assert_eq!(done.source.audio.unwrap().channels, 2);
    let probed = probed(&out.path().join("144p.mp4"));
    assert_eq!(stream(&probed, "audio").unwrap()["channels"], 2);
    assert_eq!(probed["streams"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn eight_channels_become_stereo_and_mono_stays_mono() {
    for (layout, channels, expected) in [("7.1", 8, 2), ("5.1", 6, 2), ("mono", 1, 1)] {
        let recipe = format!(
            "-f lavfi -i testsrc2=s=256x144:r=25:d=1 -f lavfi -i aevalsrc=0.1:c={layout}:d=1 -c:v libx264 \
             -preset ultrafast -pix_fmt yuv420p -c:a aac"
        );
        let (done, out) = encoded(&made("layout.mp4", &recipe), Preset::WebOptimized, "144p").await;
        assert_eq!(done.source.audio.unwrap().channels, channels);
        let audio = stream(&probed(&out.path().join("144p.mp4")), "audio").unwrap();
        assert_eq!(audio["channels"], expected);
    }
}

#[tokio::test]
async fn cover_picture_is_not_selected_as_the_video() {
    let png = made("cover.png", "-f lavfi -i color=red:s=1000x1000 -frames:v 1");
    let clip = made_by("covered.mp4", "normal and cover", |path| {
        let done = std::process::Command::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error", "-i"])
            .arg(normal())
            .arg("-i")
            .arg(png)
            .args(["-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic"])
            .arg(path)
            .status();
        assert!(done.unwrap().success());
    });
    let (done, out) = encoded(&clip, Preset::WebOptimized, "144p").await;
    assert_eq!(done.source.video.codec, "h264");
    assert_eq!(picture(&out.path().join("144p.mp4")), plain(256, 144, 75));
}

#[tokio::test]
async fn file_name_is_never_interpreted_by_ffmpeg() {
    let folder = TempDir::new().unwrap();
    for name in
        ["with space.mp4", "it's \"quoted\".mp4", "new\nline.mp4", "-i", "a:b,c;[d]%d.mp4", "$(id).mp4"]
    {
        let input = folder.path().join(name);
        std::fs::copy(normal(), &input).unwrap();
        let out = folder.path().join(format!("out of {name}"));
        for preset in [Preset::WebOptimized, Preset::HlsAdaptive] {
            let done = into(&input, &out, preset, "144p").await.unwrap();
            assert!(out.join(&done.outputs[0].file).is_file(), "{name:?}");
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
}

/// The clip with subtitles in this codec.
fn with_subtitles(name: &str, codec: &str) -> PathBuf {
    made_by(name, codec, |path| {
        let subtitles = path.with_extension("srt");
        std::fs::write(&subtitles, "1\n00:00:00,000 --> 00:00:01,000\nHello\n").unwrap();
        let mut command = std::process::Command::new("ffmpeg");
        command.args(["-nostdin", "-loglevel", "error", "-i"]).arg(normal()).arg("-i").arg(&subtitles);
        let done =
            command.args(["-map", "0", "-map", "1", "-c", "copy", "-c:s", codec]).arg(path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::remove_file(subtitles).unwrap();
    })
}

#[tokio::test]
async fn streams_that_are_left_out_may_be_in_any_codec() {
    let cinepak = made(
        "second-cinepak.mkv",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=1 -map 0 -map 0 -pix_fmt:v:0 yuv420p -c:v:0 libx264 \
         -c:v:1 cinepak -disposition:v:0 default -disposition:v:1 0",
    );
    for input in [
        with_subtitles("srt.mkv", "srt"),
        with_subtitles("ass.mkv", "ass"),
        with_subtitles("text.mp4", "mov_text"),
        cinepak,
    ] {
        let (done, _) = encoded(&input, Preset::HlsAdaptive, "144p").await;
        assert_eq!(done.outputs.len(), 1, "{}", input.display());
    }
}

#[tokio::test]
async fn progress_increases_to_one_hundred_percent() {
    let told = std::sync::Mutex::new(Vec::new());
    let out = TempDir::new().unwrap();
    let note = |progress: EncodeProgress| told.lock().unwrap().push(progress);
    transcode(TranscodeRequest {
        input: &normal(),
        out_dir: out.path(),
        preset: Preset::WebOptimized,
        ladder: &"144p".parse().unwrap(),
        stills: Stills::default(),
        input_limits: InputLimits::default(),
        disk_bytes: None,
        stall_timeout: Duration::from_secs(120),
        deadline: Duration::from_secs(600),
        cancel: CancellationToken::new(),
        on_progress: &note,
    })
    .await
    .unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted_by(|a, b| a.percent <= b.percent && a.frame <= b.frame), "{told:?}");
    let last = told.last().unwrap();
    assert!(last.percent > 98.0 && last.frame == 75, "{last:?}");
}

#[tokio::test]
async fn existing_files_in_the_output_folder_are_kept() {
    let out = TempDir::new().unwrap();
    std::fs::write(out.path().join("mine.txt"), "mine").unwrap();
    std::fs::write(out.path().join("144p.mp4"), "mine too").unwrap();
    let error = into(&normal(), out.path(), Preset::WebOptimized, "144p").await.unwrap_err();
    assert!(error.to_string().contains("already has a 144p.mp4"), "{error}");
    assert_eq!(std::fs::read_to_string(out.path().join("144p.mp4")).unwrap(), "mine too");
    into(&normal(), out.path(), Preset::Hls, "144p").await.unwrap();
    assert_eq!(std::fs::read_to_string(out.path().join("mine.txt")).unwrap(), "mine");
}
