//! The requests to create, update and stop a machine, and the reasons for which Fly rejects them.
//!
//! Sizes are those of [`guest`]. Regions, aliases, signals and limits are those of Fly's documentation and
//! OpenAPI document. Error messages are Fly's where users have published them; all others are invented.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;
use strum::VariantNames as _;

use super::reply::{Reply, refuse};
use crate::flyprovider::guest::{self, Guest, GuestError};
use crate::flyprovider::{MachineConfig, ROOTFS_MAX_GB, StopSignal};

/// The maximum time that Fly gives a process to stop.
const STOP_MAX: Duration = Duration::from_secs(300);
/// Maximum length of a name, characters: that of a DNS label, as for Fly's app names.
const NAME_MAX: usize = 63;

/// The regions, each with the aliases of its area (Fly's "Machine Placement").
pub(crate) const REGIONS: [(&str, &[&str]); 18] = [
    ("dfw", &["us", "usa", "na"]),
    ("ams", &["eu"]),
    ("arn", &["eu"]),
    ("bom", &["apac"]),
    ("cdg", &["eu"]),
    ("ewr", &["us", "usa", "na"]),
    ("fra", &["eu"]),
    ("gru", &["sa"]),
    ("iad", &["us", "usa", "na"]),
    ("jnb", &[]),
    ("lax", &["us", "usa", "na"]),
    ("lhr", &["eu"]),
    ("nrt", &["apac"]),
    ("ord", &["us", "usa", "na"]),
    ("sin", &["apac"]),
    ("sjc", &["us", "usa", "na"]),
    ("syd", &["apac"]),
    ("yyz", &["na"]),
];

/// A request to create or update a machine.
#[derive(Deserialize)]
#[serde(default)]
pub(crate) struct Order {
    pub name: Option<String>,
    pub region: Option<String>,
    pub config: Value,
    pub skip_launch: bool,
    pub lease_ttl: Option<u64>,
    /// For an update: the version that it applies to.
    pub current_version: Option<String>,
}

impl Default for Order {
    fn default() -> Self {
        let config = Value::Object(serde_json::Map::new());
        Self { name: None, region: None, config, skip_launch: false, lease_ttl: None, current_version: None }
    }
}

/// The fields of a configuration that are checked, some only for their type. The names are Fly's.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    image: Option<String>,
    guest: Option<GuestFields>,
    size: Option<String>,
    env: Option<BTreeMap<String, String>>,
    metadata: Option<BTreeMap<String, String>>,
    auto_destroy: Option<bool>,
    restart: Option<Restart>,
    stop_config: Option<Stop>,
    rootfs: Option<Rootfs>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GuestFields {
    cpu_kind: Option<String>,
    cpus: Option<u32>,
    memory_mb: Option<u32>,
    gpu_kind: Option<String>,
    gpus: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Restart {
    policy: Option<String>,
    max_retries: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rootfs {
    size_gb: Option<u64>,
    persist: Option<String>,
}

/// How a process is stopped, from a configuration or a stop request.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stop {
    signal: Option<String>,
    timeout: Option<Value>,
}

impl Stop {
    /// The signal, and the time until SIGKILL; each `None` if absent.
    pub(crate) fn read(&self) -> Result<(Option<Signal>, Option<Duration>), Reply> {
        let said = self.signal.as_deref().filter(|signal| !signal.is_empty());
        let signal = said.map(|said| {
            let known = said.parse::<StopSignal>().ok();
            known.and_then(|signal| signal.name().parse().ok()).ok_or_else(|| {
                let names = StopSignal::VARIANTS.join(", ");
                refuse(400, "invalid_argument", format!("invalid signal {said:?}, must be one of {names}"))
            })
        });
        let timeout = match &self.timeout {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.is_empty() => None,
            Some(value) => Some(duration(value).filter(|time| *time <= STOP_MAX).ok_or_else(|| {
                refuse(400, "invalid_argument", format!("invalid timeout {value}, must be 0s to 300s"))
            })?),
        };
        Ok((signal.transpose()?, timeout))
    }
}

impl Order {
    /// Parses a request's body; checks the configuration and adds Fly's defaults.
    pub(crate) fn read(body: &[u8]) -> Result<(Self, MachineConfig), Reply> {
        let wrong = |error: serde_json::Error| refuse(400, "invalid_argument", error);
        let mut order: Self = serde_json::from_slice(body).map_err(wrong)?;
        if let Some(name) = order.name.as_deref().filter(|name| !name.is_empty()) {
            check_name(name)?;
        }
        let config = Config::deserialize(&order.config).map_err(wrong)?;
        let guest = config.check()?;
        if let Some(fields) = order.config.as_object_mut() {
            let guest = serde_json::to_value(guest).map_err(wrong)?;
            let filled = fields.entry("guest").or_insert(Value::Null);
            match (filled.as_object_mut(), guest) {
                (Some(filled), Value::Object(guest)) => filled.extend(guest),
                (_, guest) => *filled = guest,
            }
            fields.remove("size");
        }
        let typed = MachineConfig::deserialize(&order.config).map_err(wrong)?;
        Ok((order, typed))
    }
}

fn check_name(name: &str) -> Result<(), Reply> {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() <= NAME_MAX && name.chars().all(sound) {
        return Ok(());
    }
    let text =
        format!("invalid name {name:?}, must be at most {NAME_MAX} digits, lowercase letters and dashes");
    Err(refuse(400, "invalid_argument", text))
}

impl Config {
    /// The size of the machine, if the configuration is valid.
    fn check(&self) -> Result<Guest, Reply> {
        if self.image.as_deref().is_none_or(|image| image.is_empty() || image.contains(char::is_whitespace)) {
            return Err(refuse(400, "invalid_argument", "config.image is required"));
        }
        match self.restart.as_ref().and_then(|restart| restart.policy.as_deref()) {
            None | Some("" | "no") => {}
            Some("always" | "on-failure") => {
                return Err(refuse(422, "unimplemented", "this emulator knows only the restart policy no"));
            }
            Some(other) => {
                let text = format!("invalid config.restart.policy {other:?}");
                return Err(refuse(400, "invalid_argument", text));
            }
        }
        if let Some(stop) = &self.stop_config {
            stop.read()?;
        }
        if let Some(rootfs) = &self.rootfs {
            if rootfs.size_gb.is_some_and(|size| size > ROOTFS_MAX_GB.into()) {
                let text = format!("invalid config.rootfs.size_gb, cannot exceed {ROOTFS_MAX_GB} GB");
                return Err(plain(text));
            }
            if !matches!(rootfs.persist.as_deref(), None | Some("" | "never" | "always" | "restart")) {
                return Err(plain("invalid config.rootfs.persist".into()));
            }
        }
        self.guest()
    }

    fn guest(&self) -> Result<Guest, Reply> {
        let preset = self.size.as_deref().filter(|size| !size.is_empty());
        let Some(fields) = &self.guest else {
            return least(preset.unwrap_or("shared-cpu-1x"));
        };
        if preset.is_some() {
            return Err(plain("config.guest and config.size are mutually exclusive".into()));
        }
        if fields.gpus.unwrap_or(0) > 0 || fields.gpu_kind.as_deref().is_some_and(|kind| !kind.is_empty()) {
            return Err(refuse(422, "unimplemented", "this emulator has no GPUs"));
        }
        let rule = fields
            .cpu_kind
            .as_deref()
            .and_then(|kind| guest::RULES.into_iter().find(|r| r.kind.name() == kind));
        let Some(rule) = rule else { return Err(plain("invalid config.guest.cpu_kind".into())) };
        let cpus = fields.cpus.filter(|cpus| *cpus > 0).unwrap_or(1);
        let memory = fields.memory_mb.filter(|memory| *memory > 0).unwrap_or(256);
        Guest::new(rule.kind, cpus, memory).map_err(in_flys_words)
    }
}

/// One of Fly's presets, with its default memory.
fn least(size: &str) -> Result<Guest, Reply> {
    let guest: Option<Guest> = size.parse().ok();
    let least = guest.and_then(|g: Guest| g.with_memory(g.cpus() * g.kind().rule().least).ok());
    least.ok_or_else(|| plain(format!("invalid config.size {size:?}")))
}

fn in_flys_words(error: GuestError) -> Reply {
    plain(match error {
        GuestError::Cpus { kind, .. } => {
            let choice: Vec<String> = kind.rule().cpus.iter().map(u32::to_string).collect();
            format!("invalid config.guest.cpus, must be one of [{}]", choice.join(" "))
        }
        GuestError::TooLittleMemory { least, .. } => {
            format!("invalid config.guest.memory_mb, minimum required {least} MiB")
        }
        GuestError::TooMuchMemory { most, .. } => {
            format!("invalid config.guest.memory_mb, cannot exceed {most} MiB")
        }
        GuestError::MemoryStep { kind } => {
            format!("invalid config.guest.memory_mb, must be in {} MiB increment", kind.rule().step)
        }
    })
}

/// A rejection of a configuration; these have no code as prefix.
fn plain(text: String) -> Reply {
    (axum::http::StatusCode::BAD_REQUEST, serde_json::json!({ "error": text }))
}

/// The regions of a request by preference, with aliases resolved. `home` is the default region, and valid
/// even if it is not in the list.
pub(crate) fn regions(order: Option<&str>, home: &str) -> Result<Vec<String>, Reply> {
    let order = order.filter(|order| !order.is_empty()).unwrap_or(home);
    let mut found = Vec::new();
    for name in order.split(',').map(str::trim) {
        let mut named: Vec<&str> = REGIONS
            .into_iter()
            .filter(|(region, areas)| *region == name || areas.contains(&name) || name == "any")
            .map(|(region, _)| region)
            .collect();
        if name == home || name == "any" {
            named.insert(0, home);
        }
        if named.is_empty() {
            return Err(refuse(400, "invalid_argument", format!("invalid region {name:?}")));
        }
        found.extend(named.into_iter().map(str::to_owned));
    }
    Ok(found)
}

/// Parses a duration like Go: a string such as `1m30s`, or a number of nanoseconds.
fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::String(text) => go_duration(text),
        Value::Number(nanoseconds) => nanoseconds.as_u64().map(Duration::from_nanos),
        _ => None,
    }
}

/// Parses a duration such as `1m30s`, `300s` or `500ms`.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        sum = sum.checked_add(unit)?;
        rest = &rest[letters..];
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn go_duration_parses_go_syntax() {
        let ms = |text| go_duration(text).map(|d| d.as_millis());
        assert_eq!(
            [ms("300s"), ms("1m30s"), ms("500ms"), ms("1h")],
            [Some(300_000), Some(90_000), Some(500), Some(3_600_000)]
        );
        assert_eq!([ms(""), ms("5"), ms("s"), ms("-5s"), ms("99999999999999999999s")], [None; 5]);
        assert_eq!(duration(&json!(30_000_000_000_u64)), Some(Duration::from_secs(30)));
    }

    #[test]
    fn regions_accepts_names_areas_and_any() {
        let found = |order: &str| regions(Some(order), "iad").unwrap();
        assert_eq!(found("ams,fra"), ["ams", "fra"]);
        assert_eq!(found("lhr,sa"), ["lhr", "gru"]);
        assert_eq!(found("any")[..2], ["iad", "dfw"]);
        assert_eq!(found("us").len(), 6);
        assert_eq!(regions(None, "here").unwrap(), ["here"]);
        assert_eq!(regions(Some("here"), "here").unwrap(), ["here"]);
        for wrong in ["xyz", "iad,xyz", "IAD", "iad;fra"] {
            assert_eq!(regions(Some(wrong), "iad").unwrap_err().0.as_u16(), 400, "{wrong}");
        }
    }

    #[test]
    fn order_read_keeps_unknown_fields_and_defaults_to_the_smallest_size() {
        let body = json!({"config": {"image": "i", "init": {"tty": true}, "rootfs": {"size_gb": 20}}});
        let (order, typed) = Order::read(body.to_string().as_bytes()).unwrap();
        let guest = json!({"cpu_kind": "shared", "cpus": 1, "memory_mb": 256});
        let filled = json!({"image": "i", "init": {"tty": true}, "rootfs": {"size_gb": 20}, "guest": guest});
        assert_eq!(order.config, filled);
        assert_eq!(typed.guest.map(|guest| guest.memory_mb()), Some(256));
        let body = json!({"config": {"image": "i", "size": "performance-4x"}});
        let (_, typed) = Order::read(body.to_string().as_bytes()).unwrap();
        assert_eq!(typed.guest.map(|guest| (guest.cpus(), guest.memory_mb())), Some((4, 8192)));
    }
}
