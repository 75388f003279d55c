//! Selects the rungs of a ladder that a source can fill, and computes their sizes (pure).

use crate::job::{Dimensions, Quality, Skipped};

/// A rung that is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rung {
    pub quality: Quality,
    pub size: Dimensions,
}

impl Rung {
    /// Maximum video bitrate, kbit/s. A rung in the size of the source needs no more than the smallest
    /// quality that contains this size: 360 lines requested as 2160p are still 360 lines.
    pub(crate) fn video_kbps(self) -> u32 {
        let holds = |q: &Quality| {
            let room = turned(q.fit(), self.size);
            room.width >= self.size.width && room.height >= self.size.height
        };
        let enough = Quality::ALL.iter().copied().find(holds).unwrap_or(self.quality);
        enough.min(self.quality).video_kbps()
    }

    /// The size of the buffer by which the bit rate is limited, kbit: two seconds at the maximum.
    pub(crate) fn buffer_kbit(self) -> u32 {
        2 * self.video_kbps()
    }
}

/// The box in the orientation of the picture: swapped for portrait.
fn turned(room: Dimensions, picture: Dimensions) -> Dimensions {
    if picture.height > picture.width { Dimensions { width: room.height, height: room.width } } else { room }
}

/// The size of `source` in the box of a quality: never stretched, never enlarged, both sides even. Also
/// returns whether the source fits into the box unscaled.
fn fit(source: Dimensions, quality: Quality) -> (Dimensions, bool) {
    let room = turned(quality.fit(), source);
    let (across, down) = (f64::from(source.width), f64::from(source.height));
    let factor = (f64::from(room.width) / across).min(f64::from(room.height) / down);
    let own = factor >= 1.0;
    let factor = factor.min(1.0);
    let even = |n: f64, most: u32| (((n / 2.0).round() as u32) * 2).min(most & !1).max(2);
    let size = Dimensions {
        width: even(across * factor, room.width.min(source.width)),
        height: even(down * factor, room.height.min(source.height)),
    };
    (size, own)
}

/// The rungs to encode, largest first, and the requested ones that are skipped, with reasons.
pub(super) fn select_rungs(source: Dimensions, mut asked: Vec<Quality>) -> (Vec<Rung>, Vec<Skipped>) {
    asked.sort_unstable();
    let (mut rungs, mut skipped): (Vec<Rung>, Vec<Skipped>) = (vec![], vec![]);
    let mut full: Option<Quality> = None;
    for quality in asked {
        let (size, own) = fit(source, quality);
        let skip = |reason| Skipped { quality, reason };
        let twin = rungs.iter().find(|r| r.size == size);
        match (full, twin) {
            (Some(kept), _) => {
                let Dimensions { width, height } = source;
                let why = format!("the source is only {width}x{height}, and {kept} already shows all of it");
                skipped.push(skip(why));
            }
            (None, Some(twin)) => {
                skipped.push(skip(format!("it would come out as large as {}", twin.quality)));
            }
            (None, None) => rungs.push(Rung { quality, size }),
        }
        if own && full.is_none() {
            full = Some(rungs.iter().find(|r| r.size == size).map_or(quality, |r| r.quality));
        }
    }
    rungs.reverse();
    skipped.reverse();
    (rungs, skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(width: u32, height: u32, asked: &[Quality]) -> Vec<(Quality, u32, u32)> {
        let (rungs, skipped) = select_rungs(Dimensions { width, height }, asked.to_vec());
        assert_eq!(rungs.len() + skipped.len(), asked.len());
        rungs.into_iter().map(|r| (r.quality, r.size.width, r.size.height)).collect()
    }

    use Quality::{P144, P240, P360, P480, P720, P1080, P1440, P2160};

    #[test]
    fn landscape_and_portrait_fill_the_same_boxes() {
        assert_eq!(
            filled(1920, 1080, &[P144, P360, P720]),
            [(P720, 1280, 720), (P360, 640, 360), (P144, 256, 144)]
        );
        assert_eq!(filled(1080, 1920, &[P720, P360]), [(P720, 720, 1280), (P360, 360, 640)]);
        assert_eq!(filled(1000, 1000, &[P360]), [(P360, 360, 360)]);
        assert_eq!(filled(1920, 800, &[P720]), [(P720, 1280, 534)]);
        assert_eq!(filled(1920, 1080, &[P480, P240]), [(P480, 854, 480), (P240, 426, 240)]);
    }

    #[test]
    fn nothing_is_enlarged_and_one_rung_shows_the_source_as_it_is() {
        assert_eq!(filled(640, 360, &[P144, P360, P720, P1080]), [(P360, 640, 360), (P144, 256, 144)]);
        assert_eq!(filled(500, 300, &[P1080, P720, P144]), [(P720, 500, 300), (P144, 240, 144)]);
        assert_eq!(filled(101, 99, &[P2160]), [(P2160, 100, 98)]);
        let (_, skipped) = select_rungs(Dimensions { width: 640, height: 360 }, vec![P360, P720, P1080]);
        assert_eq!(skipped.iter().map(|s| s.quality).collect::<Vec<_>>(), [P1080, P720]);
        assert!(skipped[0].reason.contains("only 640x360"), "{}", skipped[0].reason);
    }

    #[test]
    fn two_rungs_of_one_size_are_one() {
        assert_eq!(filled(20, 20, &[P144, P240]), [(P144, 20, 20)]);
        let (rungs, skipped) = select_rungs(Dimensions { width: 257, height: 144 }, vec![P144, P240]);
        assert_eq!(rungs.len(), 1, "{rungs:?}");
        assert!(skipped[0].reason.contains("144p"), "{skipped:?}");
    }

    #[test]
    fn the_bitrate_is_that_of_the_size_not_of_the_wish() {
        let kbps = |w, h, q| select_rungs(Dimensions { width: w, height: h }, vec![q]).0[0].video_kbps();
        assert_eq!(kbps(640, 360, P2160), P360.video_kbps());
        assert_eq!(kbps(360, 640, P2160), P360.video_kbps());
        assert_eq!(kbps(1920, 1080, P720), P720.video_kbps());
        assert_eq!(kbps(1000, 562, P1440), P720.video_kbps());
        assert_eq!(kbps(3840, 2160, P2160), P2160.video_kbps());
    }

    proptest! {
        #[test]
        fn any_source_fills_any_ladder(
            width in 16u32..9000, height in 16u32..9000,
            asked in prop::sample::subsequence(Quality::ALL.to_vec(), 1..=8),
        ) {
            let source = Dimensions { width, height };
            let (rungs, skipped) = select_rungs(source, asked.clone());
            prop_assert!(!rungs.is_empty());
            let mut all: Vec<Quality> =
                rungs.iter().map(|r| r.quality).chain(skipped.iter().map(|s| s.quality)).collect();
            all.sort_unstable();
            prop_assert_eq!(all, asked);
            for pair in rungs.windows(2) {
                prop_assert!(pair[0].quality > pair[1].quality);
                prop_assert_ne!(pair[0].size, pair[1].size);
                prop_assert!(pair[0].size.width >= pair[1].size.width);
                prop_assert!(pair[0].size.height >= pair[1].size.height);
                prop_assert!(pair[0].video_kbps() >= pair[1].video_kbps());
            }
            for rung in rungs {
                let Dimensions { width: w, height: h } = rung.size;
                let room = turned(rung.quality.fit(), source);
                prop_assert!(w % 2 == 0 && h % 2 == 0 && w >= 2 && h >= 2);
                prop_assert!(w <= room.width && h <= room.height);
                prop_assert!(w <= width && h <= height);
                // One side is exact to two pixels; the other differs by its own rounding at most.
                let across = f64::from(w) - f64::from(h) * f64::from(width) / f64::from(height);
                let down = f64::from(h) - f64::from(w) * f64::from(height) / f64::from(width);
                prop_assert!(across.abs() <= 2.5 || down.abs() <= 2.5, "{w}x{h}");
            }
        }
    }
}
