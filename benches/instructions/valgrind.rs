//! Runs this program again under callgrind and reads what that wrote.
//!
//! # Repeatability
//! Counts have to be the same on every processor and machine that runs this build, so everything that depends on either is fixed: the
//! environment is empty, glibc copies in the way that every x86-64 can, and mimalloc does not give memory back by the clock. Valgrind shows
//! every machine with AVX2 the same processor.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::Path,
    process::{Command, Stdio},
};

use crate::counts::{Count, Measured};

/// The argument that makes this program run the cases.
pub(crate) const MEASURE: &str = "--measure";

/// Names of features before and since glibc 2.33; it ignores those that it does not know.
const GLIBC_TUNABLES: &str =
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX,-AVX2_Usable,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-SSSE3";

/// Runs all cases, and returns what their items cost, in their order.
pub(crate) fn measure() -> io::Result<Vec<Measured>> {
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        return Err(io::Error::other("instructions are counted on Linux on x86-64 only"));
    }
    let folder = tempfile::tempdir()?;
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--callgrind-out-file={}", folder.path().join("callgrind").display()))
        .arg(env::current_exe()?)
        .arg(MEASURE)
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        .env("GLIBC_TUNABLES", GLIBC_TUNABLES)
        .env("MIMALLOC_PURGE_DELAY", "-1")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| io::Error::other(format!("cannot run valgrind: {error}; tests/setup/install installs it")))?;
    if !run.status.success() {
        return Err(io::Error::other(format!("the cases did not run to the end: {}", run.status)));
    }
    let instructions = read_dumps(folder.path())?;
    let printed = String::from_utf8_lossy(&run.stdout);
    printed.lines().map(|line| measured(line, &instructions).ok_or_else(|| broken(line))).collect()
}

/// The totals of the cases, by name: each has its own dump.
fn read_dumps(folder: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut instructions = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let dump = fs::read_to_string(entry?.path())?;
        let after = |start| dump.lines().find_map(|line| line.strip_prefix(start));
        let Some(case) = after("desc: Trigger: Client Request: ") else { continue };
        let total = after("totals: ").or_else(|| after("summary: ")).and_then(|total| total.trim().parse().ok());
        instructions.insert(case.to_owned(), total.ok_or_else(|| broken(case))?);
    }
    Ok(instructions)
}

/// A case, read from the line that it printed: name, items, allocations, bytes.
fn measured(line: &str, instructions: &BTreeMap<String, u64>) -> Option<Measured> {
    let mut words = line.split(' ');
    let case = words.next()?;
    let mut number = || words.next()?.parse::<f64>().ok();
    let (items, allocations, bytes) = (number()?, number()?, number()?);
    let instructions = *instructions.get(case)? as f64 / items;
    let count = Count { instructions, allocations: allocations / items, bytes: bytes / items };
    Some(Measured { case: case.to_owned(), count })
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("callgrind's output cannot be read at {what:?}"))
}
