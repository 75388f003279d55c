//! Rates of amounts in segments (pure). Amounts are bits or frames; each has a duration in seconds.
//!
//! RFC 8216, 4.1: "The peak segment bit rate of a Media Playlist is the largest bit rate of any contiguous set of
//! segments whose total duration is between 0.5 and 1.5 times the target duration."
//! <https://www.rfc-editor.org/rfc/rfc8216#section-4.1>

/// Sums of decimal fractions have smaller errors than this.
const TOLERANCE: f64 = 1e-9;

/// The maximum rate of any run of segments that lasts between 0.5 and 1.5 times `target` seconds. If the
/// total is shorter than that, the maximum rate of a single segment.
pub(crate) fn peak(segments: &[(f64, f64)], target: f64) -> f64 {
    let (least, most) = (target * 0.5 - TOLERANCE, target * 1.5 + TOLERANCE);
    let mut peak: Option<f64> = None;
    for start in 0..segments.len() {
        let (mut amount, mut seconds) = (0.0, 0.0);
        for (more, longer) in &segments[start..] {
            amount += more;
            seconds += longer;
            if seconds > most {
                break;
            }
            if seconds >= least && seconds > 0.0 {
                peak = Some(peak.unwrap_or_default().max(amount / seconds));
            }
        }
    }
    let single =
        || segments.iter().filter(|(_, s)| *s > 0.0).map(|(amount, s)| amount / s).fold(0.0, f64::max);
    peak.unwrap_or_else(single)
}

/// The average rate of all segments.
pub(crate) fn average(segments: &[(f64, f64)]) -> f64 {
    let seconds: f64 = segments.iter().map(|(_, seconds)| seconds).sum();
    if seconds > 0.0 { segments.iter().map(|(amount, _)| amount).sum::<f64>() / seconds } else { 0.0 }
}

/// A frame rate, rounded to three decimals as in RFC 8216, 4.3.4.2. Containers with timestamps in
/// milliseconds cause errors of up to one in 4,000, so a measured rate that is this close to n or n * 1000 /
/// 1001 is replaced by it.
pub(crate) fn nominal(measured: f64) -> f64 {
    let whole = measured.round();
    let ntsc = (measured * 1.001).round() / 1.001;
    let near = |rate: f64| (measured - rate).abs() <= rate * 0.0003;
    let rate = [whole, ntsc].into_iter().find(|rate| near(*rate)).unwrap_or(measured);
    (rate * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_peak_is_of_runs_between_half_and_one_and_a_half_of_the_target() {
        // 2 s and 6 s count, 1.9 s and 6.1 s do not.
        assert_eq!(peak(&[(10.0, 4.0), (40.0, 2.0)], 4.0), 20.0);
        assert_eq!(peak(&[(12.0, 4.0), (40.0, 1.9)], 4.0), 52.0 / 5.9);
        assert_eq!(peak(&[(12.0, 4.0), (400.0, 0.1), (12.0, 4.0)], 4.0), 412.0 / 4.1);
        // Short segments count together.
        assert_eq!(peak(&[(9.0, 0.5), (9.0, 0.5), (9.0, 0.5), (9.0, 0.5), (1.0, 4.0)], 4.0), 18.0);
    }

    #[test]
    fn a_playlist_shorter_than_half_its_target_has_the_peak_of_a_segment() {
        assert_eq!(peak(&[(3.0, 0.3)], 1.0), 10.0);
        assert_eq!(peak(&[], 4.0), 0.0);
        assert_eq!(peak(&[(3.0, 0.0)], 1.0), 0.0);
    }

    #[test]
    fn the_average_is_of_all() {
        assert_eq!(average(&[(10.0, 4.0), (40.0, 1.0)]), 10.0);
        assert_eq!(average(&[]), 0.0);
    }

    #[test]
    fn a_measured_frame_rate_is_the_one_that_was_meant() {
        for (measured, meant) in [
            (96.0 / 4.004, 23.976),
            (96.0 / 4.003, 23.976),
            (120.0 / 4.004, 29.97),
            (240.0 / 4.005, 59.94),
            (100.0 / 4.001, 25.0),
            (199.0 / 3.98, 50.0),
            (41.0 / 4.0, 10.25),
            (0.0, 0.0),
        ] {
            assert_eq!(nominal(measured), meant, "{measured}");
        }
        assert!(nominal(24.0) == 24.0 && nominal(23.99) == 23.99);
    }

    proptest! {
        #[test]
        fn no_run_within_the_bounds_is_above_the_peak(
            segments in proptest::collection::vec((0u32..100_000, 1u32..5000), 1..12),
        ) {
            let segments: Vec<(f64, f64)> =
                segments.iter().map(|(n, ms)| (f64::from(*n), f64::from(*ms) / 1000.0)).collect();
            let peak = peak(&segments, 4.0);
            for from in 0..segments.len() {
                for to in from + 1..=segments.len() {
                    let seconds: f64 = segments[from..to].iter().map(|s| s.1).sum();
                    if (2.0..=6.0).contains(&seconds) {
                        prop_assert!(average(&segments[from..to]) <= peak + 1e-6);
                    }
                }
            }
        }
    }
}
