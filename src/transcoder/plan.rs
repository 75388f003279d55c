//! Plans FFmpeg's work: one process, one decode, all renditions (pure).
//!
//! The picture is scaled in a cascade: the largest rung from the source, each further one from the rung above
//! it. Measured on FFmpeg 5.1 with a synthetic 30 s 1080p H.264 clip to web-optimized 720p, 360p and 144p, in
//! CPU seconds: three runs 71.3, one run with each rung scaled from the source 52.6 (0.74), the cascade 43.5
//! (0.61). PSNR of the encoded small rungs against the source scaled directly is no lower in the cascade,
//! whatever the reference scaler: 360p 36.85 dB against 36.83, 144p 36.81 dB against 36.77 (bicubic; SSIM
//! equal to three places).

use std::ffi::OsString;
use std::path::Path;

use crate::job::{Dimensions, Failure, FailureCode, Format, InputLimits, Ladder, Preset, Skipped, Stills};

use super::EntryFile;
use super::codecs;
use super::copied;
use super::ffprobe::{self, INPUT_FORMATS};
use super::format::{self, FormatRequest, OutputFormat, Planned, split_args};
use super::input::MediaInput;
use super::ladder::{self, Rung};
use super::probe::{Matrix, Probe, Transfer, Video};
use super::stills::PlannedStills;

/// The work for FFmpeg, and the outputs that it must produce.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The renditions, largest first.
    pub outputs: Vec<Planned>,
    /// The format of the renditions.
    pub format: Format,
    /// The entry documents.
    pub entries: Vec<EntryFile>,
    /// The playlist of the audio that all rungs share, if they do.
    pub shared_audio: Option<String>,
    /// The stills besides the renditions.
    pub stills: PlannedStills,
    /// Whether the renditions have audio.
    pub has_audio: bool,
    /// Requested renditions that are not made.
    pub skipped: Vec<Skipped>,
    input_options: Vec<String>,
    output_options: Vec<String>,
}

impl Plan {
    /// FFmpeg's arguments. It must run inside the output folder, because all outputs are named relative to
    /// it: the HLS muxer would interpret a `%` in a folder's name.
    #[must_use]
    pub fn arguments(&self, input: &Path) -> Vec<OsString> {
        let mut all: Vec<OsString> = self.input_options.iter().map(Into::into).collect();
        all.extend(["-i".into(), MediaInput::File(input).argument()]);
        all.extend(self.output_options.iter().map(OsString::from));
        all
    }

    /// Folders that must exist before FFmpeg runs.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        let files = self.outputs.iter().map(|o| &o.file).chain(&self.shared_audio);
        files.filter_map(|file| file.split_once('/').map(|(folder, _)| folder))
    }

    /// The implementation of the renditions' format.
    pub(super) fn output_format(&self) -> &'static dyn OutputFormat {
        format::of(self.format)
    }

    /// Names of the files and folders in the output folder.
    #[must_use]
    pub fn top_level(&self) -> Vec<&str> {
        let entries = self.entries.iter().map(|entry| &entry.file);
        let files = self.outputs.iter().map(|o| &o.file).chain(&self.shared_audio).chain(entries);
        let tops = files.filter_map(|file| file.split('/').next());
        tops.chain(self.stills.files().map(|file| -> &str { file })).collect()
    }
}

/// The rungs of `preset` that this source can fill, largest first, and the requested ones that are skipped.
///
/// # Errors
/// If the source fills none of them.
pub(super) fn rungs(
    source: &Probe,
    preset: Preset,
    ladder: &Ladder,
) -> Result<(Vec<Rung>, Vec<Skipped>), Failure> {
    let (rungs, skipped) = ladder::select_rungs(source.display(), preset.rungs(ladder));
    if rungs.is_empty() && !skipped.is_empty() {
        return Err(Failure::new(FailureCode::UnsupportedMedia, "no quality fits this video; ask for 144p"));
    }
    Ok((rungs, skipped))
}

/// Plans the renditions of `preset` for this source, and the stills.
///
/// # Errors
/// If the source does not permit the requested outputs.
pub fn plan(source: &Probe, preset: Preset, ladder: &Ladder, stills: Stills) -> Result<Plan, Failure> {
    let format = preset.format(ladder);
    let output_format = format::of(format);
    let (rungs, skipped) = rungs(source, preset, ladder)?;
    let row = preset.row();
    let copied = copied::copied_rung(source, preset, &rungs);
    let made = output_format.plan(&FormatRequest {
        source,
        rungs: &rungs,
        copied,
        video_codec: row.video_codec,
        rate_control: row.rate_control,
    })?;
    let picture = rungs.first().map_or_else(|| source.display(), |rung| rung.size);
    let stills = PlannedStills::of(stills, picture, source.expected_duration());
    let graph = match (copied, rungs.len()) {
        (Some(_), 1) => filter_graph(&source.video, &[], &stills, ""),
        (Some(_), _) => filter_graph(&source.video, &rungs, &stills, "").map(|graph| graph + ";[v0]nullsink"),
        (None, _) => filter_graph(&source.video, &rungs, &stills, ""),
    };
    // The arguments before `-i` are the same for every file.
    let decodes = graph.is_some() || copied.is_some();
    let mut input_options = input_args(MediaInput::File(Path::new("")), decodes, true);
    input_options.extend(made.input_options);
    let mut output_options: Vec<String> = vec![];
    output_options.extend(graph.into_iter().flat_map(|graph| ["-filter_complex".to_owned(), graph]));
    output_options.extend(made.output_options);
    if copied.is_some() && rungs.len() == 1 {
        // Nothing else decodes the whole picture, and a damaged one must not pass.
        output_options
            .extend(split_args(&format!("-map 0:{} -fps_mode passthrough -f null -", source.video.index)));
    }
    output_options.extend(stills.outputs());
    let entries = output_format.entry_documents().iter();
    Ok(Plan {
        outputs: made.outputs,
        format,
        entries: entries.map(|entry| EntryFile { kind: entry.kind, file: entry.file.to_owned() }).collect(),
        shared_audio: made.shared_audio,
        stills,
        has_audio: source.audio.is_some(),
        skipped,
        input_options,
        output_options,
    })
}

/// The arguments of FFmpeg before those of a stretch and `-i`. If it is `strict`, FFmpeg ends with the first error.
pub(super) fn input_args(input: MediaInput<'_>, decodes: bool, strict: bool) -> Vec<String> {
    let strict = if strict { "-xerror " } else { "" };
    let mut all = split_args(&format!(
        "-hide_banner -nostdin -loglevel level+info -benchmark {strict}-y -progress pipe:1 -nostats \
         -stats_period 0.5"
    ));
    all.extend(ffprobe::input_options(input, INPUT_FORMATS));
    // Not for ffprobe, which opens a decoder for every stream and fails for a file with subtitles if one is refused.
    all.extend(["-codec_whitelist".to_owned(), codecs::decoders()]);
    if decodes {
        // The header was checked; this also applies when the size changes within the stream.
        all.extend(split_args(&format!("-max_pixels {}", InputLimits::default().pixels)));
    }
    all
}

/// The filter graph from `[0:i]` to `[v0]`, `[v1]`, ..., largest first. Each still is made from the smallest
/// rung that is no smaller than itself; if there are no rungs because streams are copied, from the source.
/// `None` if no picture has to be decoded. `cut` is a chain of filters that selects frames, with a comma at its end.
pub(super) fn filter_graph(
    video: &Video,
    rungs: &[Rung],
    stills: &PlannedStills,
    cut: &str,
) -> Option<String> {
    if rungs.is_empty() {
        let size = stills.poster.or(stills.board.map(|board| board.size))?;
        let scaled = first_scale(video, size, cut);
        let feeds: Vec<&str> = stills.feeds().collect();
        return Some(format!("[0:{}]{scaled}{}{}", video.index, split(&feeds), stills.filters()));
    }
    let last = rungs.len().saturating_sub(1);
    let holds = |size: Dimensions| {
        rungs.iter().rposition(|r| r.size.width >= size.width && r.size.height >= size.height)
    };
    let poster = stills.poster.map(|size| holds(size).unwrap_or(0));
    let board = stills.board.map(|board| holds(board.size).unwrap_or(0));
    let mut graph = String::new();
    for (n, rung) in rungs.iter().enumerate() {
        let Dimensions { width, height } = rung.size;
        if n == 0 {
            graph += &format!("[0:{}]", video.index);
            graph += &first_scale(video, rung.size, cut);
        } else {
            graph += &format!(";[c{n}]scale={width}:{height},setsar=1");
        }
        let mut feeds = vec![format!("v{n}")];
        feeds.extend((n < last).then(|| format!("c{}", n + 1)));
        feeds.extend((poster == Some(n)).then(|| "p".to_owned()));
        feeds.extend((board == Some(n)).then(|| "s".to_owned()));
        graph += &split(&feeds);
    }
    Some(graph + &stills.filters())
}

/// The filter that copies a stream to these names.
fn split<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("[{}]", name.as_ref())).collect();
    if names.len() > 1 { format!(",split={}{}", names.len(), names.concat()) } else { names.concat() }
}

/// Filters from the source's frames to the largest rung: progressive, square pixels, SDR, 8 bit. Colours are
/// tagged explicitly, because players guess them by size, and a small copy of an HD film is not BT.601.
fn first_scale(video: &Video, Dimensions { width, height }: Dimensions, cut: &str) -> String {
    let deinterlace = if video.interlaced { "bwdif=mode=send_frame:deint=interlaced," } else { "" };
    // A deinterlacer looks at the frames around each, so that it comes before the cut.
    let scale = format!("{deinterlace}{cut}scale={width}:{height}");
    if video.transfer != Transfer::Sdr {
        // Scale first: tone mapping uses floats, and its cost depends on the number of pixels.
        return format!("{scale},{},setsar=1,{}", tone_map(video), tags("bt709", "bt709", "bt709"));
    }
    let is_601 = match video.matrix {
        Matrix::Bt601 => true,
        Matrix::Bt709 | Matrix::Other => false,
        Matrix::Unknown => video.width.min(video.height) < 720,
    };
    let (matrix, tags) = if is_601 {
        ("smpte170m", tags("smpte170m", "smpte170m", "smpte170m"))
    } else {
        ("bt709", tags("bt709", "bt709", "bt709"))
    };
    let from =
        if video.matrix == Matrix::Unknown { format!(":in_color_matrix={matrix}") } else { String::new() };
    format!("{scale}{from}:out_color_matrix={matrix}:out_range=tv,format=yuv420p,setsar=1,{tags}")
}

fn tags(matrix: &str, primaries: &str, transfer: &str) -> String {
    format!("setparams=range=tv:color_primaries={primaries}:color_trc={transfer}:colorspace={matrix}")
}

/// Filters from HDR to SDR. Values that the file does not specify are BT.2020, as PQ and HLG imply: zimg
/// refuses to guess.
fn tone_map(video: &Video) -> String {
    let transfer = if video.transfer == Transfer::Hlg { "arib-std-b67" } else { "smpte2084" };
    let primaries = if video.has_primaries { "" } else { "color_primaries=bt2020:" };
    let matrix = if video.matrix == Matrix::Unknown { "colorspace=bt2020nc:" } else { "" };
    format!(
        "setparams={primaries}{matrix}color_trc={transfer},zscale=t=linear:npl=100,format=gbrpf32le,\
         zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
    )
}

#[cfg(test)]
mod tests;
