//! The file descriptors that clients may take: as many as the system allows, less those the server keeps for itself.
//!
//! A process with none left can neither answer a probe, nor read a model, nor say why. So each client connection and each region
//! of shared memory takes one from a budget set at the start; beyond it, clients wait in their port's backlog.

use std::{fs, future::pending, sync::Arc};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{clock, telemetry::Seldom};

/// The most the admin port keeps for its connections, and the least; in between, an eighth of all.
const ADMIN_MAX: u64 = 64;
const ADMIN_MIN: u64 = 8;
/// For reading models, watching their folder, recordings and the cache of proofs.
const MODELS: u64 = 8;
/// For the log, for reading the size of this process, and for what libraries open by themselves.
const SYSTEM: u64 = 6;
/// Per lane: its thread keeps open the system's account of its time on the cores, and so does that of its trial calls.
const LANE: u64 = 2;
/// With fewer, serving is not worthwhile.
const CLIENTS_MIN: u64 = 8;
/// How many are assumed to be open if the system does not say.
const OPEN_GUESS: u64 = 32;

/// The system lets the process open too few files to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the process may open {limit} files (ulimit -n); the server needs at least {needed}, and one more for each further connection"
)]
pub struct TooFew {
    /// Files that may be open.
    pub limit: u64,
    /// The least the server can work with.
    pub needed: u64,
}

/// What clients may take. Clones share it.
#[derive(Debug, Clone)]
pub struct Descriptors {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    clients: usize,
    /// The limit of the process, as in `ulimit -n`; `None` if there is none.
    limit: Option<u64>,
    /// Connections that the admin port may have.
    admin: usize,
    waits: Seldom,
}

/// One descriptor of the budget, for as long as it lives.
#[derive(Debug)]
#[must_use = "it is free again when this is dropped"]
pub struct Descriptor {
    _permit: OwnedSemaphorePermit,
}

impl Descriptors {
    /// A budget without a limit.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::of(None, ADMIN_MAX, Semaphore::MAX_PERMITS)
    }

    /// What this process may still open, for a server with `lanes` lanes.
    ///
    /// # Errors
    /// [`TooFew`].
    pub fn at_start(lanes: usize) -> Result<Self, TooFew> {
        let Some(limit) = getrlimit(Resource::Nofile).current else { return Ok(Self::unlimited()) };
        // Not counting the one for listing them.
        let open = fs::read_dir("/proc/self/fd").map_or(OPEN_GUESS, |open| (open.count() as u64).saturating_sub(1));
        Self::within(limit, open, lanes as u64)
    }

    fn within(limit: u64, open: u64, lanes: u64) -> Result<Self, TooFew> {
        let admin = (limit / 8).clamp(ADMIN_MIN, ADMIN_MAX);
        let others = open + MODELS + SYSTEM + LANE * lanes;
        let needed = others + ADMIN_MIN + CLIENTS_MIN;
        if limit < needed {
            return Err(TooFew { limit, needed });
        }
        let clients = limit.saturating_sub(others + admin).max(CLIENTS_MIN);
        let clients = usize::try_from(clients).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Ok(Self::of(Some(limit), admin, clients))
    }

    fn of(limit: Option<u64>, admin: u64, clients: usize) -> Self {
        let admin = usize::try_from(admin).unwrap_or(usize::MAX);
        Self {
            inner: Arc::new(Inner { free: Arc::new(Semaphore::new(clients)), clients, limit, admin, waits: Seldom::default() }),
        }
    }

    /// Connections that the admin port may have open.
    #[must_use]
    pub fn admin(&self) -> usize {
        self.inner.admin
    }

    /// Connections that a client port may have open, out of the `wanted`: at most seven sixteenths of the budget, so that two
    /// full ports leave an eighth to shared memory. A full port can still choose which connection makes room; one without
    /// descriptors cannot.
    #[must_use]
    pub fn connections(&self, wanted: usize) -> usize {
        wanted.min(self.inner.clients.saturating_mul(7) / 16).max(1)
    }

    /// The limit of the process, as named in refusals.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.inner.limit.unwrap_or(u64::MAX)
    }

    /// Takes one if any is free.
    #[must_use]
    pub fn try_take(&self) -> Option<Descriptor> {
        Arc::clone(&self.inner.free).try_acquire_owned().ok().map(|permit| Descriptor { _permit: permit })
    }

    /// One for a connection; waits while none is free, and logs that.
    pub async fn take(&self) -> Descriptor {
        if let Some(descriptor) = self.try_take() {
            return descriptor;
        }
        if let Some(left_out) = self.inner.waits.due(clock::now()) {
            tracing::warn!(
                limit = self.limit(),
                left_out,
                "no more connections are accepted until one closes: as many files are open as ulimit -n allows, apart from \
                 those kept for probes, models and the log"
            );
        }
        match Arc::clone(&self.inner.free).acquire_owned().await {
            Ok(permit) => Descriptor { _permit: permit },
            // It is never closed.
            Err(_) => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn too_few_are_refused_with_the_number_needed() {
        let error = Descriptors::within(40, 20, 2).expect_err("too few");
        assert_eq!(error, TooFew { limit: 40, needed: 20 + 14 + 4 + 16 });
        assert!(error.to_string().contains("at least 54"), "{error}");
        assert!(Descriptors::within(54, 20, 2).is_ok());
    }

    #[test]
    fn clients_get_what_is_left() {
        let free = |limit, open| {
            let descriptors = Descriptors::within(limit, open, 2).expect("enough");
            (descriptors.inner.free.available_permits(), descriptors.admin())
        };
        assert_eq!(free(20_000, 20), (20_000 - 20 - 14 - 4 - 64, 64));
        assert_eq!(free(128, 20), (128 - 20 - 14 - 4 - 16, 16));
        assert_eq!(free(54, 20), (8, 8));
    }

    #[test]
    fn two_full_ports_leave_some_to_shared_memory() {
        let descriptors = Descriptors::within(54, 20, 2).expect("enough");
        assert_eq!((descriptors.connections(10_000), descriptors.connections(2)), (3, 2));
        let plenty = Descriptors::within(65_536, 20, 2).expect("enough");
        assert_eq!(plenty.connections(10_000), 10_000);
        assert_eq!(Descriptors::unlimited().connections(10_000), 10_000);
    }

    #[tokio::test]
    async fn whoever_finds_none_waits_until_one_is_given_back() {
        let descriptors = Descriptors::within(54, 20, 2).expect("enough");
        let mut taken: Vec<_> = (0..8).map_while(|_| descriptors.try_take()).collect();
        assert_eq!((taken.len(), descriptors.try_take().is_none()), (8, true));
        let mut waiting = Box::pin(descriptors.take());
        assert!((&mut waiting).now_or_never().is_none());
        taken.pop();
        assert!(waiting.now_or_never().is_some());
    }
}
