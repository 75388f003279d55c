//! Measures how soon a video can be played after its upload, and how soon a part further on, through `tcoder up`.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use url::Url;

use crate::{Figures, TCODER, median};

/// The lengths of the videos, minutes.
const MINUTES: [u32; 3] = [1, 10, 120];
const FIGURES: [&str; 4] =
    ["first_play_ms_1_min", "first_play_ms_10_min", "first_play_ms_120_min", "seek_ahead_ms"];
const ROUNDS: usize = 3;
/// Pause between two looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub async fn measure(figures: &mut Figures, scratch: &Path) {
    if !figures.wants(&FIGURES) {
        return;
    }
    let minute = minute(scratch);
    let system = System::start(scratch).await;
    let mut seeks = Vec::new();
    for (minutes, name) in MINUTES.into_iter().zip(FIGURES) {
        let film = repeated(scratch, &minute, minutes);
        let mut waits = Vec::new();
        for _ in 0..ROUNDS {
            let (wait, seek) = system.first_play(&film, minutes > 1).await;
            waits.push(wait);
            seeks.extend(seek);
        }
        std::fs::remove_file(&film).unwrap();
        figures.put(name, median(waits), "ms");
    }
    figures.put("seek_ahead_ms", median(seeks), "ms");
}

/// A minute of 1080p with motion and a tone.
fn minute(scratch: &Path) -> PathBuf {
    let path = scratch.join("minute.mp4");
    ffmpeg(
        "-f lavfi -i testsrc2=size=1920x1080:rate=25:duration=60 -f lavfi -i sine=frequency=330:duration=60 \
         -c:v libx264 -preset veryfast -b:v 2M -maxrate 2M -bufsize 4M -g 50 -pix_fmt yuv420p -c:a aac",
        &path,
    );
    path
}

fn repeated(scratch: &Path, minute: &Path, minutes: u32) -> PathBuf {
    let path = scratch.join(format!("{minutes}-minutes.mp4"));
    ffmpeg(
        &format!("-stream_loop {} -i {} -c copy -movflags +faststart", minutes - 1, minute.display()),
        &path,
    );
    path
}

fn ffmpeg(arguments: &str, to: &Path) {
    let done = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y"])
        .args(arguments.split_whitespace())
        .arg(to)
        .status()
        .unwrap();
    assert!(done.success(), "ffmpeg {arguments}");
}

/// A running `tcoder up` with one warm worker.
struct System {
    up: Child,
    api: String,
    http: reqwest::Client,
}

impl Drop for System {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.up.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.up.wait();
    }
}

impl System {
    async fn start(scratch: &Path) -> Self {
        let mut up = Command::new(TCODER)
            .args(["up", "--listen", "127.0.0.1:0", "--max-machines", "1", "--min-machines", "1"])
            .args(["--data", &scratch.join("playing").display().to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(up.stdout.take().unwrap()).lines();
        let api = lines.map_while(Result::ok).find_map(|l| l.trim().strip_prefix("API").map(str::to_owned));
        let api = api.expect("tcoder up says where its API is").trim().to_owned();
        let system = Self { up, api, http: reqwest::Client::new() };
        while system.get("/api/status").await["workers"].as_array().is_none_or(Vec::is_empty) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        system
    }

    async fn get(&self, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.api)).send().await.unwrap().json().await.unwrap()
    }

    /// The milliseconds from the end of the upload until a player has the header and the first segment of the smallest
    /// rendition and of the sound; and, if `seeks`, from then until it has a segment near the end.
    async fn first_play(&self, film: &Path, seeks: bool) -> (f64, Option<f64>) {
        let body = json!({"preset": "hls-adaptive", "outputQualities": ["720p", "360p", "144p"]});
        let ticket = self.http.post(format!("{}/api/upload", self.api)).json(&body).send().await.unwrap();
        let ticket: Value = ticket.json().await.unwrap();
        let id = ticket["jobId"].as_str().unwrap();
        // curl does not read the file into memory.
        let put = Command::new("curl")
            .args(["-sf", "-o", "/dev/null", "-T"])
            .arg(film)
            .arg(ticket["uploadUrl"].as_str().unwrap())
            .status()
            .unwrap();
        assert!(put.success());
        let uploaded = Instant::now();
        let master: Url = loop {
            let job = self.get(&format!("/api/jobs/{id}")).await;
            if let Some(url) = job["playUrl"].as_str() {
                break url.parse().unwrap();
            }
            assert!(job["error"].is_null(), "{job:#}");
            tokio::time::sleep(LOOK_EVERY).await;
        };
        for folder in ["144p", "audio"] {
            let (header, segments) = self.playlist(&master, folder).await;
            self.fetch(&header).await;
            self.fetch(&segments[0]).await;
        }
        let played = uploaded.elapsed().as_secs_f64() * 1000.0;
        let mut sought = None;
        if seeks {
            let began = Instant::now();
            let (_, segments) = self.playlist(&master, "144p").await;
            self.fetch(&segments[segments.len() - 5]).await;
            sought = Some(began.elapsed().as_secs_f64() * 1000.0);
        }
        let cancelled = self.http.delete(format!("{}/api/jobs/{id}", self.api)).send().await.unwrap();
        assert!(cancelled.status().is_success());
        // Its parts are stopped before the next video.
        while self.get("/api/stats").await["running"] != 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        (played, sought)
    }

    /// The addresses of the header and the segments of a media playlist.
    async fn playlist(&self, master: &Url, folder: &str) -> (Url, Vec<Url>) {
        let url = master.join(&format!("{folder}/index.m3u8")).unwrap();
        let text = self.http.get(url.clone()).send().await.unwrap().text().await.unwrap();
        let header = text.split("URI=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let names = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        (url.join(header).unwrap(), names.map(|name| url.join(name).unwrap()).collect())
    }

    /// Asks for a file as players do, until it is there.
    async fn fetch(&self, url: &Url) {
        loop {
            let answer = self.http.get(url.clone()).send().await.unwrap();
            if answer.status().is_success() {
                answer.bytes().await.unwrap();
                return;
            }
            assert_eq!(answer.status(), 503, "{url}");
        }
    }
}
