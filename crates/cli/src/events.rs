//! The receiving half of Feed and Scan: prints events as they come and counts them.
//!
//! Knows the order of events on a stream; does not know how the audio is sent.

use futures::FutureExt as _;
use prost_types::Duration;
use tidemill_client::{Event, Events, outputs};

use super::{
    StreamArgs,
    output::Printer,
    records::{OpenedRecord, ResultRecord, SegmentRecord, SegmentStartedRecord, SkippedRecord, SummaryRecord, seconds},
    status::{Ending, Failure},
};
use tidemill_wire::v1::{ItemResult, Opened, PayloadKind, ResultOrder, Segment, StreamConfig};

/// Prints events until the server says that everything is answered.
///
/// # Errors
/// [`Failure::Server`] if the server ends the stream with an error, or without `completed`, [`Failure::Output`] if printing fails.
pub(super) async fn print_events(events: &mut Events, printer: &mut Printer, tally: &mut Tally) -> Result<(), Failure> {
    loop {
        let event = match events.next().now_or_never() {
            Some(event) => event,
            None => {
                printer.flush()?;
                events.next().await
            }
        };
        match event? {
            Some(event) => tally.take(event, printer)?,
            None => return Ok(()),
        }
    }
}

/// What a stream of audio asks for.
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
        // What begins like a file has already been read as one.
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
    fn take(&mut self, event: Event, printer: &mut Printer) -> Result<(), Failure> {
        match event {
            Event::Result(result) => self.take_result(&result, printer)?,
            Event::SegmentStarted(started) => {
                let started = SegmentStartedRecord::from(&started);
                printer.print(&started)?;
                self.open_segment = Some(started);
            }
            Event::Segment(segment) => {
                self.open_segment = None;
                self.take_segment(&segment, printer)?;
            }
            Event::Skipped(skipped) => {
                self.summary.items += skipped.results;
                self.summary.skipped += skipped.results;
                printer.print(&SkippedRecord::from(&skipped))?;
            }
            Event::ReconnectAdvised(advised) => {
                let seconds = advised.remaining.map_or(0, |remaining| remaining.seconds);
                printer.note(&format!("the server will close this connection in {seconds} s, and asks for another one"));
            }
            Event::Completed(summary) => self.summary.complete(&summary),
            Event::Opened(_) | Event::Flushed(_) | Event::Other => {}
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
        let is_ok = outputs(result).is_ok();
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
