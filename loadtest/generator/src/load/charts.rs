//! The charts on a run's page: which figures are plotted against each other.

use tidemill_plot::{Axis, Chart, Line, short};

use super::results::{Percentiles, RunResult, Second, StepResult};

/// Curves in one chart; if there are more steps, some are left out, evenly spread.
const CURVES_MAX: usize = 8;

/// Each point is marked if there are no more than this.
const DOTS_MAX: usize = 60;

/// Latency by percentile, a line each.
pub(crate) fn percentiles<'a>(title: &str, slo_ms: f64, named: impl IntoIterator<Item = (String, &'a Percentiles)>) -> Chart {
    let mut lines: Vec<Line> = named
        .into_iter()
        .enumerate()
        .map(|(colour, (label, latency))| {
            let seen = latency.curve.iter().filter(|(percentile, _)| (50.0..=99.9901).contains(percentile));
            let mut points: Vec<_> = seen.map(|(percentile, micros)| (*percentile, millis(*micros))).collect();
            // If there are few answers, the curve ends early.
            if points.is_empty() {
                points.push((50.0, millis(latency.p50)));
            }
            Line { label, colour, points, ..Line::default() }
        })
        .collect();
    let y = log_millis(lines.iter().flat_map(|line| line.points.iter().map(|(_, millis)| *millis)).chain([slo_ms]));
    lines.push(slo(slo_ms, 50.0, 99.99));
    Chart { title: title.to_owned(), x: Axis::tail("percentile of the answers"), y, lines }
}

/// The loads of a step, and all of them if there are several.
pub(crate) fn percentiles_of_loads(step: &StepResult, slo_ms: f64) -> Chart {
    let total = (step.loads.len() > 1).then(|| ("all".to_owned(), &step.total));
    let named = step.loads.iter().map(|load| (load.name.clone(), load)).chain(total);
    percentiles("Latency by percentile", slo_ms, named.filter_map(|(name, load)| Some((name, load.latency_us.as_ref()?))))
}

/// The steps of a run.
pub(crate) fn percentiles_of_steps(run: &RunResult) -> Chart {
    let count = run.steps.len();
    let shown = count.min(CURVES_MAX);
    let places = (0..shown).map(|number| if shown > 1 { number * (count - 1) / (shown - 1) } else { 0 });
    let named = places.filter_map(|place| {
        let step = &run.steps[place];
        Some((format!("x{}", short(step.factor)), step.total.latency_us.as_ref()?))
    });
    percentiles("Latency by percentile, each step", run.scenario.slo_ms, named)
}

/// How latency grows with throughput over the steps.
pub(crate) fn latency_by_throughput(run: &RunResult) -> Chart {
    let mut steps: Vec<&StepResult> = run.steps.iter().collect();
    steps.sort_by(|a, b| a.factor.total_cmp(&b.factor));
    let answered = || steps.iter().filter_map(|step| Some((step.total.throughput_hz, step.total.latency_us.as_ref()?)));
    let line = |colour, label: &str, value: fn(&Percentiles) -> u64| {
        let point = |(throughput_hz, times)| (throughput_hz, millis(value(times)));
        Line { label: label.to_owned(), colour, dotted: true, points: answered().map(point).collect(), ..Line::default() }
    };
    let mut lines =
        vec![line(0, "p50", |latency| latency.p50), line(2, "p90", |latency| latency.p90), line(1, "p99", |latency| latency.p99)];
    let largest = answered().map(|(throughput_hz, _)| throughput_hz).fold(0.0, f64::max);
    let x = Axis::from_zero("ok answers a second", largest);
    let y = log_millis(lines.iter().flat_map(|line| line.points.iter().map(|(_, millis)| *millis)).chain([run.scenario.slo_ms]));
    lines.push(slo(run.scenario.slo_ms, 0.0, f64::MAX));
    Chart { title: "Latency by throughput, step by step".to_owned(), x, y, lines }
}

/// The charts over the time of a step, except those for which nothing was measured.
pub(crate) fn over_time(step: &StepResult, slo_ms: f64) -> Vec<Chart> {
    let series = &step.series;
    let rate = |count: fn(&Second) -> u64| move |second: &Second| Some(count(second) as f64 / second.span_s.max(1e-3));
    let answers = [
        timeline(series, 7, "offered", rate(|second| second.offered)),
        timeline(series, 0, "ok", rate(|second| second.ok)),
        timeline(series, 2, "good", rate(|second| second.good)),
        timeline(series, 1, "errors", rate(|second| second.errors)),
    ];
    let latencies = [
        timeline(series, 0, "p50", |second| second.p50_us.map(millis)),
        timeline(series, 1, "p99", |second| second.p99_us.map(millis)),
    ];
    let batches = [timeline(series, 4, "mean batch", |second| second.batch_size_mean)];
    let processors =
        [timeline(series, 0, "server", |second| second.server_cpu), timeline(series, 1, "client", |second| second.client_cpu)];
    let in_flight = [timeline(series, 3, "in flight", |second| Some(second.in_flight as f64))];
    let memory = [timeline(series, 6, "server", |second| second.server_rss_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20)))];
    let charts = [
        chart_over_time("Answers", "a second", series, answers),
        latency_over_time(series, slo_ms, latencies),
        chart_over_time("Batch size", "items", series, batches),
        chart_over_time("CPU", "cores", series, processors),
        chart_over_time("Sent and not answered", "sends", series, in_flight),
        chart_over_time("Memory", "MiB resident", series, memory),
    ];
    charts.into_iter().flatten().collect()
}

fn timeline(series: &[Second], colour: usize, label: &str, value: impl Fn(&Second) -> Option<f64>) -> Line {
    let point = |second: &Second| (second.t_s as f64, value(second).unwrap_or(f64::NAN));
    let points = series.iter().map(point).collect();
    Line { label: label.to_owned(), colour, dotted: series.len() <= DOTS_MAX, points, ..Line::default() }
}

/// `None` if the lines have no point at all.
fn chart_over_time<const LINES: usize>(title: &str, y: &str, series: &[Second], lines: [Line; LINES]) -> Option<Chart> {
    let lines = with_points(lines);
    let largest = values(&lines).fold(0.0, f64::max);
    let y = Axis::from_zero(y, largest);
    (!lines.is_empty()).then(|| Chart { title: title.to_owned(), x: time(series), y, lines })
}

fn latency_over_time(series: &[Second], slo_ms: f64, lines: [Line; 2]) -> Option<Chart> {
    let mut lines = with_points(lines);
    if lines.is_empty() {
        return None;
    }
    let y = log_millis(values(&lines).chain([slo_ms]));
    lines.push(slo(slo_ms, 0.0, f64::MAX));
    Some(Chart { title: "Latency".to_owned(), x: time(series), y, lines })
}

fn with_points<const LINES: usize>(lines: [Line; LINES]) -> Vec<Line> {
    lines.into_iter().filter(|line| line.points.iter().any(|(_, value)| value.is_finite())).collect()
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value)).filter(|value| value.is_finite())
}

fn time(series: &[Second]) -> Axis {
    Axis::from_zero("seconds since the warm-up", series.len().saturating_sub(1).max(1) as f64)
}

fn slo(millis: f64, from: f64, to: f64) -> Line {
    let points = vec![(from, millis), (to, millis)];
    Line { label: format!("SLO {} ms", short(millis)), dashed: true, colour: 7, points, ..Line::default() }
}

fn log_millis(values: impl Iterator<Item = f64>) -> Axis {
    let (smallest, largest) = values
        .filter(|value| value.is_finite() && *value > 0.0)
        .fold((f64::INFINITY, 0.0_f64), |(smallest, largest), value| (smallest.min(value), largest.max(value)));
    Axis::log("milliseconds", smallest, largest)
}

fn millis(micros: u64) -> f64 {
    // Values below the resolution of a histogram have no place on a log scale.
    micros.max(1) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    #[test]
    fn what_was_not_measured_has_no_chart() {
        let mut run = sample::run(1);
        let titles = |step: &StepResult| over_time(step, 50.0).into_iter().map(|chart| chart.title).collect::<Vec<_>>();
        assert_eq!(
            titles(&run.steps[0]),
            ["Answers", "Latency", "Batch size", "CPU", "Sent and not answered", "Memory"].map(str::to_owned)
        );
        for second in &mut run.steps[0].series {
            (second.batch_size_mean, second.server_cpu, second.server_rss_bytes) = (None, None, None);
        }
        assert_eq!(titles(&run.steps[0]), ["Answers", "Latency", "CPU", "Sent and not answered"].map(str::to_owned));
    }

    #[test]
    fn steps_are_thinned_out_and_keep_the_first_and_the_last() {
        let mut run = sample::run(1);
        let step = run.steps[0].clone();
        run.steps = (1..=20).map(|factor| StepResult { factor: f64::from(factor), ..step.clone() }).collect();
        let labels: Vec<_> = percentiles_of_steps(&run).lines.into_iter().map(|line| line.label).collect();
        assert_eq!(labels.len(), CURVES_MAX + 1);
        assert_eq!((labels[0].as_str(), labels[CURVES_MAX - 1].as_str()), ("x1", "x20"));
    }

    #[test]
    fn throughput_follows_the_factors_whatever_the_order_of_the_steps() {
        let mut run = sample::run(4);
        run.steps.swap(0, 2);
        run.steps[3].total = StepResult::default().total;
        let chart = latency_by_throughput(&run);
        let points = &chart.lines[0].points;
        assert_eq!(points.len(), 3, "a step without answers has no point");
        assert!(points.is_sorted_by(|a, b| a.0 <= b.0), "{points:?}");
    }

    #[test]
    fn a_step_without_answers_can_be_drawn() {
        let step =
            StepResult { loads: vec![StepResult::default().total], series: vec![Second::default()], ..StepResult::default() };
        let charts = over_time(&step, 50.0).into_iter().chain([percentiles_of_loads(&step, 50.0)]);
        for svg in charts.map(|chart| chart.inline()) {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
