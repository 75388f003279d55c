//! The figures: printed, as JSON, and as a section of a document.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Failure;
use crate::encode::Way;
use crate::queue::Peer;

const BEGIN: &str = "<!-- peers: make bench-peers DOCS=1 -->";
const END: &str = "<!-- end -->";

/// The values of all runs.
struct Figure {
    values: Vec<f64>,
    unit: &'static str,
}

impl Figure {
    /// The values lie in their order.
    fn new(mut values: Vec<f64>, unit: &'static str) -> Self {
        values.sort_by(f64::total_cmp);
        Self { values, unit }
    }

    fn median(&self) -> f64 {
        let middle = self.values.len() / 2;
        match self.values.len() % 2 {
            0 => f64::midpoint(self.values[middle - 1], self.values[middle]),
            _ => self.values[middle],
        }
    }

    fn least(&self) -> f64 {
        self.values[0]
    }

    fn most(&self) -> f64 {
        self.values[self.values.len() - 1]
    }
}

#[derive(Default)]
pub struct Figures {
    taken: BTreeMap<String, Figure>,
    versions: BTreeMap<String, String>,
    machine: String,
    conditions: String,
}

impl Figures {
    /// Notes the machine, and the versions of what was built with this program.
    pub fn new(conditions: String) -> Self {
        let mut figures = Self { machine: machine(), conditions, ..Self::default() };
        let lock = include_str!("../Cargo.lock");
        for name in ["apalis-redis", "bullmq-official", "tcoder"] {
            let version = lock.split_once(&format!("name = \"{name}\"\nversion = \""));
            let version = version.and_then(|(_, rest)| rest.split('"').next());
            figures.note(name, version.unwrap_or("of an unknown version"));
        }
        let packages: Option<serde_json::Value> = serde_json::from_str(include_str!("../package.json")).ok();
        let bullmq = packages.and_then(|all| all["dependencies"]["bullmq"].as_str().map(str::to_owned));
        figures.note("BullMQ", bullmq.as_deref().unwrap_or("of an unknown version"));
        figures
    }

    /// Notes the version of something.
    pub fn note(&mut self, what: &str, version: &str) {
        self.versions.insert(what.to_owned(), version.to_owned());
    }

    /// Takes the values of all runs, of which there is at least one.
    pub fn put(&mut self, name: &str, values: Vec<f64>, unit: &'static str) {
        let figure = Figure::new(values, unit);
        println!("{name} {:.2} {unit}", figure.median());
        self.taken.insert(name.to_owned(), figure);
    }

    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let figure = |(name, figure): (&String, &Figure)| {
            let value = serde_json::json!({
                "value": figure.median(),
                "unit": figure.unit,
                "min": figure.least(),
                "max": figure.most(),
                "runs": figure.values.len(),
            });
            (name.clone(), value)
        };
        let all = serde_json::json!({
            "machine": self.machine,
            "versions": self.versions,
            "conditions": self.conditions,
            "figures": self.taken.iter().map(figure).collect::<serde_json::Map<_, _>>(),
        });
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, serde_json::to_vec_pretty(&all)?)?)
    }

    /// Replaces the section of a document, or adds it to the end.
    pub fn write_section(&self, path: &Path) -> Result<(), Failure> {
        let text = std::fs::read_to_string(path)?;
        let section = format!("{BEGIN}\n{}{END}\n", self.section());
        let text = match text.split_once(&format!("{BEGIN}\n")) {
            Some((before, rest)) => {
                let (_, after) = rest
                    .split_once(&format!("{END}\n"))
                    .ok_or_else(|| format!("{} has no line {END}", path.display()))?;
                format!("{before}{section}{after}")
            }
            None => format!("{text}\n{section}"),
        };
        Ok(std::fs::write(path, text)?)
    }

    fn section(&self) -> String {
        let versions: Vec<_> =
            self.versions.iter().map(|(what, version)| format!("{what} {version}")).collect();
        let queues = self.table("queue", &Peer::ALL.map(Peer::name));
        let ways = self.table("encode", &Way::ALL.map(Way::name));
        format!(
            "## Peers\n\n\
            `make bench-peers` measures other queues and other ways to encode beside tcoder, and writes this section with \
            `DOCS=1`. A value is the median of the runs, with the least and the most.\n\n\
            - machine: {}\n- versions: {}\n- conditions: {}\n\n\
            Queues, on a fresh redis-server each, with jobs that do nothing. The number at the end of a name is that of \
            workers, each with one job in flight; the others have four. The first tenth of a rate is left out. Commands \
            include those inside scripts. BullMQ has as many processes as cores, at most one for each worker; \
            apalis-redis fetches ten jobs at a time, as is its default, is never told of new jobs and asks every \
            100 ms, and can have {} jobs at once.\n\n{queues}\n\
            Ways to encode a ladder of 720p, 360p and 144p: three runs of FFmpeg, one run, a split of the file without \
            encoding whose pieces are encoded one after another and joined, and `tcoder transcode`, which also \
            verifies its outputs. Lost frames and added sound are those of the worst rendition, and negative where it is the other way round; `open_gop` is a source \
            whose groups of pictures refer to each other.\n\n{ways}",
            self.machine,
            versions.join(", "),
            self.conditions,
            crate::queue::MOST_OF_APALIS,
        )
    }

    /// A table of the figures `peer_<kind>_<column>_<row>`.
    fn table(&self, kind: &str, columns: &[&str]) -> String {
        let mut rows: BTreeMap<&str, Vec<Option<&Figure>>> = BTreeMap::new();
        for (name, figure) in &self.taken {
            let Some(rest) = name.strip_prefix(&format!("peer_{kind}_")) else { continue };
            // One name may be the beginning of another.
            let owners = columns.iter().enumerate().filter_map(|(index, column)| {
                Some((index, column.len(), rest.strip_prefix(column)?.strip_prefix('_')?))
            });
            let Some((index, _, row)) = owners.max_by_key(|(_, length, _)| *length) else { continue };
            rows.entry(row).or_insert_with(|| vec![None; columns.len()])[index] = Some(figure);
        }
        let mut table =
            format!("| figure | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        for (row, figures) in rows {
            let unit = figures.iter().flatten().next().map_or("", |figure| figure.unit);
            let cells: Vec<_> = figures.iter().map(|figure| figure.map_or_else(String::new, cell)).collect();
            table += &format!("| `{row}`, {unit} | {} |\n", cells.join(" | "));
        }
        table
    }
}

fn cell(figure: &Figure) -> String {
    if figure.values.len() == 1 {
        return number(figure.median());
    }
    format!("{} ({}–{})", number(figure.median()), number(figure.least()), number(figure.most()))
}

/// The number with about three digits.
fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 || value == value.round() => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    let text = text.strip_suffix(".0").unwrap_or(&text);
    match text.len() {
        // Fractions do not occur here.
        4.. if value >= 1000.0 => format!("{},{}", &text[..text.len() - 3], &text[text.len() - 3..]),
        _ => text.to_owned(),
    }
}

/// The processor, the number of cores, and how busy they are.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!("{model}, {cores} cores, load average {load} at the start")
}
