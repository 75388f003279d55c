//! HLS playlists and the DASH manifest describe the files correctly: the files are measured again with
//! third-party parsers, and played by FFmpeg and, in Chromium, by Shaka Player and hls.js.
//!
//! tests/hls/check.mjs checks each folder against RFC 8216. What it prints about a master playlist is
//! compared here with the known properties of the source.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tcoder::job::{EntryKind, Preset};
use tcoder::transcoder::references;
use tempfile::TempDir;

use crate::media::into;
use crate::support::clips::{made, shown_at};
use crate::support::process::node;

/// The output of the checker, one line per folder, after it has found no error.
async fn checked(folders: &[&Path]) -> Vec<Value> {
    let output = node("tests/hls/check.mjs", folders).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// FFmpeg decodes the whole playlist without a warning.
fn plays_without_a_warning(playlist: &Path) {
    let played = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "warning", "-i"])
        .arg(playlist)
        .args(["-map", "0", "-f", "null", "-"])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&played.stderr);
    assert!(played.status.success() && complaint.is_empty(), "{}: {complaint}", playlist.display());
}

/// The DASH manifest refers to all segments and initialization sections, and yields the same pictures.
fn manifest_names_what_the_playlists_name(files: &[PathBuf], folder: &Path) {
    let manifest = folder.join("manifest.mpd");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let named = references(EntryKind::Dash, &text);
    let named: BTreeSet<PathBuf> = named.iter().map(|reference| reference.uri().into()).collect();
    let is_media =
        |file: &&PathBuf| file.extension().is_some_and(|ending| ending == "m4s" || ending == "mp4");
    assert_eq!(named, files.iter().filter(is_media).cloned().collect(), "{text}");
    let largest = folder.join(text.split("<Representation id=\"").nth(1).unwrap().split('"').next().unwrap());
    let (shown, expected) = (pictures(&[], &manifest, &[]), pictures(&[], &largest.join("index.m3u8"), &[]));
    assert!(!shown.is_empty() && shown == expected, "{text}");
}

const X264: &str = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";

/// A clip of `seconds` with this picture, and with the audio that `rest` describes.
fn film(name: &str, picture: &str, seconds: f64, rest: &str) -> PathBuf {
    made(name, &format!("-f lavfi -t {seconds} -i {picture} {rest} {X264} -c:a aac -t {seconds}"))
}

/// A source, and what its master playlist must contain.
struct Source {
    clip: PathBuf,
    /// Size in pixels of the 360p and the 144p rendition.
    sizes: [(u32, u32); 2],
    frame_rate: f64,
    /// Name, language and number of channels of the audio.
    sound: Option<(&'static str, Option<&'static str>, u32)>,
}

fn sources() -> Vec<Source> {
    const WIDE: [(u32, u32); 2] = [(320, 180), (256, 144)];
    let source = |clip, sizes, frame_rate, sound| Source { clip, sizes, frame_rate, sound };
    let moving = "testsrc2=s=320x180:r=25,noise=alls=60:allf=t";
    // Quiet first, then noisy: its peak bit rate is far above its average.
    let sudden = "testsrc2=s=320x180:r=50,noise=alls=90:allf=t:enable='gte(t,6)'";
    let stereo = "-f lavfi -i sine=f=300 -ac 2";
    let both = "-f lavfi -i sine=f=300 -f lavfi -i sine=f=900 -map 0 -map 1 -map 2 -ac:a:0 1 -ac:a:1 2";
    let (ntsc_film, ntsc) = ("testsrc2=s=320x180:r=24000/1001", "testsrc2=s=320x180:r=30000/1001");
    vec![
        source(film("motion.mp4", moving, 11.0, stereo), WIDE, 25.0, Some(("Stereo", None, 2))),
        source(film("static.mp4", "color=gray:s=320x180:r=25", 9.0, ""), WIDE, 25.0, None),
        source(film("sudden.mp4", sudden, 10.5, stereo), WIDE, 50.0, Some(("Stereo", None, 2))),
        source(film("short.mp4", moving, 0.4, stereo), WIDE, 25.0, Some(("Stereo", None, 2))),
        source(
            film(
                "two-languages.mkv",
                ntsc_film,
                9.0,
                &format!(
                    "{both} -metadata:s:a:0 language=eng -metadata:s:a:1 language=ger -disposition:a:0 0 \
                     -disposition:a:1 default"
                ),
            ),
            WIDE,
            23.976,
            Some(("Deutsch", Some("de"), 2)),
        ),
        source(
            film("mono.mp4", ntsc, 9.0, "-f lavfi -i sine=f=300 -ac 1 -metadata:s:a:0 language=eng"),
            WIDE,
            29.97,
            Some(("English", Some("en"), 1)),
        ),
        source(
            film(
                "surround.mkv",
                "testsrc2=s=320x180:r=30",
                5.0,
                "-f lavfi -i aevalsrc=0.1*sin(300*t):c=5.1 -metadata:s:a:0 language=pt-BR \
                 -metadata:s:a:0 title=Director's_\"cut\"",
            ),
            WIDE,
            30.0,
            Some(("Director’s_”cut”", Some("pt-BR"), 2)),
        ),
        source(
            film("upright.mp4", "testsrc2=s=180x320:r=60000/1001", 5.0, ""),
            [(180, 320), (144, 256)],
            59.94,
            None,
        ),
        source(
            film(
                "undetermined.mp4",
                "testsrc2=s=320x180:r=50",
                5.0,
                "-f lavfi -i sine=f=300 -ac 1 -metadata:s:a:0 language=und",
            ),
            WIDE,
            50.0,
            Some(("Mono", None, 1)),
        ),
    ]
}

#[tokio::test]
async fn entry_documents_match_measurements_of_their_files() {
    let sources = sources();
    let mut folders = Vec::new();
    for source in &sources {
        let out = TempDir::new().unwrap();
        let encoded = into(&source.clip, out.path(), Preset::HlsAdaptive, "360p,144p").await.unwrap();
        let entries: Vec<&str> = encoded.entries.iter().map(|entry| &*entry.file).collect();
        assert_eq!(entries, ["master.m3u8", "manifest.mpd"]);
        for output in &encoded.outputs {
            let label = output.quality.name();
            let own = encoded.files.iter().filter(|file| file.starts_with(label));
            let bytes: u64 = own.map(|file| std::fs::metadata(out.path().join(file)).unwrap().len()).sum();
            assert_eq!(output.info.size, bytes, "{label} of {}", source.clip.display());
        }
        for entry in entries {
            plays_without_a_warning(&out.path().join(entry));
        }
        manifest_names_what_the_playlists_name(&encoded.files, out.path());
        folders.push(out);
    }
    let said = checked(&folders.iter().map(TempDir::path).collect::<Vec<_>>()).await;
    assert_eq!(said.len(), sources.len());
    for (said, source) in said.iter().zip(&sources) {
        let name = source.clip.display();
        assert_eq!((&said["independent"], &said["version"]), (&json!(true), &json!(7)), "{name}");
        for (n, (label, (width, height))) in ["360p", "144p"].iter().zip(source.sizes).enumerate() {
            let (variant, iframes) = (&said["variants"][n], &said["iframes"][n]);
            assert_eq!(variant["uri"], format!("{label}/index.m3u8"), "{name}");
            assert_eq!(iframes["uri"], format!("{label}/iframes.m3u8"), "{name}");
            for stream in [variant, iframes] {
                assert_eq!((&stream["width"], &stream["height"]), (&json!(width), &json!(height)), "{name}");
            }
            assert_eq!(variant["frameRate"].as_f64(), Some(source.frame_rate), "{name}");
            assert_eq!(iframes["segments"], variant["segments"], "{name}");
            let video = profile_and_level(&source_folder(&folders, &sources, source).join(label));
            assert_eq!(iframes["codecs"], video, "{name}");
            let sound = if source.sound.is_some() { ",mp4a.40.2" } else { "" };
            assert_eq!(variant["codecs"], format!("{video}{sound}"), "{name}");
        }
        let sounds = source.sound.iter().map(|(name, language, channels)| {
            let mut sound = json!({
                "name": name, "isDefault": true, "autoselect": true, "channels": channels.to_string(),
                "uri": "audio/index.m3u8",
            });
            if let Some(language) = language {
                sound["language"] = json!(language);
            }
            sound
        });
        assert_eq!(said["audio"], json!(sounds.collect::<Vec<_>>()), "{name}");
    }
}

fn source_folder<'a>(folders: &'a [TempDir], sources: &[Source], source: &Source) -> &'a Path {
    let n = sources.iter().position(|s| s.clip == source.clip).unwrap();
    folders[n].path()
}

/// The RFC 6381 string for ffprobe's description of a rendition. The profile is High without constraint
/// flags, the only one that libx264 chooses for these sources.
fn profile_and_level(folder: &Path) -> String {
    let probed = crate::support::clips::probed(&folder.join("index.m3u8"));
    let video = crate::support::clips::stream(&probed, "video").unwrap();
    assert_eq!(video["profile"], "High");
    format!("avc1.6400{:02x}", video["level"].as_u64().unwrap())
}

#[tokio::test]
async fn hls_plays_in_trick_play_from_its_i_frame_playlists_and_dash_to_its_end() {
    let sudden = "testsrc2=s=320x180:r=30000/1001,noise=alls=60:allf=t:enable='gte(t,8)'";
    let sound = "-f lavfi -i sine=f=300 -ac 2 -metadata:s:a:0 language=fra";
    let clip = film("trick.mp4", sudden, 13.0, sound);
    let out = TempDir::new().unwrap();
    into(&clip, out.path(), Preset::HlsAdaptive, "360p,144p").await.unwrap();
    each_i_frame_is_the_keyframe_at_its_time(&out.path().join("360p"));

    let said = checked(&[out.path()]).await;
    let output = node("tests/hls/play.mjs", [out.path()]).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let played: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (shaka, hls, dash) = (&played["shaka"], &played["hls"], &played["dash"]);
    let frames = pictures(&[], &out.path().join("360p/index.m3u8"), &[]).len();
    // A player that switches quality decodes some frames of both.
    assert!(dash["ended"]["frames"].as_u64().unwrap() >= frames as u64, "{dash:#}");
    assert_eq!(dash["ended"]["at"], dash["ended"]["of"], "{dash:#}");
    for (n, variant) in said[0]["variants"].as_array().unwrap().iter().enumerate() {
        let track = &shaka["tracks"][n];
        assert_eq!(track["width"], variant["width"], "{shaka:#}");
        assert_eq!(track["frameRate"].as_f64(), Some(29.97), "{shaka:#}");
        let sound = (&track["language"], &track["label"], &track["channelsCount"]);
        assert_eq!(sound, (&json!("fr"), &json!("Français"), &json!(2)), "{shaka:#}");
        for field in ["width", "height", "language", "label", "channelsCount", "codecs"] {
            assert_eq!(dash["tracks"][n][field], track[field], "{field}: {dash:#}");
        }
    }
    let audio = &hls["audio"][0];
    assert_eq!((&audio["name"], &audio["lang"]), (&json!("Français"), &json!("fr")), "{hls:#}");
    assert_eq!(
        (&hls["levels"].as_array().unwrap().len(), &hls["iframes"].as_array().unwrap().len()),
        (&2, &2)
    );
}

/// Decodes each range of an I-frame playlist alone and compares it with FFmpeg's decoding of the rendition.
fn each_i_frame_is_the_keyframe_at_its_time(folder: &Path) {
    let keyframes = pictures(&["-skip_frame", "nokey"], &folder.join("index.m3u8"), &[]);
    let start = shown_at(&folder.join("index.m3u8"))[0].0;
    let text = std::fs::read_to_string(folder.join("iframes.m3u8")).unwrap();
    let init = text.split("URI=\"").nth(1).unwrap().split('"').next().unwrap();
    let init = std::fs::read(folder.join(init)).unwrap();
    let (mut seconds, mut range, mut time, mut compared) = (0.0, (0, 0), start, 0);
    for line in text.lines() {
        if let Some(duration) = line.strip_prefix("#EXTINF:") {
            seconds = duration.trim_end_matches(',').parse().unwrap();
        } else if let Some(bytes) = line.strip_prefix("#EXT-X-BYTERANGE:") {
            let (length, offset) = bytes.split_once('@').unwrap();
            range = (offset.parse().unwrap(), length.parse().unwrap());
        } else if !line.starts_with('#') {
            let segment = std::fs::read(folder.join(line)).unwrap();
            let (offset, length): (usize, usize) = range;
            let alone = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
            std::fs::write(alone.path(), [&init[..], &segment[offset..offset + length]].concat()).unwrap();
            let picture = pictures(&[], alone.path(), &["-frames:v", "1"]);
            let there = keyframes.iter().find(|(at, _)| (at - time).abs() < 0.001);
            assert_eq!(
                there.map(|(_, hash)| hash),
                picture.first().map(|(_, hash)| hash),
                "{line} at {time}"
            );
            time += seconds;
            compared += 1;
        }
    }
    assert_eq!(compared, 4, "{text}");
}

/// The presentation time of each picture of a file in seconds, and its MD5.
fn pictures(before: &[&str], file: &Path, behind: &[&str]) -> Vec<(f64, String)> {
    let answer = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "fatal", "-copyts"])
        .args(before)
        .arg("-i")
        .arg(file)
        .args(["-map", "0:v:0", "-fps_mode", "passthrough", "-enc_time_base", "1:1000000"])
        .args(behind)
        .args(["-f", "framemd5", "-"])
        .output()
        .unwrap();
    let text = String::from_utf8(answer.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
    fields.map(|f| (f[2].parse::<f64>().unwrap() / 1e6, f[5].to_owned())).collect()
}

#[tokio::test]
async fn hls_with_transport_streams_conforms_to_the_specification() {
    let moving = "testsrc2=s=320x180:r=30000/1001,noise=alls=60:allf=t";
    let stereo = "-f lavfi -i sine=f=300 -ac 2";
    let out = TempDir::new().unwrap();
    into(&film("ts.mp4", moving, 9.0, stereo), out.path(), Preset::Hls, "360p,144p").await.unwrap();
    assert_eq!(checked(&[out.path()]).await, Vec::<Value>::new());
    for quality in ["360p", "144p"] {
        let playlist = out.path().join(quality).join("index.m3u8");
        let text = std::fs::read_to_string(&playlist).unwrap();
        assert!(text.contains("#EXT-X-INDEPENDENT-SEGMENTS\n"), "{text}");
        for segment in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(shown_at(&playlist.with_file_name(segment))[0].1, "{segment} starts with a keyframe");
        }
        plays_without_a_warning(&playlist);
    }
}
