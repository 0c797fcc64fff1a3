//! A run as a self-contained page: no scripts, no network. All text is escaped.

use std::fmt::Write as _;

use tidemill_plot::{Chart, STYLE, escape, short};

use super::{
    charts,
    results::{LoadResult, Percentiles, RunResult, StepResult},
    summary,
};

const PAGE_STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#222;--faint:#667;--grid:#e2e2e6;--good:#087f5b;--bad:#c92a2a}\
@media(prefers-color-scheme:dark){:root{--paper:#16181c;--ink:#d8dade;--faint:#9aa0a8;--grid:#33363c;--good:#38d9a9;--bad:#ff8787}}\
body{margin:2rem auto;max-width:84rem;padding:0 1rem;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
h1{margin-bottom:0}h2{margin-top:2rem}.faint{color:var(--faint)}.good{color:var(--good)}.bad{color:var(--bad)}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .55rem;border-bottom:1px solid var(--grid);text-align:right;vertical-align:bottom}td{white-space:nowrap}\
th:first-child,td:first-child,.words td,.words th{text-align:left}.words td{white-space:normal}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(34rem,100%),1fr));gap:1rem;margin-top:1.5rem}\
.charts svg{width:100%;height:auto}details{margin-top:1rem;border-top:1px solid var(--grid);padding-top:.5rem}\
summary{cursor:pointer;font-weight:600;font-size:1.1rem}";

/// The page.
pub(crate) fn page(run: &RunResult) -> String {
    let mut page = String::new();
    begin(&mut page, run);
    verdict(&mut page, run);
    page += "<h2>Loads</h2>\n";
    loads(&mut page, run);
    if run.steps.len() > 1 {
        page += "<h2>Steps</h2>\n";
        steps(&mut page, &run.steps);
        figures(&mut page, &[charts::latency_by_throughput(run), charts::percentiles_of_steps(run)]);
    }
    details(&mut page, run);
    errors(&mut page, run);
    facts(&mut page, run);
    page + "</body>\n</html>\n"
}

fn begin(page: &mut String, run: &RunResult) {
    let (name, description, started) = (escape(&run.scenario.name), escape(&run.scenario.description), escape(&run.started));
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{name}</title>\n\
         <style>{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n<p>{description}</p>\n\
         <p class=\"faint\">{started} · {} s counted after {} s of warm-up · SLO {} ms</p>\n",
        run.scenario.duration_s, run.scenario.warm_up_s, run.scenario.slo_ms,
    );
}

fn verdict(page: &mut String, run: &RunResult) {
    if let Some(search) = &run.search {
        let _ = writeln!(page, "<p><strong>{}</strong></p>", escape(&summary::found(search)));
    }
    for expectation in &run.expectations {
        let (class, verdict) = if expectation.met { ("good", "met") } else { ("bad", "not met") };
        let name = escape(&expectation.name);
        let (bound, found) =
            (expectation.bound, expectation.found.map_or_else(|| "nothing".to_owned(), |found| found.to_string()));
        let _ = writeln!(page, "<p class=\"{class}\">Expected {name} {bound}, found {found}: {verdict}</p>");
    }
    if let Some(chaos) = &run.chaos {
        let made: Vec<_> = chaos.made.iter().map(|(name, count)| format!("{} {count}", escape(name))).collect();
        let _ = writeln!(page, "<p>Chaos: {}</p>", made.join(", "));
        for finding in &chaos.findings {
            let _ = writeln!(page, "<p>{}</p>", escape(finding));
        }
    }
}

fn loads(page: &mut String, run: &RunResult) {
    let several = run.steps.len() > 1;
    let mut columns = vec![
        "load",
        "protocol",
        "model",
        "streams",
        "offered/s",
        "ok/s",
        "good/s",
        "good",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "errors",
        "unanswered",
        "late sends",
        "queue p50 ms",
        "call p50 ms",
        "batch",
    ];
    if several {
        columns.insert(0, "factor");
    }
    let mut rows = Vec::new();
    for step in &run.steps {
        // If there is only one load, the total says the same.
        let total = (step.loads.len() != 1).then_some(&step.total);
        for load in step.loads.iter().chain(total) {
            let factor = several.then(|| format!("x{}", short(step.factor)));
            rows.push(factor.into_iter().chain(load_cells(step, load)).collect());
        }
    }
    table(page, "", &columns, &rows);
}

fn load_cells(step: &StepResult, load: &LoadResult) -> [String; 19] {
    [
        load.name.clone(),
        load.protocol.clone(),
        load.model.clone(),
        load.streams.to_string(),
        short(load.offered as f64 / step.duration_s.max(f64::MIN_POSITIVE)),
        short(load.throughput_hz),
        short(load.goodput_hz),
        format!("{:.2} %", load.goodput_share * 100.0),
        of(&load.latency_us, |times| times.p50),
        of(&load.latency_us, |times| times.p90),
        of(&load.latency_us, |times| times.p99),
        of(&load.latency_us, |times| times.p999),
        of(&load.latency_us, |times| times.max),
        load.errors_total().to_string(),
        load.unanswered.to_string(),
        load.late_sends.to_string(),
        of(&load.queue_us, |times| times.p50),
        of(&load.compute_us, |times| times.p50),
        or_dash(load.batch_size_mean.map(|mean| format!("{mean:.1}"))),
    ]
}

/// In milliseconds, if there were any.
fn of(times: &Option<Percentiles>, value: fn(&Percentiles) -> u64) -> String {
    or_dash(times.as_ref().map(|times| millis(value(times))))
}

fn steps(page: &mut String, steps: &[StepResult]) {
    let columns = [
        "factor",
        "streams",
        "offered/s",
        "ok/s",
        "good",
        "p50 ms",
        "p99 ms",
        "client cores",
        "server cores",
        "server µs an item",
        "server MiB",
    ];
    let cells = |step: &StepResult| {
        vec![
            format!("x{}", short(step.factor)),
            step.streams.to_string(),
            short(step.offered_hz),
            short(step.total.throughput_hz),
            format!("{:.2} %", step.total.goodput_share * 100.0),
            of(&step.total.latency_us, |times| times.p50),
            of(&step.total.latency_us, |times| times.p99),
            short(step.client_cpu_cores),
            or_dash(step.server_cpu_cores.map(short)),
            or_dash(step.server_cpu_us_per_item.map(short)),
            or_dash(step.server_rss_bytes.map(|bytes| (bytes >> 20).to_string())),
        ]
    };
    table(page, "", &columns, &steps.iter().map(cells).collect::<Vec<_>>());
}

/// The charts of each step; those of the last one are open.
fn details(page: &mut String, run: &RunResult) {
    let slo_ms = run.scenario.slo_ms;
    for (number, step) in run.steps.iter().enumerate() {
        let mut shown = vec![charts::percentiles_of_loads(step, slo_ms)];
        shown.extend(charts::over_time(step, slo_ms));
        if run.steps.len() == 1 {
            figures(page, &shown);
            continue;
        }
        let open = if number + 1 == run.steps.len() { " open" } else { "" };
        let _ = writeln!(page, "<details{open}><summary>x{}: {} streams</summary>", short(step.factor), step.streams);
        figures(page, &shown);
        *page += "</details>\n";
    }
}

fn errors(page: &mut String, run: &RunResult) {
    let mut rows = Vec::new();
    for step in &run.steps {
        for load in &step.loads {
            for (name, count) in &load.errors {
                let share = *count as f64 * 100.0 / load.offered.max(1) as f64;
                rows.push(vec![
                    name.clone(),
                    format!("x{}", short(step.factor)),
                    load.name.clone(),
                    count.to_string(),
                    format!("{share:.2} %"),
                ]);
            }
        }
    }
    *page += "<h2>Errors</h2>\n";
    if rows.is_empty() {
        *page += "<p>None.</p>\n";
        return;
    }
    table(page, "", &["code", "factor", "load", "count", "of those offered"], &rows);
}

fn facts(page: &mut String, run: &RunResult) {
    let (scenario, machine, server) = (&run.scenario, &run.machine, &run.server);
    let memory_gib = machine.memory_bytes as f64 / f64::from(1 << 30);
    let rows = [
        ("Load tool", run.tool_version.clone()),
        ("Server", server.version.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("Address", server.addr.clone()),
        ("HTTP address", or_dash(server.http_addr.clone())),
        ("Server's process", or_dash(server.pid.map(|pid| pid.to_string()))),
        ("Scenario", format!("format {}, seed {}, {} connections", scenario.version, scenario.seed, scenario.connections)),
        ("CPU", format!("{}, {} cores", machine.cpu_model, machine.cores)),
        ("Memory", format!("{memory_gib:.1} GiB")),
        ("Kernel", machine.kernel.clone()),
    ];
    *page += "<h2>Machine and versions</h2>\n";
    table(page, " class=\"words\"", &["what", "value"], &rows.map(|(what, value)| vec![what.to_owned(), value]));
}

fn figures(page: &mut String, charts: &[Chart]) {
    *page += "<div class=\"charts\">\n";
    for chart in charts {
        *page += &chart.inline();
    }
    *page += "</div>\n";
}

fn table(page: &mut String, class: &str, columns: &[&str], rows: &[Vec<String>]) {
    let _ = write!(page, "<div class=\"wide\"><table{class}>\n<thead><tr>");
    for column in columns {
        let _ = write!(page, "<th>{}</th>", escape(column));
    }
    *page += "</tr></thead>\n<tbody>\n";
    for row in rows {
        *page += "<tr>";
        for cell in row {
            let _ = write!(page, "<td>{}</td>", escape(cell));
        }
        *page += "</tr>\n";
    }
    *page += "</tbody></table></div>\n";
}

fn millis(micros: u64) -> String {
    short(micros as f64 / 1e3)
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "–".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    /// Each end tag must close the element that is open.
    fn assert_well_formed(page: &str) {
        const VOID: [&str; 1] = ["meta"];
        let mut open: Vec<&str> = Vec::new();
        for tag in page.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("a tag ends");
            let name = tag.trim_start_matches('/').split_whitespace().next().expect("a tag has a name").trim_end_matches('/');
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "in {tag}");
            } else if !tag.ends_with('/') && !tag.starts_with('!') && !VOID.contains(&name) {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn pages_are_well_formed_and_self_contained() {
        for steps in [1, 5] {
            let page = page(&sample::run(steps));
            assert_well_formed(&page);
            // The name of the SVG namespace is not an address that is fetched.
            let rest = page.replace("http://www.w3.org/2000/svg", "");
            for needed in ["http:", "https:", "<script", "<link", "<img", "@import", "url("] {
                assert!(!rest.contains(needed), "{needed}");
            }
        }
    }

    #[test]
    fn text_of_files_and_servers_cannot_become_markup() {
        let hostile = "<script>alert(1)</script>\"'&";
        let mut run = sample::run(3);
        for text in [
            &mut run.scenario.name,
            &mut run.scenario.description,
            &mut run.started,
            &mut run.tool_version,
            &mut run.machine.cpu_model,
            &mut run.machine.kernel,
            &mut run.server.addr,
            &mut run.expectations[0].name,
        ] {
            hostile.clone_into(text);
        }
        run.server.version = Some(hostile.to_owned());
        run.server.http_addr = Some(hostile.to_owned());
        let chaos = run.chaos.as_mut().expect("chaos");
        chaos.findings.push(hostile.to_owned());
        chaos.made.insert(hostile.to_owned(), 1);
        run.search.as_mut().expect("a search").of = hostile.to_owned();
        for load in run.steps.iter_mut().flat_map(|step| &mut step.loads) {
            hostile.clone_into(&mut load.name);
            hostile.clone_into(&mut load.model);
            hostile.clone_into(&mut load.protocol);
            load.errors.insert(hostile.to_owned(), 1);
        }
        let page = page(&run);
        assert!(!page.contains("<script"), "{page}");
        assert_well_formed(&page);
    }

    #[test]
    fn a_load_without_an_ok_answer_has_no_latency_and_no_curve() {
        let mut run = sample::run(1);
        let curves = page(&run).matches("<path class=\"line ").count();
        run.steps[0].loads[0].latency_us = None;
        let cells = load_cells(&run.steps[0], &run.steps[0].loads[0]);
        assert!(cells[8..13].iter().all(|cell| *cell == or_dash(None)), "{cells:?}");
        assert!(page(&run).matches("<path class=\"line ").count() < curves);
    }

    #[test]
    fn the_last_step_is_open() {
        let page = page(&sample::run(3));
        assert_eq!((page.matches("<details").count(), page.matches("<details open>").count()), (3, 1));
        assert!(page.find("<details open>") > page.rfind("<details><summary>"));
    }
}
