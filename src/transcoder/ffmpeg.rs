//! Runs FFmpeg: its progress, and its end.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use tokio::io::BufReader;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::job::space::DiskFull;
use crate::job::{Failure, FailureCode};

use super::diagnose::{self, FailedRun};
use super::input::MediaInput;
use super::lines::each_line;
use super::probe::Probe;
use super::program::Program;
use super::{EncodeProgress, TranscodeError, disk};

/// Number of warnings and errors kept from the beginning of the log, which show the cause, and from its end,
/// which show the effect.
const KEEP_FIRST: usize = 20;
const KEEP_LAST: usize = 20;
/// Interval between two checks of the free space.
const LOOK_AT_DISK: Duration = Duration::from_secs(1);

/// One run of FFmpeg.
pub(super) struct FfmpegRun<'a> {
    pub arguments: Vec<OsString>,
    /// The folder that FFmpeg runs in and writes to.
    pub folder: &'a Path,
    /// What it reads: a video, or a folder of files.
    pub input: MediaInput<'a>,
    /// Whether other processes of the machine go first.
    pub is_nice: bool,
    /// What is expected to come out.
    pub expected: Expected,
    /// The space that the outputs need, and the space that was free before the run.
    pub space: DiskFull,
    /// Maximum size of all files in its folder, bytes, if limited.
    pub disk_bytes: Option<u64>,
    pub stall_timeout: Duration,
    pub deadline: Instant,
    pub cancel: &'a CancellationToken,
    pub on_progress: &'a (dyn Fn(EncodeProgress) + Send + Sync),
}

/// What a run is expected to write, as far as the source says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    /// Time at which the output begins, seconds.
    pub start: f64,
    /// Its duration in seconds.
    pub duration: Option<f64>,
    /// Its number of frames.
    pub frames: Option<u64>,
}

impl Expected {
    /// The whole of a source.
    pub(crate) fn all_of(source: &Probe) -> Self {
        Self { start: 0.0, duration: source.expected_duration(), frames: source.video.frames }
    }
}

/// The statistics of a successful run.
pub(super) struct RunStats {
    pub wall: Duration,
    pub cpu_seconds: f64,
}

/// How a run ended.
enum End {
    Exited(ExitStatus),
    Cancelled,
    Deadline,
    Stalled,
    DiskFull,
}

/// The failure of a transcode that took too long. What to do about it depends on who set the deadline.
pub(super) fn deadline_exceeded() -> Failure {
    Failure::new(FailureCode::DeadlineExceeded, "the attempt reached its deadline")
}

impl FfmpegRun<'_> {
    /// Runs FFmpeg until it ends, or kills it. The process is dead and reaped when this returns.
    pub(crate) async fn finish(self) -> Result<RunStats, TranscodeError> {
        let begun = Instant::now();
        let start_failure = |error| diagnose::start_failure("ffmpeg", &error);
        let mut command = self.program(begun).command().map_err(start_failure)?;
        let mut child = command.args(&self.arguments).spawn().map_err(start_failure)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());

        let (tell, hear) = watch::channel(EncodeProgress::default());
        let expected = self.expected.duration;
        let mut gauge = ProgressParser::new(self.expected);
        let mut log = StderrTail::default();
        let progress = async {
            let Some(pipe) = stdout else { return };
            each_line(BufReader::new(pipe), |line| {
                if let Some(now) = gauge.line(line) {
                    tell.send_replace(now);
                    (self.on_progress)(now);
                }
            })
            .await;
        };
        let words = async {
            let Some(pipe) = stderr else { return };
            each_line(BufReader::new(pipe), |line| log.line(line)).await;
        };
        let ((), (), end) = tokio::join!(progress, words, self.watch(&mut child, hear.clone()));

        let reached = hear.borrow().out_time.as_secs_f64();
        let status = match end? {
            End::Exited(status) => status,
            End::Cancelled => return Err(TranscodeError::Cancelled),
            End::Deadline => return Err(deadline_exceeded().into()),
            End::DiskFull => return Err(Failure::from(self.space).into()),
            End::Stalled => {
                let waited = self.stall_timeout.as_secs_f64();
                let message =
                    format!("FFmpeg made no headway for {waited:.0} s after {reached:.1} s of video");
                return Err(Failure::new(FailureCode::Stalled, message).into());
            }
        };
        if !status.success() {
            let (words, input) = (log.text(), &*self.input.name());
            tracing::debug!(%status, ffmpeg = %words, "ffmpeg failed");
            let wrong = FailedRun { status, words: &words, input, reached, expected, space: self.space };
            return Err(diagnose::run_failure(&wrong).into());
        }
        Ok(RunStats { wall: begun.elapsed(), cpu_seconds: log.cpu_seconds })
    }

    fn program(&self, begun: Instant) -> Program<'_> {
        Program {
            name: "ffmpeg",
            input: Some(self.input),
            folder: Some(self.folder),
            file_bytes: self.disk_bytes.or(self.space.free).unwrap_or(u64::MAX),
            timeout: self.deadline.saturating_duration_since(begun),
            is_nice: self.is_nice,
        }
    }

    /// Waits until the child ends, and kills it if it must end early.
    async fn watch(
        &self,
        child: &mut Child,
        mut hear: watch::Receiver<EncodeProgress>,
    ) -> Result<End, Failure> {
        let mut stall_at = Instant::now() + self.stall_timeout;
        let mut heard_all = false;
        let mut looks = tokio::time::interval(LOOK_AT_DISK);
        let end = loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => break End::Cancelled,
                () = tokio::time::sleep_until(self.deadline) => break End::Deadline,
                status = child.wait() => {
                    let status = status.map_err(|e| diagnose::start_failure("ffmpeg", &e))?;
                    return Ok(End::Exited(status));
                }
                // FFmpeg continues on a full disk, and its HLS muxer does not even report an error.
                _ = looks.tick() => if disk::is_full(self.folder, self.disk_bytes) { break End::DiskFull },
                heard = hear.changed(), if !heard_all => match heard {
                    Ok(()) => stall_at = Instant::now() + self.stall_timeout,
                    Err(_) => heard_all = true,
                },
                () = tokio::time::sleep_until(stall_at) => {
                    // While FFmpeg moves an MP4's index to the front it reports no progress, but it writes to
                    // the file.
                    match newest_write(self.folder).and_then(|at| at.elapsed().ok()) {
                        Some(ago) if ago < self.stall_timeout => {
                            stall_at = Instant::now() + (self.stall_timeout - ago);
                        }
                        _ => break End::Stalled,
                    }
                }
            }
        };
        // SIGKILL, because after a SIGTERM FFmpeg would first write trailers, and a stopped process would not
        // receive it.
        if let Err(error) = child.kill().await {
            tracing::warn!(%error, "could not kill ffmpeg");
        }
        Ok(end)
    }
}

/// When a file in the folder, or in its subfolders, was last written.
fn newest_write(folder: &Path) -> Option<SystemTime> {
    let files = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let below = files(folder).filter(|e| e.path().is_dir()).flat_map(|e| files(&e.path()));
    let times = files(folder).chain(below).filter_map(|e| e.metadata().ok()?.modified().ok());
    times.max()
}

/// Parses the lines of `-progress` into [`EncodeProgress`].
pub(super) struct ProgressParser {
    expected: Expected,
    now: EncodeProgress,
    told: EncodeProgress,
}

impl ProgressParser {
    pub(super) fn new(expected: Expected) -> Self {
        Self { expected, now: EncodeProgress::default(), told: EncodeProgress::default() }
    }

    /// Parses one line; returns the progress when a block is complete and shows any.
    pub(super) fn line(&mut self, line: &str) -> Option<EncodeProgress> {
        let (name, value) = line.split_once('=')?;
        let value = value.trim();
        match name {
            "frame" => self.now.frame = value.parse().unwrap_or(self.now.frame).max(self.told.frame),
            // `out_time_ms` contains microseconds as well, so only this key is read. It is negative at first,
            // or N/A.
            "out_time_us" => {
                let us = value.parse::<i64>().unwrap_or(0).saturating_sub((self.expected.start * 1e6) as i64);
                let us = u64::try_from(us).unwrap_or(0);
                self.now.out_time = Duration::from_micros(us).max(self.told.out_time);
            }
            "speed" => {
                let speed = value.trim_end_matches('x').parse::<f64>().ok();
                self.now.speed = speed.filter(|s| s.is_finite() && *s > 0.0);
            }
            "progress" => {
                self.now.percent = self.percent().max(self.told.percent);
                let headway = self.now.out_time > self.told.out_time || self.now.frame > self.told.frame;
                self.told = self.now;
                return headway.then_some(self.now);
            }
            _ => {}
        }
        None
    }

    fn percent(&self) -> f64 {
        let share = match (self.expected.duration, self.expected.frames) {
            (Some(all), _) if all > 0.0 => self.now.out_time.as_secs_f64() / all,
            (_, Some(all)) if all > 0 => self.now.frame as f64 / all as f64,
            _ => 0.0,
        };
        (share * 100.0).clamp(0.0, 100.0)
    }
}

/// The parts of FFmpeg's log that are kept: warnings, errors and the CPU time.
#[derive(Default)]
pub(super) struct StderrTail {
    first: Vec<String>,
    last: std::collections::VecDeque<String>,
    pub cpu_seconds: f64,
}

impl StderrTail {
    pub(super) fn line(&mut self, line: &str) {
        if let Some(seconds) = cpu_seconds(line) {
            self.cpu_seconds = seconds;
        }
        // Lower levels print titles and comments of the user's file; lines without a level come from the
        // loader.
        let mild = ["[info]", "[verbose]", "[debug]", "[trace]"].iter().any(|level| line.contains(level));
        if mild || line.trim().is_empty() {
            return;
        }
        if self.first.len() < KEEP_FIRST {
            self.first.push(line.to_owned());
        } else {
            if self.last.len() == KEEP_LAST {
                self.last.pop_front();
            }
            self.last.push_back(line.to_owned());
        }
    }

    pub(super) fn text(&self) -> String {
        let lines: Vec<&str> = self.first.iter().chain(&self.last).map(String::as_str).collect();
        lines.join("\n")
    }
}

/// `bench: utime=40.061s stime=0.210s rtime=21.002s`
fn cpu_seconds(line: &str) -> Option<f64> {
    let rest = line.split_once("bench: utime=")?.1;
    let (user, rest) = rest.split_once("s stime=")?;
    let (system, _) = rest.split_once('s')?;
    let total = user.trim().parse::<f64>().ok()? + system.trim().parse::<f64>().ok()?;
    (total.is_finite() && total >= 0.0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(duration: Option<f64>, frames: Option<u64>) -> ProgressParser {
        ProgressParser::new(Expected { start: 0.0, duration, frames })
    }

    fn feed(gauge: &mut ProgressParser, text: &str) -> Vec<EncodeProgress> {
        text.lines().filter_map(|l| gauge.line(l)).collect()
    }

    #[test]
    fn progress_counts_microseconds_and_never_goes_back() {
        let mut gauge = gauge(Some(10.0), None);
        let told = feed(
            &mut gauge,
            "frame=0\nout_time_us=N/A\nspeed=N/A\nprogress=continue\n\
             frame=3\nout_time_us=-20000\nspeed=0x\nprogress=continue\n\
             frame=60\nout_time_us=2500000\nout_time_ms=2500000\nspeed=1.5x\nprogress=continue\n\
             frame=60\nout_time_us=2500000\nspeed=1.5x\nprogress=continue\n\
             frame=70\nout_time_us=2000000\nspeed= 2.0x\nprogress=continue\n\
             frame=300\nout_time_us=11000000\nspeed=2x\nprogress=end\n",
        );
        let seen: Vec<_> = told.iter().map(|p| (p.frame, p.percent, p.speed)).collect();
        assert_eq!(
            seen,
            [(3, 0.0, None), (60, 25.0, Some(1.5)), (70, 25.0, Some(2.0)), (300, 100.0, Some(2.0))]
        );
    }

    #[test]
    fn frames_stand_in_for_an_unknown_length() {
        let block = "frame=50\nout_time_us=1000000\nprogress=continue";
        assert_eq!(feed(&mut gauge(None, Some(200)), block)[0].percent, 25.0);
        assert_eq!(feed(&mut gauge(None, None), block)[0].percent, 0.0);
    }

    #[test]
    fn a_stretch_begins_at_its_own_time() {
        let mut gauge = ProgressParser::new(Expected { start: 20.0, duration: Some(10.0), frames: None });
        let told = feed(
            &mut gauge,
            "frame=1\nout_time_us=19000000\nprogress=continue\nframe=9\nout_time_us=25000000\nprogress=continue",
        );
        assert_eq!(told.iter().map(|p| p.percent).collect::<Vec<_>>(), [0.0, 50.0]);
    }

    #[test]
    fn garbage_is_no_progress() {
        let mut gauge = gauge(Some(10.0), None);
        assert!(feed(&mut gauge, "\nfoo\nframe=x\nout_time_us=9e99\nprogress=continue").is_empty());
    }

    #[test]
    fn the_log_keeps_complaints_and_is_bounded() {
        let mut log = StderrTail::default();
        log.line("[info]   title : No space left on device");
        log.line("[mov @ 0x1] [info] Duration: 1");
        log.line("bench: utime=1.250s stime=0.250s rtime=9.000s");
        for n in 0..1000 {
            log.line(&format!("[h264 @ 0x1] [error] broken {n}"));
        }
        assert_eq!(log.cpu_seconds, 1.5);
        let text = log.text();
        assert!(text.contains("broken 0\n") && text.ends_with("broken 999"));
        assert!(!text.contains("No space"));
        assert!(text.lines().count() <= KEEP_FIRST + KEEP_LAST + 1);
    }

    #[test]
    fn only_a_benchmark_line_has_cpu_time() {
        assert_eq!(cpu_seconds("[info] bench: utime=40.061s stime=0.210s rtime=21.002s"), Some(40.271));
        assert_eq!(cpu_seconds("bench: utime=xs stime=0.2s"), None);
        assert_eq!(cpu_seconds("bench: maxrss=100kB"), None);
    }
}
