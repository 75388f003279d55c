//! Measures the size of the page, the time until it is usable, and axe-core's findings.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Figures;
use crate::support::page::drive;
use crate::support::system::Setup;

pub async fn measure(figures: &mut Figures) {
    if figures.wants(&["page_interactive_ms", "page_axe_violations"]) {
        let system = Setup::default().workers(2).coming_and_going().start().await;
        let (_, said) = drive(&system.url).await;
        system.stop().await;
        for (name, unit) in [("page_interactive_ms", "ms"), ("page_axe_violations", "violations")] {
            let line = said
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_else(|| panic!("no {name}: {said}"));
            figures.put(name, line.split_whitespace().next().unwrap().parse().unwrap(), unit);
        }
    }

    if figures.wants(&["page_gzip_kb"]) {
        let mut files = Vec::new();
        below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("web"), &mut files);
        // Files that a browser does not load by itself.
        let is_asked_for = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            !matches!(name, "README.md" | "hls.LICENSE" | "_headers" | "openapi.json")
        };
        let files: Vec<PathBuf> = files.into_iter().filter(is_asked_for).collect();
        figures.put("page_gzip_kb", gzip_kb(&files), "KB");
    }
}

/// Adds all files below a folder.
pub fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            below(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

/// The compressed size of these files in kB, each compressed separately.
#[allow(clippy::cast_precision_loss)]
pub fn gzip_kb(files: &[PathBuf]) -> f64 {
    let mut size = 0;
    for file in files {
        let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut command = Command::new("gzip");
        command.args(["-9", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut gzip = command.spawn().unwrap();
        let mut stdin = gzip.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        size += gzip.wait_with_output().unwrap().stdout.len();
        writer.join().unwrap();
    }
    size as f64 / 1000.0
}
