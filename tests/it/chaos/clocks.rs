//! Wall clocks that are wrong.

use std::collections::BTreeMap;
use std::path::Path;

use super::faults::Clock;
use crate::support::redis::SettableClock;

/// The clocks of a run.
pub struct Clocks(BTreeMap<Clock, SettableClock>);

impl Clocks {
    pub fn make(folder: &Path) -> Self {
        let clocks = [Clock::Api, Clock::Controller, Clock::Workers].map(|clock| {
            let folder = folder.join(format!("clock-{clock:?}"));
            std::fs::create_dir(&folder).unwrap();
            (clock, SettableClock::new(&folder))
        });
        Self(clocks.into())
    }

    /// The environment of a process with this clock.
    pub fn environment(&self, clock: Clock) -> Vec<(&'static str, String)> {
        let variables = self.0[&clock].env().into_iter();
        variables.map(|(name, path)| (name, path.to_str().unwrap().to_owned())).collect()
    }

    /// Sets a clock forward, or back, by this many hours.
    pub fn set(&self, clock: Clock, hours: i64) {
        self.0[&clock].set(hours * 3600);
    }
}
