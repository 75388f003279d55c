//! Measures what the sandbox of FFmpeg costs: CPU time of an encode, and time to start.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use tcoder::sandbox::{Permissions, ResourceLimits, confine};
use tokio::process::Command;

use crate::encode::{children_cpu, clip};
use crate::support::process::installed;
use crate::{Figures, median};

/// Number of encodes, with the sandbox and without it in turn.
const ENCODES: usize = 5;
/// Number of starts.
const STARTS: usize = 200;

pub async fn measure(figures: &mut Figures, scratch: &Path) {
    if !figures.wants(&["sandbox_cpu_overhead", "sandbox_start_ms"]) {
        return;
    }
    let clip = clip();
    let encode = "-v error -y -threads 1 -an -t 4 -vf scale=1280:720 -c:v libx264 -preset faster out.mp4";
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for _ in 0..ENCODES {
        for (is_confined, cpu) in [(true, &mut inside), (false, &mut outside)] {
            let before = children_cpu();
            run(is_confined, &clip, scratch, encode).await;
            cpu.push(children_cpu() - before);
        }
    }
    figures.put("sandbox_cpu_overhead", median(inside) / median(outside), "x");

    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        for (is_confined, times) in [(true, &mut inside), (false, &mut outside)] {
            let begun = Instant::now();
            run(is_confined, &clip, scratch, "").await;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    figures.put("sandbox_start_ms", median(inside) - median(outside), "ms");
}

/// Runs FFmpeg on the clip, or, without arguments, only lets it tell its version.
async fn run(is_confined: bool, clip: &Path, folder: &Path, arguments: &str) {
    let ffmpeg = installed("ffmpeg");
    let mut command = Command::new(&ffmpeg);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    if arguments.is_empty() {
        command.arg("-version");
    } else {
        command.arg("-i").arg(clip).args(arguments.split_whitespace());
    }
    if is_confined {
        let permissions =
            Permissions { read: vec![clip.to_owned()], write: vec![folder.to_owned()], connect: None };
        let limits = ResourceLimits { cpu_seconds: 3_600, file_bytes: 1 << 40, memory_bytes: 1 << 40 };
        confine(&mut command, &ffmpeg, &permissions, limits, false).unwrap();
    }
    assert!(command.status().await.unwrap().success());
}
