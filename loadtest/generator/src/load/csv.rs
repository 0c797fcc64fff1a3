//! A run as comma-separated values (RFC 4180): one table of seconds, one of steps and their loads. Names carry units.

use super::results::{LoadResult, Percentiles, RunResult, StepResult};

const SECONDS: [&str; 16] = [
    "step",
    "factor",
    "t_s",
    "span_s",
    "offered",
    "ok",
    "good",
    "errors",
    "p50_us",
    "p99_us",
    "batch_size_mean",
    "server_cpu_cores",
    "client_cpu_cores",
    "server_rss_bytes",
    "in_flight",
    "load",
];

const STEPS: [&str; 36] = [
    "step",
    "factor",
    "load",
    "protocol",
    "model",
    "streams",
    "duration_s",
    "offered",
    "sent",
    "answered",
    "ok",
    "ok_items",
    "errors",
    "unanswered",
    "late_sends",
    "late_p99_us",
    "throughput_hz",
    "goodput_hz",
    "goodput_share",
    "latency_min_us",
    "latency_p50_us",
    "latency_p90_us",
    "latency_p99_us",
    "latency_p999_us",
    "latency_max_us",
    "latency_mean_us",
    "age_p50_us",
    "age_p99_us",
    "queue_p50_us",
    "queue_p99_us",
    "compute_p50_us",
    "compute_p99_us",
    "batch_size_mean",
    "client_cpu_cores",
    "server_cpu_cores",
    "server_rss_bytes",
];

/// One row per second of each step. Seconds are for all loads together.
pub(crate) fn seconds(run: &RunResult) -> String {
    let mut table = header(&SECONDS);
    for (number, step) in run.steps.iter().enumerate() {
        for second in &step.series {
            row(
                &mut table,
                &[
                    number.to_string(),
                    step.factor.to_string(),
                    second.t_s.to_string(),
                    second.span_s.to_string(),
                    second.offered.to_string(),
                    second.ok.to_string(),
                    second.good.to_string(),
                    second.errors.to_string(),
                    or_empty(second.p50_us),
                    or_empty(second.p99_us),
                    or_empty(second.batch_size_mean),
                    or_empty(second.server_cpu),
                    or_empty(second.client_cpu),
                    or_empty(second.server_rss_bytes),
                    second.in_flight.to_string(),
                    step.total.name.clone(),
                ],
            );
        }
    }
    table
}

/// For each step, one row per load and one for all of them.
pub(crate) fn steps(run: &RunResult) -> String {
    let mut table = header(&STEPS);
    for (number, step) in run.steps.iter().enumerate() {
        for load in step.loads.iter().chain([&step.total]) {
            row(&mut table, &load_cells(number, step, load));
        }
    }
    table
}

fn load_cells(number: usize, step: &StepResult, load: &LoadResult) -> [String; STEPS.len()] {
    let of = |times: &Option<Percentiles>, value: fn(&Percentiles) -> u64| or_empty(times.as_ref().map(value));
    [
        number.to_string(),
        step.factor.to_string(),
        load.name.clone(),
        load.protocol.clone(),
        load.model.clone(),
        load.streams.to_string(),
        step.duration_s.to_string(),
        load.offered.to_string(),
        load.sent.to_string(),
        load.answered.to_string(),
        load.ok.to_string(),
        load.ok_items.to_string(),
        load.errors_total().to_string(),
        load.unanswered.to_string(),
        load.late_sends.to_string(),
        load.late_p99_us.to_string(),
        load.throughput_hz.to_string(),
        load.goodput_hz.to_string(),
        load.goodput_share.to_string(),
        of(&load.latency_us, |times| times.min),
        of(&load.latency_us, |times| times.p50),
        of(&load.latency_us, |times| times.p90),
        of(&load.latency_us, |times| times.p99),
        of(&load.latency_us, |times| times.p999),
        of(&load.latency_us, |times| times.max),
        or_empty(load.latency_us.as_ref().map(|times| times.mean)),
        of(&load.age_us, |times| times.p50),
        of(&load.age_us, |times| times.p99),
        of(&load.queue_us, |times| times.p50),
        of(&load.queue_us, |times| times.p99),
        of(&load.compute_us, |times| times.p50),
        of(&load.compute_us, |times| times.p99),
        or_empty(load.batch_size_mean),
        step.client_cpu_cores.to_string(),
        or_empty(step.server_cpu_cores),
        or_empty(step.server_rss_bytes),
    ]
}

fn header(columns: &[&str]) -> String {
    columns.join(",") + "\r\n"
}

fn or_empty<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn row(table: &mut String, cells: &[String]) {
    for (place, cell) in cells.iter().enumerate() {
        if place > 0 {
            table.push(',');
        }
        if cell.contains(['"', ',', '\r', '\n']) {
            table.push('"');
            table.push_str(&cell.replace('"', "\"\""));
            table.push('"');
        } else {
            table.push_str(cell);
        }
    }
    table.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    /// The cells of a table, read according to RFC 4180.
    fn parse(text: &str) -> Vec<Vec<String>> {
        let (mut rows, mut row, mut cell, mut is_quoted) = (Vec::new(), Vec::new(), String::new(), false);
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '"' if is_quoted && characters.peek() == Some(&'"') => cell.extend(characters.next()),
                '"' => is_quoted = !is_quoted,
                ',' if !is_quoted => row.push(std::mem::take(&mut cell)),
                '\r' if !is_quoted => assert_eq!(characters.peek(), Some(&'\n')),
                '\n' if !is_quoted => {
                    row.push(std::mem::take(&mut cell));
                    rows.push(std::mem::take(&mut row));
                }
                other => cell.push(other),
            }
        }
        assert!(!is_quoted && cell.is_empty() && row.is_empty(), "the last line is whole");
        rows
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let run = sample::run(3);
        for (table, rows) in [(seconds(&run), 3 * 20), (steps(&run), 3 * 3)] {
            let table = parse(&table);
            assert_eq!(table.len(), rows + 1);
            assert!(table.iter().all(|row| row.len() == table[0].len()), "{table:?}");
        }
    }

    fn cell(table: &[Vec<String>], row: usize, name: &str) -> String {
        let column = table[0].iter().position(|column| column == name).expect("a column");
        table[row][column].clone()
    }

    #[test]
    fn a_load_without_an_ok_answer_has_no_latency() {
        let mut run = sample::run(1);
        run.steps[0].loads[0].latency_us = None;
        let table = parse(&steps(&run));
        for name in ["latency_min_us", "latency_p99_us", "latency_mean_us"] {
            assert_eq!((cell(&table, 1, name).as_str(), cell(&table, 2, name).is_empty()), ("", false), "{name}");
        }
    }

    #[test]
    fn cells_are_under_their_names_and_keep_separators() {
        let mut run = sample::run(1);
        run.steps[0].loads[0].name = "a, \"b\"\r\nc".to_owned();
        let table = parse(&steps(&run));
        let load = &run.steps[0].loads[0];
        let cell = |name: &str| cell(&table, 1, name);
        assert_eq!(cell("load"), load.name);
        assert_eq!(cell("errors"), load.errors_total().to_string());
        assert_eq!(cell("latency_p99_us"), or_empty(load.latency_us.as_ref().map(|times| times.p99)));
        assert_eq!(cell("server_rss_bytes"), or_empty(run.steps[0].server_rss_bytes));
    }
}
