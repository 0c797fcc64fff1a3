//! Where the results of a run go.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{csv, html, results::RunResult, summary};

/// Which files to write, and what to print on standard output.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct OutputArgs {
    /// Write all results as JSON; - for standard output
    #[arg(long, value_name = "PATH")]
    pub(crate) json: Option<PathBuf>,

    /// Write a table of seconds, and next to it, ending in .steps.csv, one of steps and loads
    #[arg(long, value_name = "PATH")]
    pub(crate) csv: Option<PathBuf>,

    /// Write a page with charts
    #[arg(long, value_name = "PATH")]
    pub(crate) html: Option<PathBuf>,

    /// Print only errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

impl OutputArgs {
    /// Writes what was asked for.
    ///
    /// # Errors
    /// The paths that cannot be written. The other files are still written, so that a long run is not lost.
    pub(crate) fn write(&self, run: &RunResult) -> anyhow::Result<()> {
        let mut written = Ok(());
        for (path, text) in self.files(run)? {
            written = written.and(std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display())));
        }
        written.and(match self.said(run)? {
            Some(text) => say(&text).context("cannot write to the standard output"),
            None => Ok(()),
        })
    }

    fn json_is_said(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }

    fn said(&self, run: &RunResult) -> anyhow::Result<Option<String>> {
        if self.json_is_said() {
            return Ok(Some(json(run)?));
        }
        Ok((!self.quiet).then(|| summary::text(run)))
    }

    fn files(&self, run: &RunResult) -> anyhow::Result<Vec<(PathBuf, String)>> {
        let mut files = Vec::new();
        if let Some(path) = &self.json
            && !self.json_is_said()
        {
            files.push((path.clone(), json(run)?));
        }
        if let Some(path) = &self.csv {
            files.push((path.clone(), csv::seconds(run)));
            files.push((path.with_extension("steps.csv"), csv::steps(run)));
        }
        if let Some(path) = &self.html {
            files.push((path.clone(), html::page(run)));
        }
        Ok(files)
    }
}

fn json(run: &RunResult) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(run)? + "\n")
}

/// The reader may have read enough: that is not an error.
fn say(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    #[test]
    fn json_can_be_read_back() {
        let run = sample::run(2);
        let read: RunResult = serde_json::from_str(&json(&run).expect("no strange number")).expect("it is whole");
        // The last bit of a floating-point number may be lost in its text.
        assert!(format!("{read:.9?}") == format!("{run:.9?}"), "{read:?}");
    }

    #[test]
    fn every_file_that_was_asked_for_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| Some(folder.path().join(name));
        let output = OutputArgs { json: path("a.json"), csv: path("a.csv"), html: path("a.html"), quiet: true };
        output.write(&sample::run(1)).expect("it is written");
        for (name, opening) in [("a.json", "{"), ("a.csv", "step,"), ("a.steps.csv", "step,"), ("a.html", "<!DOCTYPE")] {
            let text = std::fs::read_to_string(folder.path().join(name)).expect(name);
            assert!(text.starts_with(opening), "{name}: {text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_and_the_others_are_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let (missing, page) = (folder.path().join("no/a.json"), folder.path().join("a.html"));
        let output = OutputArgs { json: Some(missing), html: Some(page.clone()), quiet: true, ..OutputArgs::default() };
        let error = output.write(&sample::run(1)).expect_err("no such folder");
        assert!(error.to_string().contains("no/a.json"), "{error}");
        assert!(page.exists());
    }

    #[test]
    fn what_is_said_is_for_people_or_for_programs() {
        let run = sample::run(1);
        let said = |json: Option<&str>, quiet| {
            let output = OutputArgs { json: json.map(PathBuf::from), quiet, ..OutputArgs::default() };
            output.said(&run).expect("no strange number")
        };
        assert!(said(None, false).is_some_and(|text| text.starts_with("live-speech:")));
        assert!(said(Some("-"), true).is_some_and(|text| text.starts_with('{')));
        assert!(said(Some("file.json"), true).is_none());
    }
}
