//! The fleet, the reconciler and the queue must not name a provider.

use std::path::{Path, PathBuf};

/// Built from two parts, so that this file does not break its own rule.
const PROVIDER: &str = concat!("f", "ly");

fn files(below: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The lines that contain the provider's name, in any case and as a part of any word.
fn named(text: &str) -> Vec<&str> {
    let names = |line: &&str| line.to_lowercase().replace(&format!("{PROVIDER}ing"), "").contains(PROVIDER);
    text.lines().filter(names).collect()
}

#[test]
fn fleet_reconciler_and_queue_files_do_not_name_the_provider() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut read = 0;
    for folder in ["controller/fleet", "controller/reconciler", "queue"] {
        for file in files(&source.join(folder)) {
            let text = std::fs::read_to_string(&file).unwrap();
            assert_eq!(named(&text), Vec::<&str>::new(), "{} names a provider", file.display());
            read += 1;
        }
    }
    assert!(read > 40, "{read} files were read");
}

#[test]
fn named_finds_the_provider_in_code_and_comments() {
    let upper = PROVIDER.to_uppercase();
    for line in [
        format!("use crate::{PROVIDER}provider::Machine;"),
        format!("// {upper} says so"),
        format!("{upper}_API_TOKEN"),
        format!("self.{PROVIDER}.list()"),
    ] {
        assert_eq!(named(&line), [line.as_str()]);
    }
    assert!(named("the request in flight").is_empty());
    assert!(named(&format!("self.{PROVIDER}ing")).is_empty());
}
