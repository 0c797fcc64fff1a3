//! The steps of a run: a single one, those of a ramp, or the probes of a search.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use tidemill::clock;
use tidemill_client::{
    Address, Tls,
    wire::inference::{ServerMetadataRequest, ServerMetadataResponse},
};

use super::{
    chaos::{self, Chaos, ChaosHandle},
    date,
    file::{Dimension, Expect, Load, Scenario, Search},
    native,
    progress::Progress,
    results::{
        ChaosResult, Expectation, FORMAT, LoadResult, Machine, Probe, RunResult, ScenarioFacts, SearchResult, ServerFacts,
        StepResult,
    },
    search::Bisection,
    step::{self, Place, loads_at},
};
use crate::target::{Means, connect_with};

/// How long a server may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a scenario, and shows how it is going.
///
/// # Errors
/// If the server cannot be reached, or refuses all streams of a load.
pub(crate) async fn run(
    scenario: &Scenario,
    server: Option<u32>,
    means: Means,
    progress: &mut Progress,
) -> anyhow::Result<RunResult> {
    let started = date::rfc_3339(clock::since_epoch(clock::now()));
    let is_http = |load: &Load| load.protocol.is_http();
    let Means { tls, credential } = means;
    let http = if scenario.loads.iter().any(is_http) { Some(resolve(&scenario.http_addr).await?) } else { None };
    if credential.is_some() && tls.is_none() && http.is_some_and(|address| !address.ip().to_canonical().is_loopback()) {
        bail!("the key is not sent to {}: the connection is not encrypted; use --tls", scenario.http_addr);
    }
    let tls = tls.map(|tls| Tls { host: host_of(&scenario.addr), ..tls });
    let place = Place {
        grpc: if scenario.loads.iter().all(is_http) { None } else { Some(grpc_address(&scenario.addr).await?) },
        http,
        server,
        means: Means { tls, credential },
    };
    let chaos = start_chaos(scenario, &place).await?;
    let mut run = Run { scenario, place: place.clone(), progress, steps: Vec::new() };
    let mut search = None;
    if let Some(bounds) = &scenario.search {
        search = Some(run.look_for(bounds).await?);
    } else if let Some(ramp) = &scenario.ramp {
        for factor in &ramp.factors {
            run.step(ramp.of, *factor).await?;
        }
    } else {
        run.step(Dimension::Streams, 1.0).await?;
    }
    let steps = run.steps;
    let version = server_version(&place).await;
    let chaos = match chaos {
        Some(chaos) => Some(told(&chaos.finish().await?)),
        None => None,
    };
    let expectations = scenario.expect.as_ref().map(|expect| expectations(expect, &steps)).unwrap_or_default();
    Ok(RunResult {
        format: FORMAT,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        scenario: facts(scenario),
        machine: Machine::here(),
        server: ServerFacts {
            addr: scenario.addr.clone(),
            http_addr: place.http.map(|_| scenario.http_addr.clone()),
            pid: server,
            version,
        },
        steps,
        search,
        chaos,
        expectations,
    })
}

/// The host of `HOST:PORT`, which a server's certificate must be for.
fn host_of(address: &str) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    Some(host.trim_matches(['[', ']']).to_owned())
}

/// Where gRPC goes: a Unix socket, or what the system finds.
async fn grpc_address(address: &str) -> anyhow::Result<Address> {
    if address.starts_with("unix:") {
        return Ok(address.parse()?);
    }
    Ok(Address::try_from(resolve(address).await?)?)
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(address).await.with_context(|| format!("address '{address}', wanted HOST:PORT"))?;
    found.next().with_context(|| format!("address '{address}' cannot be resolved"))
}

/// Asked for over the gRPC form of the Open Inference Protocol; none if there is no gRPC, or the server does not say.
async fn server_version(place: &Place) -> Option<String> {
    let ask = async {
        let channel = connect_with(place.grpc.as_ref()?, 1, &place.means).await.ok()?.pop()?;
        let metadata = channel.open_inference().server_metadata(ServerMetadataRequest::default()).await.ok()?;
        let ServerMetadataResponse { name, version, .. } = metadata.into_inner();
        Some(format!("{name} {version}"))
    };
    tokio::time::timeout(VERSION_TIMEOUT, ask).await.ok().flatten()
}

/// Clients that misbehave do so during the whole run, with the items of the first native load that has any.
async fn start_chaos(scenario: &Scenario, place: &Place) -> anyhow::Result<Option<ChaosHandle>> {
    let native = scenario.loads.iter().find(|load| load.has_native_items());
    let (Some(plan), Some(load)) = (&scenario.chaos, native) else { return Ok(None) };
    // They cut connections of TCP.
    let grpc = resolve(&scenario.addr).await?;
    let item = native::Template::new(load, scenario.seed).item(0);
    let place = chaos::Place { grpc, http: place.http, model: load.model.clone(), item };
    Ok(Some(Chaos::start(plan, place, scenario.seed).await?))
}

/// The misbehaving clients' results, in their written form.
fn told(chaos: &chaos::ChaosResult) -> ChaosResult {
    let made = chaos.kinds.iter().map(|(kind, met)| (kind.label().to_owned(), met.done + met.refused)).collect();
    ChaosResult { made, findings: chaos.surprises() }
}

/// A run in progress.
struct Run<'a> {
    scenario: &'a Scenario,
    place: Place,
    progress: &'a mut Progress,
    steps: Vec<StepResult>,
}

impl Run<'_> {
    async fn step(&mut self, of: Dimension, factor: f64) -> anyhow::Result<&StepResult> {
        let loads = loads_at(self.scenario, of, factor);
        let label = match self.steps.len() {
            0 if factor == 1.0 => self.scenario.name.clone(),
            _ => format!("{} x{factor:.3}", self.scenario.name),
        };
        self.progress.begin(&label, self.scenario.duration());
        let watch = |elapsed, tally: &_| self.progress.tell(elapsed, tally);
        let step = step::run(self.scenario, &self.place, factor, loads, watch).await?;
        let place = self.steps.len();
        self.steps.push(step);
        Ok(&self.steps[place])
    }

    async fn look_for(&mut self, bounds: &Search) -> anyhow::Result<SearchResult> {
        let scenario = self.scenario;
        let streams = |factor| loads_at(scenario, bounds.of, factor).iter().map(|load| load.streams).collect::<Vec<_>>();
        let is_new = |middle, low, high| {
            bounds.of == Dimension::Rate || (streams(middle) != streams(low) && streams(middle) != streams(high))
        };
        let mut search = Bisection::new(bounds.from, bounds.to, bounds.precision, bounds.confirmations);
        let mut probes = Vec::new();
        while let Some(factor) = search.next(is_new) {
            let why = broken_bounds(bounds, self.step(bounds.of, factor).await?);
            search.tell(factor, why.is_empty());
            probes.push(Probe { factor, held: why.is_empty(), why });
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
}

/// Which bounds a step broke; empty if it kept them. Each load has to keep them on its own: many items of one must not hide another.
fn broken_bounds(bounds: &Search, step: &StepResult) -> String {
    let mut broken = Vec::new();
    for load in &step.loads {
        match p99_ms(load) {
            None => broken.push(format!("{}: no answer was ok", load.name)),
            Some(p99_ms) if p99_ms > bounds.p99_ms_max => {
                broken.push(format!("{}: p99 {p99_ms:.1} ms, at most {} ms", load.name, bounds.p99_ms_max));
            }
            Some(_) => {}
        }
        // Items that are not answered have no latency.
        if load.goodput_share < bounds.goodput_min {
            broken.push(format!("{}: goodput {:.4}, at least {}", load.name, load.goodput_share, bounds.goodput_min));
        }
    }
    broken.join("; ")
}

fn p99_ms(load: &LoadResult) -> Option<f64> {
    load.latency_us.as_ref().map(|times| times.p99 as f64 / 1e3)
}

/// Each bound, against the worst step.
fn expectations(expect: &Expect, steps: &[StepResult]) -> Vec<Expectation> {
    let largest = |figure: fn(&StepResult) -> f64| Some(steps.iter().map(figure).fold(0.0, f64::max));
    let at_most = |name: &str, bound: Option<f64>, found: Option<f64>| {
        let met = |bound| found.is_some_and(|found| found <= bound);
        bound.map(|bound| Expectation { name: name.to_owned(), bound, found, met: met(bound) })
    };
    let p99s: Option<Vec<f64>> = steps.iter().map(|step| p99_ms(&step.total)).collect();
    let goodput = steps.iter().map(|step| step.total.goodput_share).fold(1.0, f64::min);
    let at_least =
        |bound: f64| Expectation { name: "goodput_min".to_owned(), bound, found: Some(goodput), met: goodput >= bound };
    let count = |bound: Option<u64>| bound.map(|bound| bound as f64);
    let found = [
        at_most("errors_max", count(expect.errors_max), largest(|step| step.total.errors_total() as f64)),
        expect.goodput_min.map(at_least),
        at_most("p99_ms_max", expect.p99_ms_max, p99s.map(|p99s| p99s.into_iter().fold(0.0, f64::max))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limit::{EchoServer, Reply},
        load::results::Percentiles,
        stage::Stage,
    };

    fn step(p99_us: impl Into<Option<u64>>, goodput_share: f64, errors: u64) -> StepResult {
        let p99_us = p99_us.into();
        let load = LoadResult {
            name: "a".to_owned(),
            goodput_share,
            latency_us: p99_us.map(|p99| Percentiles { p99, ..Percentiles::default() }),
            errors: [("INTERNAL".to_owned(), errors)].into(),
            ..LoadResult::default()
        };
        StepResult { loads: vec![load.clone()], total: load, ..StepResult::default() }
    }

    #[test]
    fn a_step_breaks_a_bound_by_latency_or_by_goodput() {
        let bounds = Search {
            of: Dimension::Streams,
            p99_ms_max: 50.0,
            goodput_min: 0.99,
            from: 1.0,
            to: 2.0,
            precision: 0.1,
            confirmations: 0,
        };
        assert_eq!(broken_bounds(&bounds, &step(50_000, 0.99, 0)), "");
        assert_eq!(broken_bounds(&bounds, &step(50_100, 1.0, 0)), "a: p99 50.1 ms, at most 50 ms");
        assert_eq!(broken_bounds(&bounds, &step(1_000, 0.5, 0)), "a: goodput 0.5000, at least 0.99");
        let lenient = Search { goodput_min: 0.0, ..bounds };
        assert_eq!(broken_bounds(&lenient, &step(None, 0.0, 3)), "a: no answer was ok");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_has_a_version_is_asked_for_it() {
        let place = |grpc: Option<SocketAddr>| {
            let grpc = grpc.map(|address| Address::try_from(address).expect("an address"));
            Place { grpc, http: None, server: None, means: Means::default() }
        };
        let stage = Stage::start(1, &[], |_| {}).await.expect("it starts");
        let expected = format!("tidemill {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(server_version(&place(Some(stage.grpc_addr()))).await, Some(expected));
        let echo = EchoServer::start(Reply::Item, None).await.expect("it starts");
        assert_eq!(server_version(&place(Some(echo.address))).await, None, "it does not speak the protocol");
        assert_eq!(server_version(&place(None)).await, None);
    }

    #[test]
    fn without_an_ok_answer_no_bound_on_latency_is_held() {
        let expect = Expect { p99_ms_max: Some(10.0), ..Expect::default() };
        let found = expectations(&expect, &[step(9_000, 1.0, 0), step(None, 0.0, 3)]);
        assert_eq!((found[0].found, found[0].met), (None, false));
    }

    #[test]
    fn expectations_are_of_the_worst_step() {
        let expect = Expect { errors_max: Some(3), goodput_min: Some(0.9), p99_ms_max: Some(10.0), unanswered_max: None };
        let found = expectations(&expect, &[step(9_000, 0.95, 0), step(11_000, 0.9, 3)]);
        let met: Vec<_> = found.iter().map(|expectation| (expectation.name.as_str(), expectation.met)).collect();
        assert_eq!(met, [("errors_max", true), ("goodput_min", true), ("p99_ms_max", false)]);
    }

    #[test]
    fn a_factor_multiplies_streams_or_the_rate() {
        let text = "version = 1\nname = 'x'\nduration_s = 1\n[[loads]]\nname = 'a'\nprotocol = 'feed'\nmodel = 'm'\nstreams = 3\n\
                    arrivals = { process = 'poisson', rate_hz = 5 }\ninputs = [{ name = 'x', datatype = 'FP32', shape = [4] }]\n";
        let scenario = Scenario::parse(text, &[]).expect("sound");
        let streams = |factor| loads_at(&scenario, Dimension::Streams, factor)[0].streams;
        assert_eq!([0.01, 0.5, 1.0, 2.5].map(streams), [1, 2, 3, 8]);
        let faster = loads_at(&scenario, Dimension::Rate, 2.0);
        assert_eq!((faster[0].streams, faster[0].arrivals), (3, scenario.loads[0].arrivals.faster(2.0)));
    }
}
