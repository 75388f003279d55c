//! What goes wrong in a run, and when: a pure function of the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tcoder::flyprovider::emulator::{EmulatedCall, Fault as FlyFault, Happening};

/// A process of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `tcoder api`, with the janitor in it.
    Api,
    /// `tcoder controller`, with the reconciler of the fleet in it.
    Controller,
}

/// Whose clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clock {
    Api,
    Controller,
    Workers,
}

/// What storage does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFault {
    /// It answers with this status, and does nothing.
    Status(u16),
    /// It answers late.
    Slow(Duration),
    /// It breaks off in the middle of an object.
    HalfBody,
    /// It does what it was asked to, and answers 503.
    LostAnswer,
}

/// What the receivers of webhooks do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiverFault {
    /// Nobody listens.
    Down,
    /// They answer with this status.
    Status(u16),
}

/// A fault. A `pick` selects one of those that exist at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    KillWorker {
        pick: usize,
    },
    /// SIGSTOP, and SIGCONT after this time.
    FreezeWorker {
        pick: usize,
        time: Duration,
    },
    Kill {
        role: Role,
    },
    Freeze {
        role: Role,
        time: Duration,
    },
    /// Redis is killed, and started again after this time.
    KillRedis {
        time: Duration,
    },
    FreezeRedis {
        time: Duration,
    },
    /// The replica takes over when it has every write; the old primary becomes a replica, and keeps its connections.
    FailOver,
    /// The replica takes over without the writes of the last moment; the old primary dies, and comes back as a replica.
    FailOverForgetting {
        time: Duration,
    },
    FlushScripts,
    /// One of `every` requests is hit.
    Storage {
        fault: StorageFault,
        every: u64,
        time: Duration,
    },
    Fly {
        action: EmulatedCall,
        fault: FlyFault,
        times: u32,
    },
    Machine {
        pick: usize,
        happens: Happening,
    },
    /// The disk of the worker that has a small one is full.
    FillDisk {
        time: Duration,
    },
    /// A clock is wrong by this many hours.
    Skew {
        clock: Clock,
        hours: i64,
        time: Duration,
    },
    Receivers {
        fault: ReceiverFault,
        time: Duration,
    },
}

/// A fault, and the pause before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub pause: Duration,
    pub fault: Fault,
}

/// How much goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Some faults, each once and for a short time.
    Short,
    /// All faults, again and again.
    Long,
}

/// The faults of a run. They end after the first round in a short one, and never in a long one.
pub fn schedule(seed: u64, extent: Extent) -> impl Iterator<Item = Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let rounds = if extent == Extent::Short { 1 } else { usize::MAX };
    (0..rounds).flat_map(move |_| round(&mut rng, extent))
}

fn millis(rng: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.random_range(from..=to))
}

/// Faults of every kind, in random order.
fn round(rng: &mut StdRng, extent: Extent) -> Vec<Step> {
    let mut faults = match extent {
        Extent::Short => short_faults(rng),
        Extent::Long => long_faults(rng),
    };
    faults.shuffle(rng);
    let (least, most) = if extent == Extent::Short { (700, 1600) } else { (1000, 5000) };
    faults.into_iter().map(|fault| Step { pause: millis(rng, least, most), fault }).collect()
}

fn short_faults(rng: &mut StdRng) -> Vec<Fault> {
    let storage = |fault, every, time| Fault::Storage { fault, every, time };
    vec![
        Fault::KillWorker { pick: rng.random_range(0..100) },
        // Longer than a lease.
        Fault::FreezeWorker { pick: rng.random_range(0..100), time: millis(rng, 31_000, 34_000) },
        Fault::Kill { role: Role::Api },
        Fault::Kill { role: Role::Controller },
        Fault::KillRedis { time: millis(rng, 0, 1500) },
        Fault::FailOver,
        Fault::FlushScripts,
        storage(StorageFault::Status(503), 1, millis(rng, 1000, 2500)),
        storage(StorageFault::Status(500), 2, millis(rng, 1000, 2500)),
        storage(StorageFault::HalfBody, 1, millis(rng, 1000, 2500)),
        storage(StorageFault::LostAnswer, 1, millis(rng, 1000, 2500)),
        fly_fault(rng, Extent::Short),
        Fault::FillDisk { time: millis(rng, 1000, 3000) },
        skew(rng, 2000, 4000),
        Fault::Receivers { fault: receiver_fault(rng), time: millis(rng, 2000, 4000) },
    ]
}

fn long_faults(rng: &mut StdRng) -> Vec<Fault> {
    let mut faults = vec![
        Fault::KillWorker { pick: rng.random_range(0..100) },
        Fault::KillWorker { pick: rng.random_range(0..100) },
        Fault::KillWorker { pick: rng.random_range(0..100) },
        Fault::FreezeWorker { pick: rng.random_range(0..100), time: millis(rng, 1000, 8000) },
        Fault::FreezeWorker { pick: rng.random_range(0..100), time: millis(rng, 31_000, 45_000) },
        Fault::FlushScripts,
        fly_fault(rng, Extent::Long),
        Fault::Machine { pick: rng.random_range(0..100), happens: Happening::Crashes },
        Fault::Machine { pick: rng.random_range(0..100), happens: Happening::Vanishes },
        Fault::FillDisk { time: millis(rng, 2000, 12_000) },
        skew(rng, 3000, 12_000),
        Fault::Receivers { fault: receiver_fault(rng), time: millis(rng, 3000, 15_000) },
    ];
    for role in [Role::Api, Role::Controller] {
        faults.push(Fault::Kill { role });
        faults.push(Fault::Freeze { role, time: millis(rng, 1000, 20_000) });
    }
    // One outage of Redis, so that leases are not spared all the time.
    faults.push(match rng.random_range(0..4) {
        0 => Fault::KillRedis { time: millis(rng, 0, 8000) },
        1 => Fault::FreezeRedis { time: millis(rng, 1000, 14_000) },
        2 => Fault::FailOver,
        _ => Fault::FailOverForgetting { time: millis(rng, 100, 1000) },
    });
    let mut of_storage = [
        StorageFault::Status(500),
        StorageFault::Status(503),
        StorageFault::Slow(millis(rng, 200, 3000)),
        StorageFault::HalfBody,
        StorageFault::LostAnswer,
    ];
    of_storage.shuffle(rng);
    for fault in of_storage.into_iter().take(3) {
        let every = rng.random_range(1..=3);
        faults.push(Fault::Storage { fault, every, time: millis(rng, 2000, 12_000) });
    }
    faults
}

fn skew(rng: &mut StdRng, least: u64, most: u64) -> Fault {
    let clock = [Clock::Api, Clock::Controller, Clock::Workers][rng.random_range(0..3)];
    let hours = if rng.random_bool(0.5) { 1 } else { -1 };
    Fault::Skew { clock, hours, time: millis(rng, least, most) }
}

fn receiver_fault(rng: &mut StdRng) -> ReceiverFault {
    if rng.random_bool(0.5) { ReceiverFault::Down } else { ReceiverFault::Status(500) }
}

/// A fault of the Machines API. Those after which the fleet waits for minutes are not in a short run.
fn fly_fault(rng: &mut StdRng, extent: Extent) -> Fault {
    let quick = [
        (EmulatedCall::List, FlyFault::Status { status: 503 }),
        (EmulatedCall::List, FlyFault::Slow { ms: 3000 }),
        (EmulatedCall::List, FlyFault::RateLimited { retry_after: Some(2) }),
        (EmulatedCall::List, FlyFault::PartialList { machines: 1 }),
        (EmulatedCall::Create, FlyFault::LostReply),
        (EmulatedCall::Create, FlyFault::DoneThen { status: 502 }),
        (EmulatedCall::Create, FlyFault::HostFull),
        (EmulatedCall::Start, FlyFault::LostReply),
        (EmulatedCall::Start, FlyFault::DoneThen { status: 502 }),
        (EmulatedCall::Start, FlyFault::Status { status: 500 }),
    ];
    let slow = [
        (EmulatedCall::Create, FlyFault::RegionFull),
        (EmulatedCall::Create, FlyFault::HostClosed),
        (EmulatedCall::Create, FlyFault::ImagePull),
        (EmulatedCall::Create, FlyFault::NeverStarts),
        (EmulatedCall::Start, FlyFault::Stuck),
        (EmulatedCall::Destroy, FlyFault::LostReply),
    ];
    let all = [&quick[..], if extent == Extent::Short { &[] } else { &slow[..] }].concat();
    let (action, fault) = all[rng.random_range(0..all.len())].clone();
    Fault::Fly { action, fault, times: rng.random_range(1..=2) }
}
