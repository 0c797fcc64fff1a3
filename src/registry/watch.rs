//! Watches a folder of models, and looks through it when it has come to rest after a change.
//!
//! The system tells of changes; nothing here asks for them. File systems that tell nothing, such as most network ones, need a signal
//! or a call instead.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{pin, select, sync::Notify, time::sleep};
use tracing::{error, info, warn};

use super::{Refreshed, Repository};

/// A folder is at rest if nothing in it has changed for so long: a copy of files into it is over.
const REST: Duration = Duration::from_millis(500);
/// After a change, the longest wait for the folder to come to rest.
const REST_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a folder cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WatchError(#[from] notify::Error);

/// A watched folder.
pub struct Watcher {
    folder: PathBuf,
    /// Watches for as long as it lives.
    system: RecommendedWatcher,
    changed: Arc<Notify>,
}

impl Watcher {
    /// Watches the folder and all below it, from now on.
    ///
    /// # Errors
    /// If there is no such folder, or the system refuses; Linux limits watches by `fs.inotify.max_user_watches`.
    pub fn start(folder: &Path) -> Result<Self, WatchError> {
        let changed = Arc::new(Notify::new());
        let notified = Arc::clone(&changed);
        let mut system = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) if only_reads(event.kind) => {}
            Ok(_) => notified.notify_one(),
            Err(error) => {
                warn!(%error, "a change of the models' folder may have been missed");
                notified.notify_one();
            }
        })?;
        system.watch(folder, RecursiveMode::Recursive)?;
        Ok(Self { folder: folder.to_owned(), system, changed })
    }

    /// Refreshes the repository after each change. Run it as one task for as long as the server lives.
    pub async fn keep_fresh(mut self, repository: Repository) {
        loop {
            rested(&self.changed).await;
            self.watch_anew();
            refresh(&repository).await;
        }
    }

    /// The system watches folders, not names: another folder may be in the place of one that it watched.
    fn watch_anew(&mut self) {
        // It may have let go of the folder by itself.
        let _ = self.system.unwatch(&self.folder);
        if let Err(error) = self.system.watch(&self.folder, RecursiveMode::Recursive) {
            warn!(folder = %self.folder.display(), %error, "the models' folder is watched no longer; send SIGHUP once it is back");
        }
    }
}

/// Looks through the sources once, and logs what came of it.
pub async fn refresh(repository: &Repository) {
    match repository.refresh().await {
        Ok(Refreshed { loaded, failed, retired }) => info!(loaded, failed, retired, "looked through the models"),
        Err(fault) => error!(%fault, "the models could not be looked through"),
    }
}

/// Our own reading of the files must not look like a change.
const fn only_reads(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(AccessMode::Write)))
}

/// Waits for a change, and then until there has been none for a while.
async fn rested(changed: &Notify) {
    changed.notified().await;
    let over = sleep(REST_WAIT_MAX);
    pin!(over);
    loop {
        select! {
            () = changed.notified() => {}
            () = sleep(REST) => return,
            () = over.as_mut() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, ModifyKind};
    use tokio::time::Instant;

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
        rested(&changed).await;
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
        rested(&changed).await;
        assert_eq!(began.elapsed(), REST_WAIT_MAX);
        restless.abort();
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
