//! Figures as people read them: short, with a unit, and a dash if there is none.
//!
//! Knows how a number looks and how columns line up; does not know where on a screen they stand.

use std::cmp::Ordering;

use super::report::{ByLabel, CostFigures, ModelFigures, Quantiles};

/// Shown instead of an unknown number.
pub(super) const NONE: &str = "–";

/// Between two columns.
const GAP: usize = 2;

/// A column of the table of models.
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) help: &'static str,
    /// If there is no room for all columns, those of the highest rank are left out first.
    rank: u8,
    cell: fn(&ModelFigures) -> String,
}

const fn column(rank: u8, title: &'static str, help: &'static str, cell: fn(&ModelFigures) -> String) -> Column {
    Column { title, help, rank, cell }
}

/// The table of models, from left to right.
pub(super) static COLUMNS: [Column; 19] = [
    column(0, "model", "name and version", |model| format!("{} {}", model.name, model.version)),
    column(1, "in/s", "items that arrived", |model| rate(model.received_per_s)),
    column(2, "ok/s", "items answered with outputs", |model| ended(model, "ok")),
    column(6, "drop/s", "items given up for newer ones of their stream", |model| ended(model, "dropped")),
    column(7, "exp/s", "items whose deadline passed", |model| ended(model, "expired")),
    column(11, "ref/s", "items refused: bad requests, or a full queue", |model| ended(model, "refused")),
    column(10, "fail/s", "items whose model call failed", |model| ended(model, "failed")),
    column(4, "queue", "items that wait for a lane", |model| count(model.queued_items)),
    column(13, "run", "items in a model call", |model| count(model.running_items)),
    column(5, "batch", "items in a call, on average", |model| number(model.batch_size.mean)),
    column(16, "b50", "items in a call, median", |model| number(model.batch_size.p50)),
    column(18, "bmax", "no call had more items", |model| number(model.batch_size.at_most)),
    column(14, "fill", "how much of the largest batch calls filled", |model| share(model.occupancy_share)),
    column(9, "cap", "largest batch in use", |model| count(model.batch_cap)),
    column(12, "wait50", "time from arrival to the first call, median", |model| seconds(model.queue_s.p50)),
    column(3, "wait99", "the same, 99th percentile", |model| seconds(model.queue_s.p99)),
    column(8, "call50", "time of a model call, median", |model| seconds(model.call_s.p50)),
    column(15, "call99", "the same, 99th percentile", |model| seconds(model.call_s.p99)),
    column(17, "pad", "share of padded inputs that is padding", |model| share(model.padding_share)),
];

fn ended(model: &ModelFigures, outcome: &str) -> String {
    rate(model.ended_per_s.get(outcome).copied())
}

/// Rows of cells that line up: the first column to the left, all others to the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grid {
    titles: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// Rows under these titles; each row has as many cells.
    pub(super) fn new<const N: usize>(titles: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Self {
        Self { titles: titles.map(str::to_owned).to_vec(), rows: rows.into_iter().map(Vec::from).collect() }
    }

    /// The table of models, with as many columns as fit into `width_max`, the more important ones first.
    pub(super) fn of_models(models: &[ModelFigures], width_max: usize) -> Self {
        let mut shown: Vec<&Column> = COLUMNS.iter().collect();
        loop {
            let grid = Self {
                titles: shown.iter().map(|column| column.title.to_owned()).collect(),
                rows: models.iter().map(|model| shown.iter().map(|column| (column.cell)(model)).collect()).collect(),
            };
            let least = shown.iter().enumerate().max_by_key(|(_, column)| column.rank).map(|(index, _)| index);
            match least {
                Some(least) if shown.len() > 1 && grid.width() > width_max => shown.remove(least),
                _ => return grid,
            };
        }
    }

    /// Characters in a line.
    pub(super) fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
    }

    /// The line of titles.
    pub(super) fn title_line(&self) -> String {
        self.line(&self.titles)
    }

    /// The lines below it.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.rows.iter().map(|row| self.line(row))
    }

    fn line(&self, cells: &[String]) -> String {
        let aligned = cells
            .iter()
            .zip(self.widths())
            .enumerate()
            .map(|(index, (cell, width))| if index == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") });
        aligned.collect::<Vec<_>>().join(&" ".repeat(GAP))
    }

    fn widths(&self) -> Vec<usize> {
        let cells_of = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        self.titles
            .iter()
            .enumerate()
            .map(|(column, title)| cells_of(column).chain([title]).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect()
    }
}

/// The details of a model below its row: labels, and a list for each.
pub(super) fn details(model: &ModelFigures) -> Vec<(&'static str, Vec<String>)> {
    let pair = |quantiles: &Quantiles| format!("p50 {} p99 {}", seconds(quantiles.p50), seconds(quantiles.p99));
    let waits = model.queue_by_priority_s.iter().map(|(priority, quantiles)| format!("{priority} {}", pair(quantiles)));
    vec![
        ("closed", listed(&model.closed_share, share)),
        ("drops/s", listed(&model.dropped_per_s, rate)),
        ("waits", waits.collect()),
        ("cancels", model.cancel_release_s.p50.map(|_| pair(&model.cancel_release_s)).into_iter().collect()),
    ]
}

/// The cost curve of a model.
pub(super) fn cost_grid(model: &ModelFigures) -> Grid {
    let row = |cost: &CostFigures| [cost.batch_size.to_string(), seconds(Some(cost.call_s)), number(Some(cost.items_per_s))];
    Grid::new(["batch", "a call", "items/s"], model.costs.iter().map(row))
}

/// The entries that are not zero, the largest first.
pub(super) fn listed(figures: &ByLabel<f64>, format: fn(Option<f64>) -> String) -> Vec<String> {
    let mut figures: Vec<_> = figures.iter().filter(|(_, figure)| **figure > 0.0).collect();
    figures.sort_by(|(_, one), (_, other)| other.partial_cmp(one).unwrap_or(Ordering::Equal));
    figures.into_iter().map(|(label, figure)| format!("{label} {}", format(Some(*figure)))).collect()
}

/// Entries after a label, separated by commas and broken into lines of at most `width` characters where that is possible.
pub(super) fn wrapped(label: &str, entries: &[String], width: usize) -> Vec<String> {
    const INDENT: usize = 9;
    let mut lines = vec![format!("{label:<INDENT$}")];
    if entries.is_empty() {
        lines[0].push_str(NONE);
    }
    for (index, entry) in entries.iter().enumerate() {
        let comma = if index + 1 < entries.len() { "," } else { "" };
        let current = lines.last().map_or(0, |line| line.chars().count());
        if current > INDENT && current + 1 + entry.chars().count() + comma.len() > width {
            lines.push(" ".repeat(INDENT));
        }
        if let Some(line) = lines.last_mut() {
            let blank = if line.chars().count() > INDENT { " " } else { "" };
            line.extend([blank, entry, comma]);
        }
    }
    lines
}

/// Growth per second.
pub(super) fn rate(per_s: Option<f64>) -> String {
    number(per_s)
}

/// A whole number.
pub(super) fn count(count: Option<u64>) -> String {
    count.map_or_else(|| NONE.to_owned(), |count| if count < 100_000 { count.to_string() } else { number(Some(count as f64)) })
}

/// Any number, with about three digits.
pub(super) fn number(number: Option<f64>) -> String {
    number.map_or_else(
        || NONE.to_owned(),
        |number| match number {
            0.0 => "0".to_owned(),
            _ if number < 0.095 => format!("{number:.2}"),
            _ if number < 99.95 => format!("{number:.1}"),
            _ if number < 9_999.5 => format!("{number:.0}"),
            _ if number < 999_950.0 => format!("{:.1}k", number / 1e3),
            _ => format!("{:.1}M", number / 1e6),
        },
    )
}

/// A part of one, in per cent.
pub(super) fn share(share: Option<f64>) -> String {
    share.map_or_else(|| NONE.to_owned(), |share| format!("{:.0}%", share * 100.0))
}

/// A duration.
pub(super) fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(
        || NONE.to_owned(),
        |seconds| match seconds {
            0.0 => "0".to_owned(),
            _ if seconds < 0.000_999_5 => format!("{:.0}µs", seconds * 1e6),
            _ if seconds < 0.099_95 => format!("{:.1}ms", seconds * 1e3),
            _ if seconds < 0.999_5 => format!("{:.0}ms", seconds * 1e3),
            _ => format!("{seconds:.1}s"),
        },
    )
}

/// A long duration, in its two largest units.
pub(super) fn uptime(uptime_s: Option<u64>) -> String {
    let Some(seconds) = uptime_s else { return NONE.to_owned() };
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d {:02}h", hours % 24),
        () if hours > 0 => format!("{hours}h {:02}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m {:02}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

/// An amount of memory.
pub(super) fn bytes(bytes: Option<u64>) -> String {
    const GIB: u64 = 1 << 30;
    bytes.map_or_else(
        || NONE.to_owned(),
        |bytes| {
            if bytes < 10 * GIB {
                format!("{:.0} MiB", bytes as f64 / (1 << 20) as f64)
            } else {
                format!("{:.1} GiB", bytes as f64 / GIB as f64)
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::report, *};

    #[test]
    fn numbers_are_short_and_rounding_does_not_lengthen_them() {
        let texts = |numbers: &[f64]| numbers.iter().map(|value| number(Some(*value))).collect::<Vec<_>>();
        assert_eq!(texts(&[0.0, 0.03, 0.5, 3.25, 99.94, 99.96]), ["0", "0.03", "0.5", "3.2", "99.9", "100"]);
        assert_eq!(texts(&[9_999.4, 9_999.6, 123_456.0, 999_960.0, 2.5e7]), ["9999", "10.0k", "123.5k", "1.0M", "25.0M"]);
        assert_eq!((count(Some(7)), count(Some(1_234_567)), number(None)), ("7".into(), "1.2M".into(), "–".into()));
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        let texts = |values: &[f64]| values.iter().map(|value| seconds(Some(*value))).collect::<Vec<_>>();
        assert_eq!(
            texts(&[0.0, 0.000_05, 0.001, 0.012_34, 0.25, 1.5, 60.0]),
            ["0", "50µs", "1.0ms", "12.3ms", "250ms", "1.5s", "60.0s"]
        );
        assert_eq!(texts(&[0.000_999_9, 0.099_99, 0.999_9]), ["1.0ms", "100ms", "1.0s"]);
        let uptimes = [5, 65, 3_732, 90_000].map(|seconds| uptime(Some(seconds)));
        assert_eq!(uptimes, ["5s", "1m 05s", "1h 02m", "1d 01h"]);
        assert_eq!([5 << 20, 20 << 30].map(|size| bytes(Some(size))), ["5 MiB", "20.0 GiB"]);
    }

    #[test]
    fn columns_go_by_rank_until_the_rest_fits() {
        let models = report(false).models;
        let wide = Grid::of_models(&models, usize::MAX);
        assert_eq!(wide.titles.len(), COLUMNS.len());
        for width in 0..wide.width() {
            let grid = Grid::of_models(&models, width);
            assert!(grid.width() <= width || grid.titles == ["model"], "{width}: {:?}", grid.titles);
            assert!(grid.lines().chain([grid.title_line()]).all(|line| line.chars().count() == grid.width()));
        }
        let narrow = Grid::of_models(&models, 40);
        assert_eq!(narrow.titles, ["model", "in/s", "ok/s", "queue", "wait99"]);
    }

    #[test]
    fn ranks_differ_so_that_the_order_is_plain() {
        let mut ranks: Vec<_> = COLUMNS.iter().map(|column| usize::from(column.rank)).collect();
        ranks.sort_unstable();
        assert_eq!(ranks, (0..COLUMNS.len()).collect::<Vec<_>>());
    }

    #[test]
    fn lists_name_the_largest_first_and_nothing_that_is_zero() {
        let figures = [("a", 0.0), ("b", 0.25), ("c", 0.75)].map(|(label, figure)| (label.to_owned(), figure)).into();
        assert_eq!(listed(&figures, share), ["c 75%", "b 25%"]);
    }

    #[test]
    fn lists_break_between_entries() {
        let entries = ["knee 80%", "lane_free 20%"].map(str::to_owned);
        assert_eq!(wrapped("closed", &entries, 40), ["closed   knee 80%, lane_free 20%"]);
        assert_eq!(wrapped("closed", &entries, 20), ["closed   knee 80%,", "         lane_free 20%"]);
        assert_eq!(wrapped("closed", &[], 20), ["closed   –"]);
    }
}
