//! Faults that can be injected, and the requests that they apply to.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flyprovider::MachineId;

/// An action of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EmulatedCall {
    /// List the machines.
    List,
    /// Read a machine.
    Get,
    /// Create a machine.
    Create,
    /// Start a machine.
    Start,
    /// Stop a machine.
    Stop,
    /// Destroy a machine.
    Destroy,
    /// Wait for a state.
    Wait,
    /// Read the events of a machine.
    Events,
    /// Replace the configuration of a machine.
    Update,
    /// Restart a machine.
    Restart,
    /// List the versions of a machine.
    Versions,
    /// Acquire, read or release the lease of a machine.
    Lease,
    /// Read or change the metadata of a machine.
    Metadata,
}

/// A fault of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fault {
    /// 429; the request is not carried out.
    RateLimited {
        /// Seconds in `Retry-After`; Fly does not guarantee this header.
        retry_after: Option<u64>,
    },
    /// This status; the request is not carried out.
    Status {
        /// The HTTP status, such as 503.
        status: u16,
    },
    /// The request is carried out, and this status is returned.
    DoneThen {
        /// The HTTP status, such as 502.
        status: u16,
    },
    /// The request is carried out, and the connection is closed without a response.
    LostReply,
    /// 409: the host has no capacity.
    HostFull,
    /// 503: the host accepts no machines for now.
    HostClosed,
    /// 422: the region has no capacity.
    RegionFull,
    /// 403: the quota is exceeded.
    Quota,
    /// 403: the organization has no payment method.
    Billing,
    /// The created machine stays in `created` forever.
    NeverStarts,
    /// The machine stays in the transitional state: `creating`, `starting`, `stopping`, `destroying`.
    Stuck,
    /// The image cannot be pulled: the machine becomes `launch_failed`.
    ImagePull,
    /// The list contains at most this many machines, although there are more.
    PartialList {
        /// The number of machines; 0 for an empty list.
        machines: usize,
    },
    /// The response is delayed.
    Slow {
        /// The delay in milliseconds.
        ms: u64,
    },
}

/// A script of faults, the body of `POST /_faults`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum FaultOrder {
    /// A fault for the next `times` requests with an action.
    Calls {
        action: EmulatedCall,
        #[serde(flatten)]
        fault: Fault,
        #[serde(default = "once")]
        times: u32,
    },
    /// A spontaneous event of a machine.
    Machine { machine: MachineId, happens: Happening },
    /// Whether a region is full from now on.
    Region { region: String, full: bool },
}

const fn once() -> u32 {
    1
}

/// A spontaneous event of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Happening {
    /// Its process is killed (SIGKILL).
    Crashes,
    /// It disappears together with its process.
    Vanishes,
    /// Its host becomes unreachable; its process continues.
    HostLost,
    /// Its host becomes reachable again.
    HostFound,
}

/// The faults that are still to be used.
#[derive(Debug, Default)]
pub(super) struct Faults(BTreeMap<EmulatedCall, VecDeque<(Fault, u32)>>);

impl Faults {
    pub(crate) fn add(&mut self, action: EmulatedCall, fault: Fault, times: u32) {
        if times > 0 {
            self.0.entry(action).or_default().push_back((fault, times));
        }
    }

    /// Takes the fault for this request, if there is one.
    pub(crate) fn take(&mut self, action: EmulatedCall) -> Option<Fault> {
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

/// A token bucket: the number of requests that are permitted at once, which is refilled over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TokenBucket {
    left: f64,
    at: Duration,
}

/// A rate limit of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestAllowance {
    /// Requests per second.
    pub per_second: f64,
    /// Maximum number of requests at once.
    pub burst: f64,
}

impl TokenBucket {
    pub(crate) const fn full(allowance: RequestAllowance) -> Self {
        Self { left: allowance.burst, at: Duration::ZERO }
    }

    /// Takes a token at this time, if there is one.
    pub(crate) fn take(&mut self, allowance: RequestAllowance, now: Duration) -> bool {
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
    fn faults_take_returns_faults_in_order_of_addition() {
        let mut faults = Faults::default();
        faults.add(EmulatedCall::Create, Fault::LostReply, 2);
        faults.add(EmulatedCall::Create, Fault::Quota, 1);
        faults.add(EmulatedCall::Stop, Fault::Stuck, 0);
        let next: Vec<_> = (0..4).map(|_| faults.take(EmulatedCall::Create)).collect();
        let lost = Some(Fault::LostReply);
        assert_eq!(next, [lost.clone(), lost, Some(Fault::Quota), None]);
        assert_eq!((faults.take(EmulatedCall::List), faults.take(EmulatedCall::Stop)), (None, None));
    }

    #[test]
    fn bucket_take_allows_the_burst_then_one_per_second() {
        let allowance = RequestAllowance { per_second: 1.0, burst: 3.0 };
        let mut bucket = TokenBucket::full(allowance);
        let mut at = |ms| bucket.take(allowance, Duration::from_millis(ms));
        assert_eq!([at(0), at(0), at(0), at(0)], [true, true, true, false]);
        assert_eq!([at(900), at(1000), at(1999), at(2000)], [false, true, false, true]);
        assert_eq!([at(60_000), at(60_000), at(60_000), at(60_000)], [true, true, true, false]);
    }

    #[test]
    fn order_parses_calls_and_machine_events() {
        let read = |json: &str| serde_json::from_str::<FaultOrder>(json);
        let fault = Fault::RateLimited { retry_after: Some(3) };
        assert_eq!(
            read(r#"{"action":"create","fault":"rateLimited","retryAfter":3,"times":4}"#).unwrap(),
            FaultOrder::Calls { action: EmulatedCall::Create, fault, times: 4 }
        );
        assert_eq!(
            read(r#"{"machine":"m","happens":"hostLost"}"#).unwrap(),
            FaultOrder::Machine { machine: MachineId("m".into()), happens: Happening::HostLost }
        );
        assert!(read(r#"{"action":"create","fault":"rain"}"#).is_err());
    }
}
