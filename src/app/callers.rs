//! The keys file: read when the server starts, and again whenever it changes.

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

use super::{StartError, changes};
use crate::{
    audit,
    auth::{Entry, FILE_BYTES_MAX, Keys, Scope},
    config::{Config, Port, is_loopback},
    frontend::MetricsGate,
    service::Keyring,
    threads,
};

/// After a change, the file is read once nothing has changed for this long: whoever writes it in several steps is then done.
const REST: Duration = Duration::from_millis(50);

/// The callers, and the watch on their file.
pub(super) struct Callers {
    path: PathBuf,
    keyring: Keyring,
    /// Those of the file.
    listed: Vec<Arc<Entry>>,
    changed: Arc<Notify>,
    /// Watches for as long as it lives.
    _system: RecommendedWatcher,
}

impl Callers {
    /// The callers that are configured, if any.
    ///
    /// # Errors
    /// [`StartError::Keys`] if the file cannot be read or watched, or is wrong; [`StartError::Unguarded`] if there is none, and anybody
    /// could call from other machines although nobody has said so.
    pub(super) async fn of(config: &Config) -> Result<Option<Self>, StartError> {
        let unguarded: Vec<_> = config.unguarded().iter().map(ToString::to_string).collect();
        if !unguarded.is_empty() {
            return Err(StartError::Unguarded(unguarded.join("; ")));
        }
        let Some(path) = config.security.keys.clone() else { return Ok(None) };
        let fault = |reason| StartError::Keys { path: path.clone(), reason };
        let changed = Arc::new(Notify::new());
        // Watched before it is read, so that no change is missed.
        let system = watch(&path, &changed).map_err(|error| fault(error.to_string()))?;
        let keys = read_aside(&path).await.map_err(fault)?;
        tracing::info!(callers = keys.entries().len(), "callers are known by {}", path.display());
        let listed = keys.entries().to_vec();
        let keyring = Keyring::new(keys, config.security.plain_keys);
        Ok(Some(Self { path, keyring, listed, changed, _system: system }))
    }

    /// The callers, as they are at any time.
    pub(super) const fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Lets those read metrics who may, if not everybody may.
    pub(super) fn metrics_gate(&self, config: &Config) -> Option<MetricsGate> {
        let is_open = is_loopback(config.server.admin_addr.ip()) || config.anonymous(Port::Admin).allow(Scope::Metrics);
        (!is_open).then(|| MetricsGate::new(self.keyring.clone()))
    }

    /// Follows the file. While it is wrong, what it said before applies.
    pub(super) async fn follow(self) -> Option<()> {
        let Self { path, keyring, mut listed, changed, _system } = self;
        loop {
            changed.notified().await;
            while tokio::time::timeout(REST, changed.notified()).await.is_ok() {}
            match read_aside(&path).await {
                Ok(keys) => {
                    let before = std::mem::replace(&mut listed, keys.entries().to_vec());
                    let ended = keyring.replace(keys);
                    tracing::info!(callers = listed.len(), ended, "{} has changed", path.display());
                    audit::keys_changed(&changes::between(&before, &listed));
                }
                Err(reason) => {
                    tracing::error!(
                        "{} (security.keys) cannot be used: {reason}; what it said before still applies",
                        path.display()
                    );
                    audit::keys_unusable(&reason);
                }
            }
        }
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

async fn read_aside(path: &Path) -> Result<Keys, String> {
    let path = path.to_owned();
    threads::aside(move || read(&path)).await.map_err(|error| error.to_string())?
}

fn read(path: &Path) -> Result<Keys, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("it is not a regular file".to_owned());
    }
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
    }
    Keys::parse(&text).map_err(|faults| faults.to_string())
}
