//! What the plan of a split video promises, for `crate::fuzz`.

use super::{SplitPlan, playing_documents};

/// A plan as Redis keeps it.
pub(crate) fn check_plan(bytes: &[u8]) {
    let Ok(plan) = serde_json::from_slice::<SplitPlan>(bytes) else { return };
    let count = plan.chunks.count();
    assert!((1..=1_000).contains(&count), "{count} chunks");
    let mut next = 0;
    for chunk in 0..count {
        let segments = plan.chunks.segments_of(chunk);
        assert!(segments.start == next && !segments.is_empty(), "{segments:?}");
        next = segments.end;
        assert!(plan.chunks.seconds_of(segments.start).is_finite() && plan.boundary(next).is_finite());
    }
    assert_eq!(next, plan.chunks.segments());
    assert!(plan.shift().is_finite() && plan.frame_distance().is_finite());
    let _ = (plan.rungs(), plan.copied(), plan.encoded(), plan.whole());
    if plan.chunks.segments() < 1_000 {
        let _ = playing_documents(&plan);
    }
}
