//! A connection that goes on in another protocol, once its client has asked for that and been answered 101.
//!
//! Knows no such protocol. A front end puts a [`Takeover`] into the extensions of its answer; the connection's own task runs it when the
//! answer has been sent, so that whatever holds for connections (shutdown, age, places, whose work it is) goes on holding.

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connections::{Call, Calls};

/// What is left of a connection: its bytes. Shutting it down waits for the client to close as well, for a moment.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// The same, whatever carries them.
pub(crate) type Carrier = Box<dyn Duplex>;

type Next = Box<dyn FnOnce(Carrier) -> BoxFuture<'static, ()> + Send>;

/// How a connection goes on. Clones are the same.
#[derive(Clone)]
pub(crate) struct Takeover {
    next: Arc<Mutex<Option<Next>>>,
}

impl Takeover {
    /// Goes on with `next`, which has the connection until it ends.
    pub(crate) fn new<F>(next: impl FnOnce(Carrier) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let next: Next = Box::new(|carrier| Box::pin(next(carrier)));
        Self { next: Arc::new(Mutex::new(Some(next))) }
    }

    /// The rest of the connection; `None` if it has been taken already.
    pub(super) fn run(&self, carrier: Carrier) -> Option<BoxFuture<'static, ()>> {
        let next = self.next.lock().take();
        next.map(|next| next(carrier))
    }
}

impl fmt::Debug for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Takeover").finish_non_exhaustive()
    }
}

/// What a connection goes on as, as far as its answers say. Clones are the same.
#[derive(Clone)]
pub(super) struct Taken {
    next: Arc<Mutex<Option<(Takeover, Call)>>>,
    calls: Calls,
}

impl Taken {
    pub(super) fn new(calls: Calls) -> Self {
        Self { next: Arc::default(), calls }
    }

    /// Notes what an answer says about it.
    pub(super) fn note<B>(&self, response: &Response<B>) {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(takeover) = response.extensions().get::<Takeover>()
        {
            // Its call begins before that of the request ends, so the connection is never taken for one without a call.
            *self.next.lock() = Some((takeover.clone(), self.calls.begin()));
        }
    }

    /// How it goes on, and the call as which that counts; `None` if it does not.
    pub(super) fn take(&self) -> Option<(Takeover, Call)> {
        self.next.lock().take()
    }
}
