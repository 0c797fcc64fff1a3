//! A file of settings that may change while the server runs.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

use crate::threads;

/// After a change, the file is read once nothing has changed for this long: whoever writes it in several steps is then done.
const REST: Duration = Duration::from_millis(50);

/// A file that is watched.
pub(super) struct Watched {
    path: PathBuf,
    bytes_max: u64,
    changed: Arc<Notify>,
    /// Watches for as long as it lives.
    _system: RecommendedWatcher,
}

impl Watched {
    /// Watches a file of at most `bytes_max` bytes, before it is read, so that no change is missed.
    ///
    /// # Errors
    /// Why the system does not watch it.
    pub(super) fn new(path: &Path, bytes_max: u64) -> Result<Self, String> {
        let changed = Arc::new(Notify::new());
        let system = watch(path, &changed).map_err(|error| error.to_string())?;
        Ok(Self { path: path.to_owned(), bytes_max, changed, _system: system })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until it has changed and come to rest.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
        while tokio::time::timeout(REST, self.changed.notified()).await.is_ok() {}
    }

    /// What it says, read on a thread that may block.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) async fn read(&self) -> Result<Vec<u8>, String> {
        let (path, bytes_max) = (self.path.clone(), self.bytes_max);
        threads::aside(move || read(&path, bytes_max)).await.map_err(|error| error.to_string())?
    }
}

/// Watches the file's folder, because editors and mounted secrets put another file in its place.
fn watch(path: &Path, changed: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let notified = Arc::clone(changed);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
        // Our own reading among others.
        Ok(Event { kind: EventKind::Access(kind), .. }) if kind != AccessKind::Close(AccessMode::Write) => {}
        // If the system has lost count, this reads the file once too often.
        _ => notified.notify_one(),
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
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
