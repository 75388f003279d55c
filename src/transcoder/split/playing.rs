//! Playlists for viewers while the parts are encoded (pure). The plan knows every segment before it exists, so that a
//! player shows the whole length from the start.

use super::arguments::{INDEX, INIT};
use super::chunks::{LONGEST_VIDEO, SEGMENT};
use super::plan::SplitPlan;
use super::report::segment_file;
use crate::job::{Failure, Format};
use crate::storage::layout;
use crate::transcoder::format::cmaf::SHARED_AUDIO;
use crate::transcoder::format::cmaf::hls::{self, NominalVariant};
use crate::transcoder::format::cmaf::rate;

/// Peak of the bit rate over the encoder's limit, in percent: its buffer holds two seconds, and a segment has four.
const PEAK_PERCENT: u64 = 150;
/// The same for the sound, whose packets come in boxes.
const AUDIO_PEAK_PERCENT: u64 = 110;

/// The documents of a video that is being encoded: the media playlists, and the master playlist at the end, each as
/// its file relative to the output folder and its text. Empty unless the format is adaptive streaming.
///
/// # Errors
/// If the source does not permit the planned outputs.
pub fn playing_documents(plan: &SplitPlan) -> Result<Vec<(String, String)>, Failure> {
    if plan.format() != Format::Cmaf {
        return Ok(vec![]);
    }
    let rungs = plan.rungs()?;
    let lengths: Vec<f64> = (0..plan.chunks.segments()).map(|n| plan.chunks.seconds_of(n)).collect();
    let text = media(&lengths);
    let mut documents: Vec<(String, String)> =
        rungs.iter().map(|rung| (format!("{}/{INDEX}", rung.quality), text.clone())).collect();
    let mut audio_bits = 0;
    let mut audio = None;
    if let Some(source) = &plan.source.audio {
        let file = format!("{SHARED_AUDIO}/{INDEX}");
        let seconds = source.duration.unwrap_or(plan.chunks.seconds());
        documents.push((file.clone(), media(&nominal(seconds))));
        let kbps = rungs.first().map_or(0, |rung| rung.quality.audio_kbps());
        audio_bits = u64::from(kbps) * 10 * AUDIO_PEAK_PERCENT;
        audio = Some((file, if source.channels == 1 { 1 } else { 2 }));
    }
    let variants: Vec<NominalVariant> = rungs
        .iter()
        .map(|rung| NominalVariant {
            playlist: format!("{}/{INDEX}", rung.quality),
            bandwidth: u64::from(rung.video_kbps()) * 10 * PEAK_PERCENT + audio_bits,
            size: rung.size,
        })
        .collect();
    let audio = audio.as_ref().map(|(file, channels)| (file.as_str(), *channels));
    let frame_rate = rate::nominal(plan.source.video.frame_rate);
    let master = hls::nominal_master(&variants, audio, frame_rate);
    documents.push((layout::MASTER_PLAYLIST.to_owned(), master));
    Ok(documents)
}

/// The lengths of the segments of a stream of this duration, seconds.
fn nominal(seconds: f64) -> Vec<f64> {
    let mut lengths = Vec::new();
    // One that says that it lasts for ever must not have as many segments.
    let mut rest = seconds.min(LONGEST_VIDEO);
    // A frame of sound is 21 ms long, and no segment is shorter.
    while rest > 0.022 || lengths.is_empty() {
        lengths.push(rest.clamp(0.0, SEGMENT));
        rest -= SEGMENT;
    }
    lengths
}

fn media(lengths: &[f64]) -> String {
    // The query asks the API to wait for the file.
    let awaited = |file: &str| format!("{file}?{}", layout::AWAITED);
    let files: Vec<String> = (0..).map(|n| awaited(&segment_file(n))).take(lengths.len()).collect();
    hls::media(&awaited(INIT), files.iter().map(String::as_str).zip(lengths.iter().copied()))
}
