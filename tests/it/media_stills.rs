//! Posters and storyboards of real files, made in the same FFmpeg run as the renditions.

use std::path::Path;
use std::process::Command;

use tcoder::job::{Preset, Stills};
use tempfile::TempDir;

use crate::media::with_stills;
use crate::support::clips::{files_in, made, normal, turned};

const BOTH: Stills = Stills { poster: true, storyboard: true };

/// The mean color of a region of an image: red, green, blue.
fn colour(picture: &Path, (x, y, width, height): Place) -> [u8; 3] {
    let filter = format!("crop={width}:{height}:{x}:{y},scale=1:1:flags=area,format=rgb24");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-i"]).arg(picture);
    let made = command.args(["-vf", &filter, "-f", "rawvideo", "-"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout[..3].try_into().unwrap()
}

/// X, y, width, height in pixels.
type Place = (u32, u32, u32, u32);

/// The begin, end and region of each cue.
fn cues(vtt: &str) -> Vec<(f64, f64, Place)> {
    let seconds = |clock: &str| {
        let parts: Vec<f64> = clock.split(':').map(|part| part.parse().unwrap()).collect();
        parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]
    };
    let blocks = vtt.split("\n\n").skip(1);
    let cue = |block: &str| {
        let (when, place) = block.trim().split_once('\n').unwrap();
        let (from, to) = when.split_once(" --> ").unwrap();
        let place = place.strip_prefix("storyboard.jpg#xywh=").unwrap();
        let place: Vec<u32> = place.split(',').map(|n| n.parse().unwrap()).collect();
        (seconds(from), seconds(to), (place[0], place[1], place[2], place[3]))
    };
    blocks.map(cue).collect()
}

/// Three seconds each of red, green and blue.
fn traffic_light() -> std::path::PathBuf {
    made(
        "light.mp4",
        "-f lavfi -i color=red:s=320x180:r=25:d=3 -f lavfi -i color=lime:s=320x180:r=25:d=3 \
         -f lavfi -i color=blue:s=320x180:r=25:d=3 -filter_complex [0][1][2]concat=n=3 -c:v libx264 \
         -preset ultrafast -pix_fmt yuv420p",
    )
}

#[tokio::test]
async fn stills_show_the_frame_at_their_time() {
    for (preset, qualities) in [
        (Preset::Default, ""),
        (Preset::Default, "144p"),
        (Preset::WebOptimized, "360p,144p"),
        (Preset::Hls, "144p"),
        (Preset::HlsAdaptive, "360p,144p"),
    ] {
        let out = TempDir::new().unwrap();
        let encoded = with_stills(&traffic_light(), out.path(), preset, qualities, BOTH).await.unwrap();
        let mut told: Vec<String> = encoded.files.iter().map(|f| f.to_str().unwrap().to_owned()).collect();
        told.sort();
        assert_eq!(told, files_in(out.path()), "{preset}: exactly the files it tells of are there");

        let board = encoded.storyboard.unwrap();
        assert_eq!((board.count, board.interval, board.columns), (5, 2, 10), "{preset}");
        let found = cues(&std::fs::read_to_string(out.path().join(&board.cues)).unwrap());
        let times: Vec<f64> = found.iter().map(|cue| cue.0).collect();
        assert_eq!(times, [0.0, 2.0, 4.0, 6.0, 8.0], "{preset}");
        assert!((found[4].1 - 9.0).abs() < 0.2, "{preset}: {found:?}");
        let picture = out.path().join(&board.picture.file);
        for ((_, _, place), wanted) in found.into_iter().zip([0, 0, 1, 2, 2]) {
            assert_eq!((place.2, place.3), (board.width, board.height), "{preset}");
            let rgb = colour(&picture, place);
            let brightest = (0..3).max_by_key(|n| rgb[*n]).unwrap();
            assert_eq!(brightest, wanted, "{preset}: {place:?} is {rgb:?}");
        }

        let poster = encoded.poster.unwrap();
        let rgb = colour(&out.path().join(&poster.file), (0, 0, poster.width, poster.height));
        // With full range and JPEG's matrix, red is pure red.
        assert!(rgb[0] > 235 || rgb[1] > 235 || rgb[2] > 235, "{preset}: {rgb:?}");
        assert!(poster.size > 100 && poster.width.is_multiple_of(2), "{preset}: {poster:?}");
    }
}

#[tokio::test]
async fn very_short_and_unusual_videos_have_stills() {
    let one =
        made("one.mp4", "-f lavfi -i testsrc2=s=640x360:r=25 -frames:v 1 -c:v libx264 -pix_fmt yuv420p");
    let silent = made(
        "copied.mkv",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=2 -f lavfi -i sine=d=2 -c:v libvpx -b:v 200k -c:a libvorbis",
    );
    let no_length = made(
        "nolength.ts",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=3 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -f mpegts",
    );
    let portrait = turned(&normal(), "upright.mp4");
    for (clip, preset, still, count) in [
        (&one, Preset::WebOptimized, (160, 90), 1),
        (&one, Preset::Default, (160, 90), 1),
        (&silent, Preset::Default, (160, 90), 2),
        (&no_length, Preset::Hls, (160, 90), 2),
        (&portrait, Preset::WebOptimized, (90, 160), 2),
        (&portrait, Preset::Default, (90, 160), 2),
    ] {
        let out = TempDir::new().unwrap();
        let qualities = if preset == Preset::Default { "" } else { "144p" };
        let encoded = with_stills(clip, out.path(), preset, qualities, BOTH).await.unwrap();
        let board = encoded.storyboard.unwrap();
        assert_eq!((board.width, board.height), still, "{} {preset}", clip.display());
        assert_eq!(board.count, count, "{} {preset}", clip.display());
        let poster = encoded.poster.unwrap();
        assert_eq!(poster.height > poster.width, still.1 > still.0, "{poster:?}");
    }
}
