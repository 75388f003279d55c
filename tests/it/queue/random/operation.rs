//! The operations of a random history.

use proptest::prelude::*;
use tcoder::job::StreamSegment;

use super::{JOBS, WORKERS};

#[derive(Clone, Copy, Debug)]
pub enum Look {
    /// The claim does not sweep.
    Away,
    /// The claim sweeps what is due now.
    Now,
    /// The claim sweeps later, when the deadlines of this many leases and delays each have passed.
    Later(u8),
}

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Submit {
        job: u8,
        begin: u8,
        terms: u8,
    },
    Uploaded {
        job: u8,
        fits: bool,
    },
    Claim {
        worker: u8,
        look: Look,
    },
    Renew {
        claim: u8,
        ms: i64,
    },
    Progress {
        claim: u8,
        percent: u32,
    },
    /// Of a part as well.
    Complete {
        claim: u8,
    },
    /// The claim of another task goes with the completion of a part.
    CompleteAndClaim {
        claim: u8,
        worker: u8,
    },
    Split {
        claim: u8,
        chunks: u32,
        at_once: u32,
    },
    /// A viewer waits for a segment of a split job: of a chunk, or of the sound.
    Await {
        job: u8,
        segment: StreamSegment,
    },
    Fail {
        claim: u8,
        retryable: bool,
    },
    FailUnverified {
        claim: u8,
    },
    Release {
        claim: u8,
    },
    Cancel {
        job: u8,
        why: u8,
    },
    Redrive {
        job: u8,
    },
    ExpireUpload {
        job: u8,
    },
    Sweep {
        limit: u8,
        past: u8,
    },
}

pub fn op() -> impl Strategy<Value = Op> {
    let job = 0..JOBS;
    // Mostly the latest claims; older ones are zombies.
    let claim = prop_oneof![4 => Just(0_u8), 2 => Just(1), 1 => 0..6_u8];
    let look = prop_oneof![2 => Just(Look::Away), 1 => Just(Look::Now), 3 => (1..4_u8).prop_map(Look::Later)];
    let segment = prop_oneof![
        2 => (0..5_u32).prop_map(StreamSegment::Video),
        1 => (0..5_u32).prop_map(StreamSegment::Audio)
    ];
    prop_oneof![
        6 => (job.clone(), 0..3_u8, 0..6_u8).prop_map(|(job, begin, terms)| Op::Submit { job, begin, terms }),
        3 => (job.clone(), prop::bool::weighted(0.8)).prop_map(|(job, fits)| Op::Uploaded { job, fits }),
        8 => (0..WORKERS, look).prop_map(|(worker, look)| Op::Claim { worker, look }),
        2 => (claim.clone(), -2000..2000_i64).prop_map(|(claim, ms)| Op::Renew { claim, ms }),
        1 => (claim.clone(), 0..100_u32).prop_map(|(claim, percent)| Op::Progress { claim, percent }),
        4 => claim.clone().prop_map(|claim| Op::Complete { claim }),
        4 => (claim.clone(), 0..WORKERS).prop_map(|(claim, worker)| Op::CompleteAndClaim { claim, worker }),
        3 => (claim.clone(), 0..4_u32, 1..4_u32)
            .prop_map(|(claim, chunks, at_once)| Op::Split { claim, chunks, at_once }),
        3 => (job.clone(), segment).prop_map(|(job, segment)| Op::Await { job, segment }),
        4 => (claim.clone(), any::<bool>()).prop_map(|(claim, retryable)| Op::Fail { claim, retryable }),
        1 => claim.clone().prop_map(|claim| Op::FailUnverified { claim }),
        2 => claim.prop_map(|claim| Op::Release { claim }),
        3 => (job.clone(), 0..3_u8).prop_map(|(job, why)| Op::Cancel { job, why }),
        2 => job.clone().prop_map(|job| Op::Redrive { job }),
        1 => job.prop_map(|job| Op::ExpireUpload { job }),
        2 => (1..4_u8, 0..3_u8).prop_map(|(limit, past)| Op::Sweep { limit, past }),
    ]
}
