//! One program for all parsers: `FUZZ_PARSER` chooses, and the arguments are those of libFuzzer. With the argument `--list`
//! it prints the names of the parsers.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tcoder::fuzz::{PARSERS, Parser};

static CHOSEN: OnceLock<Parser> = OnceLock::new();

fn choose() {
    if std::env::args().nth(1).as_deref() == Some("--list") {
        PARSERS.iter().for_each(|parser| println!("{}", parser.name));
        std::process::exit(0);
    }
    let name = std::env::var("FUZZ_PARSER").unwrap_or_default();
    let Some(parser) = PARSERS.iter().find(|parser| parser.name == name) else {
        eprintln!("FUZZ_PARSER is {name:?}; the parsers are those of --list");
        std::process::exit(1);
    };
    CHOSEN.get_or_init(|| *parser);
}

fuzz_target!(init: choose(), |bytes: &[u8]| {
    if let Some(parser) = CHOSEN.get() {
        (parser.check)(bytes);
    }
});
