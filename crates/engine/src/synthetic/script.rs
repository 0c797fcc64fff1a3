//! What a synthetic engine computes, what it costs and how it misbehaves.

use std::{ops::RangeInclusive, time::Duration};

use serde::Deserialize;

use super::CostMode;
use crate::EngineError;

/// A call of a configured engine may cost at most this much, per call and per item: a minute.
const COST_US_MAX: u64 = 60_000_000;

/// An element may cost at most this much: a millisecond.
const COST_PER_ELEMENT_NS_MAX: u64 = 1_000_000;

/// An item of a configured engine may get at most this many answers.
const PARTS_MAX: u32 = 1 << 16;

/// How much faster a call on all threads may claim to be.
const WIDE_SPEEDUP: RangeInclusive<f64> = 1.0..=1024.0;

/// What the engine turns an input into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyntheticKind {
    /// Each element doubled. Integers saturate at their datatype's limits, BOOL stays as it is, FP16, BF16 and BYTES are
    /// refused.
    #[default]
    Double,
    /// The same bytes; every datatype.
    Identity,
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// It returns an error.
    Error,
    /// It panics.
    Panic,
    /// Its outputs have one dimension too many.
    WrongShape,
}

/// When a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trigger {
    /// The first element of the first input of any item in the batch equals this value. FP16, BF16 and BYTES
    /// elements equal nothing.
    FirstElement(f64),
    /// It is this call of the engine, counted from 1 over all lanes.
    Call(u64),
}

/// A planned fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlannedFault {
    /// When.
    pub when: Trigger,
    /// What happens.
    pub what: Misbehaviour,
}

/// Everything that a synthetic engine does. The default doubles, costs nothing and never fails.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Script {
    /// What it computes.
    pub kind: SyntheticKind,
    /// Cost of each call.
    pub cost_per_call: Duration,
    /// Additional cost of each item in a call.
    pub cost_per_item: Duration,
    /// Additional cost of each element of the first input in a call, padding included.
    pub cost_per_element: Duration,
    /// How the cost is spent.
    pub cost_mode: CostMode,
    /// How many times as fast a call is on all threads; `None` if it cannot use them.
    pub wide_speedup: Option<f64>,
    /// How many answers an item gets; each of them costs as much as one. 0 means 1.
    pub parts: u32,
    /// How it misbehaves; the first that applies to a call counts.
    pub faults: Vec<PlannedFault>,
}

/// The part of a script that a model's manifest can hold.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SyntheticConfig {
    /// `"double"` or `"identity"`.
    pub(super) kind: SyntheticKind,
    /// Microseconds for each call.
    pub(super) cost_per_call_us: u64,
    /// Additional microseconds for each item in a call.
    pub(super) cost_per_item_us: u64,
    /// Additional nanoseconds for each element of the first input in a call.
    pub(super) cost_per_element_ns: u64,
    /// `"busy"` or `"blocked"`.
    pub(super) cost_mode: CostMode,
    /// How many times as fast a call is on all threads; without this, calls cannot use them.
    pub(super) wide_speedup: Option<f64>,
    /// How many answers an item gets, at most 65536; each of them costs as much as one. 0 stands for 1.
    pub(super) parts: u32,
    /// A call fails if the first element of any of its items equals this.
    pub(super) fail_value: Option<f64>,
    /// A call panics if the first element of any of its items equals this.
    pub(super) panic_value: Option<f64>,
}

impl SyntheticConfig {
    /// The script that this describes.
    ///
    /// # Errors
    /// [`EngineError::Load`] if a cost is above a minute, or the speedup is not between 1 and 1024.
    pub(super) fn script(&self) -> Result<Script, EngineError> {
        if let Some(speedup) = self.wide_speedup
            && !WIDE_SPEEDUP.contains(&speedup)
        {
            let (least, most) = (WIDE_SPEEDUP.start(), WIDE_SPEEDUP.end());
            let message = format!("synthetic engine: wide_speedup is {speedup}; accepted are {least} to {most}");
            return Err(EngineError::Load(message));
        }
        let planned = [(self.panic_value, Misbehaviour::Panic), (self.fail_value, Misbehaviour::Error)];
        let faults = planned
            .into_iter()
            .filter_map(|(value, what)| value.map(|value| PlannedFault { when: Trigger::FirstElement(value), what }))
            .collect();
        Ok(Script {
            kind: self.kind,
            cost_per_call: cost("cost_per_call_us", self.cost_per_call_us)?,
            cost_per_item: cost("cost_per_item_us", self.cost_per_item_us)?,
            cost_per_element: element_cost(self.cost_per_element_ns)?,
            cost_mode: self.cost_mode,
            wide_speedup: self.wide_speedup,
            parts: parts(self.parts)?,
            faults,
        })
    }
}

/// 0 if the manifest does not give it.
fn parts(count: u32) -> Result<u32, EngineError> {
    if count <= PARTS_MAX {
        return Ok(count.max(1));
    }
    Err(EngineError::Load(format!("synthetic engine: parts is {count}; at most {PARTS_MAX} are allowed")))
}

fn element_cost(value_ns: u64) -> Result<Duration, EngineError> {
    if value_ns > COST_PER_ELEMENT_NS_MAX {
        let message =
            format!("synthetic engine: cost_per_element_ns is {value_ns}; at most {COST_PER_ELEMENT_NS_MAX} is allowed");
        return Err(EngineError::Load(message));
    }
    Ok(Duration::from_nanos(value_ns))
}

fn cost(key: &str, value_us: u64) -> Result<Duration, EngineError> {
    if value_us > COST_US_MAX {
        return Err(EngineError::Load(format!("synthetic engine: {key} is {value_us}; at most {COST_US_MAX} is allowed")));
    }
    Ok(Duration::from_micros(value_us))
}
