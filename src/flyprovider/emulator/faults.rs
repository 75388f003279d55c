//! What can be made to go wrong, and for which of the coming calls.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flyprovider::MachineId;

/// A call on the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// The machines.
    List,
    /// One machine.
    Get,
    /// Make one.
    Create,
    /// Start one.
    Start,
    /// Stop one.
    Stop,
    /// Destroy one.
    Destroy,
    /// Wait for a state.
    Wait,
    /// What happened to one.
    Events,
    /// Give one another configuration.
    Update,
    /// Restart one.
    Restart,
    /// What one's versions are.
    Versions,
    /// Take, see or give back the lease of one.
    Lease,
    /// See or change the metadata of one.
    Metadata,
}

/// Something that goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fault {
    /// 429; nothing is done.
    RateLimited {
        /// Seconds in `Retry-After`; Fly does not promise the header.
        retry_after: Option<u64>,
    },
    /// This status; nothing is done.
    Status {
        /// Such as 503.
        status: u16,
    },
    /// It is done, and then this status is answered.
    DoneThen {
        /// Such as 502.
        status: u16,
    },
    /// It is done, and then the connection breaks without an answer.
    LostReply,
    /// 409: the host has no room.
    HostFull,
    /// 503: the host takes no machines for now.
    HostClosed,
    /// 422: the region has no room.
    RegionFull,
    /// 403: over the quota.
    Quota,
    /// 403: the organisation has no payment method.
    Billing,
    /// A created machine stays `created` for ever.
    NeverStarts,
    /// The machine stays in the state between: `creating`, `starting`, `stopping`, `destroying`.
    Stuck,
    /// The image cannot be pulled: the machine becomes `launch_failed`.
    ImagePull,
    /// A list with this many machines at most, though there are more.
    PartialList {
        /// How many; 0 for an empty list.
        machines: usize,
    },
    /// The answer takes this much longer.
    Slow {
        /// How much.
        ms: u64,
    },
}

/// A script of faults, as `POST /_faults` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Order {
    /// The next so many calls of an action.
    Calls {
        action: Action,
        #[serde(flatten)]
        fault: Fault,
        #[serde(default = "once")]
        times: u32,
    },
    /// Something happens to a machine.
    Machine { machine: MachineId, happens: Happening },
    /// A region has no room from now on, or has room again.
    Region { region: String, full: bool },
}

const fn once() -> u32 {
    1
}

/// Something that happens to a machine by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Happening {
    /// Its process dies (SIGKILL).
    Crashes,
    /// It is gone without a trace, process and all.
    Vanishes,
    /// Fly cannot reach its host any more; its process runs on.
    HostLost,
    /// Fly can reach it again.
    HostFound,
}

/// The faults to come.
#[derive(Debug, Default)]
pub(super) struct Faults(BTreeMap<Action, VecDeque<(Fault, u32)>>);

impl Faults {
    pub fn add(&mut self, action: Action, fault: Fault, times: u32) {
        if times > 0 {
            self.0.entry(action).or_default().push_back((fault, times));
        }
    }

    /// The fault of this call, used up.
    pub fn take(&mut self, action: Action) -> Option<Fault> {
        let queue = self.0.get_mut(&action)?;
        let (fault, times) = queue.front_mut()?;
        let fault = fault.clone();
        *times -= 1;
        if *times == 0 {
            queue.pop_front();
        }
        Some(fault)
    }
}

/// A number of requests that may come at once, refilled over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    left: f64,
    at: Duration,
}

/// So many requests a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubrequestBudget {
    /// A second.
    pub per_second: f64,
    /// At once.
    pub burst: f64,
}

impl Bucket {
    pub const fn full(allowance: SubrequestBudget) -> Self {
        Self { left: allowance.burst, at: Duration::ZERO }
    }

    /// Takes one at this time, if there is one.
    pub fn take(&mut self, allowance: SubrequestBudget, now: Duration) -> bool {
        let grown = now.saturating_sub(self.at).as_secs_f64() * allowance.per_second;
        self.left = (self.left + grown).min(allowance.burst);
        self.at = now;
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_used_up_in_their_order() {
        let mut faults = Faults::default();
        faults.add(Action::Create, Fault::LostReply, 2);
        faults.add(Action::Create, Fault::Quota, 1);
        faults.add(Action::Stop, Fault::Stuck, 0);
        let next: Vec<_> = (0..4).map(|_| faults.take(Action::Create)).collect();
        let lost = Some(Fault::LostReply);
        assert_eq!(next, [lost.clone(), lost, Some(Fault::Quota), None]);
        assert_eq!((faults.take(Action::List), faults.take(Action::Stop)), (None, None));
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_by_the_second() {
        let allowance = SubrequestBudget { per_second: 1.0, burst: 3.0 };
        let mut bucket = Bucket::full(allowance);
        let mut at = |ms| bucket.take(allowance, Duration::from_millis(ms));
        assert_eq!([at(0), at(0), at(0), at(0)], [true, true, true, false]);
        assert_eq!([at(900), at(1000), at(1999), at(2000)], [false, true, false, true]);
        assert_eq!([at(60_000), at(60_000), at(60_000), at(60_000)], [true, true, true, false]);
    }

    #[test]
    fn scripts_are_read() {
        let read = |json: &str| serde_json::from_str::<Order>(json);
        let fault = Fault::RateLimited { retry_after: Some(3) };
        assert_eq!(
            read(r#"{"action":"create","fault":"rateLimited","retryAfter":3,"times":4}"#).unwrap(),
            Order::Calls { action: Action::Create, fault, times: 4 }
        );
        assert_eq!(
            read(r#"{"machine":"m","happens":"hostLost"}"#).unwrap(),
            Order::Machine { machine: MachineId("m".into()), happens: Happening::HostLost }
        );
        assert!(read(r#"{"action":"create","fault":"rain"}"#).is_err());
    }
}
