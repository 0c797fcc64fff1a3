//! Records what reached the queue and when, without its contents, for `tidemill-sim replay`.
//!
//! JSON Lines. The queue puts lines into a bounded channel and never waits for the file: lines that find no room are counted, and
//! the last line gives their number.

use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use serde::Serialize;
use slotmap::Key as _;

use crate::{
    domain::{Priority, Timestamp},
    scheduler::{Item, ModelKey, ModelOptions, StreamKey, StreamOptions},
};

/// Version of the format, in the first line.
const VERSION: u32 = 1;

/// Lines on their way to the file.
const LINES_MAX: usize = 1 << 16;

/// The queue's end of a recording.
#[derive(Debug)]
pub struct Trace {
    lines: SyncSender<Line>,
    began: Timestamp,
    lost: u64,
}

/// The file's end of a recording.
#[derive(Debug)]
pub struct TraceWriter {
    lines: Receiver<Line>,
}

/// Times are in nanoseconds since the recording began.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Trace { version: u32, lanes: usize },
    Model { id: u64, name: Box<str>, version: Box<str>, stateful: bool, max_batch: usize, curve_ns: Vec<u64> },
    Open { at_ns: u64, stream: u64, model: u64, priority: &'static str, tenant: u64 },
    Item { at_ns: u64, stream: u64, deadline_ns: Option<u64>, bytes: usize, shape: u64, cost_ns: u64 },
    Close { at_ns: u64, stream: u64 },
    Lost { lines: u64 },
}

impl Trace {
    /// A recording that begins now, for a device with `lanes` lanes.
    #[must_use]
    pub fn begin(now: Timestamp, lanes: usize) -> (Self, TraceWriter) {
        let (sender, receiver) = sync_channel(LINES_MAX);
        let mut trace = Self { lines: sender, began: now, lost: 0 };
        trace.put(Line::Trace { version: VERSION, lanes });
        (trace, TraceWriter { lines: receiver })
    }

    pub(super) fn model(&mut self, key: ModelKey, name: &str, version: &str, options: &ModelOptions) {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.put(Line::Model {
            id: key.data().as_ffi(),
            name: name.into(),
            version: version.into(),
            stateful: options.stateful,
            max_batch: options.max_batch,
            curve_ns: options.curve.points().map(|(_, cost)| nanos(cost)).collect(),
        });
    }

    pub(super) fn open(&mut self, now: Timestamp, stream: StreamKey, options: &StreamOptions) {
        let StreamOptions { model, tenant, priority, .. } = options;
        let (stream, model, priority): (_, _, &Priority) = (stream.data().as_ffi(), model.data().as_ffi(), priority);
        self.put(Line::Open { at_ns: self.at(now), stream, model, priority: priority.label(), tenant: tenant.0 });
    }

    /// The line for an item, to write once the item is queued. `cost` is the expected time of a call with this item alone.
    pub(super) fn item<P>(&self, stream: StreamKey, item: &Item<P>, cost: Duration) -> Line {
        Line::Item {
            at_ns: self.at(item.arrived),
            stream: stream.data().as_ffi(),
            deadline_ns: (item.due() != Timestamp::NEVER).then(|| self.at(item.due())),
            bytes: item.bytes,
            shape: item.shape.0,
            cost_ns: u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn close(&mut self, now: Timestamp, stream: StreamKey) {
        self.put(Line::Close { at_ns: self.at(now), stream: stream.data().as_ffi() });
    }

    fn at(&self, moment: Timestamp) -> u64 {
        u64::try_from(moment.since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn put(&mut self, line: Line) {
        if self.lost > 0 && self.lines.try_send(Line::Lost { lines: self.lost }).is_ok() {
            self.lost = 0;
        }
        self.lost += u64::from(self.lines.try_send(line).is_err());
    }
}

impl TraceWriter {
    /// Writes lines as they arrive, until the recording ends. Blocks.
    ///
    /// # Errors
    /// Those of `file`; the recording ends there.
    pub fn write(self, mut file: impl Write) -> io::Result<()> {
        while let Ok(line) = self.lines.recv() {
            let mut next = Some(line);
            while let Some(line) = next {
                serde_json::to_writer(&mut file, &line)?;
                file.write_all(b"\n")?;
                next = self.lines.try_recv().ok();
            }
            file.flush()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::ShapeKey;

    fn item(arrived: u64, deadline: Timestamp) -> Item<()> {
        Item {
            ticket: 0,
            arrived: Timestamp::from_nanos(arrived),
            deadline,
            stale_at: Timestamp::NEVER,
            bytes: 7,
            length: 0,
            shape: ShapeKey(3),
            payload: (),
        }
    }

    #[test]
    fn each_line_is_one_object() {
        let (mut trace, writer) = Trace::begin(Timestamp::from_nanos(100), 2);
        for deadline in [Timestamp::NEVER, Timestamp::from_nanos(400)] {
            let line = trace.item(StreamKey::null(), &item(150, deadline), Duration::from_nanos(9));
            trace.put(line);
        }
        drop(trace);
        let mut file = Vec::new();
        writer.write(&mut file).expect("memory accepts everything");
        let text = String::from_utf8(file).expect("text");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[0], serde_json::json!({"trace": {"version": 1, "lanes": 2}}));
        assert_eq!(lines[1]["item"]["at_ns"], 50);
        assert!(lines[1]["item"]["deadline_ns"].is_null());
        assert_eq!(lines[2]["item"]["deadline_ns"], 300);
    }

    #[test]
    fn lines_that_find_no_room_are_counted_and_reported() {
        let (mut trace, writer) = Trace::begin(Timestamp::ZERO, 1);
        for _ in 0..LINES_MAX + 9 {
            trace.close(Timestamp::ZERO, StreamKey::null());
        }
        assert_eq!(trace.lost, 10, "the first line took a place");
        assert!(writer.lines.try_recv().is_ok() && writer.lines.try_recv().is_ok());
        trace.close(Timestamp::ZERO, StreamKey::null());
        assert_eq!(trace.lost, 0);
    }
}
