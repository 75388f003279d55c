//! What FFmpeg is asked to do: one process, one decode, all renditions (pure).
//!
//! The picture is scaled in a cascade: the largest rung from the source, each further one from the
//! rung above it. Measured on FFmpeg 5.1 with a made-up 30 s 1080p H.264 clip to web-optimized
//! 720p, 360p and 144p, in CPU seconds: three runs 71.3, one run with each rung scaled from the
//! source 52.6 (0.74), the cascade 43.5 (0.61). PSNR of the encoded small rungs against the source
//! scaled directly is no lower in the cascade, whatever the reference scaler: 360p 36.85 dB against
//! 36.83, 144p 36.81 dB against 36.77 (bicubic; SSIM equal to three places).

use std::ffi::OsString;
use std::path::Path;

use crate::job::{Container, Dimensions, Failure, FailureCode, Label, Ladder, Preset, Skipped, Stills};

use super::ffprobe::{self, INPUT_FORMATS};
use super::ladder::{self, Rung};
use super::probe::{Audio, MAX_PIXELS, Matrix, Probe, Transfer, Video};
use super::stills::PlannedStills;

/// Length of an HLS segment, seconds.
pub const SEGMENT_SECONDS: u32 = 4;

/// The master playlist of an adaptive ladder.
const MASTER: &str = "master.m3u8";

/// Folder of the sound that adaptive rungs share.
const SHARED_AUDIO: &str = "audio";

/// What FFmpeg is asked to do and what must come out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The renditions, large to small.
    pub outputs: Vec<Planned>,
    /// The master playlist, relative to the output folder.
    pub master: Option<String>,
    /// The playlist of the sound that all rungs share.
    pub shared_audio: Option<String>,
    /// The stills beside them.
    pub stills: PlannedStills,
    /// Whether every rendition has sound.
    pub has_audio: bool,
    /// What was asked for and is not made.
    pub skipped: Vec<Skipped>,
    input_options: Vec<String>,
    output_options: Vec<String>,
}

/// One rendition to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Which rendition.
    pub label: Label,
    /// Its file or playlist, relative to the output folder.
    pub file: String,
    /// Pixels as displayed.
    pub size: Dimensions,
    /// How it is packaged.
    pub container: Container,
}

impl Plan {
    /// FFmpeg's arguments; it must run inside the output folder, since all outputs are named
    /// relative to it: `%` in a folder's name would mean something to the HLS muxer.
    #[must_use]
    pub fn arguments(&self, input: &Path) -> Vec<OsString> {
        let mut all: Vec<OsString> = self.input_options.iter().map(Into::into).collect();
        all.extend(["-i".into(), ffprobe::file_url(input)]);
        all.extend(self.output_options.iter().map(OsString::from));
        all
    }

    /// Folders that must be there before FFmpeg runs.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        let files = self.outputs.iter().map(|o| &o.file).chain(&self.shared_audio);
        files.filter_map(|file| file.split_once('/').map(|(folder, _)| folder))
    }

    /// Names that will stand in the output folder.
    #[must_use]
    pub fn top_level(&self) -> Vec<&str> {
        let files = self.outputs.iter().map(|o| &o.file).chain(&self.shared_audio).chain(&self.master);
        let tops = files.filter_map(|file| file.split('/').next());
        tops.chain(self.stills.files().map(|file| -> &str { file })).collect()
    }
}

/// Plans the renditions of `preset` from this source, and the stills beside them.
///
/// # Errors
/// When the source cannot be made into what was asked for.
pub fn plan(source: &Probe, preset: Preset, ladder: &Ladder, stills: Stills) -> Result<Plan, Failure> {
    let asked = preset.rungs(ladder);
    if asked.is_empty() {
        return remux(source, stills);
    }
    let (rungs, skipped) = ladder::select_rungs(source.display(), asked);
    let Some(first) = rungs.first() else {
        return Err(Failure::new(FailureCode::UnsupportedMedia, "no quality fits this video; ask for 144p"));
    };
    let stills = PlannedStills::of(stills, first.size, source.expected_duration());
    let mut options = vec!["-filter_complex".into(), filter_graph(&source.video, &rungs, &stills)];
    let mut plan = Plan {
        outputs: rungs.iter().map(|rung| planned(*rung, preset)).collect(),
        master: None,
        shared_audio: None,
        stills,
        has_audio: source.audio.is_some(),
        skipped,
        input_options: input_args(true),
        output_options: vec![],
    };
    if preset == Preset::HlsAdaptive {
        plan.master = Some(MASTER.into());
        plan.shared_audio = source.audio.as_ref().map(|_| format!("{SHARED_AUDIO}/index.m3u8"));
        options.extend(adaptive(&rungs, first.quality.audio_kbps(), source.audio.as_ref()));
    } else {
        for (n, (rung, output)) in rungs.iter().zip(&plan.outputs).enumerate() {
            options.extend(split_args(&format!("-map [v{n}]")));
            options.extend(audio_args(source.audio.as_ref(), rung.quality.audio_kbps()));
            options.extend(video_args(preset));
            options.extend(rate_control_args(*rung, preset, ""));
            options.extend(split_args(COMMON));
            options.extend(muxer_args(output));
        }
    }
    options.extend(stills.outputs());
    plan.output_options = options;
    Ok(plan)
}

/// Nothing of the source but the picture and the sound: no subtitles, data, titles, places, chapters.
const COMMON: &str = "-sn -dn -map_metadata -1 -map_chapters -1 -max_muxing_queue_size 1024";

fn split_args(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn input_args(decodes: bool) -> Vec<String> {
    let mut all = split_args(
        "-hide_banner -nostdin -loglevel level+info -benchmark -xerror -y -progress pipe:1 -nostats \
         -stats_period 0.5",
    );
    all.extend(ffprobe::input_options(INPUT_FORMATS));
    if decodes {
        // The header was checked; this holds when the size changes on the way.
        all.extend(split_args(&format!("-max_pixels {MAX_PIXELS}")));
    }
    all
}

fn planned(rung: Rung, preset: Preset) -> Planned {
    let name = rung.quality.name();
    let (file, container) = match preset {
        Preset::Default | Preset::WebOptimized => (format!("{name}.mp4"), Container::Mp4),
        Preset::Hls | Preset::HlsAdaptive => (format!("{name}/index.m3u8"), Container::Hls),
    };
    Planned { label: Label::Quality(rung.quality), file, size: rung.size, container }
}

/// The filter graph: `[0:i]` in, `[v0]`, `[v1]`, ... out, large to small. Each still is made of the smallest
/// rung that is no smaller than itself.
fn filter_graph(video: &Video, rungs: &[Rung], stills: &PlannedStills) -> String {
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
            graph += &first_scale(video, width, height);
        } else {
            graph += &format!(";[c{n}]scale={width}:{height},setsar=1");
        }
        let mut feeds = vec![format!("v{n}")];
        feeds.extend((n < last).then(|| format!("c{}", n + 1)));
        feeds.extend((poster == Some(n)).then(|| "p".to_owned()));
        feeds.extend((board == Some(n)).then(|| "s".to_owned()));
        graph += &split(&feeds);
    }
    graph + &stills.filters()
}

/// Hands a stream on under these names.
fn split<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("[{}]", name.as_ref())).collect();
    if names.len() > 1 { format!(",split={}{}", names.len(), names.concat()) } else { names.concat() }
}

/// From the source's frames to the largest rung: progressive, square pixels, SDR, 8 bit, with the
/// colours said aloud, since players guess by size and a small copy of an HD film is not BT.601.
fn first_scale(video: &Video, width: u32, height: u32) -> String {
    let deinterlace = if video.interlaced { "bwdif=mode=send_frame:deint=interlaced," } else { "" };
    let scale = format!("{deinterlace}scale={width}:{height}");
    if video.transfer != Transfer::Sdr {
        // Scaled first: tone mapping works on floats, and costs by the pixel.
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

/// HDR to SDR. What the file leaves unsaid is BT.2020, as PQ and HLG imply: zimg refuses to guess.
fn tone_map(video: &Video) -> String {
    let transfer = if video.transfer == Transfer::Hlg { "arib-std-b67" } else { "smpte2084" };
    let primaries = if video.has_primaries { "" } else { "color_primaries=bt2020:" };
    let matrix = if video.matrix == Matrix::Unknown { "colorspace=bt2020nc:" } else { "" };
    format!(
        "setparams={primaries}{matrix}color_trc={transfer},zscale=t=linear:npl=100,format=gbrpf32le,\
         zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
    )
}

/// The HLS muxer adds up the packets' durations, and x264 gives all of them that of the nominal rate:
/// with a variable rate a playlist would claim 1.2 s of 2.9. A packet lasts until the next one.
const TRUE_DURATIONS: &str =
    "setts=pts=PTS:dts=DTS:duration=if(eq(NEXT_DTS\\,NOPTS)\\,DURATION\\,NEXT_DTS-DTS)";

/// The encoder of the picture. `vfr` keeps each frame at its own time, none doubled.
fn video_args(preset: Preset) -> Vec<String> {
    let mut all = split_args("-c:v libx264 -preset fast -pix_fmt yuv420p -fps_mode vfr");
    if matches!(preset, Preset::Hls | Preset::HlsAdaptive) {
        all.extend(split_args("-g 48 -sc_threshold 0 -force_key_frames"));
        all.push(format!("expr:gte(t,n_forced*{SEGMENT_SECONDS})"));
        all.extend(["-bsf:v".into(), TRUE_DURATIONS.into()]);
    }
    all
}

/// Bitrate of one picture; `stream` is the specifier, such as `:v:0`.
fn rate_control_args(rung: Rung, preset: Preset, stream: &str) -> Vec<String> {
    let cap = rung.video_kbps();
    // Not both: x264 would take the bitrate as its aim and ignore the quality.
    let aim = match preset {
        Preset::Default => format!("-b:v {cap}k"),
        _ => format!("-crf{stream} 23"),
    };
    split_args(&format!("{aim} -maxrate{stream} {cap}k -bufsize{stream} {}k", cap * 2))
}

/// The sound: mono stays mono, anything more becomes stereo.
fn audio_args(audio: Option<&Audio>, kbps: u32) -> Vec<String> {
    let Some(audio) = audio else { return vec![] };
    let channels = if audio.channels == 1 { 1 } else { 2 };
    let mut all =
        split_args(&format!("-map 0:{} -c:a aac -b:a {kbps}k -ac {channels} -ar 48000", audio.index));
    if audio.channels > 8 {
        // More than 7.1 has no layout that could be mixed down: its first two channels are taken.
        all.extend(["-filter:a".into(), "pan=stereo|c0=c0|c1=c1".into()]);
    }
    all
}

fn muxer_args(output: &Planned) -> Vec<String> {
    let mut all = match output.container {
        Container::Mp4 => split_args("-movflags +faststart -f mp4"),
        Container::Mkv => split_args("-f matroska"),
        Container::Hls => split_args(&format!(
            "-f hls -hls_time {SEGMENT_SECONDS} -hls_playlist_type vod -hls_segment_type mpegts \
             -hls_flags independent_segments -hls_segment_filename {}/segment_%05d.ts",
            output.label
        )),
    };
    all.push(output.file.clone());
    all
}

/// All rungs and the shared sound in one HLS output. Its master playlist is written later, from what came out.
fn adaptive(rungs: &[Rung], audio_kbps: u32, audio: Option<&Audio>) -> Vec<String> {
    let mut all: Vec<String> = (0..rungs.len()).flat_map(|n| split_args(&format!("-map [v{n}]"))).collect();
    all.extend(audio_args(audio, audio_kbps));
    all.extend(video_args(Preset::HlsAdaptive));
    for (n, rung) in rungs.iter().enumerate() {
        all.extend(rate_control_args(*rung, Preset::HlsAdaptive, &format!(":v:{n}")));
    }
    all.extend(split_args(COMMON));
    all.extend(split_args(&format!(
        "-f hls -hls_time {SEGMENT_SECONDS} -hls_playlist_type vod -hls_segment_type fmp4 \
         -hls_flags independent_segments -hls_fmp4_init_filename init.mp4 \
         -hls_segment_filename %v/segment_%05d.m4s -var_stream_map"
    )));
    // One argument with spaces inside.
    let mut streams: Vec<String> =
        rungs.iter().enumerate().map(|(n, rung)| format!("v:{n},name:{}", rung.quality)).collect();
    if audio.is_some() {
        streams.push(format!("a:0,name:{SHARED_AUDIO}"));
    }
    all.extend([streams.join(" "), "%v/index.m3u8".to_owned()]);
    all
}

/// Copies picture and sound as they are, into MP4 where it can carry them.
fn remux(source: &Probe, stills: Stills) -> Result<Plan, Failure> {
    let video = source.video.codec.as_str();
    let audio = source.audio.as_ref();
    let mp4 = matches!(video, "h264" | "hevc" | "av1" | "vp9" | "mpeg4" | "mpeg2video")
        && audio.is_none_or(|a| matches!(a.codec.as_str(), "aac" | "mp3" | "ac3" | "eac3" | "opus" | "alac"));
    if !mp4 && source.video.rotation != 0 {
        // FFmpeg 5.1 drops the rotation there, and the copy would lie on its side.
        let message = "the video is turned for display, and a copy of its codecs needs MKV, which cannot \
                       say so; ask for a quality such as 720p";
        return Err(Failure::new(FailureCode::UnsupportedMedia, message));
    }
    let (file, container) =
        if mp4 { ("original.mp4", Container::Mp4) } else { ("original.mkv", Container::Mkv) };
    let output = Planned { label: Label::ORIGINAL, file: file.to_owned(), size: source.display(), container };
    let mut options = vec![];
    let stills = PlannedStills::of(stills, source.display(), source.expected_duration());
    if !stills.is_empty() {
        // Stills need the picture decoded; what is copied is not touched.
        let size = stills.poster.or(stills.board.map(|board| board.size));
        let Dimensions { width, height } = size.unwrap_or_else(|| source.display());
        let feeds: Vec<&str> = stills.feeds().collect();
        let scaled = first_scale(&source.video, width, height);
        let graph = format!("[0:{}]{scaled}{}{}", source.video.index, split(&feeds), stills.filters());
        options.extend(["-filter_complex".into(), graph]);
    }
    options.extend(split_args(&format!("-map 0:{}", source.video.index)));
    if let Some(audio) = audio {
        options.extend(split_args(&format!("-map 0:{}", audio.index)));
    }
    options.extend(split_args("-c copy"));
    if mp4 && video == "hevc" {
        // Apple's players know HEVC by this tag only.
        options.extend(split_args("-tag:v hvc1"));
    }
    options.extend(split_args(COMMON));
    options.extend(muxer_args(&output));
    options.extend(stills.outputs());
    let mut input_options = input_args(!stills.is_empty());
    // AVI has no presentation times; a copy cannot make them up later.
    input_options.extend(split_args("-fflags +genpts"));
    Ok(Plan {
        outputs: vec![output],
        master: None,
        shared_audio: None,
        stills,
        has_audio: audio.is_some(),
        skipped: vec![],
        input_options,
        output_options: options,
    })
}

#[cfg(test)]
mod tests;
