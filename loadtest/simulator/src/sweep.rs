//! All points, all policies. Points are shared out to threads; each depends only on the seed and itself.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    curve::Conditions,
    point::Point,
    policy::{self, Kind, Setting},
    record::{Outcome, Recorder},
};

/// The policies other than Tidemill and hand-set numbers.
pub(crate) const OTHERS: [Kind; 3] = [Kind::Aimd, Kind::LeastSquares, Kind::Deferred];

/// The results at a point.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) point: Point,
    pub(crate) tidemill: Outcome,
    pub(crate) best_setting: Setting,
    pub(crate) best: Outcome,
    /// Goodput of each setting of the grid.
    pub(crate) fixed: Vec<f64>,
    /// Goodput of each of [`OTHERS`].
    pub(crate) others: Vec<f64>,
}

impl Row {
    /// Tidemill's goodput relative to the best hand-set one.
    pub(crate) fn ratio(&self) -> f64 {
        ratio(self.tidemill.goodput, self.best.goodput)
    }
}

/// Where nothing can be done, every policy is equally good.
pub(crate) fn ratio(goodput: f64, best: f64) -> f64 {
    if best > 0.0 { goodput / best } else { 1.0 }
}

/// All policies at one point.
pub(crate) fn run_point(point: Point, conditions: Conditions, seed: u64, settings: &[Setting]) -> Row {
    let (workload, service) = point.draw(conditions, seed);
    let full = |kind| policy::run(kind, &workload, &service, conditions, seed, Recorder::default());
    let fixed: Vec<f64> = settings.iter().map(|setting| policy::goodput(*setting, &workload, &service, conditions)).collect();
    // The first of equals, so that the choice does not depend on anything else.
    let best = (0..fixed.len()).rev().max_by(|a, b| fixed[*a].total_cmp(&fixed[*b])).unwrap_or(0);
    Row {
        point,
        tidemill: full(Kind::Tidemill),
        best_setting: settings[best],
        best: full(Kind::Fixed(settings[best])),
        fixed,
        others: OTHERS.iter().map(|kind| full(*kind).goodput).collect(),
    }
}

/// Runs `points` on `threads` threads. `progress` gets the number of points done.
pub(crate) fn run(
    points: &[Point],
    conditions: Conditions,
    seed: u64,
    threads: usize,
    progress: impl Fn(usize) + Sync,
) -> Vec<Row> {
    let settings = Setting::grid();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let rows = Mutex::new(vec![None; points.len()]);
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(point) = points.get(index) else { return };
                    let row = run_point(*point, conditions, seed, &settings);
                    if let Ok(mut rows) = rows.lock() {
                        rows[index] = Some(row);
                    }
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    rows.into_inner().unwrap_or_default().into_iter().flatten().collect()
}
