//! The load that is offered to a policy: models, streams, and each item with its moment and its deadline. Fully known in
//! advance.

use std::ops::Range;

use crate::curve::Curve;

/// "No deadline", and "no such item" among indices.
pub(crate) const NEVER: u64 = u64::MAX;
const NONE: u32 = u32::MAX;

/// A model, as its operator knows it.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) name: String,
    /// The true curve under load.
    pub(crate) curve: Curve,
    pub(crate) stateful: bool,
    pub(crate) batch_max: usize,
    /// Input bytes of an item that costs what the curve says.
    pub(crate) item_bytes: usize,
}

/// How soon a stream's items are run, apart from their deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Urgency {
    High,
    #[default]
    Normal,
    Low,
}

/// A stream, open for the whole time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stream {
    pub(crate) model: usize,
    pub(crate) urgency: Urgency,
    pub(crate) tenant: u64,
    /// Whether late items may make room for newer ones.
    pub(crate) sheds: bool,
    /// Whether these are calls of one item each, from separate clients, rather than the items of one stream.
    pub(crate) calls: bool,
}

/// An item. Times are nanoseconds since the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Item {
    pub(crate) at: u64,
    pub(crate) deadline: u64,
    pub(crate) stream: u32,
    /// Items of different shapes never share a call.
    pub(crate) shape: u64,
    pub(crate) bytes: usize,
    /// Its cost relative to the model's curve.
    pub(crate) scale: f64,
}

/// Everything that happens to a server from the outside.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) lanes: usize,
    pub(crate) models: Vec<Model>,
    pub(crate) streams: Vec<Stream>,
    /// In order of arrival.
    pub(crate) items: Vec<Item>,
    /// Items that arrive within this count; the rest is there so that the beginning and the end do not.
    pub(crate) counted: Range<u64>,
    /// When the run ends.
    pub(crate) end: u64,
    next_of: Vec<u32>,
}

impl Workload {
    /// `items` in any order; those of one stream keep their order if they arrive at once.
    pub(crate) fn new(lanes: usize, models: Vec<Model>, streams: Vec<Stream>, mut items: Vec<Item>, end: u64) -> Self {
        items.sort_by_key(|item| (item.at, item.stream));
        let mut next_of = vec![NONE; items.len()];
        let mut later = vec![NONE; streams.len()];
        for (index, item) in items.iter().enumerate().rev() {
            next_of[index] = std::mem::replace(&mut later[item.stream as usize], index as u32);
        }
        Self { lanes, models, streams, items, counted: 0..NEVER, end, next_of }
    }

    pub(crate) fn item(&self, index: u32) -> &Item {
        &self.items[index as usize]
    }

    pub(crate) fn model_of(&self, index: u32) -> usize {
        self.streams[self.item(index).stream as usize].model
    }

    /// The item after this one in its stream.
    pub(crate) fn next_of(&self, index: u32) -> Option<u32> {
        let next = self.next_of[index as usize];
        (next != NONE).then_some(next)
    }

    /// Items that count.
    pub(crate) fn counted_items(&self) -> usize {
        self.items.iter().filter(|item| self.counted.contains(&item.at)).count()
    }

    /// Nanoseconds that a call with these items takes on its own, before noise.
    pub(crate) fn call_nanos(&self, items: &[u32]) -> f64 {
        let scale: f64 = items.iter().map(|index| self.item(*index).scale).sum();
        self.models[self.model_of(items[0])].curve.call(items.len()) * scale / items.len() as f64
    }
}
