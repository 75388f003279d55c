//! Translates errors of ffprobe and FFmpeg into one sentence for the user who sent the file (pure).

use std::process::ExitStatus;

use crate::job::space::DiskFull;
use crate::job::{Failure, FailureCode};

use super::ffprobe::ProbeError;

/// What to do when a program is missing.
pub(super) const INSTALL: &str =
    "install FFmpeg 5.1 or newer with libx264 and zimg (apt-get install ffmpeg, or brew install ffmpeg)";

/// The failure of a program that could not be started.
pub(super) fn start_failure(program: &str, error: &std::io::Error) -> Failure {
    let message = match error.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is not on this machine's PATH; {INSTALL}"),
        std::io::ErrorKind::PermissionDenied => format!(
            "{program} could not be started: {error}; if it starts outside of a sandbox, set WORKER_SANDBOX to off"
        ),
        _ => format!("{program} could not be started: {error}"),
    };
    Failure::new(FailureCode::Worker, message)
}

/// Why a source could not be probed. `head` holds its first bytes.
pub(super) fn probe_failure(error: &ProbeError, head: &[u8]) -> Failure {
    let words = match error {
        ProbeError::Start(error) => return start_failure("ffprobe", error),
        ProbeError::Timeout => {
            let message = "reading the file's header did not end; the file is damaged or the disk is slow";
            return Failure::new(FailureCode::Stalled, message);
        }
        ProbeError::Refused(words) => words,
    };
    if let Some(refused) = words.lines().find(|l| l.contains("Format not on whitelist")) {
        return refused_format(refused);
    }
    if let Some(trouble) = environment_failure(words) {
        return trouble;
    }
    let is_mp4 = head.get(4..8).is_some_and(|b| matches!(b, b"ftyp" | b"mdat" | b"wide" | b"free" | b"moov"));
    let message = if words.contains("moov atom not found") && is_mp4 {
        "the file is damaged: it ends before its index (moov atom), so the upload or recording was cut short"
    } else if is_mp4 || head.starts_with(&[0x1a, 0x45, 0xdf, 0xa3]) {
        "the file is damaged: FFmpeg cannot read its header"
    } else {
        "the file is not a video: FFmpeg finds no known format in it"
    };
    Failure::new(FailureCode::InvalidMedia, message)
}

/// `[hls @ 0x55..] [error] Format not on whitelist '...'`
fn refused_format(line: &str) -> Failure {
    let name = line.trim_start_matches('[').split([' ', '@', ']', ',']).next().unwrap_or_default();
    let message = match name {
        "hls" | "concat" | "dash" | "imf" | "sdp" | "applehttp" => {
            "the file is a playlist that points at other files, and such files are refused; upload the video itself"
                .to_owned()
        }
        name if name.ends_with("_pipe") || name.starts_with("image2") => {
            "the file is a picture, not a video".to_owned()
        }
        name if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
            format!("the file's format ({name}) is not one that is taken; convert it to MP4, MKV or WebM")
        }
        _ => "the file's format is not one that is taken; convert it to MP4, MKV or WebM".to_owned(),
    };
    Failure::new(FailureCode::UnsupportedMedia, message)
}

/// A failed run of FFmpeg, except for runs that the worker itself stopped.
pub(super) struct FailedRun<'a> {
    pub status: ExitStatus,
    /// Its warnings and errors.
    pub words: &'a str,
    /// The input's path, which must not appear in messages.
    pub input: &'a str,
    /// Seconds of output before it failed.
    pub reached: f64,
    /// The duration of the source according to its header, seconds.
    pub expected: Option<f64>,
    /// The space that the outputs need, and the space that was free before the run.
    pub space: DiskFull,
}

/// Why an encode failed.
pub(super) fn run_failure(wrong: &FailedRun<'_>) -> Failure {
    let full = ["No space left on device", "Disk quota exceeded", "File too large"];
    if full.iter().any(|words| wrong.words.contains(words)) {
        return wrong.space.into();
    }
    if let Some(trouble) = environment_failure(wrong.words) {
        return trouble;
    }
    if let Some(signal) = signal_of(wrong.status) {
        return signal_failure(signal, wrong.space);
    }
    // A machine without memory kills; a failed allocation is that of a size which a damaged file asks for.
    if wrong.words.contains("Cannot allocate memory") {
        let message =
            "FFmpeg needs more memory for this file than it may have; convert it with another program";
        return Failure::new(FailureCode::FfmpegCrashed, message);
    }
    let cut = ["partial file", "File ended prematurely", "Packet corrupt", "end of file"];
    if cut.iter().any(|words| wrong.words.contains(words)) {
        return ends_early(wrong.reached, wrong.expected);
    }
    let first = first_error(wrong.words, wrong.input);
    if wrong.words.contains("Invalid data found") || wrong.words.contains("corrupt") {
        let at = wrong.reached;
        let message = format!("the file is damaged: FFmpeg could not decode it after {at:.1} s ({first})");
        return Failure::new(FailureCode::InvalidMedia, message);
    }
    if ["Decoder not found", "no decoder", "Decoding requested, but no decoder"]
        .iter()
        .any(|words| wrong.words.contains(words))
    {
        let message = "this FFmpeg has no decoder for the file's codec; convert the file to H.264 and AAC";
        return Failure::new(FailureCode::UnsupportedMedia, message);
    }
    let code = wrong.status.code().map_or_else(|| "no exit code".to_owned(), |c| format!("exit code {c}"));
    let more = further_errors(wrong.words, wrong.input, &first);
    Failure::new(FailureCode::EncodeFailed, format!("FFmpeg failed with {code}: {first}{more}"))
}

/// The failure of a run that a signal ended. Linux kills with SIGKILL what takes the last memory; any other signal is
/// that of a crash, which says something about the file and nothing about the machine.
fn signal_failure(signal: i32, space: DiskFull) -> Failure {
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    const SIGXFSZ: i32 = 25;
    if signal == SIGXFSZ {
        return space.into();
    }
    if signal == SIGXCPU {
        let message = "FFmpeg used more CPU time than the attempt's deadline permits";
        return Failure::new(FailureCode::DeadlineExceeded, message);
    }
    if signal == SIGKILL {
        let message =
            format!("FFmpeg was killed by signal {signal}; most often the machine ran out of memory");
        return Failure::new(FailureCode::Worker, message);
    }
    let message =
        format!("FFmpeg crashed with signal {signal} on this file; convert it with another program");
    Failure::new(FailureCode::FfmpegCrashed, message)
}

/// The failure of a source that ends before the duration in its header.
pub(super) fn ends_early(reached: f64, expected: Option<f64>) -> Failure {
    let message = match expected {
        Some(all) => format!("the file ends early: {reached:.1} s of {all:.1} s could be read"),
        None => format!("the file ends early: {reached:.1} s could be read"),
    };
    Failure::new(FailureCode::InvalidMedia, message)
}

/// Failures of the machine, which would occur with any other file, too.
fn environment_failure(words: &str) -> Option<Failure> {
    let known = [
        ("Read-only file system", "the scratch folder cannot be written to".to_owned()),
        ("Permission denied", "FFmpeg may not read the input or write to the scratch folder".to_owned()),
        ("Unknown encoder", format!("this FFmpeg lacks an encoder; {INSTALL}")),
        ("No such filter", format!("this FFmpeg lacks a filter; {INSTALL}")),
        ("error while loading shared libraries", format!("FFmpeg is installed incompletely; {INSTALL}")),
    ];
    let (_, message) = known.into_iter().find(|(sign, _)| words.contains(sign))?;
    Some(Failure::new(FailureCode::Worker, message))
}

const NO_REASON: &str = "it gave no reason";

/// Maximum length of what is said after the first error, characters.
const FURTHER_ERRORS: usize = 200;

fn is_error(line: &&str) -> bool {
    ["[error]", "[fatal]", "[panic]"].iter().any(|level| line.contains(level))
}

/// The first error, which tells the cause.
fn first_error(words: &str, input: &str) -> String {
    let lines = || words.lines().filter(|l| !l.trim().is_empty());
    lines()
        .find(is_error)
        .or_else(|| lines().next_back())
        .map_or_else(|| NO_REASON.to_owned(), |line| sentence(line, input))
}

/// The two last errors, which tell the effect, as far as they differ from the first one and name no file of this machine.
fn further_errors(words: &str, input: &str, first: &str) -> String {
    let mut last: Vec<String> = Vec::new();
    for line in words.lines().filter(is_error).rev() {
        let said = sentence(line, input);
        if said != first && said != NO_REASON && !said.contains('/') && !last.contains(&said) {
            last.push(said);
        }
        if last.len() == 2 {
            break;
        }
    }
    let more: String = last.iter().rev().map(|said| format!("; {said}")).collect();
    more.chars().take(FURTHER_ERRORS).collect()
}

/// A line of FFmpeg, shortened, without context addresses and the input's path.
fn sentence(line: &str, input: &str) -> String {
    // First of all, since what is left without them may be the path.
    let printable: String = line.chars().filter(|c| !c.is_control()).collect();
    let mut rest = printable.trim_start();
    while let Some((_, after)) = rest.strip_prefix('[').and_then(|r| r.split_once("] ")) {
        rest = after;
    }
    let rest = rest.trim();
    // With a space before it, so that what stands there does not become a path together with it.
    let plain = if input.is_empty() { rest.to_owned() } else { rest.replace(input, " the file") };
    let plain = plain.replace("file: the file", "the file").replace("  the file", " the file");
    let plain: String = plain.trim_start().trim_end_matches('.').chars().take(200).collect();
    if plain.is_empty() { NO_REASON.to_owned() } else { plain }
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_: ExitStatus) -> Option<i32> {
    None
}

/// The failure of a run that succeeded without creating one of its files.
pub(super) fn missing_output(file: &str) -> Failure {
    wrong_output(format!("FFmpeg ended well but left no {file}, or left it empty"))
}

/// The failure of an output that does not match the plan.
pub(super) fn wrong_output(message: String) -> Failure {
    Failure::new(FailureCode::EncodeFailed, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn probed(words: &str, head: &[u8]) -> (FailureCode, String) {
        let failure = probe_failure(&ProbeError::Refused(words.to_owned()), head);
        (failure.code, failure.message)
    }

    #[test]
    fn a_file_that_cannot_be_probed_gets_one_sentence() {
        let moov = "[mov,mp4 @ 0x1] [error] moov atom not found\n[error] x: Invalid data found";
        assert!(probed(moov, b"\0\0\0\x20ftypisom").1.contains("moov atom"));
        assert!(probed(moov, b"hello, I am text").1.contains("not a video"));
        assert!(probed("", b"\x1a\x45\xdf\xa3rest").1.contains("cannot read its header"));
        assert!(probed("", b"").1.contains("not a video"));
        assert_eq!(probed(moov, b"").0, FailureCode::InvalidMedia);
    }

    #[test]
    fn a_refused_format_says_which_kind_of_file_it_is() {
        let refused =
            |name: &str| probed(&format!("[{name} @ 0x5612] [error] Format not on whitelist 'mov,mp4'"), b"");
        for name in ["hls", "concat", "dash"] {
            let (code, message) = refused(name);
            assert_eq!(code, FailureCode::UnsupportedMedia);
            assert!(message.contains("playlist"), "{message}");
        }
        assert!(refused("png_pipe").1.contains("picture"));
        assert!(refused("h264").1.contains("(h264)"));
    }

    #[test]
    fn missing_programs_say_what_to_install() {
        let missing = start_failure("ffmpeg", &std::io::ErrorKind::NotFound.into());
        assert_eq!(missing.code, FailureCode::Worker);
        assert!(missing.message.contains("apt-get install ffmpeg"), "{missing}");
    }

    fn ran(words: &str, raw: i32) -> Failure {
        run_failure(&FailedRun {
            status: ExitStatus::from_raw(raw),
            words,
            input: "/scratch/in.mp4",
            reached: 1.5,
            expected: Some(20.0),
            space: DiskFull { needed: 7_000, free: Some(9_000) },
        })
    }

    #[test]
    fn the_files_fault_and_ours_are_told_apart() {
        use FailureCode::{DiskFull, EncodeFailed, FfmpegCrashed, InvalidMedia, UnsupportedMedia, Worker};
        let check = |words: &str, raw: i32, code, says: &str| {
            let failure = ran(words, raw);
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.contains(says), "{failure}");
            assert!(!failure.message.contains("/scratch"), "{failure}");
        };
        for words in ["No space left on device", "Disk quota exceeded", "File too large"] {
            let words = format!("[error] av_interleaved_write_frame(): {words}");
            check(&words, 256, DiskFull, "need 7000 bytes, and 9000 were free");
        }
        check("[error] Unknown encoder 'libx264'", 256, Worker, "libx264");
        check("", 9, Worker, "signal 9");
        check("", 11, FfmpegCrashed, "crashed with signal 11");
        check("", 6, FfmpegCrashed, "crashed with signal 6");
        check("[mov @ 0x1] [error] stream 0, offset 0x9: partial file", 256, InvalidMedia, "1.5 s of 20.0 s");
        let broken = "[error] file:/scratch/in.mp4: Invalid data found when processing input";
        check(broken, 256, InvalidMedia, "after 1.5 s (the file: Invalid data");
        check("[error] Decoder not found", 256, UnsupportedMedia, "no decoder");
        check(
            "[warning] odd\n[x @ 0x1] [error] Something new",
            65280,
            EncodeFailed,
            "exit code 255: Something new",
        );
        check(
            "[h264 @ 0x1] [error] Invalid NAL unit size (0 > 7530).\n[h264 @ 0x1] [error] Error splitting the input into NAL \
             units.\n[error] file:/scratch/in.mp4: bad\n[error] out/144p.ts: bad\n[fatal] Conversion failed!\n[fatal] Conversion failed!",
            256,
            EncodeFailed,
            "exit code 1: Invalid NAL unit size (0 > 7530); the file: bad; Conversion failed!",
        );
        check("", 256, EncodeFailed, "no reason");
        check("[error] \u{1e}", 256, EncodeFailed, "no reason");
        check("[error] /scra\u{1e}tch/in.mp4: odd", 256, EncodeFailed, "the file: odd");
    }
}
