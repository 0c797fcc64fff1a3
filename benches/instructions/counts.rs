//! The cost of an item in each case: the stored one, the measured one, and whether the two agree.
//!
//! Pure: knows neither valgrind nor the cases.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Deserialize;

/// How far a count may be from the stored one, either way.
pub(crate) const BAND: f64 = 0.05;

/// What to do about an intended difference.
pub(crate) const ADVICE: &str = "if this is intended, store the new counts with `tests/run store_instructions` and commit them";

/// The cost of one item.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Count {
    /// Instructions that callgrind sees.
    pub(crate) instructions: f64,
    /// Calls to the allocator for new or larger memory.
    pub(crate) allocations: f64,
    /// Bytes asked for in these calls.
    pub(crate) bytes: f64,
}

impl Count {
    fn parts(&self) -> [(&'static str, f64); 3] {
        [("instructions", self.instructions), ("allocations", self.allocations), ("bytes", self.bytes)]
    }
}

/// A case that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// Its name.
    pub(crate) case: String,
    /// Its cost.
    pub(crate) count: Count,
}

/// Stored counts by case.
pub(crate) type Stored = BTreeMap<String, Count>;

/// The result of a comparison.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// One line per case, with a header.
    pub(crate) table: String,
    /// One sentence for each count that is outside the band, and for each case without a counterpart.
    pub(crate) faults: Vec<String>,
}

/// The text that [`parse`] reads, with the cases in the order in which they were measured.
pub(crate) fn to_toml(measured: &[Measured]) -> String {
    let mut text = "# What an item costs, by case; see \"Instruction counts\" in docs/performance.md.\n\
                    # Written by `tests/run store_instructions`.\n\n"
        .to_owned();
    for Measured { case, count: Count { instructions, allocations, bytes } } in measured {
        let _ =
            writeln!(text, "{case} = {{ instructions = {instructions:.1}, allocations = {allocations:.3}, bytes = {bytes:.1} }}");
    }
    text
}

/// Stored counts from their text.
///
/// # Errors
/// If it is not what [`to_toml`] writes.
pub(crate) fn parse(text: &str) -> Result<Stored, toml::de::Error> {
    toml::from_str(text)
}

/// Checks what was measured against what is stored.
pub(crate) fn compare(stored: &Stored, measured: &[Measured]) -> Comparison {
    let mut table = format!(
        "{:34} {:>12} {:>12} {:>6}  {:>8} {:>8} {:>6}  {:>9} {:>9} {:>6}\n",
        "case", "instr stored", "now", "ratio", "allocs", "now", "ratio", "bytes", "now", "ratio"
    );
    let mut faults = Vec::new();
    for Measured { case, count } in measured {
        let _ = write!(table, "{case:34}");
        let before = stored.get(case);
        for (position, (what, now)) in count.parts().into_iter().enumerate() {
            let before = before.map(|before| before.parts()[position].1);
            let width = [12, 8, 9][position];
            let ratio = before.map(|before| ratio(before, now));
            let shown =
                |number: Option<f64>, decimals| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"));
            let _ = write!(
                table,
                " {:>width$} {:>width$} {:>6} ",
                shown(before, position % 2),
                shown(Some(now), position % 2),
                shown(ratio, 3)
            );
            if let Some((before, ratio)) = before.zip(ratio).filter(|(_, ratio)| (ratio - 1.0).abs() > BAND) {
                let direction = if ratio > 1.0 { "more" } else { "fewer" };
                faults.push(format!(
                    "{case}: {now:.3} {what} an item are {direction} than the stored {before:.3} by more than {:.0} %",
                    BAND * 100.0
                ));
            }
        }
        table.truncate(table.trim_end().len());
        table.push('\n');
        if before.is_none() {
            faults.push(format!("{case}: no count is stored for this case"));
        }
    }
    let gone = stored.keys().filter(|case| measured.iter().all(|measured| measured.case != **case));
    faults.extend(gone.map(|case| format!("{case}: a count is stored, but there is no such case")));
    Comparison { table, faults }
}

/// How many times as much it is now. What was zero has to stay zero.
fn ratio(before: f64, now: f64) -> f64 {
    if before == now { 1.0 } else { now / before }
}
