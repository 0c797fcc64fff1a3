//! Where a client command prints: results on standard output, notes and a progress bar on standard error.
//!
//! Knows two forms, text for people and one JSON object per line for pipes; does not know what the records mean.

use std::{
    fmt,
    io::{self, BufWriter, IsTerminal as _, Write},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    printed::{Place, Record},
    status::Failure,
};

/// Prints records in the form that the user chose.
pub(super) struct Printer {
    json: bool,
    results: Box<dyn Write + Send>,
    notes: Box<dyn Write + Send>,
    bar_wanted: bool,
    bar: ProgressBar,
}

impl Printer {
    /// Prints to the process's standard output and error, with a progress bar if the latter is a terminal.
    pub(super) fn standard(json: bool) -> Self {
        let results = Box::new(BufWriter::new(io::stdout()));
        Self::new(json, results, Box::new(io::stderr()), io::stderr().is_terminal())
    }

    /// Prints to any two writers.
    pub(super) fn new(json: bool, results: Box<dyn Write + Send>, notes: Box<dyn Write + Send>, bar_wanted: bool) -> Self {
        Self { json, results, notes, bar_wanted, bar: ProgressBar::hidden() }
    }

    /// Shows a progress bar that is full at `total`, or a spinner if the end is not known.
    pub(super) fn start_progress(&mut self, total: Option<u64>) {
        if !self.bar_wanted {
            return;
        }
        let template = if total.is_some() { "{bar:30} {percent:>3}%  {msg}" } else { "{spinner}  {msg}" };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()).with_style(style);
    }

    /// The bar, to be advanced while records are printed elsewhere; hidden if there is none.
    pub(super) const fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// Takes the progress bar away.
    pub(super) fn end_progress(&mut self) {
        self.bar.finish_and_clear();
        self.bar = ProgressBar::hidden();
    }

    /// Prints one record.
    ///
    /// # Errors
    /// [`Failure::Output`] if standard output cannot be written. A standard error that is gone is ignored: there is nowhere
    /// left to say so.
    pub(super) fn print<R: Record>(&mut self, record: &R) -> Result<(), Failure> {
        let place = if self.json { Place::Results } else { record.place() };
        let Self { json, results, notes, bar, .. } = self;
        match place {
            Place::Nowhere => {}
            // Notes must not overtake the results that they refer to when both go to the same terminal.
            Place::Notes => {
                results.flush()?;
                bar.suspend(|| writeln!(notes, "{record}").and_then(|()| notes.flush())).ok();
            }
            Place::Results if bar.is_hidden() => write_record(results, record, *json)?,
            Place::Results => bar.suspend(|| write_record(results, record, *json).and_then(|()| results.flush()))?,
        }
        Ok(())
    }

    /// Reports on standard error what went wrong with standard output, which is not tried again.
    pub(super) fn complain(&mut self, record: &impl fmt::Display) {
        // If standard error is gone too, the exit code has to say it.
        writeln!(self.notes, "{record}").and_then(|()| self.notes.flush()).ok();
    }

    /// Prints a note to people, on standard error in either form: standard output is for records.
    pub(super) fn note(&mut self, note: &str) {
        let Self { results, notes, bar, .. } = self;
        // As with records, a standard error or output that is gone leaves nowhere to say so.
        results.flush().ok();
        bar.suspend(|| writeln!(notes, "{note}").and_then(|()| notes.flush())).ok();
    }

    /// Prints text that has no JSON form of its own, because its parts are printed one by one.
    ///
    /// # Errors
    /// [`Failure::Output`] if standard output cannot be written.
    pub(super) fn print_text(&mut self, text: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { Ok(writeln!(self.results, "{text}")?) }
    }

    /// Passes on what has been printed; called whenever a stream of results pauses, so that nobody has to wait for the buffer to fill.
    ///
    /// # Errors
    /// [`Failure::Output`] if standard output cannot be written.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.results.flush()?)
    }
}

fn write_record<R: Record>(results: &mut dyn Write, record: &R, json: bool) -> io::Result<()> {
    if !json {
        return writeln!(results, "{record}");
    }
    write!(results, "{{\"{}\":", R::KIND)?;
    serde_json::to_writer(&mut *results, record)?;
    results.write_all(b"}\n")
}

/// Aligns rows of cells into columns, two spaces apart; the last column is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let lines = rows.iter().map(|row| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_blanks() {
        let rows = [["NAME", "STATE"], ["silero-vad", "ready"], ["x", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "NAME        STATE\nsilero-vad  ready\nx");
    }
}
