//! A report as plain text, for pipes and for `--once`.

use std::fmt;

use super::{
    super::printed::Record,
    cells::{Grid, bytes, count, details, listed, number, rate, seconds, share, uptime, wrapped},
    report::{CostFigures, LaneFigures, MethodFigures, Report, ServerFigures},
};

/// Where lists break.
const WIDTH: usize = 120;

impl Record for Report {
    const KIND: &'static str = "top";
}

/// The server, in two lines.
pub(super) fn summary(report: &Report) -> [String; 2] {
    let ServerFigures {
        version,
        uptime_s,
        cpu_cores,
        resident_bytes,
        connections_open,
        streams_open,
        streams_stalled,
        streams_unread,
        lanes_busy_share,
    } = &report.server;
    [
        format!(
            "tidemill {} at {}, up {}, cpu {}, memory {}",
            version.as_deref().unwrap_or("?"),
            report.admin,
            uptime(*uptime_s),
            share(*cpu_cores),
            bytes(*resident_bytes)
        ),
        format!(
            "lanes {} busy, streams {} open {} stalled {} unread, connections {}",
            share(*lanes_busy_share),
            count(*streams_open),
            count(*streams_stalled),
            count(*streams_unread),
            count(*connections_open)
        ),
    ]
}

/// The table of lanes.
pub(super) fn lane_grid(lanes: &[LaneFigures]) -> Grid {
    let row = |lane: &LaneFigures| [lane.lane.clone(), share(lane.busy_share), rate(lane.calls_per_s)];
    Grid::new(["lane", "busy", "calls/s"], lanes.iter().map(row))
}

/// The table of methods.
pub(super) fn method_grid(methods: &[MethodFigures]) -> Grid {
    let row = |method: &MethodFigures| {
        let faults_per_s = method.faults_per_s.values().copied().reduce(|sum, rate| sum + rate);
        let [open, stalled, unread] = [method.streams_open, method.streams_stalled, method.streams_unread].map(count);
        [method.method.clone(), open, stalled, unread, number(faults_per_s)]
    };
    Grid::new(["method", "open", "stall", "unread", "faults/s"], methods.iter().map(row))
}

/// Faults by kind, a line for each method that has any.
pub(super) fn fault_lines(methods: &[MethodFigures], width: usize) -> Vec<String> {
    let faulty = methods.iter().map(|method| (&method.method, listed(&method.faults_per_s, rate)));
    faulty.filter(|(_, faults)| !faults.is_empty()).flat_map(|(method, faults)| wrapped(method, &faults, width)).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = summary(self).to_vec();
        if self.interval_s.is_some() {
            lines.push(format!("rates and quantiles over {}", seconds(self.interval_s)));
        }
        add_grid(&mut lines, &Grid::of_models(&self.models, usize::MAX));
        for model in &self.models {
            let costs = model.costs.iter().map(cost).collect();
            let listed = details(model).into_iter().chain([("costs", costs)]).filter(|(_, entries)| !entries.is_empty());
            let listed: Vec<_> = listed.flat_map(|(label, entries)| wrapped(label, &entries, WIDTH)).collect();
            if !listed.is_empty() {
                lines.extend([String::new(), format!("{} {}", model.name, model.version)]);
                lines.extend(listed.into_iter().map(|line| format!("  {line}")));
            }
        }
        add_grid(&mut lines, &lane_grid(&self.lanes));
        add_grid(&mut lines, &method_grid(&self.methods));
        let faults = fault_lines(&self.methods, WIDTH);
        if !faults.is_empty() {
            lines.extend([String::new(), "FAULTS/S".to_owned()]);
            lines.extend(faults);
        }
        f.write_str(&lines.join("\n"))
    }
}

fn cost(cost: &CostFigures) -> String {
    format!("{}: {} ({} items/s)", cost.batch_size, seconds(Some(cost.call_s)), number(Some(cost.items_per_s)))
}

/// Adds a grid after an empty line.
fn add_grid(lines: &mut Vec<String>, grid: &Grid) {
    lines.extend([String::new(), grid.title_line().to_uppercase()]);
    lines.extend(grid.lines().map(|line| line.trim_end().to_owned()));
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;

    #[test]
    fn a_report_says_it_all_in_plain_text() {
        let text = report(false).to_string();
        for line in [
            "tidemill 0.1.0 at 127.0.0.1:9464, up 1h 02m, cpu 130%, memory 100 MiB",
            "lanes 50% busy, streams 13 open 3 stalled – unread, connections 3",
            "rates and quantiles over 2.0s",
            "vad 6",
            "  closed   knee 80%, lane_free 20%",
            "  drops/s  oldest 25.0",
            "  waits    high p50 5.0ms p99 9.9ms, low p50 15.0ms p99 19.9ms",
            "  costs    2: 500µs (4000 items/s), 16: 2.0ms (8000 items/s)",
            "LANE  BUSY  CALLS/S",
            "10    100%      2.0",
            "METHOD   OPEN  STALL  UNREAD  FAULTS/S",
            "feed       12      3       –      10.0",
            "FAULTS/S",
            "feed     expired 10.0",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
        }
        let row = text.lines().find(|line| line.starts_with("vad 6  ")).expect("the model's row");
        let cells: Vec<_> = row.split_whitespace().skip(2).collect();
        assert_eq!(cells.join(" "), "500 450 25.0 10.0 – – 40 16 11.0 12.5 16.0 50% 32 10.0ms 19.8ms 2.0ms 4.0ms 25%");
        assert!(!text.contains("\nmagika 1\n"), "nothing is shown for a model that has only its row\n{text}");
        assert!(!text.ends_with('\n') && !text.contains(" \n"), "{text}");
    }

    #[test]
    fn a_first_report_has_dashes_for_rates() {
        let text = report(true).to_string();
        assert!(text.contains("cpu –, memory 100 MiB\nlanes – busy, streams 13 open"), "{text}");
        assert!(!text.contains("rates and quantiles"), "{text}");
    }
}
