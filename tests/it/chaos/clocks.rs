//! Wall clocks that are wrong: a library that is loaded into the processes, and a file for each clock.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::faults::Clock;

/// The clocks of a run.
pub struct Clocks {
    library: PathBuf,
    files: BTreeMap<Clock, PathBuf>,
}

impl Clocks {
    pub fn make(folder: &Path) -> Self {
        let library = folder.join("clock_shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/chaos/clock_shim.c");
        let made =
            Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
        assert!(made.unwrap().success(), "cc cannot compile clock_shim.c");
        let files = [Clock::Api, Clock::Controller, Clock::Workers].map(|clock| {
            let file = folder.join(format!("clock-{clock:?}"));
            std::fs::write(&file, 0_i64.to_ne_bytes()).unwrap();
            (clock, file)
        });
        Self { library, files: files.into() }
    }

    /// The environment of a process with this clock.
    pub fn environment(&self, clock: Clock) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.to_str().unwrap().to_owned()),
            ("CLOCK_OFFSET_FILE", self.files[&clock].to_str().unwrap().to_owned()),
        ]
    }

    /// Sets a clock forward, or back, by this many hours.
    pub fn set(&self, clock: Clock, hours: i64) {
        let file = std::fs::File::options().write(true).open(&self.files[&clock]).unwrap();
        file.write_all_at(&(hours * 3600).to_ne_bytes(), 0).unwrap();
    }
}
