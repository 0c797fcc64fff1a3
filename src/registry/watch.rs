//! Watches a folder of models, and looks through it when it has come to rest after a change.
//!
//! The system reports changes; nothing here asks for them. File systems that report nothing, such as most network ones, need a
//! signal or a call instead.
//!
//! The system watches folders, not names, so after each change everything is watched from scratch: another folder may be in the
//! place of one that was watched, or a link may lead elsewhere. [`Places`] says which folders those are.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{Refreshed, Repository, places::Places};
use crate::{
    threads,
    watched::{only_reads, rested},
};

/// A folder is at rest if nothing in it has changed for this long: files copied into it are then complete.
const REST: Duration = Duration::from_millis(500);
/// After a change, the longest wait for the folder to come to rest.
const REST_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often in a row links may be found swapped while they are followed, before the next change is waited for.
const ROUNDS_MAX: usize = 8;

/// Why a folder cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WatchError(#[from] notify::Error);

/// A watched folder.
pub struct Watcher {
    folder: PathBuf,
    watch: Watch,
    changed: Arc<Notify>,
    /// A change was noticed, but not followed yet.
    owes: bool,
}

impl Watcher {
    /// Watches the folder and all below it, and the links that lead there, from now on.
    ///
    /// # Errors
    /// If there is no such folder, or the system refuses; Linux limits watches by `fs.inotify.max_user_watches`.
    pub fn start(folder: &Path) -> Result<Self, WatchError> {
        let changed = Arc::new(Notify::new());
        let watch = Watch::of(folder, &changed, &BTreeSet::new())?;
        if watch.places.trees.is_empty() {
            return Err(notify::Error::path_not_found().add_path(folder.to_owned()).into());
        }
        Ok(Self { folder: folder.to_owned(), watch, changed, owes: false })
    }

    /// Refreshes the repository after each change. Run it as one task for as long as the server lives, and again if it panics.
    pub async fn keep_fresh(&mut self, repository: &Repository) {
        if self.owes {
            self.changed.notify_one();
        }
        loop {
            self.heard().await;
            self.watch_again().await;
            refresh(repository).await;
            self.owes = false;
        }
    }

    /// Waits for a change, and until the folder has come to rest after it.
    async fn heard(&mut self) {
        self.changed.notified().await;
        // From now on, only this says that there was one.
        self.owes = true;
        rested(&self.changed, REST, REST_WAIT_MAX).await;
    }

    /// Follows all links once more. What was watched until now is watched until that is done, so that no change is missed.
    async fn watch_again(&mut self) {
        let (folder, changed, deaf) = (self.folder.clone(), Arc::clone(&self.changed), self.watch.deaf.clone());
        match threads::aside(move || Watch::of(&folder, &changed, &deaf)).await {
            Ok(Ok(watch)) => self.watch = watch,
            Ok(Err(error)) => {
                let folder = self.folder.display();
                warn!(%folder, %error, "the models' folder cannot be watched as it is now; send SIGHUP after changing it");
            }
            Err(error) => error!(%error, "the models' folder cannot be watched as it is now; send SIGHUP after changing it"),
        }
    }
}

/// The folders that the system watches.
struct Watch {
    places: Places,
    /// Watches for as long as it lives.
    _system: RecommendedWatcher,
    /// Folders of links that may not be watched.
    deaf: BTreeSet<PathBuf>,
}

impl Watch {
    /// Watches all places of the folder. Blocks. `known` are folders that are known to be deaf.
    fn of(folder: &Path, changed: &Arc<Notify>, known: &BTreeSet<PathBuf>) -> Result<Self, WatchError> {
        let mut watch = Self::places(Places::of(folder), changed)?;
        for round in 0.. {
            // A link that was swapped before it was watched was followed to where it led before.
            let places = Places::of(folder);
            if places == watch.places {
                break;
            }
            if round == ROUNDS_MAX {
                changed.notify_one();
                break;
            }
            watch = Self::places(places, changed)?;
        }
        for folder in watch.deaf.difference(known) {
            warn!(
                "{}: cannot be watched, so links in it that lead to models can be swapped unnoticed; send SIGHUP after that",
                folder.display()
            );
        }
        Ok(watch)
    }

    fn places(places: Places, changed: &Arc<Notify>) -> Result<Self, WatchError> {
        let (notified, watched) = (Arc::clone(changed), places.clone());
        let hear = move |event: notify::Result<Event>| match event {
            Ok(event) if only_reads(event.kind) => {}
            // No path at all means that the system has lost count.
            Ok(event) if event.paths.is_empty() || event.paths.iter().any(|path| watched.concern(path)) => notified.notify_one(),
            Ok(_) => {}
            Err(error) => {
                warn!(%error, "a change of the models' folder may have been missed");
                notified.notify_one();
            }
        };
        let mut system = RecommendedWatcher::new(hear, notify::Config::default().with_follow_symlinks(false))?;
        for tree in &places.trees {
            watch_tree(&mut system, tree)?;
        }
        let mut deaf = BTreeSet::new();
        for parent in places.parents() {
            match system.watch(parent, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) if is_forbidden(&error) => drop(deaf.insert(parent.to_owned())),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { places, _system: system, deaf })
    }
}

/// Watches a folder and all below it but those that may not be looked into, and so hold no model that could be served.
fn watch_tree(system: &mut RecommendedWatcher, folder: &Path) -> notify::Result<()> {
    match system.watch(folder, RecursiveMode::Recursive) {
        Err(error) if is_forbidden(&error) && error.paths.iter().all(|path| path != folder) => {
            // The system's watcher has stopped at the first such folder.
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    match watch_tree(system, &entry.path()) {
                        Err(error) if is_forbidden(&error) => {}
                        watched => watched?,
                    }
                }
            }
            Ok(())
        }
        Err(error) if is_gone(&error) => Ok(()),
        watched => watched,
    }
}

fn is_forbidden(error: &notify::Error) -> bool {
    matches!(&error.kind, notify::ErrorKind::Io(error) if error.kind() == io::ErrorKind::PermissionDenied)
}

/// Then the folder that holds it reports if it comes back.
fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Looks through the sources once, and logs the result.
pub async fn refresh(repository: &Repository) {
    match repository.refresh().await {
        Ok(Refreshed { loaded, failed, retired }) => info!(loaded, failed, retired, "looked through the models"),
        Err(fault) => error!(%fault, "the models could not be looked through"),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use notify::{
        EventKind,
        event::{AccessKind, AccessMode, CreateKind, ModifyKind},
    };
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_folder_comes_to_rest_half_a_second_after_its_last_change() {
        let changed = Arc::new(Notify::new());
        let copier = Arc::clone(&changed);
        let began = Instant::now();
        tokio::spawn(async move {
            for _ in 0..4 {
                copier.notify_one();
                sleep(Duration::from_millis(400)).await;
            }
        });
        rested(&changed, REST, REST_WAIT_MAX).await;
        assert_eq!(began.elapsed(), Duration::from_millis(1_700));
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_never_rests_is_looked_at_all_the_same() {
        let changed = Arc::new(Notify::new());
        let writer = Arc::clone(&changed);
        let began = Instant::now();
        let restless = tokio::spawn(async move {
            loop {
                writer.notify_one();
                sleep(Duration::from_millis(100)).await;
            }
        });
        rested(&changed, REST, REST_WAIT_MAX).await;
        assert_eq!(began.elapsed(), REST_WAIT_MAX);
        restless.abort();
    }

    #[tokio::test]
    async fn a_change_is_owed_from_when_it_is_heard_of() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut watcher = Watcher::start(folder.path()).expect("a folder that is there");
        watcher.changed.notify_one();
        // As a panic does, this drops the task in the midst of its wait for the folder to come to rest.
        assert_eq!(watcher.heard().now_or_never(), None);
        assert!(watcher.owes);
    }

    #[test]
    fn reading_is_no_change() {
        for reads in [AccessKind::Open(AccessMode::Read), AccessKind::Read, AccessKind::Close(AccessMode::Read)] {
            assert!(only_reads(EventKind::Access(reads)), "{reads:?}");
        }
        for changes in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Create(CreateKind::Folder),
            EventKind::Modify(ModifyKind::Any),
            EventKind::Other,
        ] {
            assert!(!only_reads(changes), "{changes:?}");
        }
    }
}
