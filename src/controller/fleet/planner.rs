//! A plan in the making, for `plan` and for `repair`, which adds its steps to it.

use super::classify::MachineView;
use super::condition::Condition;
use super::observation::{MachineList, Moment, QueueView};
use super::policy::FleetPolicy;
use super::size::Offer;
use super::state::FleetState;
use crate::queue::FleetDesired;

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub policy: &'a FleetPolicy,
    pub memory: &'a FleetState,
    pub listed: &'a MachineList,
    pub queue: &'a QueueView,
    pub units: &'a [MachineView],
    pub desired: FleetDesired,
    /// How many machines would be wanted if no other fleet took from the queue.
    pub wanted_alone: u32,
    /// The sizes of the machines still to be started or created.
    pub launches: &'a [Offer],
    pub now: Moment,
    pub conditions: Vec<Condition>,
}
