//! Differences between two scrapes: growth of counters, rates, distributions.
//!
//! Knows that counters start over with their process, and never gives a negative number. Does not know which metrics there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{
    distribution::Distribution,
    exposition::{Exposition, Labels},
};

/// When the process behind a scrape started, in seconds since the Unix epoch.
const START: &str = "process_start_time_seconds";

/// Labels that a series must have, with their values.
pub(super) type Wanted<'a> = &'a [(&'a str, &'a str)];

/// A server's report, and its time.
#[derive(Debug, Clone)]
pub(super) struct Scrape {
    pub(super) exposition: Exposition,
    /// When its answer came, by this process's clock.
    pub(super) taken: Instant,
    /// When it answered by its own clock, if it said.
    pub(super) server_time: Option<SystemTime>,
}

impl Scrape {
    /// For how long the server's process has run.
    pub(super) fn uptime(&self) -> Option<Duration> {
        let since_epoch = self.server_time?.duration_since(UNIX_EPOCH).ok()?;
        Duration::try_from_secs_f64(since_epoch.as_secs_f64() - self.start()?).ok()
    }

    fn start(&self) -> Option<f64> {
        self.exposition.value(START, &Labels::new())
    }
}

/// A scrape, seen from an earlier one.
#[derive(Debug)]
pub(super) struct Change<'a> {
    /// `None` if all counters began at zero.
    before: Option<&'a Exposition>,
    after: &'a Exposition,
    /// `None` if there was no earlier scrape, and so no rate.
    elapsed: Option<Duration>,
}

impl<'a> Change<'a> {
    /// From `before` to `after`. If the server was restarted in between, everything that `after` counts has happened since.
    pub(super) fn new(before: Option<&'a Scrape>, after: &'a Scrape) -> Self {
        Self {
            before: before.filter(|before| before.start() == after.start()).map(|before| &before.exposition),
            after: &after.exposition,
            elapsed: before.map(|before| after.taken - before.taken).filter(|elapsed| !elapsed.is_zero()),
        }
    }

    /// Seconds between the scrapes.
    pub(super) fn elapsed_s(&self) -> Option<f64> {
        self.elapsed.map(|elapsed| elapsed.as_secs_f64())
    }

    /// The values that a label has in a metric's series.
    pub(super) fn values(&self, name: &str, wanted: Wanted<'_>, label: &str) -> BTreeSet<&'a str> {
        self.series(name, wanted).filter_map(|(labels, _)| labels.get(label).map(String::as_str)).collect()
    }

    /// The sum of a metric's series; `None` if there are none.
    pub(super) fn sum(&self, name: &str, wanted: Wanted<'_>) -> Option<f64> {
        self.series(name, wanted).map(|(_, value)| value).reduce(|sum, value| sum + value)
    }

    /// The growth of a counter per second, summed over its series.
    pub(super) fn rate(&self, name: &str, wanted: Wanted<'_>) -> Option<f64> {
        let growth = self.growth(name, wanted)?;
        self.elapsed_s().map(|elapsed_s| growth / elapsed_s)
    }

    /// The growth of a counter between the scrapes, summed over its series.
    pub(super) fn growth(&self, name: &str, wanted: Wanted<'_>) -> Option<f64> {
        self.elapsed?;
        self.series(name, wanted)
            .map(|(labels, value)| value - self.value_before(name, labels).filter(|before| *before <= value).unwrap_or(0.0))
            .reduce(|sum, growth| sum + growth)
    }

    /// The samples that a histogram took between the scrapes, over all of its series.
    pub(super) fn distribution(&self, name: &str, wanted: Wanted<'_>) -> Option<Distribution> {
        self.elapsed?;
        let (bucket_name, sum_name) = (format!("{name}_bucket"), format!("{name}_sum"));
        let mut histograms: BTreeMap<Labels, Vec<BucketChange>> = BTreeMap::new();
        for (labels, after) in self.series(&bucket_name, wanted) {
            let mut own = labels.clone();
            let Some(bound) = own.remove("le").and_then(|bound| bound.parse().ok()) else { continue };
            let before = self.value_before(&bucket_name, labels).unwrap_or(0.0);
            histograms.entry(own).or_default().push(BucketChange { bound, before, after });
        }
        let mut total = Distribution::default();
        for (labels, buckets) in &histograms {
            let is_new = buckets.iter().any(|bucket| bucket.after < bucket.before);
            for bucket in buckets {
                total.add_bucket(bucket.bound, if is_new { bucket.after } else { bucket.after - bucket.before });
            }
            let sum_before = self.value_before(&sum_name, labels).filter(|_| !is_new).unwrap_or(0.0);
            total.add_sum((self.after.value(&sum_name, labels).unwrap_or(0.0) - sum_before).max(0.0));
        }
        (!histograms.is_empty()).then_some(total)
    }

    fn series(&self, name: &str, wanted: Wanted<'_>) -> impl Iterator<Item = (&'a Labels, f64)> {
        let all_wanted =
            move |labels: &Labels| wanted.iter().all(|&(label, value)| labels.get(label).is_some_and(|found| found == value));
        self.after.series(name).filter(move |(labels, _)| all_wanted(labels))
    }

    fn value_before(&self, name: &str, labels: &Labels) -> Option<f64> {
        self.before.and_then(|before| before.value(name, labels))
    }
}

struct BucketChange {
    bound: f64,
    before: f64,
    after: f64,
}

#[cfg(test)]
mod tests {
    use super::{super::distribution::Grain, *};

    /// Two scrapes, two seconds apart.
    fn scrapes(before: &str, after: &str) -> [Scrape; 2] {
        let taken = Instant::now();
        [(before, taken), (after, taken + Duration::from_secs(2))].map(|(text, taken)| Scrape {
            exposition: Exposition::parse(text).expect("it is well-formed"),
            taken,
            server_time: Some(UNIX_EPOCH + Duration::from_secs(1_000)),
        })
    }

    #[test]
    fn rates_are_growth_over_time_and_sum_over_labels_not_asked_for() {
        let [before, after] =
            scrapes("a{m=\"x\",r=\"1\"} 10\na{m=\"x\",r=\"2\"} 5", "a{m=\"x\",r=\"1\"} 14\na{m=\"x\",r=\"2\"} 5\na{m=\"y\"} 6");
        let change = Change::new(Some(&before), &after);
        assert_eq!(change.elapsed_s(), Some(2.0));
        assert_eq!(change.rate("a", &[("m", "x")]), Some(2.0));
        assert_eq!(change.rate("a", &[("m", "x"), ("r", "2")]), Some(0.0));
        assert_eq!(change.rate("a", &[("m", "y")]), Some(3.0), "a new series began at zero");
        assert_eq!(change.growth("a", &[]), Some(10.0));
        assert_eq!((change.rate("a", &[("m", "z")]), change.rate("b", &[])), (None, None));
        assert_eq!(change.sum("a", &[("m", "x")]), Some(19.0));
        assert_eq!(change.values("a", &[("m", "x")], "r").into_iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn one_scrape_alone_has_sums_and_no_rates() {
        let [_, after] = scrapes("", "a 3\nh_bucket{le=\"+Inf\"} 3\nh_sum 1");
        let change = Change::new(None, &after);
        assert_eq!((change.sum("a", &[]), change.rate("a", &[]), change.elapsed_s()), (Some(3.0), None, None));
        assert_eq!(change.distribution("h", &[]), None);
    }

    #[test]
    fn a_counter_that_fell_started_over() {
        let [before, after] = scrapes("a 100\nb 100", "a 6\nb 104");
        let change = Change::new(Some(&before), &after);
        assert_eq!((change.rate("a", &[]), change.rate("b", &[])), (Some(3.0), Some(2.0)));
    }

    #[test]
    fn a_restarted_server_counts_from_zero_even_where_it_has_overtaken() {
        let [before, after] = scrapes("process_start_time_seconds 1\na 4", "process_start_time_seconds 2\na 6");
        assert_eq!(Change::new(Some(&before), &after).rate("a", &[]), Some(3.0));
    }

    #[test]
    fn a_distribution_holds_only_what_came_between() {
        let text = |counts: [u32; 3], sum: f64| {
            let [one, two, all] = counts;
            format!(
                "h_bucket{{m=\"x\",le=\"1\"}} {one}\nh_bucket{{m=\"x\",le=\"2\"}} {two}\nh_bucket{{m=\"x\",le=\"+Inf\"}} {all}\n\
                 h_sum{{m=\"x\"}} {sum}\nh_count{{m=\"x\"}} {all}\n"
            )
        };
        let [before, after] = scrapes(&text([1000, 1000, 1000], 10.0), &text([1000, 1010, 1010], 25.0));
        let grown = Change::new(Some(&before), &after).distribution("h", &[("m", "x")]).expect("it is there");
        assert_eq!((grown.count(), grown.mean()), (10.0, Some(1.5)));
        assert_eq!(grown.quantile(0.5, Grain::Fine), Some(1.5));

        let [before, after] = scrapes(&text([1000, 1000, 1000], 10.0), &text([2, 2, 4], 7.0));
        let fresh = Change::new(Some(&before), &after).distribution("h", &[]).expect("it is there");
        assert_eq!((fresh.count(), fresh.sum()), (4.0, 7.0));
        assert_eq!(Change::new(Some(&before), &after).distribution("h", &[("m", "y")]), None);
    }

    #[test]
    fn a_distribution_sums_over_labels_not_asked_for() {
        let text = |count: u32| {
            ["high", "low"].map(|priority| {
                format!(
                    "h_bucket{{p=\"{priority}\",le=\"1\"}} {count}\nh_bucket{{p=\"{priority}\",le=\"+Inf\"}} {count}\n\
                     h_sum{{p=\"{priority}\"}} {count}\n"
                )
            })
        };
        let [before, after] = scrapes(&text(1).concat(), &text(4).concat());
        let change = Change::new(Some(&before), &after);
        assert_eq!(change.distribution("h", &[]).expect("both").count(), 6.0);
        assert_eq!(change.distribution("h", &[("p", "low")]).expect("one").count(), 3.0);
    }

    #[test]
    fn uptime_is_by_the_servers_own_clock() {
        let [scrape, unknown] = scrapes("process_start_time_seconds 990.5", "");
        assert_eq!(scrape.uptime(), Some(Duration::from_millis(9_500)));
        assert_eq!(unknown.uptime(), None);
        let [ahead, _] = scrapes("process_start_time_seconds 1000.5", "");
        assert_eq!(ahead.uptime(), None, "its clock was set back");
    }
}
