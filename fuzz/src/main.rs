//! One fuzzer for all decoders: `FUZZ_TARGET` says which. `fuzz/run` builds it, and runs each target on its corpus.
//!
//! It is one binary because linking the server a dozen times would take longer than everything else.
#![no_main]

mod serving;
#[path = "../../tests/it/start.rs"]
mod start;
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(target) = TARGET.get() {
        target(data);
    }
});

fn choose() {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let Some((_, target)) = targets::ALL.iter().find(|(known, _)| *known == name) else {
        let known: Vec<_> = targets::ALL.iter().map(|(known, _)| *known).collect();
        eprintln!("FUZZ_TARGET is '{name}'; there are: {}", known.join(" "));
        std::process::exit(2);
    };
    TARGET.get_or_init(|| *target);
}
