//! What the parsers of this module promise, for `crate::fuzz`.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use futures::FutureExt as _;
use serde_json::Value;

use super::diagnose::{FailedRun, probe_failure, run_failure};
use super::ffmpeg::{Expected, ProgressParser, StderrTail};
use super::ffprobe::{ProbeError, Report, longest_distance};
use super::format::cmaf::{dash, labels};
use super::playlist::{self, MediaPlaylist};
use super::probe::Probe;
use super::reference::Reference;
use super::{estimate, lines, plan, split};
use crate::job::space::DiskFull;
use crate::job::{Dimensions, Failure, InputLimits, Ladder, Parallelism, Preset, SEGMENT_SECONDS, Stills};

pub(crate) use super::format::cmaf::fragments::{check_fragments as mp4_fragments, check_init as mp4_init};
pub(crate) use super::split::fuzz::check_plan as split_plan;

/// Where the input is, which no failure may tell.
const INPUT: &str = "/srv/scratch/tcoder-work-1/input";
/// Maximum length of a sentence about a file, bytes.
const SENTENCE: usize = 1_200;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check_sentence(failure: &Failure) {
    let said = &failure.message;
    assert!(!said.is_empty() && said.len() <= SENTENCE && !said.contains(char::is_control), "{said:?}");
    assert!(!said.contains(INPUT), "{said:?}");
}

/// ffprobe's answer about an input, and what is planned for that.
pub(crate) fn ffprobe_report(bytes: &[u8]) {
    let Some(report) = Report::parse(bytes) else { return };
    let limits = InputLimits::default();
    let source = match Probe::choose(&report, 1_000_000).and_then(|probe| probe.checked(&limits)) {
        Ok(source) => source,
        Err(failure) => return check_sentence(&failure),
    };
    let Dimensions { width, height } = source.display();
    assert!(width >= 16 && height >= 16 && u64::from(width) * u64::from(height) <= limits.pixels);
    assert!(source.expected_duration().is_none_or(|seconds| seconds <= limits.seconds), "{source:?}");
    let info = serde_json::to_string(&source.info()).unwrap_or_default();
    assert!(serde_json::from_str::<crate::job::SourceInfo>(&info).is_ok(), "{info}");

    let stills = Stills { poster: true, storyboard: true };
    let ladder: Ladder = "2160p,720p,144p".parse().unwrap_or_default();
    for (preset, ladder) in
        Preset::ALL.iter().map(|preset| (*preset, &ladder)).chain([(Preset::Default, &Ladder::default())])
    {
        match plan::plan(&source, preset, ladder, stills) {
            Ok(plan) => check_plan(&plan, &source, preset),
            Err(failure) => check_sentence(&failure),
        }
        for parallelism in [Parallelism::Auto, Parallelism::Chunks(256)] {
            let decision = split::decide(&source, preset, ladder, stills, parallelism);
            if let Ok(split::SplitDecision::Split(plan)) = decision {
                let most = limits.seconds * 2.0 / f64::from(SEGMENT_SECONDS) + 2.0;
                assert!(f64::from(plan.chunks.segments()) <= most, "{plan:?}");
                let json = serde_json::to_string(&plan).unwrap_or_default();
                assert!(serde_json::from_str::<split::SplitPlan>(&json).is_ok(), "{json}");
                let _ = split::playing_documents(&plan);
            }
        }
    }
}

fn check_plan(plan: &plan::Plan, source: &Probe, preset: Preset) {
    let arguments = plan.arguments(std::path::Path::new(INPUT));
    let length: usize = arguments.iter().map(|argument| argument.len()).sum();
    assert!(length < 64 << 10, "{length} bytes of arguments");
    assert!(arguments.iter().all(|argument| !argument.as_encoded_bytes().contains(&0)));
    let shown = source.display();
    for output in &plan.outputs {
        let larger = output.size.width > shown.width || output.size.height > shown.height;
        assert!(!larger && output.size.width > 0 && output.size.height > 0, "{output:?} of {shown:?}");
    }
    estimate::output_bytes(plan, source, preset);
    if let Some(seconds) = source.expected_duration() {
        assert!(plan.stills.cues(seconds).is_none_or(|(_, text)| text.len() < 1 << 20));
    }
}

/// ffprobe's list of packets.
pub(crate) fn ffprobe_packets(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return };
    let packets = json.get("packets").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let distance = longest_distance(packets);
    assert!(distance.is_none_or(|seconds| seconds.is_finite() && seconds >= 0.0), "{distance:?}");
}

/// What FFmpeg writes to its progress.
pub(crate) fn ffmpeg_progress(bytes: &[u8]) {
    for (duration, frames) in [(Some(10.0), None), (None, Some(250)), (None, None)] {
        let mut parser = ProgressParser::new(Expected { start: 1.5, duration, frames });
        let (mut percent, mut frame) = (0.0, 0);
        let end = lines::each_line(bytes, |line| {
            assert!(line.len() <= 3 * lines::LONGEST);
            let Some(now) = parser.line(line) else { return };
            assert!((percent..=100.0).contains(&now.percent) && now.frame >= frame, "{now:?}");
            assert!(now.speed.is_none_or(|speed| speed.is_finite() && speed > 0.0), "{now:?}");
            (percent, frame) = (now.percent, now.frame);
        });
        assert_eq!(end.now_or_never(), Some(()));
    }
}

/// What FFmpeg or ffprobe complain about. The first byte is the status with which it ends, or a signal.
pub(crate) fn ffmpeg_log(bytes: &[u8]) {
    let Some((status, log)) = bytes.split_first() else { return };
    let mut tail = StderrTail::default();
    assert_eq!(lines::each_line(log, |line| tail.line(line)).now_or_never(), Some(()));
    assert!(tail.cpu_seconds.is_finite() && tail.cpu_seconds >= 0.0);
    let words = tail.text().replace('#', INPUT);
    let code = i32::from(*status);
    let status = ExitStatus::from_raw(if code < 64 { code } else { (code - 63) << 8 });
    let run = FailedRun {
        status,
        words: &words,
        input: INPUT,
        reached: 1.0,
        expected: None,
        space: DiskFull { needed: 1, free: None },
    };
    check_sentence(&run_failure(&run));
    check_sentence(&probe_failure(&ProbeError::Refused(words), log));
}

fn check_references(text: &str, references: &[Reference]) {
    let bytes: usize = references.iter().map(|reference| reference.uri().len()).sum();
    assert!(bytes <= text.len() + dash::NAMES_LIMIT, "{} references of {bytes} bytes", references.len());
}

/// A playlist of FFmpeg, or of a server.
pub(crate) fn playlist(bytes: &[u8]) {
    let text = text(bytes);
    if let Some(playlist) = MediaPlaylist::parse(&text) {
        assert!(playlist.duration().is_finite() && playlist.duration() >= 0.0, "{playlist:?}");
        let again = playlist::with_target_duration(&text);
        assert!(MediaPlaylist::parse(&again).is_some_and(|again| again.segments == playlist.segments));
    }
    check_references(&text, &playlist::references(&text));
}

/// A manifest of DASH.
pub(crate) fn dash_manifest(bytes: &[u8]) {
    let text = text(bytes);
    check_references(&text, &dash::references(&text));
}

/// The language and the title of a track.
pub(crate) fn language(bytes: &[u8]) {
    let text = text(bytes);
    let mut parts = text.splitn(3, '\n').map(Some);
    let hints = [2, 6].map(|channels| labels::Hints {
        language: parts.next().flatten(),
        title: parts.next().flatten(),
        channels,
    });
    let names = labels::names(&hints);
    assert!(
        names[0] != names[1] && names.iter().all(|name| !name.is_empty() && name.len() < 500),
        "{names:?}"
    );
    let is_hostile = |c: char| c.is_control() || matches!(c, '"' | '\'');
    assert!(!names.iter().any(|name| name.contains(is_hostile)), "{names:?}");
    if let Some(tag) = hints[0].language.and_then(labels::language) {
        assert!(
            tag.len() <= text.len() && tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
            "{tag:?}"
        );
        assert_eq!(labels::language(&tag).as_ref(), Some(&tag));
    }
}
