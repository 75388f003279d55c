//! The shape of the schemas. `schemars` describes what serde reads and writes; the transforms here express the same
//! in a way that client generators understand: named enums, flat objects, standard formats, and no `null` for fields
//! that are only ever absent. They are independent of tcoder's types.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::super::extract::Fields;

/// Adds a type's schema to the generator and returns a reference to it.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of a response's body.
pub(super) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The schema of a request's body, with exactly the fields that the parser of requests accepts.
pub(super) fn body<T: JsonSchema + Fields>(generator: &mut SchemaGenerator) -> Schema {
    let reference = generator.subschema_for::<T>();
    if let Some(Value::Object(schema)) = generator.definitions_mut().get_mut(&*T::schema_name()) {
        schema.insert("additionalProperties".into(), false.into());
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            for name in [T::OWN, T::COMMON].concat() {
                properties.entry(name).or_insert_with(|| {
                    json!({
                        "type": ["string", "null"],
                        "deprecated": true,
                        "description": "Accepted from clients of the original TCoder; others leave it out.",
                    })
                });
            }
        }
    }
    reference
}

/// Generates the schemas of what clients send.
pub(super) fn of_requests() -> SchemaGenerator {
    // A generated TypeScript client considers a field with a default as always present, and a Python client sends the
    // default that was valid when it was generated. Defaults are therefore described in the text.
    settings().for_deserialize().with_transform(RecursiveTransform(default_to_text)).into_generator()
}

/// Generates the schemas of what clients receive.
pub(super) fn of_responses() -> SchemaGenerator {
    settings()
        .for_serialize()
        .with_transform(RecursiveTransform(remove_default))
        .with_transform(RecursiveTransform(absent_instead_of_null))
        .into_generator()
}

fn settings() -> SchemaSettings {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    settings
        .with_transform(RecursiveTransform(join_lines))
        .with_transform(RecursiveTransform(plain_enum))
        .with_transform(RecursiveTransform(merge_alternatives))
        .with_transform(RecursiveTransform(standard_format))
}

fn append_to_description(object: &mut Map<String, Value>, sentence: &str, separator: &str) {
    let text = match object.get("description").and_then(Value::as_str) {
        Some(text) if !text.is_empty() => format!("{text}{separator}{sentence}"),
        _ => sentence.to_owned(),
    };
    object.insert("description".into(), text.into());
}

/// Joins the lines of a doc comment into paragraphs.
fn join_lines(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        let paragraph = |lines: &str| lines.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        *text = text.split("\n\n").map(paragraph).collect::<Vec<_>>().join("\n\n");
    }
}

/// Converts `oneOf` over constants with descriptions to `enum`; the descriptions become a list.
fn plain_enum(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    let Some(Value::Array(variants)) = object.get("oneOf") else { return };
    let read = |variant: &Value| {
        let value = variant.get("const")?.as_str()?.to_owned();
        let line = match variant.get("description").and_then(Value::as_str) {
            Some(text) => format!("- `{value}`: {text}"),
            None => format!("- `{value}`"),
        };
        Some((value, line))
    };
    let Some(variants) = variants.iter().map(read).collect::<Option<Vec<_>>>() else { return };
    let (values, lines): (Vec<String>, Vec<String>) = variants.into_iter().unzip();
    object.remove("oneOf");
    object.insert("type".into(), "string".into());
    object.insert("enum".into(), values.into());
    append_to_description(object, &lines.join("\n"), "\n\n");
}

/// Converts `oneOf` beside `properties`, as of a flattened enum, to additional properties: generators turn the
/// combination either into a union without the common fields or into a class without the others.
fn merge_alternatives(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if !object.contains_key("properties") {
        return;
    }
    let Some(Value::Array(alternatives)) = object.get("oneOf") else { return };
    let mut fields = Map::new();
    for alternative in alternatives {
        let Some(Value::Object(properties)) = alternative.get("properties") else { return };
        for (name, property) in properties {
            let mut property = property.clone();
            // The variant has the description; its field has none.
            if let (Some(field), Some(text)) = (property.as_object_mut(), alternative.get("description")) {
                field.entry("description").or_insert_with(|| text.clone());
            }
            fields.insert(name.clone(), property);
        }
    }
    let names: Vec<String> = fields.keys().map(|name| format!("`{name}`")).collect();
    object.remove("oneOf");
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.extend(fields);
    }
    append_to_description(object, &format!("It has exactly one of {}.", names.join(" and ")), " ");
}

/// Replaces the formats of Rust's unsigned and short integers by formats that OpenAPI's specification names: some
/// generators treat unknown ones as 32 bits. No value reaches 2^63.
fn standard_format(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    let maximum = object.get("maximum").and_then(Value::as_i64);
    let is_short = maximum.is_some_and(|maximum| i32::try_from(maximum).is_ok());
    let format = match object.get("format").and_then(Value::as_str) {
        Some("int8" | "int16" | "uint8" | "uint16") => "int32",
        Some("uint32" | "uint64" | "uint") => {
            if is_short {
                "int32"
            } else {
                "int64"
            }
        }
        _ => return,
    };
    object.insert("format".into(), format.into());
}

fn default_to_text(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    let default = match object.remove("default") {
        None | Some(Value::Null) => return,
        Some(Value::String(text)) if text.is_empty() => return,
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
    };
    append_to_description(object, &format!("Default: `{default}`."), " ");
}

/// A response always contains every field; defaults are for parsing older data.
fn remove_default(schema: &mut Schema) {
    schema.remove("default");
}

/// An optional field of a response is absent, never `null`.
fn absent_instead_of_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    let required = object.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(Value::Object(properties)) = object.get_mut("properties") else { return };
    for (name, property) in properties {
        if !required.iter().any(|required| required == name)
            && let Some(property) = property.as_object_mut()
        {
            remove_null(property);
        }
    }
}

fn remove_null(property: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            property.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = property.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            property.remove("anyOf");
            for (key, value) in only {
                property.entry(key).or_insert(value);
            }
        }
    }
}
