//! `tidemill models export`: writes the file of a model inside the binary. Needs no server.

use std::{
    fmt::{self, Write as _},
    fs::{self, OpenOptions, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{ModelFile, output::Printer, printed::Record, status::Failure};

const HELP: &str = help!(
    "\
Examples:
  tidemill models export silero-vad silero_vad_16khz.onnx        the model that is served by default
  tidemill models export silero-vad-8k silero_vad_8khz.onnx      the same for 8 kHz audio
The files are made from the official Silero VAD 6.2 and say so in their metadata, which includes the licence (MIT)."
);

/// Permissions of a new file, before the user's umask takes some away.
const MODE_BEFORE_UMASK: u32 = 0o666;

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

    /// Overwrite FILE if it exists
    #[arg(long)]
    force: bool,

    /// Print one JSON object on standard output, errors included
    #[arg(long)]
    pub(super) json: bool,
}

/// The exported file: `{"exported":{..}}`.
#[derive(Debug, Serialize)]
struct ExportRecord {
    model: &'static str,
    file: String,
    bytes: usize,
    sha256: String,
}

pub(super) fn run(args: &ExportArgs, files: &[ModelFile], printer: &mut Printer) -> Result<(), Failure> {
    let ExportArgs { name, file, force, .. } = args;
    let Some(ModelFile { name: model, bytes }) = files.iter().find(|file| file.name == *name) else {
        let known = files.iter().map(|file| file.name).collect::<Vec<_>>().join(" and ");
        return Err(Failure::BadInput(format!(
            "there is no model file '{name}' inside this binary, which holds {known}; a model in a folder has its file there, as \
             {name}/VERSION/model.onnx"
        )));
    };
    write(file, bytes, *force)?;
    let sha256 = Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let file = file.display().to_string();
    printer.print(&ExportRecord { model, file, bytes: bytes.len(), sha256 })
}

/// Writes the whole file or leaves what was there: it is written under another name first.
fn write(path: &Path, bytes: &[u8], force: bool) -> Result<(), Failure> {
    let refuse = |reason: String| Failure::BadInput(format!("{}: {reason}", path.display()));
    let exists = || refuse("it already exists; --force replaces it".to_owned());
    let found = fs::metadata(path).ok();
    if found.is_some() && !force {
        return Err(exists());
    }
    if found.is_some_and(|found| !found.is_file()) {
        // A pipe or a device is written to; nobody wants it replaced by a file.
        let mut place =
            OpenOptions::new().write(true).open(path).map_err(|error| refuse(format!("cannot be opened: {error}")))?;
        return place.write_all(bytes).map_err(|error| refuse(format!("cannot be written: {error}")));
    }
    // A link goes on pointing to the file that is replaced.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let as_others = Permissions::from_mode(MODE_BEFORE_UMASK);
    let mut file = tempfile::Builder::new()
        .permissions(as_others)
        .tempfile_in(folder)
        .map_err(|error| refuse(format!("cannot be created: {}", innermost(&error))))?;
    file.write_all(bytes).map_err(|error| refuse(format!("cannot be written: {}", innermost(&error))))?;
    let kept = if force { file.persist(&place) } else { file.persist_noclobber(&place) };
    kept.map(drop).map_err(|failed| match failed.error.kind() {
        ErrorKind::AlreadyExists => exists(),
        _ => refuse(format!("cannot be written: {}", failed.error)),
    })
}

/// The system's message; the library puts the name of its temporary file in front.
fn innermost(error: &io::Error) -> String {
    error.get_ref().and_then(|named| named.source()).map_or_else(|| error.to_string(), ToString::to_string)
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
