//! A stream that belongs to no connection: its input, state and answers stay while its clients come and go.
//!
//! [`park`] creates its two ends. The holder of the [`Parked`] puts items in, from any call, and may keep each [`ParkedAnswer`]
//! for as long as it likes. The [`Parking`] is the session, to be driven by its own task: nothing here starts one.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{
    event::{CheckedItem, Event, Inbound},
    stream::Session,
};
use crate::{
    domain::{Fault, ItemOutputs, data_bytes},
    telemetry::StreamEnd,
};

/// How much may wait in a parked stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkedLimits {
    /// Items.
    pub items: usize,
    /// Bytes of input; the last item may exceed it.
    pub bytes: usize,
}

/// Why a parked stream does not take an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotParked {
    /// [`ParkedLimits::items`] are waiting.
    TooMany,
    /// [`ParkedLimits::bytes`] are waiting.
    TooMuch,
    /// It has ended.
    Ended,
}

/// The input of a stream that outlives calls. Once this is dropped, the stream ends as soon as everything in it is answered.
#[derive(Debug)]
pub struct Parked {
    entries: mpsc::Sender<Entry>,
    /// Input bytes that the session has not taken yet.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// An item on its way to the session.
#[derive(Debug)]
struct Entry {
    item: CheckedItem,
    bytes: usize,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<ItemOutputs, Fault>>;

/// The answer to an item; it may be ready before anyone asks for it.
#[derive(Debug)]
pub struct ParkedAnswer(oneshot::Receiver<Result<ItemOutputs, Fault>>);

impl ParkedAnswer {
    /// Waits for it. `None` if the stream ended before it reached the item.
    pub async fn outcome(self) -> Option<Result<ItemOutputs, Fault>> {
        self.0.await.ok()
    }
}

/// Identifies a parked stream for as long as it takes items.
#[derive(Debug, Clone)]
pub struct ParkedId(mpsc::WeakSender<Entry>);

impl ParkedId {
    /// Whether this identifies that stream.
    #[must_use]
    pub fn is_of(&self, parked: &Parked) -> bool {
        self.0.upgrade().is_some_and(|own| own.same_channel(&parked.entries))
    }
}

impl Parked {
    /// Puts an item behind those already there.
    ///
    /// # Errors
    /// [`NotParked`]; the item is gone.
    pub fn push(&self, item: CheckedItem) -> Result<ParkedAnswer, NotParked> {
        if self.bytes.load(Ordering::Relaxed) >= self.bytes_max {
            return Err(NotParked::TooMuch);
        }
        let place = self.entries.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => NotParked::TooMany,
            mpsc::error::TrySendError::Closed(()) => NotParked::Ended,
        })?;
        let (answer, receiver) = oneshot::channel();
        let bytes = item.inputs.as_ref().map_or(0, |inputs| data_bytes(inputs));
        // Counted before the session can take it, so that the count never falls below zero.
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        place.send(Entry { item, bytes, answer });
        Ok(ParkedAnswer(receiver))
    }

    /// What identifies this stream.
    #[must_use]
    pub fn id(&self) -> ParkedId {
        ParkedId(self.entries.downgrade())
    }
}

/// A parked stream's items, as its session takes them.
#[derive(Debug)]
pub struct ParkedInput {
    entries: mpsc::Receiver<Entry>,
    bytes: Arc<AtomicUsize>,
    /// Where to send the answers to items that the session has taken, in order.
    waiting: Arc<Mutex<VecDeque<Answer>>>,
}

impl Stream for ParkedInput {
    type Item = Result<Inbound, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(Entry { item, bytes, answer }) = ready!(self.entries.poll_recv(cx)) else { return Poll::Ready(None) };
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.waiting.lock().push_back(answer);
        Poll::Ready(Some(Ok(Inbound::Checked(item))))
    }
}

/// A parked stream's session.
pub struct Parking {
    session: Box<Session<ParkedInput>>,
    waiting: Arc<Mutex<VecDeque<Answer>>>,
}

impl Parking {
    /// Drives the session to its end: `None` if it ended normally, otherwise why it ended.
    pub async fn drive(&mut self) -> Option<Fault> {
        let mut ended = None;
        while let Some(event) = self.session.next().await {
            match event {
                Ok(Event::Result(result)) if result.part.last => {
                    if let Some(answer) = self.waiting.lock().pop_front() {
                        // The item counts even if no one is waiting any more.
                        let _ = answer.send(result.outcome);
                    }
                }
                Ok(_) => {}
                Err(fault) => ended = Some(fault),
            }
        }
        ended
    }

    /// Says why the session ends early.
    pub fn abandon(&mut self, end: StreamEnd) {
        self.session.abandon(end);
    }
}

/// Makes a stream that takes items from anywhere; `open` opens its session, whose results must be in order.
///
/// # Errors
/// Those of `open`.
pub fn park(
    limits: ParkedLimits,
    open: impl FnOnce(ParkedInput) -> Result<Session<ParkedInput>, Fault>,
) -> Result<(Parked, Parking), Fault> {
    let (entries, receiver) = mpsc::channel(limits.items);
    let (bytes, waiting) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<VecDeque<Answer>>>::default());
    let input = ParkedInput { entries: receiver, bytes: Arc::clone(&bytes), waiting: Arc::clone(&waiting) };
    let session = Box::new(open(input)?);
    Ok((Parked { entries, bytes, bytes_max: limits.bytes }, Parking { session, waiting }))
}
