//! The policy of a fleet of pods.

use std::time::Duration;

use super::{PodTemplate, Pods};
use crate::config::{ConfigErrors, Env};
use crate::controller::fleet::{Deadlines, FleetPolicy, Sizes};

/// Reads the settings of the fleet of a pool with this name, whose pods are made from this template.
///
/// # Errors
/// The invalid settings.
pub fn read(env: &Env<'_>, name: &str, template: &PodTemplate) -> Result<FleetPolicy, ConfigErrors> {
    let own = FleetPolicy {
        sizes: Sizes::one(template.size()),
        revision: Some(template.revision().to_owned()),
        deadlines: deadlines(),
        ..FleetPolicy::new(name, template.image())
    };
    FleetPolicy::read::<Pods>(env, own)
}

/// A list costs one request to an API server that is near, and it alone says that a pod finds no node. An autoscaler may
/// take minutes to add a node for a pod that waits, and stops when the pod is deleted.
fn deadlines() -> Deadlines {
    let s = Duration::from_secs;
    Deadlines {
        list: s(3),
        tick: s(15),
        stuck: s(600),
        region: s(60),
        hold: s(120),
        repair: s(15),
        ..Deadlines::default()
    }
}
