//! Changes samples as their senders might: values of JSON, words of text, and bytes.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

/// Words that parsers stumble over.
const WORDS: &[&str] = &[
    "",
    "0",
    "-0",
    "-1",
    "007",
    "+7",
    "1e308",
    "-1e308",
    "1e-320",
    "nan",
    "inf",
    "65536",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "99999999999999999999",
    "..",
    "/",
    "//",
    "\\",
    "%2e%2e",
    "%00",
    "\0",
    "\n",
    "\r\n",
    "\"",
    "'",
    "<",
    "&#0;",
    "$$",
    "$Number$",
    ":",
    "-",
    "=",
    ",",
    ";",
    "*",
    "#",
    "@",
    "[",
    "]",
    "é",
    "\u{202e}",
    "\u{10ffff}",
    "file:///etc/passwd",
    "http://127.0.0.1/",
    "http://[::ffff:127.0.0.1]/",
    "http://0x7f.1/",
    "localhost",
];

/// Maximum number of values of a text in JSON, and of bytes of an input.
const MOST_NODES: usize = 2_000;
const MOST_BYTES: usize = 64 << 10;

/// A changed copy of one of these samples.
pub(super) fn changed(samples: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let Some(sample) = samples.choose(rng) else { return Vec::new() };
    let mut bytes = match (serde_json::from_slice(sample), std::str::from_utf8(sample)) {
        (Ok(json), _) if rng.random_bool(0.7) => changed_json(json, rng).to_string().into_bytes(),
        (_, Ok(text)) if rng.random_bool(0.7) => changed_text(text, rng).into_bytes(),
        _ => sample.clone(),
    };
    if rng.random_bool(0.3) {
        let other = samples.choose(rng).map_or(&[][..], Vec::as_slice);
        change_bytes(&mut bytes, other, rng);
    }
    bytes.truncate(MOST_BYTES);
    bytes
}

fn hostile_value(rng: &mut StdRng) -> Value {
    let deep = (0..100).fold(json!(1), |inside, _| json!([inside]));
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(0.5),
        json!(-0.0),
        json!(1e300),
        json!(-1e300),
        json!(5e-324),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u32::MAX),
        json!(1_u64 << 53),
        json!([]),
        json!({}),
        deep,
        json!("x".repeat(5_000)),
        json!(vec![0; 300]),
    ];
    match values.choose(rng) {
        Some(value) if rng.random_bool(0.6) => value.clone(),
        _ => json!(WORDS.choose(rng)),
    }
}

/// Changes one to four values, or what an object or a list contains.
fn changed_json(mut json: Value, rng: &mut StdRng) -> Value {
    for _ in 0..rng.random_range(1..=4) {
        let count = nodes(&json);
        // Copies of copies would fill the memory.
        if count > MOST_NODES {
            break;
        }
        let donor = nth(&mut json, rng.random_range(0..count)).cloned().unwrap_or_default();
        let Some(node) = nth(&mut json, rng.random_range(0..count)) else { continue };
        match node {
            Value::Object(fields) if rng.random_bool(0.5) => {
                let name = fields.keys().nth(rng.random_range(0..=fields.len())).cloned();
                match name {
                    Some(name) => drop(fields.remove(&name)),
                    None => drop(fields.insert("more".to_owned(), donor)),
                }
            }
            Value::Array(list) if rng.random_bool(0.5) => match rng.random_range(0..3) {
                0 => drop(list.pop()),
                1 => list.push(donor),
                _ if nodes(&donor) < 50 => list.extend(std::iter::repeat_n(donor, rng.random_range(1..50))),
                _ => {}
            },
            Value::String(text) if rng.random_bool(0.5) => *text = changed_text(text, rng),
            _ if rng.random_bool(0.2) => *node = donor,
            _ => *node = hostile_value(rng),
        }
    }
    json
}

/// The number of values in this one, with itself.
fn nodes(json: &Value) -> usize {
    1 + match json {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(fields) => fields.values().map(nodes).sum(),
        _ => 0,
    }
}

/// The value at this place, counted from the outermost.
fn nth(json: &mut Value, at: usize) -> Option<&mut Value> {
    let Some(mut at) = at.checked_sub(1) else { return Some(json) };
    let children: Vec<&mut Value> = match json {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => return None,
    };
    for child in children {
        match at.checked_sub(nodes(child)) {
            Some(rest) => at = rest,
            None => return nth(child, at),
        }
    }
    None
}

/// Changes one to four words: what letters and digits make up, or what is between them.
fn changed_text(text: &str, rng: &mut StdRng) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut last = None;
    for letter in text.chars() {
        let kind = (letter.is_alphabetic(), letter.is_ascii_digit());
        match words.last_mut() {
            Some(word) if last == Some(kind) => word.push(letter),
            _ => words.push(letter.into()),
        }
        last = Some(kind);
    }
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=words.len());
        let donor = words.choose(rng).cloned().unwrap_or_default();
        let hostile = WORDS.choose(rng).map(|word| (*word).to_owned()).unwrap_or_default();
        match (rng.random_range(0..6), words.get_mut(at)) {
            (0, Some(word)) => *word = donor,
            (1, Some(word)) if word.len() < 100 => *word = word.repeat(rng.random_range(2..300)),
            (2, Some(_)) => drop(words.remove(at)),
            (3, _) => words.insert(at, donor),
            (4, _) => words.insert(at, hostile),
            (_, Some(word)) => *word = hostile,
            (_, None) => words.truncate(at / 2),
        }
    }
    words.concat()
}

fn change_bytes(bytes: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let length = rng.random_range(0..=(bytes.len() - at).min(64));
        match rng.random_range(0..6) {
            0 if length > 0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at..at + length.min(8)].fill(0xff),
            2 => bytes[at..at + length.min(8)].fill(0),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + length)),
            _ => {
                let from = rng.random_range(0..=other.len());
                let piece: Vec<u8> = other[from..].iter().copied().take(64).collect();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
}

/// The random numbers of one input.
pub(super) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
