//! Streams that stay for the whole run: they read slowly, never read, or send nothing.

use std::time::Duration;

use futures::stream;
use tidemill::proto::{
    duration_from_wire,
    v1::{self, feed_request, feed_response, inference_service_client::InferenceServiceClient, item_result},
};
use tokio::{sync::mpsc, time::sleep};
use tonic::{Code, Status, Streaming};

use super::{Crew, Kind, PATIENCE, acts, result::Notes};
use crate::{
    feed::{Feed, FeedPlan},
    patience::within,
};

/// How many items a stream that does not read may send: more than any flow control lets through.
const ALL: u64 = 1 << 40;
/// A slow reader has no more than this in flight, so that it tests the server's patience and not its speed.
const AHEAD: u64 = 2;

/// Stays until it is over.
pub(super) async fn stay(crew: Crew, number: usize, kind: Kind, pause: Duration, notes: Notes) {
    if kind == Kind::Idle {
        return idle(crew, number, notes).await;
    }
    let plan = FeedPlan::of(acts::open(&crew.place), crew.place.item.clone());
    let feed = match within(PATIENCE, Feed::start(crew.channel(number), plan, None)).await {
        Some(Ok(feed)) => feed,
        Some(Err(error)) => return acts::not_opened(&error, &notes),
        None => return notes.unexpected("a stream is not opened in time"),
    };
    match kind {
        Kind::SlowReader => read_slowly(crew, feed, pause, notes).await,
        _ => read_nothing(crew, feed, notes).await,
    }
}

async fn read_slowly(crew: Crew, mut feed: Feed, pause: Duration, notes: Notes) {
    feed.valve().let_through(AHEAD);
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = crew.over() => break,
        }
        match within(PATIENCE, feed.result()).await {
            Some(Ok(Some(result))) => look(&result, &notes),
            Some(Ok(None)) => return notes.unexpected("a stream ended early"),
            Some(Err(status)) => return notes.failed("a stream ended early", status.code()),
            None => return notes.unexpected("an item is not answered"),
        }
        feed.valve().let_through(1);
    }
    read_out(feed, notes).await;
}

/// The server may cut it off if it takes nothing for long (`session.unread_timeout_s`).
async fn read_nothing(crew: Crew, feed: Feed, notes: Notes) {
    feed.valve().let_through(ALL);
    crew.over().await;
    read_out(feed, notes).await;
}

/// Sends no more, and reads everything that is owed.
async fn read_out(mut feed: Feed, notes: Notes) {
    feed.valve().close();
    let reading = async {
        while let Some(result) = feed.result().await? {
            look(&result, &notes);
        }
        Ok::<(), Status>(())
    };
    match within(PATIENCE, reading).await {
        Some(Ok(())) if feed.valve().sent() == feed.valve().answered() => notes.done(),
        Some(Ok(())) => notes.unexpected("an item is not answered"),
        Some(Err(status)) if status.code() == Code::Cancelled => {
            notes.error(status.code());
            notes.refused();
        }
        Some(Err(status)) => notes.failed("what is owed is not answered", status.code()),
        None => notes.unexpected("what is owed is not answered in time"),
    }
}

fn look(result: &v1::ItemResult, notes: &Notes) {
    match &result.outcome {
        Some(item_result::Outcome::Outputs(_)) => {}
        Some(item_result::Outcome::Error(status)) => notes.failed("an item", Code::from(status.code)),
        None => notes.unexpected("an empty answer"),
    }
}

/// A stream without items. It gives a sign of life after each third of the server's idle timeout.
async fn idle(crew: Crew, number: usize, notes: Notes) {
    let (speak, spoken) = mpsc::channel::<v1::FeedRequest>(1);
    let opened = within(PATIENCE, open_idle(&crew, number, &speak, spoken)).await;
    let (mut inbound, keepalive) = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(status)) => return notes.failed("a stream is not opened", status.code()),
        None => return notes.unexpected("a stream is not opened in time"),
    };
    loop {
        tokio::select! {
            () = sleep(keepalive) => {
                let alive = feed_request::Message::Keepalive(v1::KeepAlive {});
                // If the stream has ended, it says so itself.
                let _ = speak.try_send(v1::FeedRequest { message: Some(alive) });
            }
            message = inbound.message() => return match message {
                Ok(Some(_)) => notes.unexpected("a message on a silent stream"),
                Ok(None) => notes.unexpected("a stream ended early"),
                Err(status) => notes.failed("a stream ended early", status.code()),
            },
            () = crew.over() => break,
        }
    }
    drop(speak);
    let ending = async {
        while let Some(message) = inbound.message().await? {
            if !matches!(message.event, Some(feed_response::Event::Completed(_))) {
                notes.unexpected("a message on a silent stream");
            }
        }
        Ok::<(), Status>(())
    };
    match within(PATIENCE, ending).await {
        Some(Ok(())) => notes.done(),
        Some(Err(status)) => notes.failed("a stream ended badly", status.code()),
        None => notes.unexpected("a stream does not end"),
    }
}

async fn open_idle(
    crew: &Crew,
    number: usize,
    speak: &mpsc::Sender<v1::FeedRequest>,
    spoken: mpsc::Receiver<v1::FeedRequest>,
) -> Result<(Streaming<v1::FeedResponse>, Duration), Status> {
    let open = feed_request::Message::Open(acts::open(&crew.place));
    // The channel is empty and its other end is here.
    let _ = speak.try_send(v1::FeedRequest { message: Some(open) });
    let outbound = stream::unfold(spoken, next_spoken);
    let mut client = InferenceServiceClient::new(crew.channel(number));
    let mut inbound = client.feed(outbound).await?.into_inner();
    let Some(v1::FeedResponse { event: Some(feed_response::Event::Opened(opened)) }) = inbound.message().await? else {
        return Err(Status::internal("the first message of a stream is not `opened`"));
    };
    let idle_timeout = opened.limits.and_then(|limits| limits.idle_timeout).and_then(duration_from_wire);
    Ok((inbound, idle_timeout.unwrap_or(PATIENCE) / 3))
}

async fn next_spoken(mut spoken: mpsc::Receiver<v1::FeedRequest>) -> Option<(v1::FeedRequest, mpsc::Receiver<v1::FeedRequest>)> {
    let request = spoken.recv().await?;
    Some((request, spoken))
}
