//! The times and counts of a model's items and calls, in Triton's shape.
//!
//! # What adds up
//! All numbers of a model version are taken at one moment. Counts are of items, so a request of 8 items counts 8.
//!
//! - `inference_count` = the counts of the three `compute_*`; `success.count` = the count of `queue` = that and `cache_hit.count`.
//! - `success.ns` = `queue.ns` + the three `compute_*.ns` + `cache_hit.ns`: each item adds the whole time of its call, as it waited that
//!   long. What is answered from the cache has not waited.
//! - `execution_count` = the sum of the batches' counts, and `inference_count` = that of counts times `batch_size`. A batch adds its
//!   call's time once.
//! - `fail` counts items that were refused, expired or dropped, or whose call failed, each with its time from arrival to end.
//!
//! A failed batch counts nowhere; its items are run again one by one, and those that succeed are batches of 1 that were queued
//! until then. Items whose client left count by how their call ended, and not at all if they had no call.

use std::time::Duration;

use serde::Serialize;

use super::{OpenInference, cache::CacheCounts};
use crate::{
    clock,
    domain::Fault,
    registry::ModelState,
    service::{CallTimes, Statistics},
};

/// Statistics of a model version since it was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelStatistics {
    pub name: String,
    pub version: String,
    /// When its last call ended, in milliseconds since 1970; 0 if there has been none.
    pub last_inference: u64,
    /// Items that a call gave results.
    pub inference_count: u64,
    /// Calls that gave them.
    pub execution_count: u64,
    pub inference_stats: InferStatistics,
    /// For models that answer a request with several responses; always empty.
    pub response_stats: ResponseStatistics,
    /// By batch size, smallest first.
    pub batch_stats: Vec<BatchStatistics>,
}

/// Items, and the time that they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct StatisticDuration {
    pub count: u64,
    /// Sum over them, in nanoseconds.
    pub ns: u64,
}

/// Where items spent their time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct InferStatistics {
    /// Items that got results.
    pub success: StatisticDuration,
    /// Items that got none.
    pub fail: StatisticDuration,
    /// Waiting for their call.
    pub queue: StatisticDuration,
    /// Putting the call's items together.
    pub compute_input: StatisticDuration,
    /// The engine.
    pub compute_infer: StatisticDuration,
    /// Taking its results apart.
    pub compute_output: StatisticDuration,
    /// Items that were answered from the cache.
    pub cache_hit: StatisticDuration,
    /// Items that were looked up there and not found: looking up, and keeping their answers.
    pub cache_miss: StatisticDuration,
}

/// Calls of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchStatistics {
    pub batch_size: u64,
    pub compute_input: StatisticDuration,
    pub compute_infer: StatisticDuration,
    pub compute_output: StatisticDuration,
}

/// Empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ResponseStatistics {}

impl OpenInference {
    /// Statistics of the versions that are ready: of all models if there is no name, of all versions if there is none.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`](crate::domain::FaultKind::NotFound) or
    /// [`FaultKind::Unavailable`](crate::domain::FaultKind::Unavailable) for a model or version that is named.
    pub fn statistics(&self, name: &str, version: &str) -> Result<Vec<ModelStatistics>, Fault> {
        if !name.is_empty() && !version.is_empty() {
            return Ok(vec![self.version_statistics(name, version)?]);
        }
        let models = self.service().listed()?.into_iter().filter(|model| model.state == ModelState::Ready);
        let named = models.filter(|model| name.is_empty() || *model.name == *name);
        // Models unloaded since they were listed are left out, as if they had been listed later.
        let found: Vec<_> = named.filter_map(|model| self.version_statistics(&model.name, &model.version).ok()).collect();
        if found.is_empty() && !name.is_empty() {
            return Ok(vec![self.version_statistics(name, version)?]);
        }
        Ok(found)
    }

    fn version_statistics(&self, name: &str, version: &str) -> Result<ModelStatistics, Fault> {
        let (model, queue) = self.service().model(name, version)?;
        Ok(tell(&model.loaded.name, &model.loaded.version, &queue.statistics, self.cache.counts(model.key)))
    }
}

fn tell(name: &str, version: &str, statistics: &Statistics, cached: CacheCounts) -> ModelStatistics {
    let items = statistics.items();
    let each = |time: Duration| StatisticDuration { count: items, ns: nanos(time) };
    let CallTimes { gather, compute, scatter } = statistics.item_times();
    let cache_hit = StatisticDuration { count: cached.hits, ns: nanos(cached.hit_time) };
    let cache_miss = StatisticDuration { count: cached.misses, ns: nanos(cached.miss_time) };
    let queue = StatisticDuration { count: items + cached.hits, ns: nanos(statistics.waited()) };
    let compute_input = each(gather);
    let (compute_infer, compute_output) = (each(compute), each(scatter));
    let parts = [queue, compute_input, compute_infer, compute_output, cache_hit];
    let success = StatisticDuration { count: queue.count, ns: parts.iter().map(|part| part.ns).fold(0, u64::saturating_add) };
    let failed = statistics.failed();
    let last_call = statistics.last_call().map(clock::since_epoch);
    ModelStatistics {
        name: name.to_owned(),
        version: version.to_owned(),
        last_inference: last_call.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        inference_count: items,
        execution_count: statistics.calls(),
        inference_stats: InferStatistics {
            success,
            fail: StatisticDuration { count: failed.count, ns: nanos(failed.time) },
            queue,
            compute_input,
            compute_infer,
            compute_output,
            cache_hit,
            cache_miss,
        },
        response_stats: ResponseStatistics::default(),
        batch_stats: statistics
            .sizes()
            .map(|size| {
                let once = |time: Duration| StatisticDuration { count: size.calls, ns: nanos(time) };
                BatchStatistics {
                    batch_size: size.size as u64,
                    compute_input: once(size.times.gather),
                    compute_infer: once(size.times.compute),
                    compute_output: once(size.times.scatter),
                }
            })
            .collect(),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
