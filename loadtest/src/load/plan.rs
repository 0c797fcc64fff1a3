//! What a run consists of: one step, the steps of a ramp, or the probes of a search.

use std::net::SocketAddr;

use anyhow::Context as _;

use super::{
    file::{Dimension, Expect, Load, Scenario, Search},
    results::{Expectation, FORMAT, Machine, Probe, RunResult, ScenarioFacts, SearchResult, ServerFacts, StepResult},
    search::Bisection,
    step::{self, Place, Progress, loads_at},
};

/// Runs a scenario; `watch` hears once a second how it goes.
///
/// # Errors
/// If the server cannot be reached, or refuses all streams of a load.
pub(crate) async fn run(scenario: &Scenario, server: Option<u32>, mut watch: impl FnMut(&Progress)) -> anyhow::Result<RunResult> {
    let is_http = |load: &Load| load.protocol.is_http();
    let place = Place {
        grpc: if scenario.loads.iter().all(is_http) { None } else { Some(resolve(&scenario.addr).await?) },
        http: if scenario.loads.iter().any(is_http) { Some(resolve(&scenario.http_addr).await?) } else { None },
        server,
    };
    let mut steps = Vec::new();
    let mut search = None;
    if let Some(bounds) = &scenario.search {
        search = Some(look_for(scenario, bounds, place, &mut steps, &mut watch).await?);
    } else if let Some(ramp) = &scenario.ramp {
        for factor in &ramp.factors {
            steps.push(step::run(scenario, place, *factor, loads_at(scenario, ramp.of, *factor), &mut watch).await?);
        }
    } else {
        steps.push(step::run(scenario, place, 1.0, scenario.loads.clone(), &mut watch).await?);
    }
    let expectations = scenario.expect.as_ref().map(|expect| expectations(expect, &steps)).unwrap_or_default();
    Ok(RunResult {
        format: FORMAT,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        started: String::new(),
        scenario: facts(scenario),
        machine: Machine::default(),
        server: ServerFacts {
            addr: scenario.addr.clone(),
            http_addr: place.http.map(|_| scenario.http_addr.clone()),
            pid: server,
            version: None,
        },
        steps,
        search,
        chaos: None,
        expectations,
    })
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(address).await.with_context(|| format!("address '{address}', wanted HOST:PORT"))?;
    found.next().with_context(|| format!("address '{address}' leads nowhere"))
}

async fn look_for(
    scenario: &Scenario,
    bounds: &Search,
    place: Place,
    steps: &mut Vec<StepResult>,
    mut watch: impl FnMut(&Progress),
) -> anyhow::Result<SearchResult> {
    let streams = |factor| loads_at(scenario, bounds.of, factor).iter().map(|load| load.streams).collect::<Vec<_>>();
    let is_new =
        |middle, low, high| bounds.of == Dimension::Rate || (streams(middle) != streams(low) && streams(middle) != streams(high));
    let mut search = Bisection::new(bounds.from, bounds.to, bounds.precision, bounds.confirmations);
    let mut probes = Vec::new();
    while let Some(factor) = search.next(is_new) {
        let step = step::run(scenario, place, factor, loads_at(scenario, bounds.of, factor), &mut watch).await?;
        let why = broken_bounds(bounds, &step);
        search.tell(factor, why.is_empty());
        probes.push(Probe { factor, held: why.is_empty(), why });
        steps.push(step);
    }
    let of = match bounds.of {
        Dimension::Streams => "streams",
        Dimension::Rate => "rate",
    };
    Ok(SearchResult {
        of: of.to_owned(),
        p99_ms_max: Some(bounds.p99_ms_max),
        goodput_min: Some(bounds.goodput_min),
        factor: search.largest(),
        at_limit: search.is_at_limit(),
        probes,
    })
}

/// Which bounds a step broke; empty if it held them. Each load has to hold them by itself: many items of one must not hide another.
fn broken_bounds(bounds: &Search, step: &StepResult) -> String {
    let mut broken = Vec::new();
    for load in &step.loads {
        let p99_ms = load.latency_us.p99 as f64 / 1e3;
        if p99_ms > bounds.p99_ms_max {
            broken.push(format!("{}: p99 {p99_ms:.1} ms, at most {} ms", load.name, bounds.p99_ms_max));
        }
        // Of items that are not answered there is no latency.
        if load.goodput_share < bounds.goodput_min {
            broken.push(format!("{}: goodput {:.4}, at least {}", load.name, load.goodput_share, bounds.goodput_min));
        }
    }
    broken.join("; ")
}

/// Each bound, against the worst step.
fn expectations(expect: &Expect, steps: &[StepResult]) -> Vec<Expectation> {
    let largest = |figure: fn(&StepResult) -> f64| steps.iter().map(figure).fold(0.0, f64::max);
    let at_most = |name: &str, bound: Option<f64>, found: f64| {
        bound.map(|bound| Expectation { name: name.to_owned(), bound, found, met: found <= bound })
    };
    let goodput = steps.iter().map(|step| step.total.goodput_share).fold(1.0, f64::min);
    let at_least = |bound: f64| Expectation { name: "goodput_min".to_owned(), bound, found: goodput, met: goodput >= bound };
    let count = |bound: Option<u64>| bound.map(|bound| bound as f64);
    let found = [
        at_most("errors_max", count(expect.errors_max), largest(|step| step.total.errors_total() as f64)),
        expect.goodput_min.map(at_least),
        at_most("p99_ms_max", expect.p99_ms_max, largest(|step| step.total.latency_us.p99 as f64 / 1e3)),
        at_most("unanswered_max", count(expect.unanswered_max), largest(|step| step.total.unanswered as f64)),
    ];
    found.into_iter().flatten().collect()
}

fn facts(scenario: &Scenario) -> ScenarioFacts {
    ScenarioFacts {
        name: scenario.name.clone(),
        description: scenario.description.clone(),
        version: scenario.version,
        seed: scenario.seed,
        connections: scenario.connections.into(),
        warm_up_s: scenario.warm_up().as_secs_f64(),
        duration_s: scenario.duration().as_secs_f64(),
        drain_s: scenario.drain().as_secs_f64(),
        slo_ms: scenario.slo_ms,
    }
}
