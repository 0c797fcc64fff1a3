//! Files of settings that may change while the server runs.
//!
//! The system says when; nothing looks again and again. Where it cannot say so, as on some network file systems, SIGHUP has
//! certificates read again, and other files need a restart.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Notify, time::timeout};

use crate::threads;

/// After a change, a file is read once nothing has changed for this long: whoever writes it in several steps is then done.
const REST: Duration = Duration::from_millis(50);
/// And after this long at the latest, however busy its folder is: a key that is revoked has to end.
const REST_WAIT_MAX: Duration = Duration::from_millis(500);

/// A watch on files, which may come, go and be replaced.
pub struct Watch {
    changed: Arc<Notify>,
    /// Watches for as long as it lives.
    _system: RecommendedWatcher,
}

impl Watch {
    /// Watches these files from now on.
    ///
    /// # Errors
    /// Why the system does not watch them.
    pub fn new(files: &[&Path]) -> Result<Self, String> {
        let changed = Arc::new(Notify::new());
        let system = watch(files, &changed).map_err(|error| error.to_string())?;
        Ok(Self { changed, _system: system })
    }

    /// Waits until something may have changed, and then as [`rested`] does.
    pub async fn rested(&self, rest: Duration, wait_max: Duration) {
        self.changed.notified().await;
        rested(&self.changed, rest, wait_max).await;
    }
}

/// Waits until there has been no change for `rest`, but no longer than `wait_max`.
pub async fn rested(changed: &Notify, rest: Duration, wait_max: Duration) {
    // An error means that the time is up.
    let _ = timeout(wait_max, async { while timeout(rest, changed.notified()).await.is_ok() {} }).await;
}

/// Whether an event is about reading a file, such as our own.
#[must_use]
pub const fn only_reads(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(AccessMode::Write)))
}

/// A file that is watched.
pub struct Watched {
    path: PathBuf,
    bytes_max: u64,
    watch: Watch,
    /// What it said last: the SHA-256 of that, or why it could not be read.
    said: Mutex<Option<Result<[u8; 32], String>>>,
}

impl Watched {
    /// Watches a file of at most `bytes_max` bytes, before it is read, so that no change is missed.
    ///
    /// # Errors
    /// Why the system does not watch it.
    pub fn new(path: &Path, bytes_max: u64) -> Result<Self, String> {
        Ok(Self { path: path.to_owned(), bytes_max, watch: Watch::new(&[path])?, said: Mutex::new(None) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says, read on a thread that may block.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn read(&self) -> Result<Vec<u8>, String> {
        self.look().await.0
    }

    /// What it says next, once that is something else and has come to rest.
    ///
    /// # Errors
    /// Why it can no longer be read.
    pub async fn read_next(&self) -> Result<Vec<u8>, String> {
        loop {
            self.watch.rested(REST, REST_WAIT_MAX).await;
            if let (read, true) = self.look().await {
                return read;
            }
        }
    }

    /// What it says, and whether that is something else than it said last.
    async fn look(&self) -> (Result<Vec<u8>, String>, bool) {
        let (path, bytes_max) = (self.path.clone(), self.bytes_max);
        let read = threads::aside(move || read(&path, bytes_max)).await.map_err(|error| error.to_string()).flatten();
        let said = read.as_ref().map(|bytes| <[u8; 32]>::from(Sha256::digest(bytes))).map_err(String::clone);
        let before = self.said.lock().replace(said.clone());
        (read, before != Some(said))
    }
}

/// Watches the files' folders, because editors and mounted secrets put other files in their places.
fn watch(files: &[&Path], changed: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let notified = Arc::clone(changed);
    let names: Vec<_> = files.iter().filter_map(|file| file.file_name()).map(ToOwned::to_owned).collect();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let is_one = |path: &PathBuf| path.file_name().is_some_and(|name| names.iter().any(|one| one == name));
        match event {
            Ok(event) if only_reads(event.kind) => {}
            // Other files of the folder are written all the time, such as a log.
            Ok(event) if is_content(event.kind) && !event.paths.iter().any(is_one) => {}
            // If the system has lost count, this reads the files once too often.
            _ => notified.notify_one(),
        }
    })?;
    let folder = |file: &&Path| file.parent().filter(|folder| !folder.as_os_str().is_empty()).map(Path::to_owned);
    let folders: BTreeSet<_> = files.iter().map(|file| folder(file).unwrap_or_else(|| PathBuf::from("."))).collect();
    for folder in folders {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Whether an event is about what a file holds, and not about which files there are.
const fn is_content(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(_) => true,
        EventKind::Modify(kind) => !matches!(kind, ModifyKind::Name(_)),
        _ => false,
    }
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("it is not a regular file".to_owned());
    }
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("it is longer than {bytes_max} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::patience::Moment;

    #[tokio::test]
    async fn only_what_the_file_itself_says_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, log) = (folder.path().join("file"), folder.path().join("log"));
        fs::write(&path, "one").expect("written");
        let watched = Watched::new(&path, 100).expect("it can be watched");
        assert_eq!(watched.read().await.as_deref(), Ok(&b"one"[..]));
        // None of this changes what it says.
        fs::write(&log, "line").expect("written");
        fs::write(&log, "another line").expect("written");
        fs::write(&path, "one").expect("written");
        fs::rename(&log, folder.path().join("log.1")).expect("renamed");
        fs::write(&path, "two").expect("written");
        assert_eq!(watched.read_next().await.as_deref(), Ok(&b"two"[..]));
        let next = folder.path().join("next");
        fs::write(&next, "three").expect("written");
        fs::rename(&next, &path).expect("renamed");
        assert_eq!(watched.read_next().await.as_deref(), Ok(&b"three"[..]));
        fs::write(&path, [b' '; 101]).expect("written");
        assert!(watched.read_next().await.is_err_and(|reason| reason.contains("longer than 100 bytes")));
        fs::remove_file(&path).expect("removed");
        assert!(watched.read_next().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_never_rests_is_not_waited_for_for_ever() {
        let changed = Notify::new();
        let busy = async {
            loop {
                changed.notify_one();
                tokio::time::sleep(REST / 2).await;
            }
        };
        let begun = Moment::now();
        tokio::select! {
            () = busy => {}
            () = rested(&changed, REST, REST_WAIT_MAX) => {}
        }
        assert_eq!(Moment::now().since(begun), REST_WAIT_MAX);
    }

    #[test]
    fn a_log_in_the_same_folder_is_not_the_files_content() {
        use notify::event::{DataChange, RenameMode};
        assert!(is_content(EventKind::Modify(ModifyKind::Data(DataChange::Any))));
        assert!(is_content(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(!is_content(EventKind::Modify(ModifyKind::Name(RenameMode::To))));
    }
}
