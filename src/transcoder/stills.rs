//! Stills besides the renditions, made in the same FFmpeg process from the same decode: a poster, and a
//! storyboard, which is one JPEG of many small stills with a WebVTT file that gives the time of each (pure).
//!
//! The WebVTT refers to a region of the image by a media fragment, `#xywh=x,y,w,h`, which players support for
//! seek bars. <https://www.w3.org/TR/webvtt1/>, <https://www.w3.org/TR/media-frags/#naming-space>

use std::fmt::Write as _;

use crate::job::{Dimensions, Stills};

/// The file name of the poster.
pub(super) const POSTER: &str = "poster.jpg";
/// The file name of the storyboard's image.
const BOARD: &str = "storyboard.jpg";
/// The file name of the WebVTT file.
const CUES: &str = "storyboard.vtt";

/// Maximum length of a side of the poster, pixels.
const POSTER_SIDE: u32 = 1280;
/// Maximum length of a side of a storyboard's still, pixels.
const STILL_SIDE: u32 = 160;
/// Stills per row, and maximum number of rows. Ten rows of ten make an image of at most 1600 pixels a side.
const COLUMNS: u32 = 10;
const MAX_STILLS: u32 = 100;
/// Minimum number of seconds between stills, also used if the duration is unknown.
const LEAST_INTERVAL: u32 = 2;
const BLIND_INTERVAL: u32 = 10;

/// The planned stills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlannedStills {
    /// The size of the poster.
    pub poster: Option<Dimensions>,
    /// The storyboard.
    pub board: Option<Board>,
}

/// A storyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// The size of one still.
    pub size: Dimensions,
    /// Seconds between two stills.
    pub interval: u32,
    /// Number of rows.
    pub rows: u32,
}

/// The size of a picture with neither side longer than `side`, both even; never enlarged.
fn within(picture: Dimensions, side: u32) -> Dimensions {
    let longest = picture.width.max(picture.height);
    let scaled = |n: u32| {
        let n = if longest > side {
            (u64::from(n) * u64::from(side) / u64::from(longest.max(1))) as u32
        } else {
            n
        };
        (n & !1).max(2)
    };
    Dimensions { width: scaled(picture.width), height: scaled(picture.height) }
}

impl Board {
    /// The number of stills for a video of this duration: one per interval, starting at 0.
    pub fn count(&self, seconds: f64) -> u32 {
        let last = (seconds.max(0.0) / f64::from(self.interval)).floor();
        (last as u32).saturating_add(1).min(self.rows * COLUMNS)
    }

    /// The size of the image.
    pub fn picture(&self) -> Dimensions {
        Dimensions { width: self.size.width * COLUMNS, height: self.size.height * self.rows }
    }

    /// The WebVTT file for a video of this duration.
    pub fn cues(&self, seconds: f64) -> String {
        let mut text = String::from("WEBVTT\n");
        let count = self.count(seconds);
        for n in 0..count {
            let from = f64::from(n * self.interval);
            // The last still lasts until the end, even if there was no room for further ones.
            let to =
                if n + 1 == count { seconds.max(from + 0.001) } else { f64::from((n + 1) * self.interval) };
            let Dimensions { width, height } = self.size;
            let (x, y) = (n % COLUMNS * width, n / COLUMNS * height);
            let _ =
                write!(text, "\n{} --> {}\n{BOARD}#xywh={x},{y},{width},{height}\n", clock(from), clock(to));
        }
        text
    }
}

/// `01:02:03.004`
fn clock(seconds: f64) -> String {
    let ms = (seconds * 1000.0).round() as u64;
    let (s, m, h) = (ms / 1000 % 60, ms / 60_000 % 60, ms / 3_600_000);
    format!("{h:02}:{m:02}:{s:02}.{:03}", ms % 1000)
}

impl PlannedStills {
    /// Plans the requested stills for a picture of this size and duration.
    pub fn of(asked: Stills, picture: Dimensions, seconds: Option<f64>) -> Self {
        let board = || {
            let interval = match seconds {
                // One still more than there are intervals: the first is at 0.
                Some(seconds) => {
                    LEAST_INTERVAL.max((seconds.max(0.0) / f64::from(MAX_STILLS - 1)).ceil() as u32)
                }
                None => BLIND_INTERVAL,
            };
            let size = within(picture, STILL_SIDE);
            let mut board = Board { size, interval, rows: MAX_STILLS / COLUMNS };
            if let Some(seconds) = seconds {
                board.rows = board.count(seconds).div_ceil(COLUMNS);
            }
            board
        };
        Self {
            poster: asked.poster.then(|| within(picture, POSTER_SIDE)),
            board: asked.storyboard.then(board),
        }
    }

    /// Names of the streams in the filter graph that the stills are made from.
    pub fn feeds(&self) -> impl Iterator<Item = &'static str> {
        [self.poster.map(|_| "p"), self.board.map(|_| "s")].into_iter().flatten()
    }

    /// The filters that make the stills from `[p]` and `[s]`; each begins with a semicolon.
    pub fn filters(&self) -> String {
        // The colours of JPEG, independent of those of the video.
        const JPEG: &str = "out_color_matrix=smpte170m:out_range=pc,format=yuvj420p,setsar=1";
        let mut graph = String::new();
        if let Some(Dimensions { width, height }) = self.poster {
            // The most typical frame of the first ten seconds: neither black nor a fade.
            graph += &format!(
                ";[p]select=isnan(prev_selected_t)+gte(t-prev_selected_t\\,0.5),\
                 scale={width}:{height}:{JPEG},thumbnail=n=20[poster]"
            );
        }
        if let Some(Board { size: Dimensions { width, height }, interval, rows }) = self.board {
            // Rounded up, so that even the shortest video has a still.
            graph += &format!(
                ";[s]fps=fps=1/{interval}:start_time=0:round=up,scale={width}:{height}:{JPEG},\
                 tile={COLUMNS}x{rows}[board]"
            );
        }
        graph
    }

    /// The arguments of the outputs, which follow those of the renditions.
    pub fn outputs(&self) -> Vec<String> {
        let still = |stream: &str, file: &str, quality: u32| {
            format!(
                "-map {stream} -frames:v 1 -c:v mjpeg -q:v {quality} -map_metadata -1 -update 1 -f image2 {file}"
            )
        };
        let poster = self.poster.map(|_| still("[poster]", POSTER, 3));
        let board = self.board.map(|_| still("[board]", BOARD, 5));
        let all = [poster, board].into_iter().flatten();
        all.flat_map(|words| words.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// The images, and the size that each must have.
    pub fn pictures(&self) -> Vec<(&'static str, Dimensions)> {
        let poster = self.poster.map(|size| (POSTER, size));
        let board = self.board.map(|board| (BOARD, board.picture()));
        [poster, board].into_iter().flatten().collect()
    }

    /// The name and content of the WebVTT file, if there is a storyboard.
    pub fn cues(&self, seconds: f64) -> Option<(&'static str, String)> {
        self.board.map(|board| (CUES, board.cues(seconds)))
    }

    /// Names of all files of the stills.
    pub fn files(&self) -> impl Iterator<Item = &'static str> {
        let board = self.board.map(|_| [BOARD, CUES]);
        self.poster.map(|_| POSTER).into_iter().chain(board.into_iter().flatten())
    }
}

/// Number of stills in a row of a storyboard.
pub(crate) const fn columns() -> u32 {
    COLUMNS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: Stills = Stills { poster: true, storyboard: true };

    fn of(width: u32, height: u32, seconds: Option<f64>) -> PlannedStills {
        PlannedStills::of(BOTH, Dimensions { width, height }, seconds)
    }

    #[test]
    fn nothing_is_made_unasked() {
        let none = PlannedStills::of(Stills::default(), Dimensions { width: 640, height: 360 }, Some(10.0));
        assert!(none.outputs().is_empty() && none.filters().is_empty());
        assert_eq!((none.feeds().count(), none.files().count(), none.pictures().len()), (0, 0, 0));
    }

    #[test]
    fn sizes_keep_the_shape() {
        let stills = of(1920, 1080, Some(10.0));
        assert_eq!(stills.poster, Some(Dimensions { width: 1280, height: 720 }));
        assert_eq!(stills.board.unwrap().size, Dimensions { width: 160, height: 90 });
        assert_eq!(of(1080, 1920, None).board.unwrap().size, Dimensions { width: 90, height: 160 });
        assert_eq!(of(101, 51, None).poster, Some(Dimensions { width: 100, height: 50 }));
    }

    #[test]
    fn the_cues_say_where_and_when() {
        let board = of(640, 360, Some(23.5)).board.unwrap();
        assert_eq!((board.interval, board.rows, board.count(23.5)), (2, 2, 12));
        let cues = board.cues(23.5);
        assert!(
            cues.starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nstoryboard.jpg#xywh=0,0,160,90\n\n")
        );
        assert!(
            cues.ends_with("\n\n00:00:22.000 --> 00:00:23.500\nstoryboard.jpg#xywh=160,90,160,90\n"),
            "{cues}"
        );
        assert_eq!(clock(3_723.004), "01:02:03.004");
    }

    #[test]
    fn an_unknown_length_has_room_for_a_while() {
        let board = of(640, 360, None).board.unwrap();
        assert_eq!((board.interval, board.rows), (10, 10));
        assert_eq!((board.count(0.04), board.count(95.0), board.count(1e9)), (1, 10, 100));
    }

    proptest! {
        #[test]
        fn every_length_has_its_stills(seconds in 0.0..500_000.0f64, width in 2..8000u32, height in 2..8000u32) {
            let board = of(width, height, Some(seconds)).board.unwrap();
            let count = board.count(seconds);
            prop_assert!((1..=MAX_STILLS).contains(&count));
            prop_assert!(board.rows == count.div_ceil(COLUMNS));
            prop_assert!(board.picture().width <= 1600 && board.picture().height <= 1600);
            // The stills reach the end of the video.
            prop_assert!(f64::from(count * board.interval) >= seconds, "{count} every {}", board.interval);
            prop_assert_eq!(board.cues(seconds).matches("-->").count(), count as usize);
        }
    }
}
