//! A whole payload, sent in parts and answered once.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use super::{
    event::{Event, Inbound, ItemRequest, ItemResult, Summary},
    stream::Session,
};
use crate::{
    codec::{PayloadDigest, PayloadExpectation, Received, Segment},
    domain::{Fault, FaultKind},
    telemetry::StreamEnd,
};

/// How many errors of items are kept for the response; all are counted.
const ERRORS_KEPT: usize = 16;

/// A part of an upload.
#[derive(Debug, Clone, PartialEq)]
pub enum UploadPart {
    /// A piece of a raw payload.
    Chunk(Bytes),
    /// An item of tensors.
    Item(ItemRequest),
    /// The last part: what the client knows about the payload.
    Finish(PayloadExpectation),
}

/// What an upload asks for, and its limits.
#[derive(Debug, Clone)]
pub struct UploadOptions {
    /// What the client declared in advance.
    pub expect: PayloadExpectation,
    /// Whether to keep the result of every item.
    pub include_results: bool,
    /// The most results to keep.
    pub max_results: usize,
    /// The most bytes of them.
    pub max_result_bytes: usize,
    /// The most payload bytes.
    pub max_bytes: u64,
}

/// The outcome of an upload.
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    /// All segments, in order.
    pub segments: Vec<Segment>,
    /// Counts and times.
    pub summary: Summary,
    /// Length and checksums of what arrived.
    pub received: Received,
    /// All results in order, if asked for.
    pub results: Vec<ItemResult>,
    /// Bytes they take.
    pub result_bytes: usize,
    /// The first faults of items.
    pub errors: Vec<ItemResult>,
}

/// The parts of an upload as a session's input; adds them up on the way.
#[derive(Debug)]
pub struct UploadParts<I> {
    parts: I,
    digest: PayloadDigest,
    expect: PayloadExpectation,
    max_bytes: u64,
    finished: bool,
}

impl<I> UploadParts<I> {
    /// Parts to be checked against `options`.
    pub fn new(parts: I, options: &UploadOptions) -> Self {
        Self {
            parts,
            // Always with SHA-256: the client may give one as late as in its last part.
            digest: PayloadDigest::new(true),
            expect: options.expect,
            max_bytes: options.max_bytes,
            finished: false,
        }
    }

    fn take_part(&mut self, part: UploadPart) -> Result<Option<Inbound>, Fault> {
        if self.finished {
            return Err(Fault::invalid("part", "a part came after `finish`, which must be the last"));
        }
        let inbound = match part {
            UploadPart::Chunk(chunk) => {
                self.digest.update(&chunk);
                Inbound::Chunk(chunk)
            }
            UploadPart::Item(item) => {
                for tensor in item.tensors.iter().flatten() {
                    self.digest.update(&tensor.data);
                }
                Inbound::Item(item)
            }
            UploadPart::Finish(expect) => {
                self.finished = true;
                self.expect = self.expect.merge(expect)?;
                return Ok(None);
            }
        };
        let bytes = self.digest.total_bytes();
        if bytes > self.max_bytes {
            let message = format!("the payload has more than the {} bytes that session.upload_max_bytes allows", self.max_bytes);
            return Err(Fault::new(FaultKind::TooLarge, message).with_limit("session.upload_max_bytes", self.max_bytes));
        }
        self.digest.over(&self.expect)?;
        Ok(Some(inbound))
    }
}

impl<I> Stream for UploadParts<I>
where
    I: Stream<Item = Result<UploadPart, Fault>> + Unpin,
{
    type Item = Result<Inbound, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match std::task::ready!(Pin::new(&mut this.parts).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(part) => {
                    if let Some(inbound) = part.and_then(|part| this.take_part(part)).transpose() {
                        return Poll::Ready(Some(inbound));
                    }
                }
            }
        }
    }
}

/// Runs an upload to its end.
///
/// # Errors
/// The fault that ended the session; [`FaultKind::DataLoss`] if the payload is not what the client declared;
/// [`FaultKind::TooLarge`] if it has more results than the response may hold.
pub async fn collect_upload<I>(mut session: Session<UploadParts<I>>, options: &UploadOptions) -> Result<Upload, Fault>
where
    I: Stream<Item = Result<UploadPart, Fault>> + Unpin,
{
    let (mut segments, mut results, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let (mut summary, mut result_bytes) = (Summary::default(), 0);
    while let Some(event) = session.next().await {
        match event? {
            Event::Result(result) => {
                if result.outcome.is_err() && errors.len() < ERRORS_KEPT {
                    errors.push(result.clone());
                }
                if options.include_results {
                    result_bytes += bytes_of(&result);
                    if let Some(fault) = over(options, results.len() + 1, result_bytes) {
                        session.into_parts().1.fault(StreamEnd::Refused, &fault);
                        return Err(fault);
                    }
                    results.push(result);
                }
            }
            Event::Segment(segment) => segments.push(segment),
            Event::SegmentStarted { .. } | Event::Flushed { .. } | Event::Skipped { .. } | Event::ReconnectAdvised { .. } => {}
            Event::Completed(completed) => summary = completed,
        }
    }
    let (UploadParts { digest, expect, .. }, mut metrics) = session.into_parts();
    let received = digest.finish();
    received.verify(&expect).inspect_err(|fault| metrics.fault(StreamEnd::Refused, fault))?;
    Ok(Upload { segments, summary, received, results, result_bytes, errors })
}

/// Bytes that a result takes.
fn bytes_of(result: &ItemResult) -> usize {
    let outputs = result.outcome.iter().flatten().map(|tensor| tensor.data().len());
    size_of::<ItemResult>() + result.id.len() + outputs.sum::<usize>()
}

/// The limit on results that the response would exceed.
fn over(options: &UploadOptions, results: usize, bytes: usize) -> Option<Fault> {
    let (what, limit, key) = if results > options.max_results {
        ("", options.max_results, "session.upload_max_results")
    } else if bytes > options.max_result_bytes {
        (" bytes of", options.max_result_bytes, "session.upload_max_result_bytes")
    } else {
        return None;
    };
    let message = format!("more than the {limit}{what} results that {key} allows in one response; use Scan or Feed");
    Some(Fault::new(FaultKind::TooLarge, message).with_limit(key, limit as u64))
}
