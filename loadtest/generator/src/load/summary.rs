//! A run in words and tables, for a terminal.

use std::fmt::Write as _;

use tidemill_plot::short;

use super::results::{LoadResult, Percentiles, RunResult, SearchResult, StepResult};
use crate::report::{Cell, Report};

/// The whole of it.
pub(crate) fn text(run: &RunResult) -> String {
    let mut text = format!("{}: {} s, SLO {} ms\n", run.scenario.name, run.scenario.duration_s, run.scenario.slo_ms);
    text += &loads(&run.steps).table();
    for step in &run.steps {
        let label = if run.steps.len() > 1 { format!("x{}: ", short(step.factor)) } else { String::new() };
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "{label}{}", use_of_machines(step));
        for line in errors(step) {
            let _ = writeln!(text, "{label}{line}");
        }
    }
    if let Some(search) = &run.search {
        let _ = writeln!(text, "{}", found(search));
    }
    if let Some(chaos) = &run.chaos {
        let made: Vec<_> = chaos.made.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let _ = writeln!(text, "chaos: {}", made.join(", "));
        for finding in &chaos.findings {
            let _ = writeln!(text, "  {finding}");
        }
    }
    for expectation in &run.expectations {
        let verdict = if expectation.met { "met" } else { "NOT MET" };
        let found = expectation.found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
        let _ = writeln!(text, "expected {} {}, found {found}: {verdict}", expectation.name, expectation.bound);
    }
    text
}

fn loads(steps: &[StepResult]) -> Report {
    let mut table = Report::new(&[
        "factor",
        "load",
        "streams",
        "offered_hz",
        "ok_hz",
        "good_%",
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "p99.9_ms",
        "max_ms",
        "errors",
        "unanswered",
        "late_sends",
        "batch",
    ]);
    for step in steps {
        // If there is only one load, the total says the same.
        let total = (step.loads.len() != 1).then_some(&step.total);
        for load in step.loads.iter().chain(total) {
            table.row(row(step, load));
        }
    }
    table
}

fn row(step: &StepResult, load: &LoadResult) -> Vec<Cell> {
    let latency = |value: fn(&Percentiles) -> u64| {
        load.latency_us.as_ref().map_or_else(|| "-".into(), |times| Cell::Figure(value(times) as f64 / 1e3, 2))
    };
    vec![
        Cell::Text(short(step.factor)),
        Cell::Text(load.name.clone()),
        Cell::Count(load.streams),
        Cell::Figure(load.offered as f64 / step.duration_s, 1),
        Cell::Figure(load.throughput_hz, 1),
        Cell::Figure(load.goodput_share * 100.0, 2),
        latency(|times| times.p50),
        latency(|times| times.p90),
        latency(|times| times.p99),
        latency(|times| times.p999),
        latency(|times| times.max),
        Cell::Count(load.errors_total()),
        Cell::Count(load.unanswered),
        Cell::Count(load.late_sends),
        load.batch_size_mean.map_or_else(|| "-".into(), |mean| Cell::Figure(mean, 1)),
    ]
}

fn use_of_machines(step: &StepResult) -> String {
    let mut text = format!("client {} cores", short(step.client_cpu_cores));
    if let Some(cores) = step.server_cpu_cores {
        let _ = write!(text, "; server {} cores", short(cores));
    }
    if let Some(micros) = step.server_cpu_us_per_item {
        let _ = write!(text, ", {} us of them an item", short(micros));
    }
    if let Some(bytes) = step.server_rss_bytes {
        let _ = write!(text, ", {} MiB at most", bytes >> 20);
    }
    text
}

fn errors(step: &StepResult) -> Vec<String> {
    let with_errors = step.loads.iter().filter(|load| !load.errors.is_empty());
    let line = |load: &LoadResult| {
        let errors: Vec<_> = load.errors.iter().map(|(name, count)| format!("{name} {count}")).collect();
        format!("errors of {}: {}", load.name, errors.join(", "))
    };
    with_errors.map(line).collect()
}

/// The outcome of a search, in a sentence.
pub(crate) fn found(search: &SearchResult) -> String {
    let mut bounds = Vec::new();
    if let Some(millis) = search.p99_ms_max {
        bounds.push(format!("p99 of {} ms at most", short(millis)));
    }
    if let Some(share) = search.goodput_min {
        bounds.push(format!("goodput of {} % at least", short(share * 100.0)));
    }
    let bounds = bounds.join(" and ");
    match (search.factor, search.at_limit) {
        (Some(factor), false) => format!("largest {} with {bounds}: x{}", search.of, short(factor)),
        (Some(factor), true) => format!("{bounds} still held at x{}, the most that was allowed", short(factor)),
        (None, _) => format!("{bounds} did not hold at the smallest load"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    #[test]
    fn one_load_is_printed_vertically_and_several_have_a_total() {
        let mut run = sample::run(1);
        assert!(text(&run).lines().any(|line| line.contains("  all  ")), "{}", text(&run));
        run.steps[0].loads.truncate(1);
        let upright = text(&run);
        assert!(upright.lines().any(|line| line.starts_with("p99_ms ")), "{upright}");
        assert!(!upright.contains("all"), "{upright}");
    }

    #[test]
    fn a_load_without_an_ok_answer_has_no_latency() {
        let mut run = sample::run(1);
        run.steps[0].loads.truncate(1);
        run.steps[0].loads[0].latency_us = None;
        let text = text(&run);
        for name in ["p50_ms", "p99_ms", "max_ms"] {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(name)).expect("a line");
            assert_eq!(line.split_whitespace().last(), Some("-"), "{text}");
        }
    }

    #[test]
    fn what_went_wrong_is_named() {
        let mut run = sample::run(3);
        run.expectations[0].met = false;
        let text = text(&run);
        for expected in
            ["errors of feeds: RESOURCE_EXHAUSTED", "x4: client", "largest streams with p99 of 50 ms at most", "resets 12"]
        {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert!(text.contains("expected goodput_min 0.9, found 0.95: NOT MET"), "{text}");
    }

    #[test]
    fn a_search_that_found_no_limit_says_which() {
        let mut search = sample::run(3).search.expect("a search");
        search.at_limit = true;
        assert!(found(&search).contains("still held at x2"));
        search.factor = None;
        assert!(found(&search).contains("did not hold"));
    }
}
