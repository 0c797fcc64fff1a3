//! Instructions and allocations of one item on each stage of its way, held against those in `benches/instructions.toml`.
//!
//! `tests/run instructions` checks, `tests/run store_instructions` stores anew. This program runs itself again under valgrind's
//! callgrind, and that run, on one thread and with a lane that is told when to work, is the same each time. It is no criterion
//! bench, because times on a shared machine move by more than what is looked for here; nor is it one of the harnesses around
//! callgrind, because they want a runner installed and compare with the last run on the same machine in place of counts that
//! stand in the repository.

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

/// Items in a batch, where it is not of one.
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

/// In the order of an item's way.
fn run_cases() {
    messages::decode();
    queue::run();
    model::run();
    sessions::run();
    messages::encode();
    serving::run();
}
