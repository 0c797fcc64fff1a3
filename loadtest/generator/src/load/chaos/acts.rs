//! Acts that are repeated: streams and connections that break off, connections for one call, items that are too large.

use std::time::Duration;

use tidemill_client::{
    Address, Client, Error, ItemError, outputs,
    wire::v1::{self, feed_request::Message, predict_request},
};
use tokio::time::timeout;
use tonic::Code;

use super::{Crew, PATIENCE, Place, result::Notes};
use crate::{
    cut::CutConnection,
    feed::{Feed, FeedPlan},
    patience::within,
};

/// Items that a stream has sent when it breaks off.
const ITEMS_MAX: u64 = 16;
/// Streams on a connection that is cut.
const STREAMS_MAX: usize = 8;
/// Longest life of a stream that breaks off, after it has sent its items.
const LIFE_MAX_MS: u64 = 100;

/// A stream that is reset while its items are queued, in a model call, or answered but unread.
pub(super) async fn reset(crew: Crew, mut random: fastrand::Rng, notes: Notes) {
    let channel = crew.channel(random.usize(..));
    let Some(feed) = half_a_feed(channel, &crew.place, random, &notes).await else { return };
    drop(feed);
    notes.done();
}

/// A connection with several such streams that vanishes without notice.
pub(super) async fn cut(crew: Crew, mut random: fastrand::Rng, notes: Notes) {
    let connection = match within(PATIENCE, CutConnection::open(crew.place.grpc)).await {
        Some(Ok(connection)) => connection,
        _ => return notes.unexpected("no connection"),
    };
    let streams = random.usize(1..=STREAMS_MAX);
    let seeds: Vec<_> = (0..streams).map(|_| fastrand::Rng::with_seed(random.u64(..))).collect();
    let opening = seeds.into_iter().map(|random| half_a_feed(connection.client.clone(), &crew.place, random, &notes));
    let feeds = futures::future::join_all(opening).await;
    connection.reset();
    drop(feeds);
    notes.done();
}

/// A connection for one call.
pub(super) async fn churn(crew: Crew, notes: Notes) {
    let Ok(address) = Address::try_from(crew.place.grpc) else { return notes.unexpected("no address") };
    let Some(Ok(channel)) = within(PATIENCE, Client::connect(&address)).await else { return notes.unexpected("no connection") };
    match within(PATIENCE, predict(channel, &crew.place, crew.place.item.clone())).await {
        Some(Ok(())) => notes.done(),
        Some(Err(error)) => notes.failed("a call", error.code()),
        None => notes.unexpected("a call is not answered"),
    }
}

/// The item with `bytes` bytes of data in its first input.
pub(super) fn giant(item: &v1::Item, bytes: usize) -> v1::Item {
    let mut giant = item.clone();
    if let Some(tensor) = giant.inputs.first_mut() {
        tensor.data = vec![0; bytes].into();
    }
    giant
}

/// An item that is too large, in a call, or in a stream between two that are not.
pub(super) async fn send_giant(crew: Crew, mut random: fastrand::Rng, giant: v1::Item, notes: Notes) {
    let channel = crew.channel(random.usize(..));
    let sending = async {
        if random.bool() {
            match predict(channel, &crew.place, giant).await {
                Ok(()) => notes.unexpected("it was taken"),
                Err(status) => judge(status.code(), &notes),
            }
            return;
        }
        if let Err(status) = between_two(channel, &crew.place, giant, &notes).await {
            // A message beyond the server's limit ends its stream.
            judge(status.code(), &notes);
        }
    };
    if within(PATIENCE, sending).await.is_none() {
        notes.unexpected("it is not answered");
    }
}

/// Sends an item, the giant and an item on a stream, and reads the three answers.
async fn between_two(channel: Client, place: &Place, giant: v1::Item, notes: &Notes) -> Result<(), Error> {
    let (open, item) = (open(place), place.item.clone());
    let items = move |number| if number == 1 { giant.clone() } else { item.clone() };
    let plan = FeedPlan { open, message: Box::new(move |number| Message::Item(items(number))), metadata: Default::default() };
    let mut feed = match Feed::start(channel, plan, None).await {
        Ok(feed) => feed,
        Err(error) => {
            not_opened(&error, notes);
            return Ok(());
        }
    };
    feed.valve().let_through(3);
    for number in 0..3 {
        let Some(result) = feed.result().await? else {
            notes.unexpected("its stream ended early");
            return Ok(());
        };
        match (number, outputs(&result)) {
            (1, Err(ItemError::Answered(status))) => judge(Code::from(status.code), notes),
            (1, _) => notes.unexpected("it was taken"),
            (_, Ok(_)) => {}
            (_, Err(ItemError::Answered(status))) => notes.failed("an item next to it", Code::from(status.code)),
            (_, Err(ItemError::Empty)) => notes.unexpected("an empty answer"),
        }
    }
    feed.valve().close();
    while feed.result().await?.is_some() {
        notes.unexpected("an answer to no item");
    }
    notes.done();
    Ok(())
}

/// Refusals must say whose fault it is.
fn judge(code: Code, notes: &Notes) {
    notes.error(code);
    match code {
        Code::ResourceExhausted | Code::InvalidArgument => notes.refused(),
        _ => notes.unexpected(format!("it is refused as {code:?}")),
    }
}

async fn predict(channel: Client, place: &Place, item: v1::Item) -> Result<(), Error> {
    let payload = Some(predict_request::Payload::Item(item));
    let request = v1::PredictRequest { model: place.model.clone(), payload, ..v1::PredictRequest::default() };
    // A message larger than the server accepts must still be sent.
    channel.inference().max_encoding_message_size(usize::MAX).predict(request).await?;
    Ok(())
}

pub(super) fn open(place: &Place) -> v1::StreamConfig {
    v1::StreamConfig { model: place.model.clone(), ..v1::StreamConfig::default() }
}

/// Notes why a stream could not be opened.
pub(super) fn not_opened(error: &anyhow::Error, notes: &Notes) {
    match error.downcast_ref::<Error>() {
        Some(error) => notes.failed("a stream is not opened", error.code()),
        None => notes.unexpected(format!("a stream is not opened: {error}")),
    }
}

/// A stream with items in flight, some of whose answers may have been read.
async fn half_a_feed(channel: Client, place: &Place, mut random: fastrand::Rng, notes: &Notes) -> Option<Feed> {
    let items = random.u64(1..=ITEMS_MAX);
    let (reads, life) = (random.u64(0..items), Duration::from_millis(random.u64(0..=LIFE_MAX_MS)));
    let mut feed = match within(PATIENCE, Feed::start(channel, FeedPlan::of(open(place), place.item.clone()), None)).await {
        Some(Ok(feed)) => feed,
        Some(Err(error)) => {
            not_opened(&error, notes);
            return None;
        }
        None => {
            notes.unexpected("a stream is not opened in time");
            return None;
        }
    };
    feed.valve().let_through(items);
    let reading = async {
        for _ in 0..reads {
            feed.result().await?;
        }
        Ok::<(), Error>(())
    };
    // It goes at its moment, however slow the server is; otherwise those that wait to go would pile up.
    if let Ok(Err(status)) = timeout(life, reading).await {
        notes.failed("a stream ended early", status.code());
        return None;
    }
    Some(feed)
}
