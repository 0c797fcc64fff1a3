//! What gives way when a client does not read its results.
//!
//! A session whose events are not taken is not polled either, so on its own it stops reading and waits: [`Unread::Block`]. The
//! other policies need something that goes on polling it while the transport is blocked; it polls a [`Backlog`].

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::task::coop;

use super::{
    event::{Event, Inbound},
    outbox::Outbox,
    stream::Session,
};
use crate::{domain::Fault, telemetry::StreamEnd};

/// Segments, flushes and the like waiting for a client that does not read: they are never given up, so at this many the session
/// waits.
const OTHERS_MAX: usize = 1_024;

/// What gives way when results come faster than the client reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unread {
    /// Unread results fill the window, so the session stops reading.
    #[default]
    Block,
    /// At most a window of results waits; the oldest make room.
    DropOldest,
    /// Only the newest result waits.
    Latest,
    /// The stream is reset once a window of results is waiting.
    Disconnect,
}

/// A session that goes on while its client is not reading.
///
/// The code that hands events to the transport takes them from the stream, and calls [`Backlog::poll_unread`] while the transport
/// takes nothing. A result counts as delivered when it leaves the stream.
pub struct Backlog<I> {
    session: Box<Session<I>>,
    outbox: Outbox,
    /// How the session ended, to be reported after what is waiting.
    fault: Option<Fault>,
    ended: bool,
    results_max: usize,
    disconnects: bool,
}

impl<I> Backlog<I> {
    /// Says why the session ends early.
    pub fn abandon(&mut self, end: StreamEnd) {
        self.session.abandon(end);
    }
}

impl<I> Backlog<I>
where
    I: Stream<Item = Result<Inbound, Fault>> + Unpin,
{
    /// Puts a backlog behind a session that was opened with `policy`; returns the session if the policy needs none.
    ///
    /// # Errors
    /// The session, for [`Unread::Block`].
    pub fn new(session: Box<Session<I>>, policy: Unread) -> Result<Self, Box<Session<I>>> {
        let (results_max, disconnects) = match policy {
            Unread::Block => return Err(session),
            Unread::DropOldest => (session.options.window_items, false),
            Unread::Latest => (1, false),
            Unread::Disconnect => (session.options.window_items, true),
        };
        Ok(Self { session, outbox: Outbox::default(), fault: None, ended: false, results_max, disconnects })
    }

    /// Lets the session go on, and keeps its results as the policy says. `Ready` if the policy wants the stream reset.
    pub fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended && self.outbox.others() < OTHERS_MAX {
            let Poll::Ready(budget) = coop::poll_proceed(cx) else { return Poll::Pending };
            let Poll::Ready(event) = self.session.poll_event(cx) else { return Poll::Pending };
            budget.made_progress();
            match event {
                Some(Ok(event)) => self.outbox.push(event),
                Some(Err(fault)) => (self.fault, self.ended) = (Some(fault), true),
                None => self.ended = true,
            }
            if self.disconnects {
                if self.outbox.results() >= self.results_max {
                    return Poll::Ready(());
                }
            } else if self.outbox.results() > self.results_max
                && let Some(skipped) = self.outbox.skip_oldest()
            {
                self.session.skipped(&skipped);
            }
        }
        Poll::Pending
    }
}

impl<I> Stream for Backlog<I>
where
    I: Stream<Item = Result<Inbound, Fault>> + Unpin,
{
    type Item = Result<Event, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(mut event) = this.outbox.pop() {
            this.session.hand_out(&mut event);
            return Poll::Ready(Some(Ok(event)));
        }
        if let Some(fault) = this.fault.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        Pin::new(&mut *this.session).poll_next(cx)
    }
}
