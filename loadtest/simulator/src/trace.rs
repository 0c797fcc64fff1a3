//! A recorded trace: JSON Lines of what came to a server and when, but not of its content.
//!
//! Unknown fields and unknown kinds of lines are ignored, so that newer servers may record more.

use std::{collections::HashMap, io::BufRead};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    curve::Curve,
    workload::{Item, Model, NEVER, Stream, Urgency, Workload},
};

/// The version that this program understands.
const VERSION: u32 = 1;
/// No real trace has more lanes or grid points than this.
const LANES_MAX: usize = 1024;
const GRID_MAX: usize = 16;

/// One line. Times are nanoseconds since the recording began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// The first line.
    Trace(Header),
    Model(ModelLine),
    Open(OpenLine),
    Item(ItemLine),
    Close(CloseLine),
    Lost(LostLine),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) lanes: usize,
}

/// A model, before its first stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelLine {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) stateful: bool,
    pub(crate) max_batch: usize,
    /// For calls with 1, 2, 4, … items.
    pub(crate) curve_ns: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenLine {
    pub(crate) at_ns: u64,
    pub(crate) stream: u64,
    pub(crate) model: u64,
    #[serde(default)]
    pub(crate) priority: Urgency,
    #[serde(default)]
    pub(crate) tenant: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ItemLine {
    pub(crate) at_ns: u64,
    pub(crate) stream: u64,
    /// `None` for an item without a deadline.
    #[serde(default)]
    pub(crate) deadline_ns: Option<u64>,
    pub(crate) bytes: usize,
    #[serde(default)]
    pub(crate) shape: u64,
    /// Expected time of a call with only this item.
    pub(crate) cost_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CloseLine {
    pub(crate) at_ns: u64,
    pub(crate) stream: u64,
}

/// Lines before this one found no room in the recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LostLine {
    pub(crate) lines: u64,
}

/// The contents of a trace.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) workload: Workload,
    /// Lines that the server could not write.
    pub(crate) lost: u64,
}

/// Reads a trace. Items that were cancelled by the end of their stream are replayed like any others.
///
/// # Errors
/// The first broken line, by its number.
pub(crate) fn read(lines: impl BufRead) -> anyhow::Result<Recording> {
    let mut reading = Reading::default();
    for (index, line) in lines.lines().enumerate() {
        let at = || format!("line {}", index + 1);
        let line = line.with_context(at)?;
        if !line.trim().is_empty() {
            reading.line(&line).with_context(at)?;
        }
    }
    let lost = reading.lost;
    Ok(Recording { workload: reading.workload()?, lost })
}

#[derive(Default)]
struct Reading {
    lanes: Option<usize>,
    models: Vec<Model>,
    model_ids: HashMap<u64, usize>,
    streams: Vec<Stream>,
    /// Streams that are open, by their number.
    open: HashMap<u64, usize>,
    items: Vec<Item>,
    lost: u64,
}

impl Reading {
    fn line(&mut self, text: &str) -> anyhow::Result<()> {
        let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).context("not a JSON object")?;
        let known = ["trace", "model", "open", "item", "close", "lost"];
        if !value.keys().any(|key| known.contains(&key.as_str())) {
            ensure!(self.lanes.is_some(), "the first line must hold `trace`");
            return Ok(());
        }
        let kinds = value.into_iter().filter(|(key, _)| known.contains(&key.as_str())).collect();
        let line: Line = serde_json::from_value(serde_json::Value::Object(kinds))?;
        if let Line::Trace(header) = &line {
            ensure!(self.lanes.is_none(), "`trace` came already");
            ensure!(header.version == VERSION, "version {} is not understood; this program reads {VERSION}", header.version);
            ensure!((1..=LANES_MAX).contains(&header.lanes), "lanes must be 1 to {LANES_MAX}, not {}", header.lanes);
            self.lanes = Some(header.lanes);
            return Ok(());
        }
        ensure!(self.lanes.is_some(), "the first line must hold `trace`");
        match line {
            Line::Trace(_) => Ok(()),
            Line::Model(model) => self.model(model),
            Line::Open(open) => self.open(&open),
            Line::Item(item) => self.item(&item),
            Line::Close(close) => {
                let known = self.open.remove(&close.stream).is_some() || self.lost > 0;
                ensure!(known, "stream {} is not open", close.stream);
                Ok(())
            }
            Line::Lost(LostLine { lines }) => {
                self.lost = self.lost.saturating_add(lines);
                Ok(())
            }
        }
    }

    fn model(&mut self, model: ModelLine) -> anyhow::Result<()> {
        let ModelLine { id, name, stateful, max_batch, curve_ns, .. } = model;
        ensure!((1..=GRID_MAX).contains(&curve_ns.len()), "curve_ns must have 1 to {GRID_MAX} entries, not {}", curve_ns.len());
        ensure!(!curve_ns.contains(&0), "curve_ns must not hold 0");
        ensure!(max_batch > 0, "max_batch must be at least 1");
        let curve = Curve::of_grid(curve_ns.into_iter().map(|nanos| nanos as f64).collect());
        let batch_max = max_batch.min(curve.largest());
        let before = self.model_ids.insert(id, self.models.len());
        ensure!(before.is_none(), "model {id} came already");
        self.models.push(Model { name, curve, stateful, batch_max, item_bytes: 0 });
        Ok(())
    }

    fn open(&mut self, open: &OpenLine) -> anyhow::Result<()> {
        let Some(model) = self.model_ids.get(&open.model) else { bail!("model {} is not known", open.model) };
        let before = self.open.insert(open.stream, self.streams.len());
        ensure!(before.is_none(), "stream {} is open already", open.stream);
        self.streams.push(Stream { model: *model, urgency: open.priority, tenant: open.tenant, ..Stream::default() });
        Ok(())
    }

    fn item(&mut self, item: &ItemLine) -> anyhow::Result<()> {
        let ItemLine { at_ns, stream, deadline_ns, bytes, shape, cost_ns } = *item;
        let Some(index) = self.open.get(&stream) else {
            // The line that opened it may be among those that were lost.
            ensure!(self.lost > 0, "stream {stream} is not open");
            return Ok(());
        };
        ensure!(cost_ns > 0, "cost_ns must be above 0");
        let model = &mut self.models[self.streams[*index].model];
        let scale = cost_ns as f64 / model.curve.call(1);
        if model.item_bytes == 0 {
            // Costs are assumed to be proportional to bytes, as the server does before it has seen a call.
            model.item_bytes = ((bytes as f64 / scale) as usize).max(1);
        }
        let deadline = deadline_ns.unwrap_or(NEVER);
        self.items.push(Item { at: at_ns, deadline, stream: *index as u32, shape, bytes, scale });
        Ok(())
    }

    fn workload(self) -> anyhow::Result<Workload> {
        let Some(lanes) = self.lanes else { bail!("the trace is empty") };
        ensure!(!self.items.is_empty(), "the trace holds no item");
        ensure!(
            self.items.len() < u32::MAX as usize,
            "the trace holds {} items, but {} are too many",
            self.items.len(),
            u32::MAX
        );
        Ok(Workload::new(lanes, self.models, self.streams, self.items, NEVER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = r#"{"trace":{"version":1,"lanes":2}}
{"model":{"id":0,"name":"silero-vad","version":"1","stateful":true,"max_batch":64,"curve_ns":[220000,330000]}}
{"open":{"at_ns":0,"stream":17,"model":0,"priority":"normal","tenant":0}}
{"item":{"at_ns":123,"stream":17,"deadline_ns":null,"bytes":2304,"shape":0,"cost_ns":220000}}
{"close":{"at_ns":5,"stream":17}}
"#;

    fn lines(text: &str) -> Vec<Line> {
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let written: String = lines(TRACE).iter().map(|line| serde_json::to_string(line).expect("plain data") + "\n").collect();
        assert_eq!(written, TRACE);
    }

    #[test]
    fn a_trace_becomes_a_workload() {
        let workload = read(TRACE.as_bytes()).expect("a trace").workload;
        assert_eq!((workload.lanes, workload.models.len(), workload.streams.len()), (2, 1, 1));
        assert_eq!(workload.models[0].batch_max, 2, "the curve ends at 2");
        let item = Item { at: 123, deadline: NEVER, stream: 0, shape: 0, bytes: 2304, scale: 1.0 };
        assert_eq!(workload.items, [item]);
    }

    #[test]
    fn what_a_newer_server_adds_is_ignored() {
        let more =
            TRACE.replace(r#""lanes":2"#, r#""lanes":2,"cores":8"#).replace(r#"{"item""#, "{\"mood\":3}\n{\"x\":1,\"item\"");
        assert_eq!(read(more.as_bytes()).expect("a trace").workload.items.len(), 1);
    }

    #[test]
    fn streams_whose_opening_was_lost_are_ignored() {
        let stranger = TRACE.lines().nth(3).expect("the item").replace("17", "99");
        assert!(read(format!("{TRACE}{stranger}").as_bytes()).is_err());
        let recording = read(format!("{TRACE}{{\"lost\":{{\"lines\":3}}}}\n{stranger}").as_bytes()).expect("a trace");
        assert_eq!((recording.lost, recording.workload.items.len()), (3, 1));
    }

    #[test]
    fn a_broken_line_is_named() {
        let complaint = |text: &str| format!("{:#}", read(text.as_bytes()).expect_err("broken"));
        for (broken, line, why) in [
            (TRACE.replace(r#""bytes":2304,"#, ""), 4, "bytes"),
            (TRACE.replace(r#""stream":17,"deadline"#, r#""stream":18,"deadline"#), 4, "stream 18 is not open"),
            (TRACE.replace(r#"version":1,"#, r#"version":9,"#), 1, "version 9"),
            (TRACE.replace("\n{\"open", "\n{open"), 3, "not a JSON object"),
            (TRACE.replacen("{\"trace", "{\"race", 1), 1, "must hold `trace`"),
        ] {
            let complaint = complaint(&broken);
            assert!(complaint.contains(&format!("line {line}")) && complaint.contains(why), "{complaint}");
        }
        assert!(complaint("").contains("empty"));
    }
}
