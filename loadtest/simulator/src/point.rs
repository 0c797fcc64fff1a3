//! A point of the study: what is offered to how many lanes, under which deadlines.

use clap::ValueEnum;
use fastrand::Rng;

use crate::{
    curve::{BATCH_MAX, Conditions, CurveName, Service},
    random,
    workload::{Item, Model, Stream, Workload},
};

/// How items come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrivals {
    /// Independent of one another
    Poisson,
    /// Poisson at a rate that changes between three times and half the mean
    Bursts,
    /// Streams with an item every 32 ms, with jitter, each with its own phase
    Streams,
}

impl Arrivals {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Bursts => "bursts",
            Self::Streams => "streams",
        }
    }
}

/// How long an answer may take, in calls at the knee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Slo {
    #[value(name = "2x")]
    Double,
    #[value(name = "4x")]
    Fourfold,
    #[value(name = "10x")]
    Tenfold,
    /// A third of the streams each
    Mixed,
}

impl Slo {
    pub(crate) const ALL: [Self; 4] = [Self::Double, Self::Fourfold, Self::Tenfold, Self::Mixed];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Double => "2x",
            Self::Fourfold => "4x",
            Self::Tenfold => "10x",
            Self::Mixed => "mixed",
        }
    }

    /// For items of this stream.
    const fn calls(self, stream: usize) -> f64 {
        match self {
            Self::Double => 2.0,
            Self::Fourfold => 4.0,
            Self::Tenfold => 10.0,
            Self::Mixed => [2.0, 4.0, 10.0][stream % 3],
        }
    }
}

pub(crate) const LANES: [usize; 4] = [1, 2, 4, 8];
/// Relative to all lanes running calls at the knee.
pub(crate) const LOADS: [f64; 10] = [0.05, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 3.0];
pub(crate) const ARRIVALS: [(Arrivals, bool); 4] =
    [(Arrivals::Poisson, false), (Arrivals::Bursts, false), (Arrivals::Streams, false), (Arrivals::Streams, true)];

/// Streams on which independent arrivals come.
const POOL: usize = 64;
/// Period of a paced stream: the window of a voice detector at 16 kHz.
const PERIOD_NANOS: f64 = 32e6;
/// How late an item of a paced stream may come, relative to its period.
const JITTER: f64 = 0.25;
/// Lower bounds on a run: items, and calls at the knee on each lane.
const ITEMS_MIN: f64 = 4000.0;
const CALLS_MIN: f64 = 100.0;
/// Bursts come about once in fifteen calls, and there have to be enough of them.
const CALLS_MIN_BURSTS: f64 = 300.0;

/// One point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) curve: CurveName,
    pub(crate) lanes: usize,
    pub(crate) arrivals: Arrivals,
    pub(crate) stateful: bool,
    pub(crate) load: f64,
    pub(crate) slo: Slo,
    /// Whether stateful streams let a late item make room for the next.
    pub(crate) sheds: bool,
}

impl Point {
    /// The space of the study.
    pub(crate) fn all() -> Vec<Self> {
        Self::space(&LANES, &LOADS)
    }

    /// A fifth of the space.
    pub(crate) fn few() -> Vec<Self> {
        Self::space(&[1, 4], &[0.2, 0.8, 1.0, 3.0])
    }

    fn space(lanes: &[usize], loads: &[f64]) -> Vec<Self> {
        let mut points = Vec::new();
        for curve in CurveName::ALL {
            for lanes in lanes {
                for (arrivals, stateful) in ARRIVALS {
                    for load in loads {
                        points.extend(Slo::ALL.map(|slo| Self {
                            curve,
                            lanes: *lanes,
                            arrivals,
                            stateful,
                            load: *load,
                            slo,
                            sheds: true,
                        }));
                    }
                }
            }
        }
        points
    }

    /// Draws the workload and the cost of its calls. `seed` decides everything; it is mixed with what identifies the point.
    pub(crate) fn draw(&self, conditions: Conditions, seed: u64) -> (Workload, Service) {
        let seed = random::rng(seed, &self.labels()).u64(..);
        let curve = self.curve.curve().stretched(conditions.at_load(self.lanes));
        let knee = curve.knee();
        let call = curve.call(knee);
        // Items per nanosecond.
        let rate = self.load * self.lanes as f64 * knee as f64 / call;
        let calls_min = if self.arrivals == Arrivals::Bursts { CALLS_MIN_BURSTS } else { CALLS_MIN };
        let span = (calls_min * call).max(ITEMS_MIN / rate);
        let mut rng = random::rng(seed, &[0xA1]);
        let (streams, moments) = match self.arrivals {
            Arrivals::Poisson => (POOL, poisson(&mut rng, rate, span)),
            Arrivals::Bursts => (POOL, bursts(&mut rng, rate, span, call)),
            Arrivals::Streams => paced(&mut rng, rate, span),
        };
        let item = |(at, stream): (f64, u32)| Item {
            at: at as u64,
            deadline: (at + self.slo.calls(stream as usize) * call) as u64,
            stream,
            shape: 0,
            bytes: 1,
            scale: 1.0,
        };
        let items = moments.into_iter().map(item).collect();
        let sheds = self.stateful && self.sheds;
        let calls = matches!(self.arrivals, Arrivals::Poisson | Arrivals::Bursts);
        let streams = vec![Stream { sheds, calls, ..Stream::default() }; streams];
        let service = Service::new(conditions, self.lanes, span as u64, seed);
        let model =
            Model { name: self.curve.label().to_owned(), curve, stateful: self.stateful, batch_max: BATCH_MAX, item_bytes: 1 };
        let mut workload = Workload::new(self.lanes, vec![model], streams, items, span as u64);
        // The longest deadline is a tenth of the shortest run.
        workload.counted = (span * 0.1) as u64..(span * 0.9) as u64;
        (workload, service)
    }

    fn labels(&self) -> [u64; 6] {
        let load = (self.load * 1000.0) as u64;
        [self.curve as u64, self.lanes as u64, self.arrivals as u64, u64::from(self.stateful), load, self.slo as u64]
    }
}

fn poisson(rng: &mut Rng, rate: f64, span: f64) -> Vec<(f64, u32)> {
    let mut moments = Vec::new();
    let mut now = random::exponential(rng, 1.0 / rate);
    while now < span {
        moments.push((now, rng.u32(..POOL as u32)));
        now += random::exponential(rng, 1.0 / rate);
    }
    moments
}

/// A fifth of the time at three times the rate, the rest at half of it; each burst lasts about three calls.
fn bursts(rng: &mut Rng, rate: f64, span: f64, call: f64) -> Vec<(f64, u32)> {
    let (mut moments, mut now, mut high) = (Vec::new(), 0.0, false);
    while now < span {
        let (dwell, factor) = if high { (3.0 * call, 3.0) } else { (12.0 * call, 0.5) };
        let until = (now + random::exponential(rng, dwell)).min(span);
        loop {
            let next = now + random::exponential(rng, 1.0 / (rate * factor));
            if next >= until {
                break;
            }
            now = next;
            moments.push((now, rng.u32(..POOL as u32)));
        }
        now = until;
        high = !high;
    }
    moments
}

/// The number of streams that comes nearest to the rate; the period makes up the difference, so that the load is what it should be.
fn paced(rng: &mut Rng, rate: f64, span: f64) -> (usize, Vec<(f64, u32)>) {
    let streams = (rate * PERIOD_NANOS).round().max(1.0);
    let period = streams / rate;
    let mut moments = Vec::new();
    for stream in 0..streams as u32 {
        let mut due = rng.f64() * period;
        while due < span {
            moments.push((due + rng.f64() * JITTER * period, stream));
            due += period;
        }
    }
    (streams as usize, moments)
}
