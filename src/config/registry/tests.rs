use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::{ApiConfig, Env, FlyConfig, RedisConfig, Retention, StorageConfig, WorkerConfig};
use crate::controller::fleet::FleetPolicy;
use crate::crd::WorkerPoolSpec;
use crate::edge::settings::Settings;
use crate::flyprovider;

fn all() -> impl Iterator<Item = &'static Description> {
    GROUPS.iter().flat_map(|group| group.settings.iter().copied())
}

#[test]
fn markdown_equals_the_document() {
    let file = include_str!("../../../docs/configuration.md");
    assert!(file == markdown(), "run `make docs`");
}

#[test]
fn registry_names_each_setting_once() {
    let names: BTreeSet<&str> = all().map(|v| v.name).collect();
    assert_eq!(names.len(), all().count());
    for variable in all() {
        assert!(!variable.text.ends_with('.') && !variable.roles.is_empty(), "{}", variable.name);
    }
}

/// What a role asks its environment for, where whatever it must have is there.
fn asked(read: impl Fn(&Env<'_>)) -> BTreeSet<String> {
    let names = RefCell::new(BTreeSet::new());
    let env = Env::of(|name| {
        names.borrow_mut().insert(name.to_owned());
        let value = match name {
            "REDIS_URL" => "redis://127.0.0.1",
            "UPSTASH_REDIS_REST_URL" => "https://redis.example",
            "API_TOKENS" => "a-token-of-some-length",
            "FLY_WORKER_IMAGE"
            | "R2_ACCOUNT_ID"
            | "R2_ACCESS_KEY_ID"
            | "R2_SECRET_ACCESS_KEY"
            | "R2_INPUT_BUCKET_NAME"
            | "R2_OUTPUT_BUCKET_NAME"
            | "UPSTASH_REDIS_REST_TOKEN"
            | "FLY_API_TOKEN"
            | "FLY_WORKER_APP" => "some",
            _ => return None,
        };
        Some(value.to_owned())
    });
    read(&env);
    drop(env);
    names.into_inner()
}

#[test]
fn registry_names_every_role_that_reads_a_setting() {
    let storage = |env: &Env<'_>| drop(StorageConfig::read(env).unwrap());
    let redis = |env: &Env<'_>| drop(RedisConfig::read(env).unwrap());
    let api = |env: &Env<'_>| {
        redis(env);
        storage(env);
        ApiConfig::read(env).unwrap();
        Retention::read(env).unwrap();
        env.get(&WEBHOOK_SECRET).unwrap();
    };
    let worker = |env: &Env<'_>| {
        redis(env);
        storage(env);
        WorkerConfig::read(env).unwrap();
    };
    let controller = |env: &Env<'_>| {
        redis(env);
        FlyConfig::read(env).unwrap();
        flyprovider::policy::read(env).unwrap();
    };
    let edge = |env: &Env<'_>| drop(Settings::read(env).unwrap());
    for (role, names) in
        [(Api, asked(api)), (Worker, asked(worker)), (Controller, asked(controller)), (Edge, asked(edge))]
    {
        assert!(names.len() > 8, "{role:?}: {names:?}");
        for name in names {
            let named = all().find(|v| v.name == name).is_some_and(|v| v.roles.contains(&role));
            assert!(named, "{role:?} reads {name}, and its row does not say so");
        }
    }
}

/// Words in the sources that look like a variable's name but are not settings.
const OTHERS: [&str; 26] = [
    "AV_LOG_FORCE_NOCOLOR",
    "CARGO_MANIFEST_DIR",
    "CARGO_PKG_VERSION",
    "DEAD_LETTERS",
    "DYLD_LIBRARY_PATH",
    "FLY_ALLOC_ID",
    "FLY_APP_NAME",
    "FLY_IMAGE_REF",
    "FLY_MACHINE_VERSION",
    "FLY_PRIVATE_IP",
    "FLY_REGION",
    "FLY_VM_MEMORY_MB",
    "FUZZ_INPUTS",
    "FUZZ_SEED",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "NEVER_UPLOADED",
    "NO_COLOR",
    "RUST_BACKTRACE",
    "SCREAMING_SNAKE_CASE",
    "SOME_VARIABLE",
    "_OTHER",
    "EDGE_FLEET",
    "HOSTNAME",
    "POD_NAME",
    "POD_UID",
];

/// The texts of the sources but for the registry.
fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("config/registry.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

#[test]
fn registry_has_every_variable_of_the_sources_and_no_other() {
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let words: BTreeSet<&str> = texts.iter().flat_map(|(_, text)| text.split(|c| !is_part(c))).collect();
    for about in all() {
        assert!(words.contains(about.name), "nothing reads {}", about.name);
    }
    let is_name = |word: &&str| word.contains('_') && word.len() > 4 && word.chars().all(is_part);
    let named = texts.iter().flat_map(|(_, text)| text.split('"').filter(is_name));
    for name in named.filter(|name| !OTHERS.contains(name)) {
        assert!(all().any(|about| about.name == name), "{name} is not in the registry");
    }
}

/// What a worker, a fleet and a WorkerPool have when nothing is set, and that nothing else in the sources repeats it.
#[test]
fn worker_idle_timeout_default_stands_once() {
    let default = WORKER_IDLE_TIMEOUT.default_value().unwrap();
    assert_eq!(WorkerConfig::read(&Env::of(|_| None)).unwrap().idle_timeout, default);
    assert_eq!(FleetPolicy::new("app", "image").idle_timeout, default);
    let pool: WorkerPoolSpec = serde_json::from_value(serde_json::json!({})).unwrap();
    assert_eq!(pool.idle_timeout_seconds, i64::try_from(default.as_secs()).unwrap());
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let number = default.as_secs().to_string();
    let is_production =
        |path: &Path| !path.iter().any(|part| part == "tests" || part == "tests.rs" || part == "simulation");
    let production = texts.iter().filter(|(path, _)| is_production(path));
    for line in production.flat_map(|(_, text)| text.split("#[cfg(test)]\nmod").next().unwrap().lines()) {
        let names_it = line.to_lowercase().contains("idle_timeout");
        assert!(!(names_it && line.contains(&number)), "the default is repeated: {line}");
    }
}
