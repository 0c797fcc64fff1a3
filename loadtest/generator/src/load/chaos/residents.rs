//! Streams that stay for the whole run: they read slowly, never read, or send nothing.

use std::time::Duration;

use futures::FutureExt as _;
use tidemill_client::{self as client, Error, Event, ItemError, keepalive_interval, outputs, wire::v1};
use tokio::time::sleep;
use tonic::Code;

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
        Ok::<(), Error>(())
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
    match outputs(result) {
        Ok(_) => {}
        Err(ItemError::Answered(status)) => notes.failed("an item", Code::from(status.code)),
        Err(ItemError::Empty) => notes.unexpected("an empty answer"),
    }
}

/// A stream without items. It gives a sign of life after each third of the server's idle timeout.
async fn idle(crew: Crew, number: usize, notes: Notes) {
    let opened = within(PATIENCE, crew.channel(number).feed(acts::open(&crew.place))).await;
    let client::Feed { opened, sender, mut events } = match opened {
        Some(Ok(feed)) => feed,
        Some(Err(error)) => return notes.failed("a stream is not opened", error.code()),
        None => return notes.unexpected("a stream is not opened in time"),
    };
    let keepalive = keepalive_interval(&opened);
    loop {
        tokio::select! {
            () = sleep(keepalive) => {
                // If the stream has ended, it says so itself.
                let _ = sender.keep_alive().now_or_never();
            }
            event = events.next() => return match event {
                Ok(Some(_)) => notes.unexpected("a message on a silent stream"),
                Ok(None) | Err(Error::EndedEarly) => notes.unexpected("a stream ended early"),
                Err(error) => notes.failed("a stream ended early", error.code()),
            },
            () = crew.over() => break,
        }
    }
    drop(sender);
    let ending = async {
        while let Some(event) = events.next().await? {
            if !matches!(event, Event::Completed(_)) {
                notes.unexpected("a message on a silent stream");
            }
        }
        Ok::<(), Error>(())
    };
    match within(PATIENCE, ending).await {
        Some(Ok(())) => notes.done(),
        Some(Err(error)) => notes.failed("a stream ended badly", error.code()),
        None => notes.unexpected("a stream does not end"),
    }
}
