//! Rules and pieces of the schemas: CEL rules, and what a structural schema needs said otherwise than
//! the domain's own types say it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::Rule;
use schemars::{JsonSchema as _, Schema, SchemaGenerator, json_schema};

use crate::flyprovider::guest;
use crate::job::{Preset, Quality, Still};

/// An http(s) address without user name and password.
pub const PLAIN_URL: &str = r"^https?://[^\s/?#@]+([/?#]\S*)?$";

/// A required field that stays as it was made.
pub fn unchanged(field: &str) -> Rule {
    Rule::new(format!("self.{field} == oldSelf.{field}")).message(&*fixed(field))
}

/// The same of an optional one, which may neither come nor go.
pub fn unchanged_option(field: &str) -> Rule {
    let rule = format!(
        "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    );
    Rule::new(rule).message(&*fixed(field))
}

fn fixed(field: &str) -> String {
    format!("{field} cannot be changed once the job is made; delete it and make another")
}

/// Exactly one of these optional fields is there.
pub fn one_of(fields: &[&str]) -> Rule {
    let ones: Vec<String> = fields.iter().map(|f| format!("(has(self.{f}) ? 1 : 0)")).collect();
    Rule::new(format!("{} == 1", ones.join(" + ")))
        .message(&*format!("name the video by exactly one of {}", fields.join(", ")))
}

/// `min` is not above `max`.
pub fn min_below_max() -> Rule {
    Rule::new("self.min <= self.max").message("min must not be more than max")
}

/// The presets' names.
pub fn preset(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = Preset::ALL.iter().map(|preset| preset.name()).collect();
    json_schema!({"type": "string", "enum": names, "default": Preset::default().name()})
}

/// What `kubectl explain` says of presets.
pub fn preset_description() -> String {
    format!("What kind of output.\n\n{}", Preset::list())
}

/// A list of qualities, each once. `uniqueItems` is forbidden in a CRD; a list of the type `set` is the
/// way to say it: <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>.
pub fn qualities(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = Quality::ALL.iter().map(|quality| quality.name()).collect();
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": names.len(),
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "enum": names},
    })
}

/// A list of stills, each once.
pub fn stills(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": Still::ALL.len(),
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "enum": Still::ALL},
    })
}

/// A list of Fly's regions, each once.
pub fn regions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 32,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "maxLength": 16, "pattern": "^[a-z0-9]+$"},
    })
}

/// The names of the sizes that Fly sells. The length is for the estimate of what the rules on it cost.
pub fn guest_size(_: &mut SchemaGenerator) -> Schema {
    let sizes: Vec<String> = guest::RULES.into_iter().flat_map(guest::Rule::sizes).collect();
    json_schema!({"type": "string", "enum": sizes, "maxLength": 32})
}

/// `memoryMb` is what the CPUs of `size` can have. Each size is written out: an API server takes a loop over a list,
/// or a text put together, to cost more than a rule may.
pub fn memory_fits_size() -> Rule {
    let fits = guest::RULES.into_iter().flat_map(|rule @ guest::Rule { cpus, least, most, step, .. }| {
        rule.sizes().zip(cpus).map(move |(size, cpus)| {
            let (least, most) = (least * cpus, most * cpus);
            format!(
                "self.size == '{size}' && self.memoryMb >= {least} && self.memoryMb <= {most} && \
                 self.memoryMb % {step} == 0"
            )
        })
    });
    let fits: Vec<String> = fits.collect();
    let words = guest::RULES.map(|guest::Rule { kind, least, most, step, .. }| {
        format!("{least} to {most} for each {} CPU in steps of {step}", kind.name())
    });
    Rule::new(format!("!has(self.memoryMb) || {}", fits.join(" || ")))
        .message(&*format!("memoryMb does not fit the size: it is {}", words.join(", ")))
}

/// Conditions, one of a type.
pub fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let condition = Condition::json_schema(generator);
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": condition,
    })
}
