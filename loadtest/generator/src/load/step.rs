//! One step: all loads of a scenario, at one factor, from the first connection to the last answer.
//!
//! Spreads the streams over shards, gives all of them the same moment to begin, looks once a second at how it is going, and puts together
//! what the shards have counted. Knows nothing about ramps and searches.

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use futures::future::try_join_all;
use tidemill::{clock, domain::Timestamp, threads};
use tidemill_client::Address;
use tokio::sync::oneshot;

use super::{
    file::{Dimension, Load, Scenario},
    line::Book,
    recorder::{Recorder, RecorderPlan, Tally},
    results::{LoadResult, Second, StepResult},
    shard::{self, Opened, ShardPlan, Start},
    usage::{Meter, Used},
};
use crate::target::Means;

/// From when the last stream opens to the first moment at which an item may be due.
const LEAD: Duration = Duration::from_millis(200);

/// Where the load goes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `None` if no load speaks gRPC.
    pub(crate) grpc: Option<Address>,
    /// `None` if no load speaks HTTP.
    pub(crate) http: Option<SocketAddr>,
    /// The process to measure.
    pub(crate) server: Option<u32>,
    /// How to connect.
    pub(crate) means: Means,
}

/// The loads at a factor.
pub(crate) fn loads_at(scenario: &Scenario, of: Dimension, factor: f64) -> Vec<Load> {
    let scaled = |load: &Load| match of {
        Dimension::Streams => Load { streams: ((load.streams as f64 * factor).round() as usize).max(1), ..load.clone() },
        Dimension::Rate => Load { arrivals: load.arrivals.faster(factor), ..load.clone() },
    };
    scenario.loads.iter().map(scaled).collect()
}

/// Runs a step. Once a second, `watch` gets how long the counted time has lasted so far, and what has been counted.
///
/// # Errors
/// If a connection cannot be made, or if no stream of a load opens. What the server answers later is a result.
pub(crate) async fn run(
    scenario: &Scenario,
    place: &Place,
    factor: f64,
    loads: Vec<Load>,
    mut watch: impl FnMut(Duration, &Tally),
) -> anyhow::Result<StepResult> {
    let loads: Arc<[Load]> = loads.into();
    let shards = Shards::open(scenario, place, &loads).await?;
    // The meters start before the load, so that the first second has a beginning.
    let mut meters = Meters::new(place.server)?;
    let at = clock::now() + LEAD;
    let counts_from = at + scenario.warm_up();
    let counts = RecorderPlan { counts_from, ends: counts_from + scenario.duration(), slo: scenario.slo() };
    let running = shards.start(Start { at, counts });
    let follow = meters.follow(&counts, |elapsed| {
        let mut tally = Tally::default();
        for book in &running.books {
            tally.add(&book.tally());
        }
        watch(elapsed, &tally);
    });
    let seconds = follow.await;
    let recorders = running.finish().await?;
    put_together(scenario, factor, &loads, recorders, &seconds)
}

/// Threads that have opened their streams and wait for the start.
struct Shards {
    starts: Vec<oneshot::Sender<Start>>,
    running: Running,
}

/// Threads at work.
struct Running {
    books: Vec<Arc<Book>>,
    ended: Vec<oneshot::Receiver<anyhow::Result<Vec<Recorder>>>>,
}

impl Shards {
    async fn open(scenario: &Scenario, place: &Place, loads: &Arc<[Load]>) -> anyhow::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let connections = usize::from(scenario.connections);
        let of = cores.min(connections);
        let (mut starts, mut opening, mut ended, mut books) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for number in 0..of {
            let own: Vec<Arc<Book>> = loads.iter().map(|_| Arc::default()).collect();
            books.extend(own.iter().cloned());
            let plan = ShardPlan {
                number,
                of,
                loads: Arc::clone(loads),
                seed: scenario.seed,
                address: place.grpc.clone(),
                http_address: place.http,
                means: place.means.clone(),
                connections: connections / of + usize::from(number < connections % of),
                drain: scenario.drain(),
                books: own,
            };
            let (opened, is_open) = oneshot::channel();
            let (start, is_started) = oneshot::channel();
            let (end, is_ended) = oneshot::channel();
            thread::Builder::new().name(format!("load-{number}")).spawn(move || {
                // An item is sent when it is due, whatever the server is computing.
                threads::take_cores();
                // If the run has been given up, nothing waits any more.
                let _ = end.send(shard::run(plan, opened, is_started));
            })?;
            starts.push(start);
            opening.push(is_open);
            ended.push(is_ended);
        }
        let opened = try_join_all(opening).await.context("a shard ended while it opened its streams")?;
        let opened = opened.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        complain_of_closed(loads, &opened)?;
        Ok(Self { starts, running: Running { books, ended } })
    }

    fn start(self, start: Start) -> Running {
        for sender in self.starts {
            // A shard that has ended says so in its result.
            let _ = sender.send(start);
        }
        self.running
    }
}

impl Running {
    /// The counts, by shard and load.
    async fn finish(self) -> anyhow::Result<Vec<Vec<Recorder>>> {
        try_join_all(self.ended).await.context("a shard broke off")?.into_iter().collect()
    }
}

/// If nothing opens for a load, that is more likely a mistake in the file than a result.
fn complain_of_closed(loads: &[Load], opened: &[Opened]) -> anyhow::Result<()> {
    for (place, load) in loads.iter().enumerate() {
        let shards = || opened.iter().filter_map(|shard| shard.loads.get(place));
        if shards().any(|(open, _)| *open > 0) {
            continue;
        }
        let refusal = shards().find_map(|(_, refusal)| refusal.as_ref());
        let why = refusal.map(ToString::to_string);
        bail!("load '{}': no stream was opened: {}", load.name, why.unwrap_or_else(|| "no reason was given".to_owned()));
    }
    Ok(())
}

/// The server's and the client's use of the machine.
struct Meters {
    client: Meter,
    server: Option<Meter>,
}

/// One second of a step.
#[derive(Debug, Clone, Copy)]
struct UsedSecond {
    span: Duration,
    client: Used,
    server: Option<Used>,
}

impl Meters {
    fn new(server: Option<u32>) -> anyhow::Result<Self> {
        let server = server.map(Meter::new).transpose().context("--server")?;
        Ok(Self { client: Meter::new(std::process::id())?, server })
    }

    fn look(&mut self, span: Duration) -> UsedSecond {
        UsedSecond { span, client: self.client.look(), server: self.server.as_mut().map(Meter::look) }
    }

    /// Looks at each second's end until the step's.
    async fn follow(&mut self, counts: &RecorderPlan, mut watch: impl FnMut(Duration)) -> Vec<UsedSecond> {
        sleep_until(counts.counts_from).await;
        let mut last = clock::now();
        self.look(Duration::ZERO);
        watch(Duration::ZERO);
        let mut seconds = Vec::new();
        while last < counts.ends {
            let next = (counts.counts_from + Duration::from_secs(seconds.len() as u64 + 1)).min(counts.ends);
            sleep_until(next).await;
            let now = clock::now();
            seconds.push(self.look(now.since(last)));
            last = now;
            watch(now.since(counts.counts_from));
        }
        seconds
    }
}

async fn sleep_until(moment: Timestamp) {
    tokio::time::sleep(moment.since(clock::now())).await;
}

fn put_together(
    scenario: &Scenario,
    factor: f64,
    loads: &[Load],
    recorders: Vec<Vec<Recorder>>,
    seconds: &[UsedSecond],
) -> anyhow::Result<StepResult> {
    let mut of_loads: Vec<Option<Recorder>> = loads.iter().map(|_| None).collect();
    for (place, recorder) in recorders.into_iter().flat_map(|shard| shard.into_iter().enumerate()) {
        match &mut of_loads[place] {
            Some(sum) => sum.merge(recorder)?,
            none => *none = Some(recorder),
        }
    }
    let mut results = Vec::new();
    let mut total: Option<Recorder> = None;
    for (load, recorder) in loads.iter().zip(of_loads) {
        let recorder = recorder.ok_or_else(|| anyhow!("load '{}' was not counted", load.name))?;
        results.push(LoadResult {
            name: load.name.clone(),
            protocol: load.protocol.name().to_owned(),
            model: load.model.clone(),
            streams: load.streams as u64,
            ..recorder.load_result()
        });
        match &mut total {
            Some(total) => total.merge(recorder)?,
            none => *none = Some(recorder),
        }
    }
    let mut total = total.context("there is no load")?;
    let mut series = total.series();
    for (second, used) in series.iter_mut().zip(seconds) {
        fill_in(second, used);
    }
    let streams = loads.iter().map(|load| load.streams as u64).sum();
    let total = LoadResult { name: "total".to_owned(), streams, ..total.load_result() };
    let duration_s = scenario.duration().as_secs_f64();
    let measured_s = seconds.iter().map(|second| second.span.as_secs_f64()).sum::<f64>().max(f64::MIN_POSITIVE);
    let client_cpu: Duration = seconds.iter().map(|second| second.client.cpu).sum();
    let server: Option<Vec<Used>> = seconds.iter().map(|second| second.server).collect();
    let server_cpu_s = server.as_ref().map(|seconds| seconds.iter().map(|used| used.cpu.as_secs_f64()).sum::<f64>());
    // Those answered while the meter ran; under overload these are not those that were due in that time.
    let items = total.throughput_hz * duration_s * total.ok_items as f64 / total.ok.max(1) as f64;
    Ok(StepResult {
        factor,
        streams,
        offered_hz: total.offered as f64 / duration_s,
        duration_s,
        client_cpu_cores: client_cpu.as_secs_f64() / measured_s,
        server_cpu_cores: server_cpu_s.map(|cpu_s| cpu_s / measured_s),
        server_cpu_us_per_item: server_cpu_s.filter(|_| items > 0.0).map(|cpu_s| cpu_s * 1e6 / items),
        server_rss_bytes: server.and_then(|seconds| seconds.iter().map(|used| used.resident_bytes).max()),
        loads: results,
        total,
        series,
    })
}

fn fill_in(second: &mut Second, used: &UsedSecond) {
    let span_s = used.span.as_secs_f64().max(f64::MIN_POSITIVE);
    second.client_cpu = Some(used.client.cpu.as_secs_f64() / span_s);
    second.server_cpu = used.server.map(|server| server.cpu.as_secs_f64() / span_s);
    second.server_rss_bytes = used.server.map(|server| server.resident_bytes);
}
