//! One `Feed` call of the client, at the least cost per item that the client can have: no channel and no task of its own.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use anyhow::{Context as _, bail};
use futures::{Stream, task::AtomicWaker};
use tidemill::{
    clock,
    proto::v1::{self, feed_request, feed_response, inference_service_client::InferenceServiceClient, item_result},
};
use tonic::{Streaming, transport::Channel};

use crate::{schedule::Schedule, workload::Workload};

/// A send counts as late when it comes this long after its item was due.
pub(crate) const LATE_AFTER: std::time::Duration = std::time::Duration::from_millis(1);

/// How many items a feed has sent, may send, and has had answered. Shared by whoever paces the feed.
#[derive(Debug, Default)]
pub(crate) struct Valve {
    let_through: AtomicU64,
    answered: AtomicU64,
    late: AtomicU64,
    closed: AtomicBool,
    sender: AtomicWaker,
}

impl Valve {
    /// Lets that many more items be sent.
    pub(crate) fn let_through(&self, items: u64) {
        self.let_through.fetch_add(items, Ordering::Release);
        self.sender.wake();
    }

    /// Ends the client's side; what was sent is still answered.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.sender.wake();
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Sends that were late by more than [`LATE_AFTER`].
    pub(crate) fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }
}

/// The client's side of the call.
struct Outbound {
    open: Option<v1::StreamConfig>,
    item: v1::Item,
    sent: u64,
    schedule: Option<Schedule>,
    valve: Arc<Valve>,
}

impl Outbound {
    fn next(&mut self) -> Poll<Option<v1::FeedRequest>> {
        let message = |message| Poll::Ready(Some(v1::FeedRequest { message: Some(message) }));
        if let Some(open) = self.open.take() {
            return message(feed_request::Message::Open(open));
        }
        if self.valve.closed.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        if self.sent >= self.valve.let_through.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        if let Some(schedule) = &self.schedule
            && clock::now().since(schedule.due(self.sent)) > LATE_AFTER
        {
            self.valve.late.fetch_add(1, Ordering::Relaxed);
        }
        self.sent += 1;
        message(feed_request::Message::Item(self.item.clone()))
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

/// An open call.
pub(crate) struct Feed {
    inbound: Streaming<v1::FeedResponse>,
    valve: Arc<Valve>,
    output_bytes: usize,
}

impl Feed {
    /// Opens a stream and waits until the server has acknowledged it.
    pub(crate) async fn open(
        channel: Channel,
        workload: &Workload,
        window_items: u32,
        schedule: Option<Schedule>,
    ) -> anyhow::Result<Self> {
        let valve = Arc::new(Valve::default());
        let outbound = Outbound {
            open: Some(workload.open(window_items)),
            item: workload.item.clone(),
            sent: 0,
            schedule,
            valve: Arc::clone(&valve),
        };
        let mut client = InferenceServiceClient::new(channel);
        let mut inbound = client.feed(outbound).await.context("a stream was refused")?.into_inner();
        match inbound.message().await.context("a stream ended before it was opened")? {
            Some(v1::FeedResponse { event: Some(feed_response::Event::Opened(opened)) }) => {
                let granted = opened.limits.map_or(window_items, |limits| limits.window_items);
                if granted < window_items {
                    bail!("the server grants a window of {granted} items, and {window_items} are wanted");
                }
            }
            other => bail!("the first message of a stream is not `opened`: {other:?}"),
        }
        Ok(Self { inbound, valve, output_bytes: workload.output_bytes })
    }

    pub(crate) const fn valve(&self) -> &Arc<Valve> {
        &self.valve
    }

    /// Waits for the next answer and returns its number. `None` once all are answered and the stream has ended.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<Option<u64>> {
        loop {
            let Some(response) = self.inbound.message().await.context("a stream broke off")? else { return Ok(None) };
            let Some(feed_response::Event::Result(result)) = response.event else { continue };
            let expected = self.valve.answered.fetch_add(1, Ordering::Relaxed);
            self.check(&result, expected)?;
            return Ok(Some(expected));
        }
    }

    /// A load test that counted wrong or missing answers would measure nothing.
    fn check(&self, result: &v1::ItemResult, expected: u64) -> anyhow::Result<()> {
        if result.seq != expected {
            bail!("the answer to item {expected} was due, and that to item {} came", result.seq);
        }
        match &result.outcome {
            Some(item_result::Outcome::Outputs(outputs)) => {
                let bytes: usize = outputs.tensors.iter().map(|tensor| tensor.data.len()).sum();
                if bytes != self.output_bytes {
                    bail!("the answer to item {expected} has {bytes} bytes in place of {}", self.output_bytes);
                }
                Ok(())
            }
            Some(item_result::Outcome::Error(status)) => bail!("item {expected} was answered with an error: {}", status.message),
            None => bail!("the answer to item {expected} is empty"),
        }
    }
}
