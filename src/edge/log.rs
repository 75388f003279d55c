//! Writes log lines as JSON to the console, where Cloudflare collects them.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Sets up logging, once per isolate. Cloudflare adds the time to each line.
pub fn start() {
    let lines = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .without_time()
        .with_max_level(tracing::Level::INFO)
        .with_writer(Console);
    // An error means that it is set up already.
    let _ = lines.try_init();
}

struct Console;

/// A line that is being written.
#[derive(Default)]
struct Line(Vec<u8>);

impl<'a> MakeWriter<'a> for Console {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line::default()
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        worker::console_log!("{}", String::from_utf8_lossy(&self.0).trim_end());
    }
}
