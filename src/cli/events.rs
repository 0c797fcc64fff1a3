//! The receiving half of Feed and Scan: prints events as they come and counts them.
//!
//! Knows the order of events on a stream; does not know how the audio is sent.

use std::pin::Pin;

use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use prost_types::Duration;
use tonic::{Status, Streaming};

use super::{
    StreamArgs,
    output::Printer,
    records::{OpenedRecord, ResultRecord, SegmentRecord, SegmentStartedRecord, SkippedRecord, SummaryRecord, seconds},
    status::{Ending, Failure},
};
use crate::proto::v1::{
    FeedResponse, Framing, ItemResult, Opened, PayloadKind, ResultOrder, ScanResponse, Segment, SegmentStarted, Skipped,
    StreamConfig, Summary, feed_response, item_result, scan_response,
};

/// The events that Feed and Scan share.
#[derive(Debug)]
pub(super) enum StreamEvent {
    Opened(Opened),
    Result(ItemResult),
    SegmentStarted(SegmentStarted),
    Segment(Segment),
    Skipped(Skipped),
    Completed(Summary),
    /// A kind that this client does not ask for or does not know; newer servers may send more.
    Other,
}

impl From<FeedResponse> for StreamEvent {
    fn from(response: FeedResponse) -> Self {
        match response.event {
            Some(feed_response::Event::Opened(opened)) => Self::Opened(opened),
            Some(feed_response::Event::Result(result)) => Self::Result(result),
            Some(feed_response::Event::SegmentStarted(started)) => Self::SegmentStarted(started),
            Some(feed_response::Event::Segment(segment)) => Self::Segment(segment),
            Some(feed_response::Event::Completed(summary)) => Self::Completed(summary),
            Some(feed_response::Event::Skipped(skipped)) => Self::Skipped(skipped),
            Some(feed_response::Event::Flushed(_)) | None => Self::Other,
        }
    }
}

impl From<ScanResponse> for StreamEvent {
    fn from(response: ScanResponse) -> Self {
        match response.event {
            Some(scan_response::Event::Opened(opened)) => Self::Opened(opened),
            Some(scan_response::Event::Result(result)) => Self::Result(result),
            Some(scan_response::Event::SegmentStarted(started)) => Self::SegmentStarted(started),
            Some(scan_response::Event::Segment(segment)) => Self::Segment(segment),
            Some(scan_response::Event::Completed(summary)) => Self::Completed(summary),
            None => Self::Other,
        }
    }
}

/// The events of one stream, as they arrive.
pub(super) struct Events {
    stream: Pin<Box<dyn Stream<Item = Result<StreamEvent, Status>> + Send>>,
}

impl Events {
    /// The events of a response stream.
    pub(super) fn new<T>(responses: Streaming<T>) -> Self
    where
        T: Into<StreamEvent> + Send + 'static,
    {
        Self { stream: Box::pin(responses.map_ok(Into::into)) }
    }

    /// Waits for `opened`, with which every stream begins, and returns it with its framing.
    ///
    /// # Errors
    /// [`Failure::Refused`] if the server does not open the stream, [`Failure::UnexpectedAnswer`] if it says something else first, or names
    /// no usable framing.
    pub(super) async fn opened(&mut self) -> Result<(Opened, Framing), Failure> {
        let opened = match self.stream.next().await {
            Some(Ok(StreamEvent::Opened(opened))) => opened,
            Some(Ok(_)) => return Err(Failure::UnexpectedAnswer("the stream did not begin with 'opened'".to_owned())),
            Some(Err(status)) => return Err(status.into()),
            None => return Err(Failure::UnexpectedAnswer("the stream ended before it was opened".to_owned())),
        };
        let framing = usable_framing(opened.framing, &opened.model)?;
        Ok((opened, framing))
    }

    /// Prints events until the server says that everything is answered.
    ///
    /// # Errors
    /// [`Failure::Refused`] if the server ends the stream with an error, [`Failure::UnexpectedAnswer`] if it ends without
    /// `completed`, [`Failure::Output`] if printing fails.
    pub(super) async fn print(&mut self, printer: &mut Printer, tally: &mut Tally) -> Result<(), Failure> {
        loop {
            let event = match self.stream.next().now_or_never() {
                Some(event) => event,
                None => {
                    printer.flush()?;
                    self.stream.next().await
                }
            };
            match event {
                Some(Ok(event)) => tally.take(event, printer)?,
                Some(Err(status)) => return Err(status.into()),
                None if tally.summary.completed => return Ok(()),
                None => return Err(Failure::UnexpectedAnswer("the stream ended without 'completed'".to_owned())),
            }
        }
    }
}

/// The framing of a model that takes raw audio.
///
/// # Errors
/// [`Failure::BadInput`] if the model takes only tensors, [`Failure::UnexpectedAnswer`] for a rate or window of zero.
pub(super) fn usable_framing(framing: Option<Framing>, model: &str) -> Result<Framing, Failure> {
    match framing {
        Some(framing) if framing.sample_rate_hz > 0 && framing.window_samples > 0 => Ok(framing),
        Some(_) => Err(Failure::UnexpectedAnswer(format!("the framing of model '{model}' has no rate or no window"))),
        None => Err(Failure::BadInput(format!("model '{model}' takes no audio; send tensors: tidemill predict --tensor"))),
    }
}

/// The configuration of a stream of audio.
pub(super) fn stream_config(args: &StreamArgs) -> StreamConfig {
    StreamConfig {
        model: args.model.clone(),
        version: args.model_version.clone(),
        payload: PayloadKind::PcmS16le.into(),
        order: ResultOrder::InOrder.into(),
        window_items: args.window,
        default_deadline: args.deadline_ms.map(duration_from_ms),
        max_age: args.max_age_ms.map(duration_from_ms),
        priority: args.priority.wire().into(),
        // Input that begins like a file has already been read as one.
        accept_container_bytes: true,
        ..StreamConfig::default()
    }
}

fn duration_from_ms(duration_ms: u32) -> Duration {
    Duration { seconds: i64::from(duration_ms / 1_000), nanos: (duration_ms % 1_000) as i32 * 1_000_000 }
}

/// Counts of one stream.
#[derive(Debug)]
pub(super) struct Tally {
    summary: SummaryRecord,
    show_results: bool,
    samples_total: Option<u64>,
    open_segment: Option<SegmentStartedRecord>,
}

impl Tally {
    /// Starts from nothing. `samples_total` is what the progress bar counts up to.
    pub(super) fn new(rate_hz: u32, samples_total: Option<u64>, show_results: bool) -> Self {
        Self { summary: SummaryRecord { rate_hz, ..SummaryRecord::default() }, show_results, samples_total, open_segment: None }
    }

    /// Counts and prints one event.
    fn take(&mut self, event: StreamEvent, printer: &mut Printer) -> Result<(), Failure> {
        match event {
            StreamEvent::Result(result) => self.take_result(&result, printer)?,
            StreamEvent::SegmentStarted(started) => {
                let started = SegmentStartedRecord::from(&started);
                printer.print(&started)?;
                self.open_segment = Some(started);
            }
            StreamEvent::Segment(segment) => {
                self.open_segment = None;
                self.take_segment(&segment, printer)?;
            }
            StreamEvent::Skipped(skipped) => {
                self.summary.items += skipped.results;
                self.summary.skipped += skipped.results;
                printer.print(&SkippedRecord::from(&skipped))?;
            }
            StreamEvent::Completed(summary) => self.summary.complete(&summary),
            StreamEvent::Opened(_) | StreamEvent::Other => {}
        }
        Ok(())
    }

    /// Counts and prints a segment.
    pub(super) fn take_segment(&mut self, segment: &Segment, printer: &mut Printer) -> Result<(), Failure> {
        self.summary.segments += 1;
        printer.print(&SegmentRecord::from(segment))
    }

    /// Counts an answer, and prints it if it is an error or the user wants to see them all.
    pub(super) fn take_result(&mut self, result: &ItemResult, printer: &mut Printer) -> Result<(), Failure> {
        let is_ok = matches!(result.outcome, Some(item_result::Outcome::Outputs(_)));
        if result.last {
            self.summary.items += 1;
            *(if is_ok { &mut self.summary.ok } else { &mut self.summary.errors }) += 1;
        }
        if let Some(window) = result.window {
            self.summary.samples = self.summary.samples.max(window.end_sample);
            self.show_progress(printer);
        }
        if self.show_results || !is_ok { printer.print(&ResultRecord::new(result, self.summary.rate_hz)) } else { Ok(()) }
    }

    fn show_progress(&self, printer: &Printer) {
        let bar = printer.bar();
        if bar.is_hidden() {
            return;
        }
        let done = seconds(self.summary.samples, self.summary.rate_hz);
        let total = self.samples_total.map(|total| format!(" of {:.1} s", seconds(total, self.summary.rate_hz)));
        let segment = self.open_segment.as_ref().map(|segment| format!(", {segment}"));
        bar.set_position(self.summary.samples);
        bar.set_message(format!("{done:.1} s{}{}", total.unwrap_or_default(), segment.unwrap_or_default()));
    }

    /// The counts so far, to be completed by the caller.
    pub(super) const fn summary_mut(&mut self) -> &mut SummaryRecord {
        &mut self.summary
    }

    /// Prints the summary and says how the command ends. After a failure of the stream, what was done until then is still reported; after a
    /// failure of the output, there is nowhere left to report it.
    ///
    /// # Errors
    /// The failure of `outcome`, or [`Failure::Output`] if the summary cannot be written.
    pub(super) fn finish(
        mut self,
        outcome: Result<(), Failure>,
        interrupted: bool,
        printer: &mut Printer,
    ) -> Result<Ending, Failure> {
        printer.end_progress();
        if matches!(outcome, Err(Failure::Output(_))) {
            return outcome.map(|()| Ending::Ok);
        }
        self.summary.interrupted = interrupted;
        printer.print(&self.summary)?;
        outcome?;
        Ok(match (interrupted, self.summary.errors) {
            (true, _) => Ending::Interrupted,
            (false, 0) => Ending::Ok,
            (false, _) => Ending::SomeFailed,
        })
    }
}

/// Prints that the stream is open; people see it only in the counts.
pub(super) fn print_opened(opened: &Opened, printer: &mut Printer) -> Result<(), Failure> {
    printer.print(&OpenedRecord::from(opened))
}
