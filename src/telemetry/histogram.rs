//! Samples, counted in buckets as they come.
//!
//! The recorder's own histograms keep each sample and its time until someone sorts them, which costs an item more than all its
//! other metrics, and takes memory until someone does. Here a sample is three additions to existing numbers, and those of a batch
//! are summed first.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use indexmap::IndexMap;
use metrics::{GaugeFn as _, IntoF64, Key};
use metrics_exporter_prometheus::{
    LabelSet,
    formatting::{write_help_line, write_metric_line, write_type_line},
};
use parking_lot::Mutex;

use super::table::Metric;

/// Counts samples by size. Clones share the counts.
#[derive(Debug, Clone)]
pub struct Histogram(Option<Arc<Buckets>>);

impl Histogram {
    /// One that counts nothing.
    pub(super) const fn noop() -> Self {
        Self(None)
    }

    /// Counts one sample; a duration in seconds.
    pub fn record(&self, sample: impl IntoF64) {
        if let Some(buckets) = &self.0 {
            let sample = sample.into_f64();
            buckets.add(buckets.index_of(sample), 1, sample);
        }
    }

    /// Counts many samples, at little more than the cost of one if most fall into the same bucket.
    pub fn record_all<S: IntoF64>(&self, samples: impl IntoIterator<Item = S>) {
        let Some(buckets) = &self.0 else { return };
        let mut samples = samples.into_iter().map(S::into_f64);
        let Some(mut sum) = samples.next() else { return };
        let (mut index, mut count) = (buckets.index_of(sum), 1);
        for sample in samples {
            let next = buckets.index_of(sample);
            if next != index {
                buckets.add(index, count, sum);
                (index, count, sum) = (next, 0, 0.0);
            }
            count += 1;
            sum += sample;
        }
        buckets.add(index, count, sum);
    }
}

#[derive(Debug)]
struct Buckets {
    /// Upper bounds, ascending.
    bounds: &'static [f64],
    /// Samples within the bound at the same index and above the one before; the entry after the last bound counts the rest.
    counts: Box<[AtomicU64]>,
    /// Sum of all samples, as the bits of a float.
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0.0_f64.to_bits()) }
    }

    fn index_of(&self, sample: f64) -> usize {
        self.bounds.partition_point(|bound| *bound < sample)
    }

    fn add(&self, index: usize, count: u64, sum: f64) {
        self.counts[index].fetch_add(count, Ordering::Relaxed);
        self.sum.increment(sum);
    }

    /// Adds the lines of this series to `text`.
    fn write(&self, text: &mut String, name: &str, labels: &LabelSet) {
        let mut total = 0;
        for (index, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            match self.bounds.get(index) {
                Some(bound) => write_metric_line(text, name, Some("bucket"), labels, Some(("le", bound)), total, None),
                None => write_metric_line(text, name, Some("bucket"), labels, Some(("le", "+Inf")), total, None),
            }
        }
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        write_metric_line::<&str, _>(text, name, Some("sum"), labels, None, sum, None);
        write_metric_line::<&str, _>(text, name, Some("count"), labels, None, total, None);
    }
}

/// All histograms of a server, by metric and labels.
#[derive(Debug, Default)]
pub(super) struct Histograms(Mutex<IndexMap<&'static str, Family>>);

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    series: IndexMap<Key, Arc<Buckets>>,
}

impl Histograms {
    /// The series with the labels of `key`; the same labels give the same series.
    pub(super) fn series(&self, metric: &'static Metric, key: Key) -> Histogram {
        let mut families = self.0.lock();
        let family = families.entry(metric.name).or_insert_with(|| Family { metric, series: IndexMap::new() });
        let buckets = family.series.entry(key).or_insert_with(|| Arc::new(Buckets::new(metric.buckets)));
        Histogram(Some(Arc::clone(buckets)))
    }

    /// Adds all series to `text`, in the Prometheus text format.
    pub(super) fn write(&self, text: &mut String) {
        for Family { metric, series } in self.0.lock().values() {
            write_help_line(text, metric.name, None, None, metric.help);
            write_type_line(text, metric.name, None, None, metric.kind.label());
            for (key, buckets) in series {
                buckets.write(text, metric.name, &LabelSet::from_key_and_global(key, &IndexMap::new()));
            }
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::table;

    fn text(record: impl Fn(&Histogram)) -> String {
        let histograms = Histograms::default();
        record(&histograms.series(&table::BATCH_SIZE, Key::from_name(table::BATCH_SIZE.name)));
        let mut text = String::new();
        histograms.write(&mut text);
        text
    }

    #[test]
    fn a_sample_at_a_bound_is_within_it() {
        let text = text(|histogram| [1.0, 1.5, 2.0, 256.0, 300.0].iter().for_each(|sample| histogram.record(*sample)));
        for line in [
            "# TYPE tidemill_batch_size histogram",
            "tidemill_batch_size_bucket{le=\"1\"} 1",
            "tidemill_batch_size_bucket{le=\"2\"} 3",
            "tidemill_batch_size_bucket{le=\"128\"} 3",
            "tidemill_batch_size_bucket{le=\"256\"} 4",
            "tidemill_batch_size_bucket{le=\"+Inf\"} 5",
            "tidemill_batch_size_sum 560.5",
            "tidemill_batch_size_count 5",
        ] {
            assert!(text.lines().any(|of| of == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn durations_are_seconds_and_no_samples_record_nothing() {
        let histograms = Histograms::default();
        let histogram = histograms.series(&table::MODEL_CALL, Key::from_name(table::MODEL_CALL.name));
        histogram.record(Duration::from_millis(2_500));
        histogram.record_all([Duration::ZERO; 0]);
        Histogram::noop().record(1.0);
        let mut text = String::new();
        histograms.write(&mut text);
        assert!(text.contains("\ntidemill_model_call_seconds_sum 2.5\ntidemill_model_call_seconds_count 1\n"), "{text}");
    }

    proptest! {
        #[test]
        fn many_at_once_count_as_one_by_one(samples in prop::collection::vec(0_u16..600, 0..40)) {
            let one_by_one = text(|histogram| samples.iter().for_each(|sample| histogram.record(*sample)));
            let at_once = text(|histogram| histogram.record_all(samples.iter().copied()));
            prop_assert_eq!(one_by_one, at_once);
        }
    }
}
