//! Conversations over the native API.

use std::{time::Duration, vec::IntoIter};

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use futures::stream;
use tidemill_client::{
    Event, outputs,
    wire::v1::{self, feed_request, predict_request, scan_request, upload_request},
};
use tokio::time::sleep;

use super::{PATIENCE, Site};
use crate::feed::Feed;

/// Items on a feed of tensors.
const FEED_ITEMS: u64 = 24;
/// Time between two things that a feed sends.
const BEAT: Duration = Duration::from_millis(10);
const CHUNK_BYTES_MAX: usize = 3_000;
const SAMPLE_BYTES: u64 = 2;

/// Bursts of items, in step with the answers.
pub(super) async fn feed_tensors(site: &Site, random: &mut fastrand::Rng) -> anyhow::Result<u64> {
    let mut feed = Feed::open(site.client.clone(), &site.workload, 16, None).await?;
    let mut answered = 0;
    while answered < FEED_ITEMS {
        let burst = random.u64(1..=8);
        feed.valve().let_through(burst);
        for _ in 0..burst {
            ensure!(feed.answer().await?.is_some(), "a stream ended before it was closed");
        }
        answered += burst;
        sleep(BEAT).await;
    }
    feed.valve().close();
    ensure!(feed.answer().await?.is_none(), "more answers than items");
    Ok(answered)
}

/// A second of audio in chunks of any size, with a flush somewhere.
pub(super) async fn feed_pcm(site: &Site, random: &mut fastrand::Rng) -> anyhow::Result<u64> {
    let mut messages = vec![feed_request::Message::Open(config(site, v1::PayloadKind::PcmS16le))];
    messages.extend(chunks(&site.audio, random).map(feed_request::Message::Chunk));
    // A flush is between two samples only if all chunks before it are whole; after the last chunk they are.
    messages.push(feed_request::Message::Flush(v1::Flush { id: "flush".to_owned() }));
    messages.push(feed_request::Message::Chunk(site.audio.slice(..1_024)));
    let requests = stream::unfold(messages.into_iter(), after_a_beat);
    let (_, mut events) = site.client.feed_from(requests).await?;
    let (mut items, mut flushes, mut completed) = (0, 0, None);
    while let Some(event) = events.next().await? {
        match event {
            Event::Result(result) => items += answered(&result)?,
            Event::Flushed(flushed) => flushes += u64::from(flushed.items == items),
            Event::Completed(summary) => completed = Some(summary),
            Event::Other => bail!("an empty message"),
            _ => {}
        }
    }
    ensure!(flushes == 1, "the flush was not answered as it should be");
    check(&completed.context("no summary")?, items, site.audio.len() as u64 + 1_024)?;
    Ok(items)
}

/// The next message, and those after it.
async fn after_a_beat(
    mut messages: IntoIter<feed_request::Message>,
) -> Option<(v1::FeedRequest, IntoIter<feed_request::Message>)> {
    let message = messages.next();
    message.as_ref()?;
    sleep(BEAT).await;
    Some((v1::FeedRequest { message }, messages))
}

/// One item, with any priority.
pub(super) async fn predict(site: &Site, random: &mut fastrand::Rng) -> anyhow::Result<u64> {
    let payload = Some(predict_request::Payload::Item(site.workload.item.clone()));
    let model = site.workload.model.clone();
    let request = v1::PredictRequest { model, payload, priority: random.i32(0..=3), ..v1::PredictRequest::default() };
    let response = site.client.predict(request, PATIENCE).await?;
    let bytes: usize = response.outputs.context("no outputs")?.tensors.iter().map(|tensor| tensor.data.len()).sum();
    ensure!(bytes == site.workload.output_bytes, "an answer of {bytes} bytes");
    Ok(1)
}

/// A second of audio at once.
pub(super) async fn scan(site: &Site) -> anyhow::Result<u64> {
    let config = Some(config(site, v1::PayloadKind::Unspecified));
    let request = v1::ScanRequest { config, payload: Some(scan_request::Payload::PcmS16le(site.audio.clone())) };
    let (_, mut events) = site.client.scan(request).await?;
    let (mut items, mut completed) = (0, None);
    while let Some(event) = events.next().await? {
        match event {
            Event::Result(result) => items += answered(&result)?,
            Event::Completed(summary) => completed = Some(summary),
            Event::Other => bail!("an empty message"),
            _ => {}
        }
    }
    check(&completed.context("no summary")?, items, site.audio.len() as u64)?;
    Ok(items)
}

/// A second of audio in chunks, with its length.
pub(super) async fn upload(site: &Site, random: &mut fastrand::Rng) -> anyhow::Result<u64> {
    let stream = Some(config(site, v1::PayloadKind::PcmS16le));
    let open = v1::UploadConfig { stream, include_results: true, ..v1::UploadConfig::default() };
    let total_bytes = Some(site.audio.len() as u64);
    let finish = v1::PayloadDigest { total_bytes, ..v1::PayloadDigest::default() };
    let mut parts = vec![upload_request::Part::Open(open)];
    parts.extend(chunks(&site.audio, random).map(upload_request::Part::Chunk));
    parts.push(upload_request::Part::Finish(finish));
    let requests: Vec<_> = parts.into_iter().map(|part| v1::UploadRequest { part: Some(part) }).collect();
    let response = site.client.upload(stream::iter(requests)).await?;
    let mut items = 0;
    for result in &response.results {
        items += answered(result)?;
    }
    check(&response.summary.context("no summary")?, items, site.audio.len() as u64)?;
    Ok(items)
}

fn config(site: &Site, payload: v1::PayloadKind) -> v1::StreamConfig {
    v1::StreamConfig { model: site.workload.model.clone(), payload: payload.into(), ..v1::StreamConfig::default() }
}

/// The audio in pieces of any size, even odd.
fn chunks(audio: &Bytes, random: &mut fastrand::Rng) -> impl Iterator<Item = Bytes> {
    let mut left = audio.clone();
    std::iter::from_fn(move || {
        let size = random.usize(1..=CHUNK_BYTES_MAX).min(left.len());
        (size > 0).then(|| left.split_to(size))
    })
}

/// One, if the answer has outputs.
fn answered(result: &v1::ItemResult) -> anyhow::Result<u64> {
    outputs(result).map_err(|error| anyhow!("an item failed: {error}"))?;
    Ok(1)
}

/// Checks that the server has counted what the client has.
fn check(summary: &v1::Summary, items: u64, bytes: u64) -> anyhow::Result<()> {
    let v1::Summary { items: taken, ok, errors, samples, payload_bytes, .. } = *summary;
    ensure!(
        (taken, ok, errors) == (items, items, 0),
        "{items} answers, but the summary has {taken} items, {ok} ok, {errors} errors"
    );
    let expected = (bytes / SAMPLE_BYTES, bytes);
    ensure!(
        (samples, payload_bytes) == expected,
        "{bytes} bytes sent, but the summary has {samples} samples, {payload_bytes} bytes"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole() {
        let audio = Bytes::from((0..50_000_u32).map(|number| number as u8).collect::<Vec<_>>());
        let pieces: Vec<Bytes> = chunks(&audio, &mut fastrand::Rng::with_seed(1)).collect();
        assert!(pieces.len() > 10 && pieces.iter().any(|piece| piece.len() % 2 == 1));
        assert_eq!(pieces.concat(), audio);
    }
}
