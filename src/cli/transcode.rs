//! `tcoder transcode`: encodes a local file, without queue and storage.

use std::borrow::Cow;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::TranscodeArgs;
use super::output::outln;
use super::{CliError, output};
use crate::job::EntryKind;
use crate::transcoder::{Encoded, Request, TranscodeError, check_tools, transcode};

/// Maximum duration. It is long, because nothing waits in a queue behind this transcode.
const DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
const STALL: Duration = Duration::from_secs(120);

pub async fn run(args: TranscodeArgs) -> Result<(), CliError> {
    check_tools().await.map_err(CliError::start)?;
    if !args.input.is_file() {
        return Err(CliError::Local(format!("{} is not a file that can be read", args.input.display())));
    }
    let cancel = CancellationToken::new();
    let bar = output::percent_bar();
    bar.set_message("encoding");
    let on_progress = |progress: crate::transcoder::Progress| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        bar.set_position(progress.percent.clamp(0.0, 100.0) as u64);
    };
    let mut work = std::pin::pin!(transcode(Request {
        input: &args.input,
        out_dir: &args.output,
        preset: args.encode.preset,
        ladder: &args.encode.quality,
        stills: args.encode.stills(),
        disk_bytes: None,
        stall_timeout: STALL,
        deadline: DEADLINE,
        cancel: cancel.clone(),
        on_progress: &on_progress,
    }));
    let done = tokio::select! {
        done = &mut work => done,
        _ = tokio::signal::ctrl_c() => {
            cancel.cancel();
            work.await
        }
    };
    bar.finish_and_clear();
    let encoded = done.map_err(|error| match error {
        TranscodeError::Failed(failure) => CliError::from(failure),
        TranscodeError::Cancelled => CliError::Interrupted,
    })?;
    if args.json { output::json(&summary(&encoded)) } else { tell(&args, &encoded) }
}

fn tell(args: &TranscodeArgs, encoded: &Encoded) -> Result<(), CliError> {
    output::renditions(encoded.outputs.iter().map(|o| output::Line {
        quality: o.label.name(),
        width: o.width,
        height: o.height,
        codec: &o.codec,
        audio: o.audio_codec.as_deref(),
        bitrate: o.bitrate,
        duration: o.duration,
        size: o.size,
        place: Cow::from(args.output.join(&o.file).display().to_string()),
    }));
    for skipped in &encoded.skipped {
        outln!("{}: {}", skipped.quality, skipped.reason);
    }
    for entry in &encoded.entries {
        outln!("{}: {}", entry.kind.title(), args.output.join(&entry.file).display());
    }
    if let Some(poster) = &encoded.poster {
        outln!("poster: {}", args.output.join(&poster.file).display());
    }
    if let Some(board) = &encoded.storyboard {
        outln!("storyboard: {}", args.output.join(&board.cues).display());
    }
    outln!(
        "{:.1} s of video at {:.1}x; {:.1} CPU-s",
        encoded.source.duration,
        encoded.speed,
        encoded.cpu_seconds
    );
    Ok(())
}

fn summary(encoded: &Encoded) -> serde_json::Value {
    let outputs: Vec<_> = encoded
        .outputs
        .iter()
        .map(|o| {
            serde_json::json!({
                "quality": o.label, "container": o.container, "file": o.file, "size": o.size,
                "width": o.width, "height": o.height, "codec": o.codec, "audioCodec": o.audio_codec,
                "bitrate": o.bitrate, "duration": o.duration,
            })
        })
        .collect();
    let entries = encoded.entries.iter();
    let entries = entries.map(|e| serde_json::json!({"kind": e.kind, "file": e.file}));
    let master = encoded.entries.iter().find(|e| e.kind == EntryKind::Hls);
    serde_json::json!({
        "outputs": outputs, "entries": entries.collect::<Vec<_>>(), "master": master.map(|e| &e.file),
        "poster": encoded.poster.as_ref().map(|p| &p.file),
        "storyboard": encoded.storyboard.as_ref().map(|b| &b.cues), "skipped": encoded.skipped,
        "source": encoded.source, "speed": encoded.speed, "cpuSeconds": encoded.cpu_seconds,
    })
}
