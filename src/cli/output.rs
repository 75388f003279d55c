//! Tables, progress bars and figures for people.

use std::io::Write as _;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::CliError;
use crate::job::{Input, Job, JobResult, Label, RenditionInfo, Skipped, SourceInfo, State, Timings};
use crate::storage::layout;

/// Like `println!`, but does not panic if the reader has closed the pipe (`| head`).
macro_rules! outln {
    ($($words:tt)*) => {
        $crate::cli::output::line(format_args!($($words)*))
    };
}
pub(super) use outln;

/// Prints a line on stdout, and ignores errors, such as a closed pipe.
pub(crate) fn line(words: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{words}");
}

/// Prints a value as JSON on stdout. Scripts rely on all of it, so a full disk is an error.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(CliError::local)?;
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::Local(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// A progress bar in bytes, which is hidden if stderr is not a terminal.
pub(crate) fn bytes_bar(what: &'static str, size: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
    if let Ok(style) =
        ProgressStyle::with_template("{prefix:>9} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    bar.with_prefix(what)
}

/// A counter of bytes for an unknown total.
pub(crate) fn bytes_count(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{prefix:>9} {bytes} {bytes_per_sec} {elapsed}") {
        bar.set_style(style);
    }
    bar.with_prefix(what)
}

/// A progress bar in percent.
pub(crate) fn percent_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg:>9} {wide_bar} {percent}% {elapsed}") {
        bar.set_style(style);
    }
    bar
}

fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints tokens, each with its name, scopes, folder, limits and time of creation.
pub(crate) fn tokens(rows: impl IntoIterator<Item = [String; 5]>) {
    let mut table = table(&["name", "scopes", "key prefix", "limits", "created"], &[]);
    table.add_rows(rows);
    outln!("{table}");
}

/// The summary of a video's renditions, of a local run or of a job.
pub(crate) struct Summary<'a> {
    /// The label, the properties and the location of each rendition.
    pub renditions: Vec<(Label, &'a RenditionInfo, String)>,
    /// The kind and the location of each further file.
    pub files: Vec<(&'static str, String)>,
    pub skipped: &'a [Skipped],
    pub source: &'a SourceInfo,
    /// Absent if nothing was downloaded and uploaded.
    pub timings: Option<&'a Timings>,
    pub speed: f64,
    pub cpu_seconds: f64,
}

impl<'a> Summary<'a> {
    /// The summary of a completed job; `dir` is the folder that it was downloaded to, if any.
    fn of(result: &'a JobResult, dir: Option<&Path>) -> Self {
        let downloaded = |key| {
            let path = layout::relative_output_path(key)?;
            dir.map(|dir| dir.join(path).display().to_string())
        };
        let renditions = result.outputs.iter();
        let renditions = renditions.map(|o| {
            let place = downloaded(&o.key).or_else(|| o.url.clone()).unwrap_or_else(|| o.key.to_string());
            (o.quality, &o.info, place)
        });
        let entries = result.entries.iter().map(|e| (e.kind.title(), &e.key, &e.url));
        let poster = result.poster.iter().map(|p| ("poster", &p.key, &p.url));
        let board = result.storyboard.iter().map(|b| ("storyboard", &b.key, &b.url));
        let files = entries.chain(poster).chain(board);
        let files = files.map(|(what, key, url)| {
            (what, downloaded(key).unwrap_or_else(|| url.as_deref().unwrap_or(key.as_str()).to_owned()))
        });
        Self {
            renditions: renditions.collect(),
            files: files.collect(),
            skipped: &result.skipped,
            source: &result.source,
            timings: Some(&result.timings),
            speed: result.speed,
            cpu_seconds: result.cpu_seconds,
        }
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        let columns = ["quality", "picture", "video", "audio", "bitrate", "length", "size", "file"];
        let mut t = table(&columns, &[4, 5, 6]);
        for (quality, info, place) in &self.renditions {
            t.add_row([
                quality.name(),
                &format!("{}x{}", info.width, info.height),
                &if info.is_copied { format!("{}, copied", info.codec) } else { info.codec.clone() },
                info.audio_codec.as_deref().unwrap_or("-"),
                &format!("{} kbit/s", info.bitrate / 1000),
                &format!("{:.2} s", info.duration),
                &HumanBytes(info.size).to_string(),
                place,
            ]);
        }
        outln!("{t}");
        for skipped in self.skipped {
            outln!("{}: {}", skipped.quality, skipped.reason);
        }
        for (what, place) in &self.files {
            outln!("{what}: {place}");
        }
        let stages = self.timings.map_or_else(String::new, |t| {
            let (fetching, encoding, storing) = (t.download_seconds, t.transcode_seconds, t.upload_seconds);
            format!(" fetching {fetching:.1} s, encoding {encoding:.1} s, storing {storing:.1} s;")
        });
        let (length, speed, cpu) = (self.source.duration, self.speed, self.cpu_seconds);
        outln!("{length:.1} s of video at {speed:.1}x;{stages} {cpu:.1} CPU-s");
    }
}

/// Prints the outputs of a completed job. `dir` is the folder that they were downloaded to, if they were.
pub(crate) fn outputs(job: &Job, dir: Option<&Path>) {
    if let Some(result) = &job.result {
        Summary::of(result, dir).print();
    }
}

/// Prints a job.
pub(crate) fn job(job: &Job) {
    outln!("job      {}", job.job_id);
    outln!("status   {}", status(job));
    outln!("input    {}", input(job));
    outln!("preset   {}", job.spec.preset);
    outln!("attempt  {} of {}", job.attempt, job.spec.max_attempts);
    if let Some(created) = job.timestamps.created_at {
        outln!("created  {created}");
    }
    if let Some(error) = &job.error {
        outln!("error    {}", error.message);
    }
    if job.status == State::Completed {
        outln!("");
        outputs(job, None);
    }
}

/// Prints a list of jobs.
pub(crate) fn jobs(jobs: &[Job]) {
    if jobs.is_empty() {
        eprintln!("no jobs; send one with `tcoder submit FILE`");
        return;
    }
    let mut t = table(&["job", "status", "preset", "qualities", "created", "input"], &[]);
    for job in jobs {
        t.add_row([
            job.job_id.to_string(),
            status(job),
            job.spec.preset.to_string(),
            qualities(job),
            job.timestamps.created_at.map_or_else(String::new, |at| at.to_string()),
            input(job),
        ]);
    }
    outln!("{t}");
}

/// Prints a table of the fleet's machines.
pub(crate) fn machines(rows: impl Iterator<Item = [String; 8]>) {
    let mut t = table(&["machine", "state", "role", "region", "job", "age", "up", "cost so far"], &[5, 6, 7]);
    t.add_rows(rows);
    outln!("{t}");
}

/// Prints numbered steps, each with its reason.
pub(crate) fn steps(rows: impl Iterator<Item = [String; 2]>) {
    let mut t = table(&["step", "why"], &[]);
    t.add_rows(rows);
    outln!("{t}");
}

/// The qualities that the job requests, or else those that it has; `default` before it is completed.
fn qualities(job: &Job) -> String {
    let requested: Vec<&str> =
        job.spec.output_qualities.rungs().iter().map(|quality| quality.name()).collect();
    let outputs = job.result.iter().flat_map(|result| &result.outputs);
    let names =
        if requested.is_empty() { outputs.map(|output| output.quality.name()).collect() } else { requested };
    if names.is_empty() { "default".to_owned() } else { names.join(",") }
}

fn status(job: &Job) -> String {
    match job.status {
        State::Running | State::Playable => format!("{} {:.0}%", job.status, job.progress),
        other => other.to_string(),
    }
}

fn input(job: &Job) -> String {
    match &job.spec.input {
        Input::Key(key) => key.file_name().to_owned(),
        Input::Url(url) => {
            // The query may contain a signature.
            let mut url = url.clone();
            url.set_query(None);
            url.to_string()
        }
    }
}
