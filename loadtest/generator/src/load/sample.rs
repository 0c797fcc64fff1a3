//! A plausible run, for tests of what is made from it.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use tidemill::domain::Timestamp;

use super::{
    recorder::{Answer, End, Recorder, RecorderPlan, Timing},
    results::{
        ChaosResult, Expectation, FORMAT, LoadResult, Machine, Probe, RunResult, ScenarioFacts, SearchResult, ServerFacts,
        StepResult,
    },
};

/// Seconds of a step.
const SECONDS: u64 = 20;

/// A run with this many steps, each with twice the load of the one before and two kinds of clients.
pub(crate) fn run(steps: u32) -> RunResult {
    RunResult {
        format: FORMAT,
        tool_version: "0.1.0".to_owned(),
        started: "2026-01-02T03:04:05Z".to_owned(),
        scenario: ScenarioFacts {
            name: "live-speech".to_owned(),
            description: "Feeds of speech alongside single calls".to_owned(),
            version: 1,
            seed: 1,
            connections: 8,
            warm_up_s: 1.0,
            duration_s: SECONDS as f64,
            drain_s: 10.0,
            slo_ms: 50.0,
        },
        machine: Machine { cpu_model: "A CPU".to_owned(), cores: 2, memory_bytes: 8 << 30, kernel: "6.1.0".to_owned() },
        server: ServerFacts {
            addr: "127.0.0.1:50051".to_owned(),
            http_addr: None,
            pid: Some(42),
            version: Some("tidemill 0.1.0".to_owned()),
        },
        steps: (0..steps).map(step).collect(),
        search: (steps > 2).then(|| SearchResult {
            of: "streams".to_owned(),
            p99_ms_max: Some(50.0),
            goodput_min: Some(0.99),
            factor: Some(2.0),
            at_limit: false,
            probes: vec![Probe { factor: 4.0, held: false, why: "p99 of 71 ms is above 50 ms".to_owned() }],
        }),
        chaos: (steps > 2).then(|| ChaosResult {
            made: BTreeMap::from([("resets".to_owned(), 12)]),
            findings: vec!["every stream that was reset could be opened again".to_owned()],
        }),
        expectations: vec![Expectation { name: "goodput_min".to_owned(), bound: 0.9, found: Some(0.95), met: true }],
    }
}

fn step(number: u32) -> StepResult {
    let factor = 2_f64.powi(number.cast_signed());
    let mut parts = vec![("feeds", "feed", part(1, factor)), ("calls", "predict", part(2, factor / 4.0))];
    let loads: Vec<_> = parts.iter().map(|(name, protocol, recorder)| load(name, protocol, factor, recorder)).collect();
    let (_, _, mut all) = parts.remove(0);
    for (_, _, other) in parts {
        all.merge(other).expect("one plan");
    }
    let mut series = all.series();
    for second in &mut series {
        second.server_cpu = Some(0.4 * factor.sqrt() + 0.05 * (second.t_s % 3) as f64);
        second.client_cpu = Some(0.2 * factor.sqrt());
        second.server_rss_bytes = Some((100 + second.t_s) << 20);
    }
    let total = LoadResult { protocol: String::new(), model: String::new(), ..load("all", "", factor * 2.0, &all) };
    StepResult {
        factor,
        streams: total.streams,
        offered_hz: total.offered as f64 / SECONDS as f64,
        duration_s: SECONDS as f64,
        loads,
        total,
        series,
        client_cpu_cores: 0.2 * factor.sqrt(),
        server_cpu_cores: Some(0.4 * factor.sqrt()),
        server_cpu_us_per_item: Some(123.4),
        server_rss_bytes: Some(119 << 20),
    }
}

fn load(name: &str, protocol: &str, streams: f64, recorder: &Recorder) -> LoadResult {
    LoadResult {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        model: "silero-vad".to_owned(),
        streams: (streams * 16.0) as u64,
        ..recorder.load_result()
    }
}

fn part(seed: u64, factor: f64) -> Recorder {
    let start = Timestamp::ZERO + Duration::from_secs(1);
    let plan = RecorderPlan { counts_from: start, ends: start + Duration::from_secs(SECONDS), slo: Duration::from_millis(50) };
    let mut recorder = Recorder::new(&plan).expect("sound bounds");
    let mut rng = fastrand::Rng::with_seed(seed);
    let count = (100.0 * factor) as u64 * SECONDS;
    for number in 0..count {
        let due = start + Duration::from_nanos(SECONDS * 1_000_000_000 / count * number);
        recorder.offered(due);
        recorder.sent(due, due + Duration::from_micros(rng.u64(0..1500)));
        let latency = Duration::from_secs_f64(0.004 * factor.sqrt() * (1.0 / (1.0 - rng.f64() * 0.9999)).powf(0.4));
        let is_shed = rng.f64() < 0.01 * factor;
        let end = if is_shed { End::Error(Cow::Borrowed("RESOURCE_EXHAUSTED")) } else { End::Outputs };
        let timing = Timing { queue: latency / 4, compute: latency / 2, age: latency * 9 / 10, batch_size: rng.u32(1..9) };
        recorder.answered(due, due + latency, &Answer { seq: number, end, timing: (!is_shed).then_some(timing), items: 1 });
    }
    recorder
}
