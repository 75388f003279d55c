//! The samples of each parser, and some thousands of inputs made from them. `FUZZ_SEED` repeats a run or begins another,
//! `FUZZ_INPUTS` is the number for each parser. `make fuzz` does more.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use super::{PARSERS, Parser, mutate};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn samples(parser: &Parser) -> Vec<Vec<u8>> {
    let folder = std::fs::read_dir(corpus().join(parser.name)).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn every_parser_has_samples_and_every_sample_a_parser() {
    let folders = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name());
    let folders: BTreeSet<String> = folders.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(folders, PARSERS.iter().map(|parser| parser.name.to_owned()).collect());
    assert!(PARSERS.iter().all(|parser| samples(parser).len() >= 2));
}

#[test]
fn parsers_keep_their_promises_for_samples_and_what_is_made_from_them() {
    let (seed, inputs) = (number("FUZZ_SEED").unwrap_or(1), number("FUZZ_INPUTS").unwrap_or(300));
    let mut executions = 0;
    for (parser, salt) in PARSERS.iter().zip(0_u64..) {
        let samples = samples(parser);
        let made = (0..inputs).map(|n| {
            mutate::changed(&samples, &mut mutate::rng(seed ^ salt.rotate_left(32) ^ n.rotate_left(40)))
        });
        for input in samples.iter().cloned().chain(made) {
            executions += 1;
            if catch_unwind(|| (parser.check)(&input)).is_err() {
                let file = std::env::temp_dir().join(format!("tcoder-fuzz-{}", parser.name));
                std::fs::write(&file, &input).unwrap();
                let shown = input.escape_ascii();
                panic!("FUZZ_SEED={seed}: {} breaks its promise for {file:?}: {shown}", parser.name);
            }
        }
    }
    println!("{executions} inputs, FUZZ_SEED={seed}");
}
