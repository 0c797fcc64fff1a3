//! Counts the instructions and allocations of one item at each stage of its path, and checks them against
//! `benches/instructions.toml`.
//!
//! `tests/run instructions` checks them, `tests/run store_instructions` stores them again. This program runs itself under valgrind's
//! callgrind, and that run, on one thread and with a lane that works only when asked to, is the same each time. It is not a criterion
//! bench, because times on a shared machine vary by more than the differences looked for here; nor does it use one of the harnesses
//! around callgrind, because they need a runner installed, and compare with the last run on the same machine rather than with
//! counts in the repository.

mod counts;
mod device;
#[path = "../setup/feed.rs"]
mod feed;
#[path = "../setup/identity.rs"]
mod identity;
mod messages;
mod meter;
mod model;
mod queue;
mod serving;
mod sessions;
mod valgrind;

use std::{env, error::Error, fs, path::Path, process::ExitCode};

use identity::{BYTES, VALUES};

#[global_allocator]
static ALLOCATOR: meter::CountingAllocator = meter::CountingAllocator;

/// Items in a batch, where it has more than one.
const BATCH: usize = 16;
/// Turns that are counted.
const TURNS: usize = 64;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let asked = |argument: &str| arguments.iter().any(|given| given == argument);
    if asked(valgrind::MEASURE) {
        run_cases();
        return Ok(ExitCode::SUCCESS);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.toml");
    let measured = valgrind::measure()?;
    let stored = if file.exists() { counts::parse(&fs::read_to_string(&file)?)? } else { counts::Stored::new() };
    let counts::Comparison { table, faults } = counts::compare(&stored, &measured);
    println!("{table}");
    if asked("--store") {
        fs::write(&file, counts::to_toml(&measured))?;
        println!("stored {} cases in {}", measured.len(), file.display());
        return Ok(ExitCode::SUCCESS);
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        eprintln!("{}", counts::ADVICE);
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// In the order of an item's path.
fn run_cases() {
    messages::decode();
    queue::run();
    model::run();
    sessions::run();
    messages::encode();
    serving::run();
}
