//! The results, in files: a summary for programs, a table of all points, a report to read.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use crate::{
    curve::Conditions,
    point::{Arrivals, Point},
    policy::Setting,
    record::Outcome,
    sweep::{self, OTHERS, Row, ratio},
};

/// A point, in the form that programs read.
#[derive(Debug, Serialize)]
struct PointRow {
    curve: &'static str,
    lanes: usize,
    arrivals: &'static str,
    stateful: bool,
    load: f64,
    slo: &'static str,
    goodput: f64,
    best_fixed_goodput: f64,
    best_fixed_setting: String,
    ratio: f64,
}

/// A policy over all points.
#[derive(Debug, Serialize)]
pub(crate) struct PolicyRow {
    policy: String,
    mean_goodput: f64,
    /// Mean of the ratio to the best hand-set goodput of each point, ratios above 1 taken as 1.
    mean_ratio: f64,
    worst_ratio: f64,
    share_above_97: f64,
}

impl PolicyRow {
    fn new(policy: String, rows: &[Row], goodput: impl Fn(&Row) -> f64) -> Self {
        let ratios: Vec<f64> = rows.iter().map(|row| ratio(goodput(row), row.best.goodput)).collect();
        Self {
            policy,
            mean_goodput: mean(rows.iter().map(&goodput)),
            mean_ratio: mean(ratios.iter().map(|ratio| ratio.min(1.0))),
            worst_ratio: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            share_above_97: mean(ratios.iter().map(|ratio| f64::from(u8::from(*ratio >= 0.97)))),
        }
    }
}

/// The study in numbers.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    seed: u64,
    count: usize,
    worst_ratio: f64,
    mean_ratio: f64,
    share_above_97: f64,
    policies: Vec<PolicyRow>,
    points: Vec<PointRow>,
}

impl Summary {
    pub(crate) fn new(rows: &[Row], seed: u64) -> Self {
        let tidemill = PolicyRow::new("tidemill".to_owned(), rows, |row| row.tidemill.goodput);
        let (worst_ratio, mean_ratio, share_above_97) = (tidemill.worst_ratio, tidemill.mean_ratio, tidemill.share_above_97);
        let settings = Setting::grid();
        let single = (0..settings.len())
            .map(|index| {
                PolicyRow::new(format!("best single setting: {}", settings[index].label()), rows, |row| row.fixed[index])
            })
            .max_by(|a, b| a.mean_goodput.total_cmp(&b.mean_goodput));
        let others = OTHERS.iter().enumerate().map(|(index, kind)| PolicyRow::new(kind.label(), rows, |row| row.others[index]));
        let best = PolicyRow::new("best setting of each point".to_owned(), rows, |row| row.best.goodput);
        let policies = [tidemill, best].into_iter().chain(single).chain(others).collect();
        let points = rows.iter().map(point_row).collect();
        Self { seed, count: rows.len(), worst_ratio, mean_ratio, share_above_97, policies, points }
    }

    pub(crate) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    /// The outcome in one line.
    pub(crate) fn line(&self) -> String {
        let Self { seed, count, worst_ratio, mean_ratio, share_above_97, .. } = self;
        format!(
            "points={count} seed={seed} worst_ratio={worst_ratio:.4} mean_ratio={mean_ratio:.5} share_above_97={share_above_97:.4}"
        )
    }
}

fn point_row(row: &Row) -> PointRow {
    let Point { curve, lanes, arrivals, stateful, load, slo, .. } = row.point;
    PointRow {
        curve: curve.label(),
        lanes,
        arrivals: arrivals.label(),
        stateful,
        load,
        slo: slo.label(),
        goodput: rounded(row.tidemill.goodput),
        best_fixed_goodput: rounded(row.best.goodput),
        best_fixed_setting: row.best_setting.label(),
        ratio: rounded(row.ratio()),
    }
}

/// To six places, so that files stay small.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0_u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    sum / f64::from(count.max(1))
}

/// All points as comma-separated values.
pub(crate) fn csv(rows: &[Row]) -> String {
    let mut text = String::from(
        "curve,lanes,arrivals,stateful,load,slo,goodput,best_fixed_goodput,best_fixed_setting,ratio,aimd,least_squares,deferred,\
         wait_p50_ms,wait_p99_ms,mean_batch,lane_time,best_wait_p50_ms,best_wait_p99_ms,best_mean_batch,best_lane_time\n",
    );
    for row in rows {
        let point = point_row(row);
        let PointRow { curve, lanes, arrivals, stateful, load, slo, goodput, best_fixed_goodput, best_fixed_setting, ratio } =
            point;
        let _ = write!(
            text,
            "{curve},{lanes},{arrivals},{stateful},{load},{slo},{goodput:.4},{best_fixed_goodput:.4},{best_fixed_setting},{ratio:.4}"
        );
        for goodput in &row.others {
            let _ = write!(text, ",{goodput:.4}");
        }
        for outcome in [row.tidemill, row.best] {
            let Outcome { wait_p50_ms, wait_p99_ms, mean_batch, lane_time, .. } = outcome;
            let _ = write!(text, ",{wait_p50_ms:.3},{wait_p99_ms:.3},{mean_batch:.1},{lane_time:.3}");
        }
        text.push('\n');
    }
    text
}

/// A run under other conditions than the study's.
pub(crate) struct Extra {
    name: &'static str,
    what: &'static str,
    rows: Vec<Row>,
}

/// The runs that are reported along with the study, on some of its points.
pub(crate) fn extras(quick: bool, seed: u64, threads: usize) -> Vec<Extra> {
    let points: Vec<Point> = Point::few().into_iter().filter(|point| point.lanes == 4 && (!quick || point.load == 0.8)).collect();
    let run = |points: &[Point], conditions| sweep::run(points, conditions, seed, threads, |_| {});
    let stateful = points.iter().filter(|point| point.stateful);
    let blocking: Vec<Point> = stateful.map(|point| Point { sheds: false, ..*point }).collect();
    vec![
        Extra { name: "noisy", what: "calls vary by 25 % instead of 10 %", rows: run(&points, Conditions::NOISY) },
        Extra {
            name: "coupled",
            what: "a call takes up to 25 % longer, depending on how many other lanes are busy; the curve is the one at load",
            rows: run(&points, Conditions::COUPLED),
        },
        Extra {
            name: "drifting",
            what: "calls take twice as long in the middle third; settings still go by the first third",
            rows: run(&points, Conditions::DRIFTING),
        },
        Extra {
            name: "blocking",
            what: "stateful streams that keep late items instead of dropping them",
            rows: run(&blocking, Conditions::STEADY),
        },
    ]
}

/// Runs of one workload side by side.
pub(crate) fn outcomes(runs: impl Iterator<Item = (String, Outcome)>) -> String {
    let mut text = format!(
        "{:<44} {:>8} {:>8} {:>10} {:>10} {:>6} {:>6}\n",
        "policy", "goodput", "answered", "wait p50", "wait p99", "batch", "lanes"
    );
    for (policy, Outcome { goodput, answered, wait_p50_ms, wait_p99_ms, mean_batch, lane_time }) in runs {
        let _ = writeln!(
            text,
            "{policy:<44} {goodput:>8.4} {answered:>8.4} {wait_p50_ms:>7.2} ms {wait_p99_ms:>7.2} ms {mean_batch:>6.1} {lane_time:>6.3}"
        );
    }
    text
}

/// The report to read.
pub(crate) fn markdown(summary: &Summary, rows: &[Row], extras: &[Extra]) -> String {
    let mut text = format!(
        "# Batching by deadline, simulated\n\n\
         Made by `tidemill-sim sweep --seed {}`; the scheduler's constants were chosen on seed 1. The scheduler is the one that \
         serves, given virtual time and no settings; it measures its cost curve from noisy calls and learns from each call after that.\n\n\
         - A point is a cost curve, a number of lanes, a kind of arrivals, a load and a deadline: {} points.\n\
         - Load is relative to all lanes running calls at the knee ℓ(knee), the smallest batch with 99 % of the best throughput.\n\
         - Goodput is the share of offered items that are answered within their deadline, so at a load of 3 it is at most a third.\n\
         - The ratio is Tidemill's goodput over that of the best of {} hand-set settings (largest batch, longest delay, expiry or a \
         queue timeout that knows the true ℓ), found for each point on the very trace and noise that Tidemill gets. Means count \
         ratios above 1 as 1.\n\
         - Delays in settings are relative to ℓ(knee), so that a setting means the same on all curves.\n\n",
        summary.seed,
        summary.count,
        Setting::grid().len(),
    );
    text += "## Policies\n\n| policy | mean goodput | ratio, mean | ratio, worst | points ≥ 0.97 |\n|---|---|---|---|---|\n";
    for row in &summary.policies {
        let PolicyRow { policy, mean_goodput, mean_ratio, worst_ratio, share_above_97 } = row;
        let _ = writeln!(
            text,
            "| {policy} | {mean_goodput:.4} | {mean_ratio:.4} | {worst_ratio:.3} | {:.2} % |",
            share_above_97 * 100.0
        );
    }
    text += "\n![Ratio to the best setting](ratios.svg)\n\n![Goodput by load](goodput.svg)\n";
    breakdown(&mut text, "curve", rows, |point| point.curve.label().to_owned());
    breakdown(&mut text, "lanes", rows, |point| point.lanes.to_string());
    breakdown(&mut text, "arrivals", rows, |point| arrivals_label(point).to_owned());
    breakdown(&mut text, "load", rows, |point| format!("{:.2}", point.load));
    breakdown(&mut text, "deadline", rows, |point| point.slo.label().to_owned());
    worst(&mut text, rows);
    latency(&mut text, rows);
    text += "\n## Other conditions\n\nOn some of the points.\n\n\
             | conditions | points | mean goodput | best setting | ratio, mean | ratio, worst | points ≥ 0.97 |\n|---|---|---|---|---|---|---|\n";
    for Extra { name, what, rows } in extras {
        let row = PolicyRow::new(String::new(), rows, |row| row.tidemill.goodput);
        let _ = writeln!(
            text,
            "| {name}: {what} | {} | {:.4} | {:.4} | {:.4} | {:.3} | {:.1} % |",
            rows.len(),
            row.mean_goodput,
            mean(rows.iter().map(|row| row.best.goodput)),
            row.mean_ratio,
            row.worst_ratio,
            row.share_above_97 * 100.0
        );
    }
    text
}

const fn arrivals_label(point: &Point) -> &'static str {
    match (point.arrivals, point.stateful) {
        (Arrivals::Streams, true) => "stateful streams",
        (arrivals, _) => arrivals.label(),
    }
}

fn breakdown(text: &mut String, what: &str, rows: &[Row], key: impl Fn(&Point) -> String) {
    let mut groups: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        groups.entry(key(&row.point)).or_default().push(row.clone());
    }
    let _ = writeln!(text, "\n## By {what}\n\n| {what} | goodput | best setting | ratio, mean | ratio, worst | points ≥ 0.97 |");
    *text += "|---|---|---|---|---|---|\n";
    for (name, rows) in groups {
        let row = PolicyRow::new(name, &rows, |row| row.tidemill.goodput);
        let _ = writeln!(
            text,
            "| {} | {:.4} | {:.4} | {:.4} | {:.3} | {:.1} % |",
            row.policy,
            row.mean_goodput,
            mean(rows.iter().map(|row| row.best.goodput)),
            row.mean_ratio,
            row.worst_ratio,
            row.share_above_97 * 100.0
        );
    }
}

fn worst(text: &mut String, rows: &[Row]) {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
    *text += "\n## The ten worst points\n\n| curve | lanes | arrivals | load | deadline | goodput | best | setting | ratio |\n";
    *text += "|---|---|---|---|---|---|---|---|---|\n";
    for row in rows.into_iter().take(10) {
        let Point { curve, lanes, load, slo, .. } = row.point;
        let _ = writeln!(
            text,
            "| {} | {lanes} | {} | {load} | {} | {:.4} | {:.4} | {} | {:.4} |",
            curve.label(),
            arrivals_label(&row.point),
            slo.label(),
            row.tidemill.goodput,
            row.best.goodput,
            row.best_setting.label(),
            row.ratio()
        );
    }
}

fn latency(text: &mut String, rows: &[Row]) {
    *text += "\n## Waits, batches, lane time\n\nMeans over points, Tidemill / the best setting of each; waits in calls at the knee.\n\n";
    *text += "| load | wait p50 | wait p99 | mean batch | lane time |\n|---|---|---|---|---|\n";
    let mut loads: Vec<f64> = rows.iter().map(|row| row.point.load).collect();
    loads.sort_by(f64::total_cmp);
    loads.dedup();
    for load in loads {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.point.load == load).collect();
        let pair = |value: fn(&Outcome) -> f64, in_calls: bool| {
            let of = |outcome: fn(&Row) -> &Outcome| {
                mean(rows.iter().map(|row| {
                    let curve = row.point.curve.curve();
                    value(outcome(row)) / if in_calls { curve.call(curve.knee()) / 1e6 } else { 1.0 }
                }))
            };
            format!("{:.3} / {:.3}", of(|row| &row.tidemill), of(|row| &row.best))
        };
        let _ = writeln!(
            text,
            "| {load} | {} | {} | {} | {} |",
            pair(|outcome| outcome.wait_p50_ms, true),
            pair(|outcome| outcome.wait_p99_ms, true),
            pair(|outcome| outcome.mean_batch, false),
            pair(|outcome| outcome.lane_time, false)
        );
    }
}
