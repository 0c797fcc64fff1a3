//! The file of the audit log: opened so that each line goes to its end, and again when it has been moved away.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fs::OFlags;

/// Nobody else reads who calls, unless the operator says so: a file that exists keeps its mode.
const MODE: u32 = 0o600;

/// A file that lines are appended to.
pub(super) struct Appended {
    path: PathBuf,
    file: File,
    /// Set when the path is to be opened again before the next line.
    reopens: Arc<AtomicBool>,
}

impl Appended {
    /// Opens the file, and makes it if it is not there.
    ///
    /// # Errors
    /// The system's, or that it is not a regular file: others may never take what is written, or give it away.
    pub(super) fn open(path: &Path, reopens: Arc<AtomicBool>) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)?, reopens })
    }
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.reopens.swap(false, Ordering::Relaxed) {
            match open(&self.path) {
                Ok(file) => self.file = file,
                Err(error) => tracing::error!(
                    "{} (log.audit) cannot be opened again: {error}; lines go on to the file that was open before",
                    self.path.display()
                ),
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // With the flag, opening a pipe that nobody reads fails instead of waiting.
    options.append(true).create(true).mode(MODE).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn lines_are_appended_for_the_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        for line in ["one\n", "two\n"] {
            let mut file = Appended::open(&path, Arc::default()).expect("a file");
            file.write_all(line.as_bytes()).expect("room");
        }
        assert_eq!(fs::read_to_string(&path).expect("text"), "one\ntwo\n");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, MODE);
    }

    #[test]
    fn a_file_that_was_moved_away_or_emptied_is_followed_as_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let reopens = Arc::new(AtomicBool::new(false));
        let mut file = Appended::open(&path, Arc::clone(&reopens)).expect("a file");
        file.write_all(b"one\n").expect("room");
        fs::rename(&path, &moved).expect("renamed");
        file.write_all(b"two\n").expect("room");
        reopens.store(true, Ordering::Relaxed);
        file.write_all(b"three\n").expect("room");
        assert_eq!(fs::read_to_string(&moved).expect("text"), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).expect("text"), "three\n");
        // As `copytruncate` does.
        File::create(&path).expect("emptied");
        file.write_all(b"four\n").expect("room");
        assert_eq!(fs::read_to_string(&path).expect("text"), "four\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_keeps_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("audit.log"), folder.path().join("moved"));
        let reopens = Arc::new(AtomicBool::new(false));
        let mut file = Appended::open(&path, Arc::clone(&reopens)).expect("a file");
        fs::rename(&path, &moved).expect("renamed");
        fs::create_dir(&path).expect("a folder in its place");
        reopens.store(true, Ordering::Relaxed);
        file.write_all(b"one\n").expect("room");
        assert_eq!(fs::read_to_string(&moved).expect("text"), "one\n");
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Appended::open(folder.path(), Arc::default()).is_err());
        let refused = Appended::open(Path::new("/dev/null"), Arc::default()).err().expect("refused");
        assert_eq!(refused.to_string(), "it is not a regular file");
    }
}
