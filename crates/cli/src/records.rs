//! The output of streams: the opening, results, segments and the summary, each as text and as JSON.
//!
//! Knows the wire's messages; does not know in which order they come.

use std::{fmt, time::Duration};

use serde::Serialize;
use tidemill_client::{ItemError, Refusal, outputs};

use super::{
    printed::{Place, Record},
    tensors::TensorRecord,
};
use tidemill_wire::{
    duration_from_wire,
    v1::{ItemResult, Opened, Segment, SegmentStarted, Skipped, Summary, Timing},
};

/// The server's first message on a stream.
#[derive(Debug, Serialize)]
pub(super) struct OpenedRecord {
    model: String,
    version: String,
    sample_rate_hz: Option<u32>,
    window_samples: Option<u32>,
    window_items: Option<u32>,
    window_bytes: Option<u64>,
    max_message_bytes: Option<u64>,
}

impl From<&Opened> for OpenedRecord {
    fn from(opened: &Opened) -> Self {
        Self {
            model: opened.model.clone(),
            version: opened.version.clone(),
            sample_rate_hz: opened.framing.map(|framing| framing.sample_rate_hz),
            window_samples: opened.framing.map(|framing| framing.window_samples),
            window_items: opened.limits.map(|limits| limits.window_items),
            window_bytes: opened.limits.map(|limits| limits.window_bytes),
            max_message_bytes: opened.limits.map(|limits| limits.max_message_bytes),
        }
    }
}

impl fmt::Display for OpenedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.model, self.version)
    }
}

impl Record for OpenedRecord {
    const KIND: &'static str = "opened";

    fn place(&self) -> Place {
        Place::Nowhere
    }
}

/// The answer to one item.
#[derive(Debug, Serialize)]
pub(super) struct ResultRecord {
    seq: u64,
    /// Left out where the model gives one answer an item.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_sample: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_sample: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<TensorRecord>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<TimingRecord>,
    #[serde(skip)]
    rate_hz: u32,
}

impl ResultRecord {
    /// A result of a stream with this many samples a second.
    pub(super) fn new(result: &ItemResult, rate_hz: u32) -> Self {
        let (outputs, error) = match outputs(result) {
            Ok(outputs) => (Some(outputs.iter().map(TensorRecord::from).collect()), None),
            Err(ItemError::Answered(status)) => (None, Some(Refusal::from(status))),
            Err(ItemError::Empty) => (None, None),
        };
        Self {
            seq: result.seq,
            part: (result.part > 0 || !result.last).then_some(result.part),
            id: result.id.clone(),
            start_sample: result.window.map(|window| window.start_sample),
            end_sample: result.window.map(|window| window.end_sample),
            outputs,
            error,
            timing: result.timing.as_ref().map(TimingRecord::from),
            rate_hz,
        }
    }
}

impl fmt::Display for ResultRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item {:>6}", self.seq)?;
        if let Some(part) = self.part {
            write!(f, " part {part}")?;
        }
        if let (Some(start), Some(end)) = (self.start_sample, self.end_sample) {
            write!(f, "  {:.3} s – {:.3} s", seconds(start, self.rate_hz), seconds(end, self.rate_hz))?;
        }
        if let Some(error) = &self.error {
            write!(f, "  {error}")?;
        }
        self.outputs.iter().flatten().try_for_each(|output| write!(f, "  {output}"))
    }
}

impl Record for ResultRecord {
    const KIND: &'static str = "result";

    fn place(&self) -> Place {
        if self.error.is_some() { Place::Notes } else { Place::Results }
    }
}

/// What happened to an item on the server.
#[derive(Debug, Serialize)]
pub(super) struct TimingRecord {
    queue_ns: u64,
    compute_ns: u64,
    age_ns: u64,
    batch_size: u32,
}

impl From<&Timing> for TimingRecord {
    fn from(timing: &Timing) -> Self {
        let Timing { queue_ns, compute_ns, age_ns, batch_size } = *timing;
        Self { queue_ns, compute_ns, age_ns, batch_size }
    }
}

impl fmt::Display for TimingRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (queue, compute) = (Duration::from_nanos(self.queue_ns), Duration::from_nanos(self.compute_ns));
        write!(f, "{queue:.2?} in the queue, {compute:.2?} in the model in a batch of {}", self.batch_size)
    }
}

/// A segment that has begun; people see it in the progress bar.
#[derive(Debug, Serialize)]
pub(super) struct SegmentStartedRecord {
    index: u64,
    start_sample: u64,
    start_ms: u64,
}

impl From<&SegmentStarted> for SegmentStartedRecord {
    fn from(started: &SegmentStarted) -> Self {
        let SegmentStarted { index, start_sample, start_ms } = *started;
        Self { index, start_sample, start_ms }
    }
}

impl fmt::Display for SegmentStartedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "speech since {:.2} s", self.start_ms as f64 / 1e3)
    }
}

impl Record for SegmentStartedRecord {
    const KIND: &'static str = "segment_started";

    fn place(&self) -> Place {
        Place::Nowhere
    }
}

/// A complete segment.
#[derive(Debug, Serialize)]
pub(super) struct SegmentRecord {
    index: u64,
    start_sample: u64,
    end_sample: u64,
    start_ms: u64,
    end_ms: u64,
}

impl From<&Segment> for SegmentRecord {
    fn from(segment: &Segment) -> Self {
        let Segment { index, start_sample, end_sample, start_ms, end_ms } = *segment;
        Self { index, start_sample, end_sample, start_ms, end_ms }
    }
}

impl fmt::Display for SegmentRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "speech {:>5.2} s – {:>5.2} s", self.start_ms as f64 / 1e3, self.end_ms as f64 / 1e3)
    }
}

impl Record for SegmentRecord {
    const KIND: &'static str = "segment";
}

/// Results that were not read in time.
#[derive(Debug, Serialize)]
pub(super) struct SkippedRecord {
    first_seq: u64,
    results: u64,
}

impl From<&Skipped> for SkippedRecord {
    fn from(skipped: &Skipped) -> Self {
        let Skipped { first_seq, results } = *skipped;
        Self { first_seq, results }
    }
}

impl fmt::Display for SkippedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item {:>6}  {} skipped, because nobody read them", self.first_seq, counted(self.results, "result"))
    }
}

impl Record for SkippedRecord {
    const KIND: &'static str = "skipped";

    fn place(&self) -> Place {
        Place::Notes
    }
}

/// A summary. Without the server's own, it holds what this client has seen.
#[derive(Debug, Default, Serialize)]
pub(super) struct SummaryRecord {
    /// Whether the server said that everything has been answered.
    pub(super) completed: bool,
    /// Whether Ctrl-C ended the sending.
    pub(super) interrupted: bool,
    pub(super) items: u64,
    pub(super) ok: u64,
    pub(super) errors: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) skipped: u64,
    pub(super) segments: u64,
    pub(super) samples: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) elapsed_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compute_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) received: Option<DigestRecord>,
    #[serde(skip)]
    pub(super) rate_hz: u32,
}

impl SummaryRecord {
    /// Adopts the server's counts.
    pub(super) fn complete(&mut self, summary: &Summary) {
        self.completed = true;
        (self.items, self.ok, self.errors) = (summary.items, summary.ok, summary.errors);
        self.samples = summary.samples;
        self.payload_bytes = Some(summary.payload_bytes);
        let elapsed = summary.elapsed.and_then(duration_from_wire);
        self.elapsed_ms = elapsed.map(|elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        (self.queue_ns, self.compute_ns) = (Some(summary.queue_ns), Some(summary.compute_ns));
    }
}

impl fmt::Display for SummaryRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let audio_s = seconds(self.samples, self.rate_hz);
        let (windows, errors) = (counted(self.items, "window"), counted(self.errors, "error"));
        write!(f, "{audio_s:.2} s of audio, {windows}: {} ok, {errors}; {}", self.ok, counted(self.segments, "segment"))?;
        if self.skipped > 0 {
            write!(f, "; {} skipped", counted(self.skipped, "result"))?;
        }
        if let Some(elapsed_ms) = self.elapsed_ms {
            let elapsed_s = elapsed_ms as f64 / 1e3;
            write!(f, "; {elapsed_s:.2} s taken")?;
            if elapsed_ms > 0 && audio_s > 0.0 {
                write!(f, " ({:.1}x real time)", audio_s / elapsed_s)?;
            }
        }
        if let (Some(queue_ns), Some(compute_ns), true) = (self.queue_ns, self.compute_ns, self.ok > 0) {
            let (queue, compute) = (Duration::from_nanos(queue_ns / self.ok), Duration::from_nanos(compute_ns / self.ok));
            write!(f, "; a window waited {queue:.1?} and took {compute:.1?} on average")?;
        }
        if let Some(received) = &self.received {
            write!(f, "; {received}")?;
        }
        match (self.interrupted, self.completed) {
            (true, _) => f.write_str("; interrupted"),
            (false, false) => f.write_str("; cut short"),
            (false, true) => Ok(()),
        }
    }
}

impl Record for SummaryRecord {
    const KIND: &'static str = "summary";

    fn place(&self) -> Place {
        Place::Notes
    }
}

/// What the server says it received.
#[derive(Debug, Serialize)]
pub(super) struct DigestRecord {
    pub(super) total_bytes: u64,
    pub(super) crc32c: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
}

impl fmt::Display for DigestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes arrived, crc32c {}", self.total_bytes, self.crc32c)?;
        self.sha256.iter().try_for_each(|sha256| write!(f, ", sha256 {sha256}"))
    }
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Samples as seconds; zero if the rate is not known.
pub(super) fn seconds(samples: u64, rate_hz: u32) -> f64 {
    if rate_hz == 0 { 0.0 } else { samples as f64 / f64::from(rate_hz) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_reads_like_a_line_of_a_protocol() {
        let segment = Segment { index: 0, start_sample: 20_480, end_sample: 48_640, start_ms: 1_280, end_ms: 3_040 };
        assert_eq!(SegmentRecord::from(&segment).to_string(), "speech  1.28 s –  3.04 s");
    }

    #[test]
    fn skipped_results_are_reported_where_they_are_missing_and_in_total() {
        let skipped = SkippedRecord::from(&Skipped { first_seq: 17, results: 1 });
        assert_eq!(skipped.to_string(), "item     17  1 result skipped, because nobody read them");
        let summary = SummaryRecord { items: 5, ok: 2, skipped: 3, ..SummaryRecord::default() };
        let text = "0.00 s of audio, 5 windows: 2 ok, 0 errors; 0 segments; 3 results skipped; cut short";
        assert_eq!(summary.to_string(), text);
    }

    #[test]
    fn a_summary_of_nothing_divides_by_nothing() {
        let mut summary = SummaryRecord::default();
        summary.complete(&Summary { elapsed: Some(prost_types::Duration::default()), ..Summary::default() });
        assert_eq!(summary.to_string(), "0.00 s of audio, 0 windows: 0 ok, 0 errors; 0 segments; 0.00 s taken");
    }
}
