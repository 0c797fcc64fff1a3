//! The page of metrics: made on a side thread, once for everyone who asks while it is being made.
//!
//! With a thousand models it is megabytes long and takes a tenth of a second. Clients that do not read hold on to their pages, so
//! when there are too many, the connection that has been unread longest is closed.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::{telemetry::Telemetry, threads, transport::probes::Places};

/// Pages that may be held by connections at once.
const PAGES_MAX: usize = 4;
/// How long a page may take. Anything that makes it wait longer is a defect of the server.
const PAGE_WITHIN: Duration = Duration::from_secs(10);

/// The page takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page of metrics could not be made within {PAGE_WITHIN:?}")]
pub(super) struct Late;

type Made = Shared<BoxFuture<'static, Arc<Page>>>;

/// Makes pages.
pub(super) struct Scrapes {
    telemetry: Telemetry,
    refresh: Arc<dyn Fn() + Send + Sync>,
    places: Arc<Places>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The page that is being made.
    making: Option<Made>,
    /// Pages that connections may still hold.
    held: Vec<Weak<Page>>,
}

/// The metrics at one moment.
#[derive(Default)]
struct Page(String);

/// A page as the body of an answer.
struct Held(Arc<Page>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.0.as_bytes()
    }
}

impl Scrapes {
    /// `refresh` brings the metrics up to date.
    pub(super) fn new(telemetry: Telemetry, refresh: Arc<dyn Fn() + Send + Sync>, places: Arc<Places>) -> Self {
        Self { telemetry, refresh, places, state: Mutex::default() }
    }

    /// The metrics as they are now. Call it within a runtime.
    ///
    /// # Errors
    /// [`Late`].
    pub(super) async fn page(self: &Arc<Self>) -> Result<Bytes, Late> {
        let made = timeout(PAGE_WITHIN, self.join()).await.map_err(|_| Late)?;
        Ok(Bytes::from_owner(Held(made)))
    }

    /// The page that is being made, or a new one.
    fn join(self: &Arc<Self>) -> Made {
        let mut state = self.state.lock();
        if let Some(made) = &state.making
            && made.peek().is_none()
        {
            return made.clone();
        }
        state.held.retain(|held| held.strong_count() > 0);
        for _ in PAGES_MAX..=state.held.len() {
            self.places.close_longest();
        }
        let (telemetry, refresh) = (self.telemetry.clone(), Arc::clone(&self.refresh));
        let make = move || {
            refresh();
            Arc::new(Page(telemetry.render()))
        };
        // A page that cannot be made gives no answer; the reason is in the log.
        let made = async move { threads::aside(make).await.unwrap_or_default() }.boxed().shared();
        state.making = Some(made.clone());
        drop(state);
        // Whoever asked may go away before it is made.
        let (this, making) = (Arc::clone(self), made.clone());
        tokio::spawn(async move {
            let page = making.await;
            this.state.lock().held.push(Arc::downgrade(&page));
        });
        made
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use futures::future::{join, join_all};

    use super::*;

    /// Pages that are made as often as `tickets` says, and how many have been begun.
    fn scrapes(tickets: mpsc::Receiver<()>) -> (Arc<Scrapes>, Arc<AtomicUsize>) {
        let made = Arc::<AtomicUsize>::default();
        let (counted, tickets) = (Arc::clone(&made), Mutex::new(tickets));
        let refresh = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            tickets.lock().recv().expect("the test lasts longer");
        });
        (Arc::new(Scrapes::new(Telemetry::new(), refresh, Arc::new(Places::new(8)))), made)
    }

    #[tokio::test]
    async fn all_who_ask_at_once_get_the_same_page_and_the_next_ones_another() {
        let (ticket, tickets) = mpsc::sync_channel(1);
        let (scrapes, made) = scrapes(tickets);
        // The page is not finished before all have asked: they are polled in order.
        let (pages, ()) = join(join_all((0..20).map(|_| scrapes.page())), async { ticket.send(()).expect("it waits") }).await;
        let first = pages[0].clone().expect("a page");
        assert!(first.starts_with(b"# HELP"));
        assert!(pages.iter().all(|page| page.as_ref().is_ok_and(|page| page.as_ptr() == first.as_ptr())));
        assert_eq!(made.load(Ordering::Relaxed), 1);
        ticket.send(()).expect("it waits");
        scrapes.page().await.expect("a page");
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_never_comes_to_be_is_given_up() {
        let (scrapes, _) = scrapes(mpsc::sync_channel(1).1);
        scrapes.state.lock().making = Some(futures::future::pending().boxed().shared());
        assert_eq!(scrapes.page().await, Err(Late));
    }
}
