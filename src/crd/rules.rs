//! Rules and parts of the schemas: CEL rules, and the types that a structural schema must express differently
//! from the derived ones.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::Rule;
use schemars::{JsonSchema as _, Schema, SchemaGenerator, json_schema};

use crate::flyprovider::guest;
use crate::job::{
    FailureAction, FailureCode, FailurePolicy, Preset, Quality, Still, WorkerClass, WorkerClasses,
};

/// An http(s) URL without user name and password, whose port, if it has one, is at most 65535.
pub(crate) const PLAIN_URL: &str = concat!(
    r"^[hH][tT][tT][pP][sS]?://",
    r"([^\s/?#@:\[\]]+|\[[0-9a-fA-F:.]+\])",
    r"(:([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])?)?",
    r"([/?#]\S*)?$"
);

/// An object key as `ObjectKey` parses it: no empty, `.` or `..` part between its slashes, and no control characters. The
/// dialect has no lookahead, thus each part begins with one character that is no dot, with a dot and another, or with two
/// and another.
pub(crate) const OBJECT_KEY: &str = concat!(
    r"^([^/\\.\x00-\x1f\x7f-\x9f]|\.[^/\\.\x00-\x1f\x7f-\x9f]|\.\.[^/\\\x00-\x1f\x7f-\x9f])[^/\\\x00-\x1f\x7f-\x9f]*",
    r"([/\\]([^/\\.\x00-\x1f\x7f-\x9f]|\.[^/\\.\x00-\x1f\x7f-\x9f]|\.\.[^/\\\x00-\x1f\x7f-\x9f])[^/\\\x00-\x1f\x7f-\x9f]*)*$"
);

/// A content type, perhaps with parameters.
pub(crate) const MEDIA_TYPE: &str = r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(;[ -~]*)?$";

/// A domain, a slash and a name, such as the reserved names of controllers.
pub(crate) const DOMAIN_PATH: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9/_.~-]+$";

/// A quantity, by the pattern of Kubernetes' own schemas, but not negative.
const QUANTITY: &str = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$";

/// A name of an object of most kinds: <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>.
const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// A rule that a text matches a pattern. Unlike the `pattern` of a schema, its message says what is wanted.
fn matches(pattern: &str, message: &'static str) -> Rule {
    Rule::new(format!("self.matches(r'{pattern}')")).message(message)
}

/// A rule that an address can be fetched.
pub(crate) fn plain_url() -> Rule {
    matches(
        PLAIN_URL,
        "url must be an http or https address such as https://example.com/film.mov, without user name and password, and with a \
         port of at most 65535 if it has one",
    )
}

/// A rule that a key names an object in the bucket.
pub(crate) fn object_key() -> Rule {
    matches(
        OBJECT_KEY,
        "key must be a path in the input bucket such as films/holiday.mov, without empty parts, `.`, `..` and control characters",
    )
}

/// A rule about the length of a key, which S3 limits in bytes and a schema in characters.
pub(crate) fn key_bytes() -> Rule {
    Rule::new("size(bytes(self)) <= 1024").message("key must not be longer than 1024 bytes")
}

/// A rule that a name can be that of a Secret.
pub(crate) fn secret_name() -> Rule {
    matches(OBJECT_NAME, "name must be that of a Secret: lower-case letters, digits, hyphens and dots")
}

/// A rule that a Secret can have this key.
pub(crate) fn secret_key() -> Rule {
    matches(
        "^[-._a-zA-Z0-9]+$",
        "key must be one of a Secret: letters, digits, hyphens, underscores and dots",
    )
}

/// What the name of a class of workers must be.
const WORKER_CLASS: &str =
    "1 to 40 lower-case letters, digits and hyphens, such as large, and no hyphen at the beginning";

/// A rule that a text is the name of a class of workers.
pub(crate) fn worker_class() -> Rule {
    Rule::new(format!("self.matches(r'{}')", WorkerClass::PATTERN))
        .message(&*format!("workerClass must be the name of a class of workers: {WORKER_CLASS}"))
}

/// A rule that all texts of a list are names of classes of workers.
pub(crate) fn worker_classes() -> Rule {
    Rule::new(format!("self.all(name, name.matches(r'{}'))", WorkerClass::PATTERN))
        .message(&*format!("workerClasses must be names of classes of workers: {WORKER_CLASS}"))
}

/// A rule that an image has no spaces; the registry knows the rest.
pub(crate) fn image() -> Rule {
    matches(r"^\S+$", "image must be a reference such as ghcr.io/tcoder/tcoder-worker:0.1.0, without spaces")
}

/// A rule that makes a required field immutable.
pub(crate) fn unchanged(field: &str) -> Rule {
    Rule::new(format!("self.{field} == oldSelf.{field}")).message(&*fixed(field))
}

/// A rule that makes an optional field immutable, including its presence.
pub(crate) fn unchanged_option(field: &str) -> Rule {
    let rule = format!(
        "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    );
    Rule::new(rule).message(&*fixed(field))
}

fn fixed(field: &str) -> String {
    format!("{field} cannot be changed once the job is made; delete it and make another")
}

/// A rule that requires exactly one of these optional fields.
pub(crate) fn one_of(fields: &[&str]) -> Rule {
    let ones: Vec<String> = fields.iter().map(|f| format!("(has(self.{f}) ? 1 : 0)")).collect();
    Rule::new(format!("{} == 1", ones.join(" + ")))
        .message(&*format!("name the video by exactly one of {}", fields.join(", ")))
}

/// A rule that `min` does not exceed `max`.
pub(crate) fn min_below_max() -> Rule {
    Rule::new("self.min <= self.max").message("min must not be more than max")
}

/// A rule that requires exactly one provider.
pub(crate) fn one_provider() -> Rule {
    Rule::new("has(self.fly) != has(self.pods)").message("name exactly one provider: fly or pods")
}

/// A rule that a pool of pods remains one, and no other becomes one: machines of the provider before would be left.
pub(crate) fn pods_unchanged() -> Rule {
    let has_pods = |of: &str| format!("(has({of}.provider) && has({of}.provider.pods))");
    Rule::new(format!("{} == {}", has_pods("self"), has_pods("oldSelf")))
        .message("a pool cannot change to pods or from pods; create another pool and delete this one")
}

/// A rule that a pool of pods without a template has an image.
pub(crate) fn pods_have_image() -> Rule {
    Rule::new(
        "!has(self.provider) || !has(self.provider.pods) || has(self.image) || has(self.provider.pods.template)",
    )
    .message("a pool of pods needs the worker image: set image, such as ghcr.io/tcoder/tcoder-worker:0.1.0")
}

/// The name of a class of workers. A rule says what it must be; the length bounds the estimated cost of that.
pub(crate) fn class_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 40, "default": WorkerClass::DEFAULT})
}

/// A list of distinct names of classes of workers.
pub(crate) fn class_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": WorkerClasses::MAX,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "maxLength": 40},
        "default": [WorkerClass::DEFAULT],
    })
}

/// The template of a pod. The API server checks the spec when a pod is created; the schema contains only what differs
/// from a pod's own.
pub(crate) fn pod_template(_: &mut SchemaGenerator) -> Schema {
    let texts = json_schema!({"type": "object", "additionalProperties": {"type": "string"}});
    json_schema!({
        "type": "object",
        "properties": {
            "metadata": {"type": "object", "properties": {"labels": texts, "annotations": texts}},
            "spec": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "restartPolicy": {
                        "type": "string",
                        "enum": ["Never"],
                        "description": "Always Never: a worker that exits is replaced by another pod.",
                    },
                },
            },
        },
    })
}

/// A map of labels.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"},
    })
}

/// A list of tolerations.
pub(crate) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {
            "type": "object",
            "properties": {
                "key": {"type": "string", "maxLength": 316},
                "operator": {"type": "string", "enum": ["", "Exists", "Equal", "Lt", "Gt"]},
                "value": {"type": "string", "maxLength": 63},
                "effect": {"type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                "tolerationSeconds": {"type": "integer", "format": "int64"},
            },
        },
    })
}

/// A map of quantities, which may be numbers. The pattern is that of Kubernetes' own schemas.
pub(crate) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY,
        },
    })
}

/// The same with a limit of their length, which bounds the estimated cost of CEL rules on the field.
pub(crate) fn short_quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            "pattern": QUANTITY,
        },
    })
}

/// The names of the presets.
pub(crate) fn preset(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = Preset::ALL.iter().map(|preset| preset.name()).collect();
    json_schema!({"type": "string", "enum": names, "default": Preset::default().name()})
}

/// The description of presets in `kubectl explain`.
pub(crate) fn preset_description() -> String {
    format!("What kind of output.\n\n{}", Preset::list())
}

/// A list of at least one of these names, each once. `uniqueItems` is forbidden in a CRD; a list of the type `set` replaces it:
/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>.
fn set_of(names: impl Iterator<Item = &'static str>) -> Schema {
    let names: Vec<&str> = names.collect();
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": names.len(),
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "enum": names},
    })
}

/// A list of distinct qualities.
pub(crate) fn qualities(_: &mut SchemaGenerator) -> Schema {
    set_of(Quality::ALL.iter().map(|quality| quality.name()))
}

/// A list of distinct stills.
pub(crate) fn stills(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": Still::ALL.len(),
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "enum": Still::ALL},
    })
}

/// What follows a failed attempt.
pub(crate) fn failure_action(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": [FailureAction::FailJob, FailureAction::Count, FailureAction::Ignore]})
}

/// The codes of a rule about failures, each once.
pub(crate) fn error_codes(_: &mut SchemaGenerator) -> Schema {
    set_of(FailurePolicy::codes().map(FailureCode::name))
}

/// `auto` or a number.
pub(crate) fn parallelism(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "x-kubernetes-validations": [{
            "rule": "type(self) == string ? self == 'auto' : self >= 1 && self <= 256",
            "message": "parallelism is auto or a number from 1 to 256",
        }],
    })
}

/// A list of distinct regions of Fly.
pub(crate) fn regions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 32,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "maxLength": 16, "pattern": "^[a-z0-9]+$"},
    })
}

/// The names of Fly's machine sizes. The maximum length bounds the estimated cost of CEL rules on the field.
pub(crate) fn guest_size(_: &mut SchemaGenerator) -> Schema {
    let sizes: Vec<String> = guest::RULES.into_iter().flat_map(guest::Rule::sizes).collect();
    json_schema!({"type": "string", "enum": sizes, "maxLength": 32})
}

/// A list of distinct sizes of Fly's machines. Whether they are larger than the guest is not checked here, because the
/// guest may be the environment's; the controller reports it in the status.
pub(crate) fn guest_sizes(generator: &mut SchemaGenerator) -> Schema {
    let size = guest_size(generator);
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 8,
        "x-kubernetes-list-type": "set",
        "items": size,
    })
}

/// A rule that the CPUs of `size` can have `memoryMb`. It lists each size separately: the API server
/// estimates that a loop over a list, or a concatenated string, exceeds the cost limit of a rule.
pub(crate) fn memory_fits_size() -> Rule {
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

/// A list of conditions, one of each type.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let condition = Condition::json_schema(generator);
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": condition,
    })
}
