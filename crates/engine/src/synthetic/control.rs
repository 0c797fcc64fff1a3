//! The handle with which a test or bench controls a running synthetic engine: its costs, its call count and its gate.

use std::{
    hint, io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use serde::Deserialize;
use tidemill_clock as clock;
use tidemill_domain::Signature;

/// The handles of engines that were made from manifests, by the signatures that they were made for.
static OF_MANIFESTS: Mutex<Vec<(Weak<Signature>, Weak<SyntheticControl>)>> = Mutex::new(Vec::new());

/// Lets [`SyntheticControl::of`] find a handle for as long as its engine lives.
pub(super) fn enter(signature: &Arc<Signature>, control: &Arc<SyntheticControl>) {
    let mut entered = OF_MANIFESTS.lock();
    entered.retain(|(_, control)| control.strong_count() > 0);
    entered.push((Arc::downgrade(signature), Arc::downgrade(control)));
}

/// How a lane spends the cost of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CostMode {
    /// By computing, like a model on this processor.
    #[default]
    Busy,
    /// By waiting, like a model on another device.
    Blocked,
}

/// Controls all instances of one synthetic engine while they run.
#[derive(Debug, Default)]
pub struct SyntheticControl {
    cost_per_call_ns: AtomicU64,
    cost_per_item_ns: AtomicU64,
    cost_per_element_ns: AtomicU64,
    calls: AtomicU64,
    items: AtomicU64,
    gate: Gate,
}

impl SyntheticControl {
    pub(super) fn new(cost_per_call: Duration, cost_per_item: Duration, cost_per_element: Duration) -> Self {
        let control = Self::default();
        control.set_costs(cost_per_call, cost_per_item);
        control.cost_per_element_ns.store(nanos(cost_per_element), Ordering::Relaxed);
        control
    }

    /// The handle of the engine that was made from a manifest for exactly this signature: how a tool with a server in its own
    /// process steers one of its models.
    #[must_use]
    pub fn of(signature: &Arc<Signature>) -> Option<Arc<Self>> {
        let entered = OF_MANIFESTS.lock();
        let (_, control) = entered.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(signature)))?;
        control.upgrade()
    }

    /// Changes what each later call costs.
    pub fn set_costs(&self, per_call: Duration, per_item: Duration) {
        self.cost_per_call_ns.store(nanos(per_call), Ordering::Relaxed);
        self.cost_per_item_ns.store(nanos(per_item), Ordering::Relaxed);
    }

    /// Calls begun so far on all lanes.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Items in the calls begun so far.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    /// Holds each call that begins from now on, until the gate is opened.
    pub fn close_gate(&self) {
        self.gate.state.lock().closed = true;
    }

    /// Whether calls are held.
    #[must_use]
    pub(super) fn gate_is_closed(&self) -> bool {
        self.gate.state.lock().closed
    }

    /// Lets all held and later calls through.
    pub fn open_gate(&self) {
        let mut state = self.gate.state.lock();
        state.closed = false;
        self.gate.changed.notify_all();
    }

    /// How many calls are held at the gate.
    #[must_use]
    pub fn held(&self) -> usize {
        self.gate.state.lock().held
    }

    /// Waits until at least `calls` calls are held at the gate.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after `patience`, so that a broken test ends.
    pub fn wait_until_held(&self, calls: usize, patience: Duration) -> io::Result<()> {
        let mut state = self.gate.state.lock();
        let waited = self.gate.changed.wait_while_for(&mut state, |state| state.held < calls, patience);
        if waited.timed_out() && state.held < calls {
            let message = format!("{} of {calls} calls reached the gate in {patience:?}", state.held);
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        Ok(())
    }

    /// Counts a call and returns its number, from 1.
    pub(super) fn begin_call(&self, items: usize) -> u64 {
        self.items.fetch_add(wide(items), Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn pass_gate(&self) {
        let mut state = self.gate.state.lock();
        if state.closed {
            state.held += 1;
            self.gate.changed.notify_all();
            self.gate.changed.wait_while(&mut state, |state| state.closed);
            state.held -= 1;
        }
    }

    /// Spends the cost of a call whose first input has `elements` elements in all. It is `speedup` times as fast as it would be on one
    /// thread.
    pub(super) fn spend(&self, mode: CostMode, batch_size: usize, elements: usize, speedup: f64) {
        let per_call = self.cost_per_call_ns.load(Ordering::Relaxed);
        let per_item = self.cost_per_item_ns.load(Ordering::Relaxed);
        let per_element = self.cost_per_element_ns.load(Ordering::Relaxed);
        let of_items = per_item.saturating_mul(wide(batch_size)).saturating_add(per_element.saturating_mul(wide(elements)));
        let cost = Duration::from_nanos(per_call.saturating_add(of_items)).div_f64(speedup);
        if cost.is_zero() {
            return;
        }
        let end = clock::now() + cost;
        loop {
            let left = end.since(clock::now());
            match mode {
                _ if left.is_zero() => return,
                CostMode::Busy => hint::spin_loop(),
                CostMode::Blocked => thread::park_timeout(left),
            }
        }
    }
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    held: usize,
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
