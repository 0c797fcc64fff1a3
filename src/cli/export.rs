//! `tidemill models export`: writes the file of a model inside the binary. Asks no server.

use std::{
    fmt::{self, Write as _},
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    output::{Printer, Record},
    status::Failure,
};
use crate::registry::Embedded;

const HELP: &str = help!(
    "\
Examples:
  tidemill models export silero-vad silero_vad_16khz.onnx        the model that is served by default
  tidemill models export silero-vad-8k silero_vad_8khz.onnx      the same for 8 kHz audio
The files are made of the official Silero VAD 6.2 and say so in their metadata, which hold the licence (MIT)."
);

/// A model inside the binary, and where it goes.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub(super) struct ExportArgs {
    /// Model inside this binary: silero-vad or silero-vad-8k
    #[arg(value_name = "NAME")]
    name: String,

    /// ONNX file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Write FILE even if it is there already
    #[arg(long)]
    force: bool,

    /// Print one JSON object on standard output, errors included
    #[arg(long)]
    pub(super) json: bool,
}

/// What was written: `{"exported":{..}}`.
#[derive(Debug, Serialize)]
struct ExportRecord {
    model: &'static str,
    file: String,
    bytes: usize,
    sha256: String,
}

pub(super) fn run(args: &ExportArgs, printer: &mut Printer) -> Result<(), Failure> {
    let ExportArgs { name, file, force, .. } = args;
    let Some(embedded) = Embedded::ALL.into_iter().find(|embedded| embedded.name() == *name) else {
        let known = Embedded::ALL.map(|embedded| embedded.name()).join(" and ");
        return Err(Failure::BadInput(format!(
            "there is no model file '{name}' inside this binary, which holds {known}; the file of a model of a folder is \
             {name}/VERSION/model.onnx in that folder"
        )));
    };
    write(file, embedded.file(), *force)?;
    let sha256 = Sha256::digest(embedded.file()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let file = file.display().to_string();
    printer.print(&ExportRecord { model: embedded.name(), file, bytes: embedded.file().len(), sha256 })
}

fn write(path: &Path, bytes: &[u8], force: bool) -> Result<(), Failure> {
    let refuse = |reason: String| Failure::BadInput(format!("{}: {reason}", path.display()));
    let opened = if force { File::create(path) } else { OpenOptions::new().write(true).create_new(true).open(path) };
    let mut file = opened.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => refuse("it exists already; --force replaces it".to_owned()),
        _ => refuse(format!("cannot be created: {error}")),
    })?;
    let written = file.write_all(bytes);
    if written.is_err() && !force {
        // Half a model is of no use to anyone, and nothing was there before.
        let _ = fs::remove_file(path);
    }
    written.map_err(|error| refuse(format!("cannot be written: {error}")))
}

impl fmt::Display for ExportRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, file, bytes, sha256 } = self;
        write!(f, "{model}: {bytes} bytes written to {file}, sha256 {sha256}")
    }
}

impl Record for ExportRecord {
    const KIND: &'static str = "exported";
}
