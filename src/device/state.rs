//! What makes up a device: its queue behind one lock, its lanes, and what they sleep on.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use slotmap::SecondaryMap;

use super::{
    hosted::{Hosted, Job},
    lane::Lane,
    live::LiveQueue,
    signal::{Bell, Signal},
    trace::Trace,
};
use crate::{
    domain::Timestamp,
    scheduler::{Admission, LaneKind, ModelKey, Queue},
    telemetry::Telemetry,
};

/// Queue and lanes of one device. Sessions push, lanes pull; see the module's text.
pub struct Device {
    pub(super) shared: Mutex<Shared>,
    /// What each lane sleeps on.
    pub(super) lane_wakes: Box<[Condvar]>,
    pub(super) long_lane_wakes: Box<[Condvar]>,
    /// Wakes the kicker.
    pub(super) kick: Signal,
    /// Wakes the timekeeper.
    pub(super) rearm: Bell,
    /// Long ones come last.
    pub(super) lanes: Box<[Lane]>,
}

/// What the lock guards.
pub(super) struct Shared {
    pub(super) queue: LiveQueue,
    pub(super) models: SecondaryMap<ModelKey, Hosted>,
    /// Ordinary lanes.
    pub(super) lanes: Vec<LaneState>,
    pub(super) idle: Vec<usize>,
    pub(super) long_lanes: LongLanes,
    /// Lanes that have been woken and have not looked yet.
    pub(super) waking: usize,
    /// Items in the last batch formed.
    pub(super) last_batch: usize,
    /// Whether the kicker has been signalled and has not woken a lane yet.
    pub(super) kicked: bool,
    /// When the timekeeper's sleep ends.
    pub(super) armed: Timestamp,
    /// Whether the lanes' threads are running, so that an idle lane may be lent.
    pub(super) lends: bool,
    pub(super) closed: bool,
    pub(super) trace: Option<Trace>,
}

/// How many lanes there are, and how many of them are running a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LanesInUse {
    /// All of them.
    pub lanes: usize,
    /// Those that are running one.
    pub busy: usize,
}

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneState {
    Busy,
    Idle,
    /// Woken, and has not looked yet.
    Waking,
    /// Its thread sleeps while its instance runs a call on another.
    Lent,
}

/// What the long lanes are given.
pub(super) struct LongLanes {
    pub(super) idle: Vec<usize>,
    /// By lane: what it was given and has not yet taken.
    pub(super) given: Box<[Option<Job>]>,
}

impl LongLanes {
    /// Gives a batch meant for a long lane to an idle one, and returns that lane. Any other batch is returned.
    pub(super) fn give(&mut self, job: Job) -> Result<usize, Job> {
        if job.batch.lane == LaneKind::Ordinary {
            return Err(job);
        }
        let Some(lane) = self.idle.pop() else { return Err(job) };
        self.given[lane] = Some(job);
        Ok(lane)
    }
}

impl Device {
    /// A device with `lanes` lanes, counting in `telemetry`.
    #[must_use]
    pub fn new(lanes: usize, admission: Admission, telemetry: &Telemetry) -> Arc<Self> {
        Self::with_long_lanes(lanes, 0, admission, telemetry)
    }

    /// The same, with `long_lanes` more for calls that are long compared with others.
    #[must_use]
    pub fn with_long_lanes(lanes: usize, long_lanes: usize, admission: Admission, telemetry: &Telemetry) -> Arc<Self> {
        let lanes = lanes.max(1);
        let ordinary = (0..lanes).map(|index| Lane::new(index, telemetry.lane(index)));
        let long = (0..long_lanes).map(|number| Lane::new(lanes + number, telemetry.long_lane(number)));
        Arc::new(Self {
            shared: Mutex::new(Shared {
                queue: Queue::new(lanes, admission).with_long_lanes(long_lanes),
                models: SecondaryMap::new(),
                lanes: vec![LaneState::Busy; lanes],
                idle: Vec::with_capacity(lanes),
                long_lanes: LongLanes { idle: Vec::with_capacity(long_lanes), given: (0..long_lanes).map(|_| None).collect() },
                waking: 0,
                last_batch: 0,
                kicked: false,
                armed: Timestamp::NEVER,
                lends: false,
                closed: false,
                trace: None,
            }),
            lane_wakes: (0..lanes).map(|_| Condvar::new()).collect(),
            long_lane_wakes: (0..long_lanes).map(|_| Condvar::new()).collect(),
            kick: Signal::default(),
            rearm: Bell::default(),
            lanes: ordinary.chain(long).collect(),
        })
    }

    /// Number of lanes, without the long ones.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lane_wakes.len()
    }

    /// Lanes, long ones included, and how many of them are running a call.
    #[must_use]
    pub fn lanes_in_use(&self) -> LanesInUse {
        let shared = self.shared.lock();
        let ordinary = shared.lanes.iter().filter(|lane| matches!(lane, LaneState::Busy | LaneState::Lent)).count();
        let long = self.long_lane_wakes.len() - shared.long_lanes.idle.len();
        LanesInUse { lanes: self.lanes.len(), busy: ordinary + long }
    }

    /// Records everything from now on; call it before adding any model. `None` ends a recording.
    pub fn record(&self, trace: Option<Trace>) {
        self.shared.lock().trace = trace;
    }

    /// Streams that are open or still have items running.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.lock().queue.streams()
    }

    /// Models present, including retired ones that still have streams.
    #[must_use]
    pub fn models(&self) -> usize {
        self.shared.lock().queue.models()
    }

    /// Whether a model is present, even if only for its last streams.
    #[must_use]
    pub fn holds(&self, key: ModelKey) -> bool {
        self.shared.lock().models.contains_key(key)
    }

    /// The longest call any model may take, as far as is known; `None` while the lock is taken, since callers must not wait.
    #[must_use]
    pub fn longest_call(&self) -> Option<Duration> {
        Some(self.shared.try_lock()?.queue.longest_call())
    }
}
