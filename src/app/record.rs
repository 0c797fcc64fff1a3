//! The recording of arrivals (`scheduler.record`): where it goes, and the thread that writes it.
//!
//! The queue never waits for it, and a file that accepts nothing holds up neither serving nor shutdown.

use std::{
    fs::{self, File, FileType, OpenOptions},
    io::{self, BufWriter},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use tokio::task::JoinHandle;

use super::StartError;
use crate::{
    clock,
    device::{Devices, Trace},
    threads,
};

/// Records what arrives at the queue; the task ends when the recording does.
pub(super) fn start(path: &Path, devices: &Devices) -> Result<JoinHandle<()>, StartError> {
    let file = open(path)?;
    let (trace, writer) = Trace::begin(clock::now(), devices.lanes());
    devices.record(Some(trace));
    let path = path.to_owned();
    Ok(tokio::spawn(async move {
        let written = threads::aside(move || writer.write(BufWriter::new(file))).await;
        if let Err(error) = written.map_err(io::Error::other).flatten() {
            tracing::error!(path = %path.display(), %error, "the recording of arrivals stopped");
        }
    }))
}

/// Creates or empties the file to record in. It must accept what is written: opening a FIFO would wait for a reader.
fn open(path: &Path) -> Result<File, StartError> {
    let fault = |error| StartError::Record { path: path.to_owned(), error };
    let check = |kind: FileType| match kind_of(kind) {
        None => Ok(()),
        Some(kind) => Err(StartError::RecordKind { path: path.to_owned(), kind }),
    };
    if let Ok(there) = fs::metadata(path) {
        check(there.file_type())?;
    }
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(fault)?;
    // Another may have taken its place.
    check(file.metadata().map_err(fault)?.file_type())?;
    Ok(file)
}

/// The kind of a file that cannot be recorded in; `None` for one that can.
fn kind_of(kind: FileType) -> Option<&'static str> {
    if kind.is_file() || kind.is_char_device() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a block device")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType as NodeType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_regular_files_and_character_devices_are_recorded_in() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        mknodat(CWD, path("fifo"), NodeType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        let _socket = UnixListener::bind(path("socket")).expect("a socket");
        fs::write(path("old"), "what was there").expect("a file");
        for good in [path("new"), path("old"), "/dev/null".into()] {
            assert!(open(&good).is_ok(), "{}", good.display());
        }
        assert_eq!(fs::metadata(path("old")).expect("it is there").len(), 0, "it is emptied first");
        for (bad, kind) in [(path("fifo"), "a FIFO"), (path("socket"), "a socket"), (folder.path().to_owned(), "a folder")] {
            let error = open(&bad).expect_err("no file").to_string();
            assert!(error.contains(kind) && error.contains("scheduler.record"), "{error}");
            assert!(error.contains(&bad.display().to_string()), "{error}");
        }
    }
}
