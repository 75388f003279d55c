//! `tcoder transcode`: encodes a local file, without queue and storage.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::TranscodeArgs;
use super::output::Summary;
use super::{CliError, output};
use crate::config::Env;
use crate::config::registry::WORKER_SANDBOX;
use crate::job::{EntryKind, InputLimits};
use crate::transcoder::{Encoded, TranscodeError, TranscodeRequest, check_tools, transcode};

/// Maximum duration. It is long, because nothing waits in a queue behind this transcode.
const DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
const STALL: Duration = Duration::from_secs(120);

pub(crate) async fn run(args: TranscodeArgs) -> Result<(), CliError> {
    let sandbox = Env::process().require(&WORKER_SANDBOX).map_err(CliError::start)?;
    check_tools(sandbox).await.map_err(CliError::start)?;
    if !args.input.is_file() {
        return Err(CliError::Local(format!("{} is not a file that can be read", args.input.display())));
    }
    let cancel = CancellationToken::new();
    let bar = output::percent_bar();
    bar.set_message("encoding");
    let on_progress = |progress: crate::transcoder::EncodeProgress| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        bar.set_position(progress.percent.clamp(0.0, 100.0) as u64);
    };
    let mut work = std::pin::pin!(transcode(TranscodeRequest {
        input: &args.input,
        out_dir: &args.output,
        preset: args.encode.preset,
        ladder: &args.encode.quality,
        stills: args.encode.stills(),
        input_limits: InputLimits::default(),
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
    if args.json {
        return output::json(&json(&encoded));
    }
    summary(&encoded, &args.output).print();
    Ok(())
}

fn summary<'a>(encoded: &'a Encoded, dir: &Path) -> Summary<'a> {
    let place = |file: &str| dir.join(file).display().to_string();
    let renditions = encoded.outputs.iter().map(|o| (o.quality, &o.info, place(&o.file)));
    let entries = encoded.entries.iter().map(|e| (e.kind.title(), place(&e.file)));
    let poster = encoded.poster.iter().map(|p| ("poster", place(&p.file)));
    let board = encoded.storyboard.iter().map(|b| ("storyboard", place(&b.cues)));
    Summary {
        renditions: renditions.collect(),
        files: entries.chain(poster).chain(board).collect(),
        skipped: &encoded.skipped,
        source: &encoded.source,
        timings: None,
        speed: encoded.speed,
        cpu_seconds: encoded.cpu_seconds,
    }
}

fn json(encoded: &Encoded) -> serde_json::Value {
    let outputs = encoded.outputs.iter().map(|o| {
        let mut output = serde_json::json!(o);
        // Here, it is null without sound.
        output["audioCodec"] = serde_json::json!(o.info.audio_codec);
        output
    });
    let entries = encoded.entries.iter();
    let entries = entries.map(|e| serde_json::json!({"kind": e.kind, "file": e.file}));
    let master = encoded.entries.iter().find(|e| e.kind == EntryKind::Hls);
    serde_json::json!({
        "outputs": outputs.collect::<Vec<_>>(), "entries": entries.collect::<Vec<_>>(),
        "master": master.map(|e| &e.file), "poster": encoded.poster.as_ref().map(|p| &p.file),
        "storyboard": encoded.storyboard.as_ref().map(|b| &b.cues), "skipped": encoded.skipped,
        "source": encoded.source, "speed": encoded.speed, "cpuSeconds": encoded.cpu_seconds,
    })
}
