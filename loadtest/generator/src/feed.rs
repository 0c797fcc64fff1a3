//! One `Feed` call of the client, at the lowest cost per item that the client can have: no channel and no task.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use anyhow::{Context as _, anyhow, bail};
use futures::{Stream, task::AtomicWaker};
use tidemill::clock;
use tidemill_client::{
    Client, Error, Event, Events, outputs,
    wire::v1::{self, feed_request::Message},
};
use tonic::{Extensions, Request, metadata::MetadataMap};

use crate::{schedule::Schedule, workload::Workload};

/// A send counts as late when it comes this long after its item was due.
pub(crate) const LATE_AFTER: std::time::Duration = std::time::Duration::from_millis(1);

/// How many items a feed has sent, may send, and has had answered. Shared with the code that paces the feed.
#[derive(Debug, Default)]
pub(crate) struct Valve {
    let_through: AtomicU64,
    sent: AtomicU64,
    answered: AtomicU64,
    late: AtomicU64,
    closed: AtomicBool,
    sender: AtomicWaker,
}

impl Valve {
    /// Allows this many more items to be sent.
    pub(crate) fn let_through(&self, items: u64) {
        self.let_through.fetch_add(items, Ordering::Release);
        self.sender.wake();
    }

    /// Ends the client's side; what was sent is still answered.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.sender.wake();
    }

    /// Whether item number `sent` may go; `false` once the valve is closed.
    fn may_send(&self, sent: u64) -> Poll<bool> {
        if self.closed.load(Ordering::Acquire) {
            return Poll::Ready(false);
        }
        if sent < self.let_through.load(Ordering::Acquire) { Poll::Ready(true) } else { Poll::Pending }
    }

    /// The same; the task is woken when it changes.
    pub(crate) fn poll_may_send(&self, sent: u64, cx: &mut Context<'_>) -> Poll<bool> {
        if let Poll::Ready(may_send) = self.may_send(sent) {
            return Poll::Ready(may_send);
        }
        self.sender.register(cx.waker());
        self.may_send(sent)
    }

    /// Items sent so far.
    pub(crate) fn note_sent(&self, sent: u64) {
        self.sent.store(sent, Ordering::Relaxed);
    }

    /// One more is answered.
    pub(crate) fn note_answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Sends that were late by more than [`LATE_AFTER`].
    pub(crate) fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }
}

/// A feed's configuration, and its items.
pub(crate) struct FeedPlan {
    pub(crate) open: v1::StreamConfig,
    /// Makes item number n when it is sent.
    pub(crate) message: Box<dyn FnMut(u64) -> Message + Send>,
    /// `grpc-timeout`, a tenant's name and the like.
    pub(crate) metadata: MetadataMap,
}

impl FeedPlan {
    /// A feed of equal items.
    pub(crate) fn of(open: v1::StreamConfig, item: v1::Item) -> Self {
        Self { open, message: Box::new(move |_| Message::Item(item.clone())), metadata: MetadataMap::new() }
    }
}

/// The client's side of the call.
struct Outbound {
    open: Option<v1::StreamConfig>,
    message: Box<dyn FnMut(u64) -> Message + Send>,
    sent: u64,
    schedule: Option<Schedule>,
    valve: Arc<Valve>,
}

impl Outbound {
    fn next(&mut self) -> Poll<Option<v1::FeedRequest>> {
        let message = |message| Poll::Ready(Some(v1::FeedRequest { message: Some(message) }));
        if let Some(open) = self.open.take() {
            return message(Message::Open(open));
        }
        match self.valve.may_send(self.sent) {
            Poll::Ready(true) => {}
            Poll::Ready(false) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        }
        if let Some(schedule) = &self.schedule
            && clock::now().since(schedule.due(self.sent)) > LATE_AFTER
        {
            self.valve.late.fetch_add(1, Ordering::Relaxed);
        }
        let next = (self.message)(self.sent);
        self.sent += 1;
        self.valve.note_sent(self.sent);
        message(next)
    }
}

impl Stream for Outbound {
    type Item = v1::FeedRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<v1::FeedRequest>> {
        let this = self.get_mut();
        if let Poll::Ready(next) = this.next() {
            return Poll::Ready(next);
        }
        this.valve.sender.register(cx.waker());
        this.next()
    }
}

/// An open call. Dropping it cancels it.
pub(crate) struct Feed {
    events: Events,
    valve: Arc<Valve>,
    output_bytes: usize,
}

impl Feed {
    /// Opens a stream and waits until the server has acknowledged it.
    pub(crate) fn open(
        client: Client,
        workload: &Workload,
        window_items: u32,
        schedule: Option<Schedule>,
    ) -> impl Future<Output = anyhow::Result<Self>> + Send + use<> {
        let plan = FeedPlan::of(workload.open(window_items), workload.item.clone());
        let output_bytes = workload.output_bytes;
        async move {
            let mut feed = Self::start(client, plan, schedule).await?;
            feed.output_bytes = output_bytes;
            Ok(feed)
        }
    }

    /// The same with any plan; then the sizes of answers are not checked.
    pub(crate) async fn start(client: Client, plan: FeedPlan, schedule: Option<Schedule>) -> anyhow::Result<Self> {
        let valve = Arc::new(Valve::default());
        let FeedPlan { open, message, metadata } = plan;
        let window_items = open.window_items;
        let outbound = Outbound { open: Some(open), message, sent: 0, schedule, valve: Arc::clone(&valve) };
        let request = Request::from_parts(metadata, Extensions::default(), outbound);
        let (opened, events) = client.feed_from(request).await.context("a stream was not opened")?;
        let granted = opened.limits.map_or(window_items, |limits| limits.window_items);
        if granted < window_items {
            bail!("the server grants a window of {granted} items, but {window_items} are needed");
        }
        Ok(Self { events, valve, output_bytes: 0 })
    }

    pub(crate) const fn valve(&self) -> &Arc<Valve> {
        &self.valve
    }

    /// Waits for the next answer and returns its number. `None` once all are answered and the stream has ended.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<Option<u64>> {
        Ok(self.checked_result().await?.map(|result| result.seq))
    }

    /// The same, with the whole answer.
    pub(crate) async fn checked_result(&mut self) -> anyhow::Result<Option<v1::ItemResult>> {
        let Some(result) = self.result().await.context("a stream broke off")? else { return Ok(None) };
        self.check(&result, self.valve.answered() - 1)?;
        Ok(Some(result))
    }

    /// The next answer, whatever it says. `None` once all are answered and the stream has ended.
    ///
    /// # Errors
    /// The stream's status, if it ends with one.
    pub(crate) async fn result(&mut self) -> Result<Option<v1::ItemResult>, Error> {
        loop {
            match self.events.next().await {
                Ok(Some(Event::Result(result))) => {
                    self.valve.note_answer();
                    return Ok(Some(result));
                }
                Ok(Some(_)) => {}
                // The bare echo completes nothing; answers that are missing are found by counting.
                Ok(None) | Err(Error::EndedEarly) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// If a load test counted wrong or missing answers, it would measure nothing.
    fn check(&self, result: &v1::ItemResult, expected: u64) -> anyhow::Result<()> {
        if result.seq != expected {
            bail!("the answer to item {expected} was due, but that to item {} came", result.seq);
        }
        let tensors = outputs(result).map_err(|error| anyhow!("item {expected} has no outputs: {error}"))?;
        let bytes: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
        if bytes != self.output_bytes {
            bail!("the answer to item {expected} has {bytes} bytes instead of {}", self.output_bytes);
        }
        Ok(())
    }
}

impl Drop for Feed {
    /// The transport resets the stream once neither of its sides is in use; the client's side would otherwise stay, waiting for items.
    fn drop(&mut self) {
        self.valve.close();
    }
}
