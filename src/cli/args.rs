//! What can be typed. The texts are the help a newcomer reads, so they teach by example.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use url::Url;

use crate::job::{JobId, Ladder, Preset, State};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the job or the transcode failed; the reason is on stderr
  2  the command line was wrong
  3  the server could not be reached
  4  the server refused the request, or a local file was in the way
  5  a server role could not start
  130  interrupted by Ctrl-C";

/// Videos in, renditions out: transcoding on S3 storage, Redis and FFmpeg.
///
/// Try it on this machine:
///
///   tcoder up                                   everything, here (leave it running)
///   tcoder submit film.mov --preset hls-adaptive --wait --output out
///
/// Or only the encoder, without any server:
///
///   tcoder transcode film.mov --preset web-optimized --quality 720p,360p --output out
#[derive(Debug, Parser)]
#[command(name = "tcoder", version, verbatim_doc_comment, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the whole system on this machine: queue, storage, API and workers
    Up(UpArgs),
    /// Send a video (a file or a web address) to a running tcoder
    Submit(SubmitArgs),
    /// Look at jobs, cancel and retry them
    Jobs(JobsArgs),
    /// Transcode a file here and now, without queue or storage; for trying out presets
    Transcode(TranscodeArgs),
    /// Run the HTTP API on the Redis and the buckets named in the environment
    Api(ApiArgs),
    /// Run a worker on the Redis and the buckets named in the environment
    Worker,
}

/// Starts redis-server, an S3 server over a folder, the API and workers, and runs until Ctrl-C.
///
/// Everything is kept in the data folder, so the next start goes on where this one stopped. With
/// REDIS_URL set, that Redis is used instead. From this machine no token is needed; to listen on other
/// addresses set API_TOKENS.
#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// Folder for jobs, videos and keys
    #[arg(long, value_name = "DIR", default_value = "tcoder-data", env = "TCODER_DATA")]
    pub data: PathBuf,
    /// Address of the API; storage listens on the port after it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Worker processes; one FFmpeg uses all cores, so one is right for most machines
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub workers: u16,
}

#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}

/// Which server to talk to.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerArgs {
    /// Address of the API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", env = "TCODER_URL")]
    pub server: Url,
    /// One of the server's API_TOKENS, where it asks for one
    #[arg(long, value_name = "TOKEN", env = "TCODER_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// What to make of a video.
#[derive(Clone, Debug, Args)]
pub(super) struct WishArgs {
    /// default: copy the streams, or H.264 at a fixed bitrate with --quality;
    /// web-optimized: MP4 that plays everywhere and starts while it loads;
    /// hls: playlists with 4 s segments, one for each quality;
    /// hls-adaptive: one master playlist, players switch quality by themselves
    #[arg(long, value_name = "PRESET", default_value = "web-optimized")]
    pub preset: Preset,
    /// Renditions, with commas between: 144p 240p 360p 480p 720p 1080p 1440p 2160p.
    /// Nothing is scaled up. Without it the preset decides
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    pub quality: Ladder,
}

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// A video file, or an http(s) address the server fetches it from
    #[arg(value_name = "FILE|URL")]
    pub input: String,
    #[command(flatten)]
    pub wishes: WishArgs,
    /// Urgency from -100 to 100; one point is worth a minute of waiting
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i64,
    /// Where the server POSTs the result, signed, at the end
    #[arg(long, value_name = "URL")]
    pub webhook: Option<Url>,
    /// Wait for the end of the job, with progress
    #[arg(long)]
    pub wait: bool,
    /// Wait, and download the renditions into this folder
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print the job as JSON on stdout instead of words
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub(super) struct JobsArgs {
    #[command(subcommand)]
    pub command: JobsCommand,
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print JSON on stdout instead of words
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List jobs, newest first
    List {
        /// Only those in this state: uploading queued running completed failed cancelled
        #[arg(long, value_name = "STATE")]
        status: Option<State>,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show one job, its outputs or why it failed
    Get {
        /// The job's id
        id: JobId,
    },
    /// Call a job off; a running encode stops within seconds
    Cancel {
        /// The job's id
        id: JobId,
    },
    /// Give a failed or cancelled job another round of attempts
    Retry {
        /// The job's id
        id: JobId,
    },
    /// Follow a job to its end, with progress
    Watch {
        /// The job's id
        id: JobId,
        /// Download the renditions into this folder
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct TranscodeArgs {
    /// The video file
    #[arg(value_name = "FILE")]
    pub input: PathBuf,
    #[command(flatten)]
    pub wishes: WishArgs,
    /// Folder for the outputs
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub output: PathBuf,
    /// Print the result as JSON on stdout instead of words
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_words_are_refused_with_the_right_ones() {
        let error = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
        assert!(error("tcoder submit a.mp4 --preset HLS").contains("hls-adaptive"));
        assert!(error("tcoder submit a.mp4 --quality 721p").contains("1080p"));
        assert!(error("tcoder submit a.mp4 --quality 720p,720p").contains("twice"));
        assert!(error("tcoder jobs get 7").contains("UUID"));
    }
}
