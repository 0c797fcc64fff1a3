//! Live sources: streams at the pace of their clocks, and how long after its moment each item is answered.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use futures::future::try_join_all;
use tidemill::clock;

use crate::{
    engine::BareEngine,
    feed::{Feed, LATE_AFTER},
    limit::Reply,
    pace::{LEAD, pace},
    report::{Cell, Report},
    schedule::{Schedule, agenda},
    stats::{Rounds, Samples},
    subject::{EngineArgs, Subject},
    target::{Place, Target},
    workload::Workload,
};

/// Lanes of the bare engine that is part of the composed limit.
const LANES: usize = 2;
/// Streams and window of the saturated arms that are part of the composed limit.
const SATURATION: (usize, u32) = (64, 8);
/// Time to open each stream, on top of what there is for all of them.
const OPENING_EACH: Duration = Duration::from_micros(500);
/// Steps of a search, relative to the streams that it has found.
const PRECISION: f64 = 0.04;

/// Measure latency from the scheduled moment of each item, on streams at the pace of live audio
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    #[command(flatten)]
    engine: EngineArgs,

    /// Streams; with --search, where it begins
    #[arg(long, default_value_t = 64)]
    streams: usize,

    /// Items per second of each stream; windows of 512 samples at 16 kHz come 31.25 times
    #[arg(long, default_value_t = 31.25)]
    rate: f64,

    /// Largest delay of an item at its source, in milliseconds
    #[arg(long, default_value_t = 8)]
    jitter_ms: u64,

    /// Seconds of load, in each step of a search
    #[arg(long, default_value_t = 10.0, value_parser = super::seconds)]
    seconds: f64,

    /// Find the largest number of streams whose p99 is within --p99-ms, and compare it with the limit composed of engine and bare echo
    #[arg(long)]
    search: bool,

    /// Bound of --search, in milliseconds
    #[arg(long, default_value_t = 50.0)]
    p99_ms: f64,

    /// Runs of the number that --search found; it holds if the median of their p99 does
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let subject = Subject::silero(args.engine.clone());
    let server = Target::tidemill(&args.place, |config| subject.configure(config)).await?;
    if args.search {
        return search(&args, &subject, &server).await;
    }
    let heard = step(&args, &server, args.streams).await?;
    let latency = &heard.latency;
    Ok(Report::single(vec![
        ("streams", Cell::Count(args.streams as u64)),
        ("items_per_s_offered", Cell::Figure(heard.offered as f64 / args.seconds, 1)),
        ("items_offered", Cell::Count(heard.offered)),
        ("items_answered", Cell::Count(latency.count())),
        ("p50_us", Cell::Figure(latency.quantile_ms(0.5) * 1e3, 0)),
        ("p99_us", Cell::Figure(latency.quantile_ms(0.99) * 1e3, 0)),
        ("p999_us", Cell::Figure(latency.quantile_ms(0.999) * 1e3, 0)),
        ("max_us", Cell::Figure(latency.quantile_ms(1.0) * 1e3, 0)),
        ("late_sends", Cell::Count(heard.late)),
        ("late_after_us", Cell::Count(LATE_AFTER.as_micros() as u64)),
    ]))
}

/// By doubling, then by halving the gap; the number found is run again, and lowered until it holds.
async fn search(args: &Args, subject: &Subject, server: &Target) -> anyhow::Result<Report> {
    let limit = Limit::measure(args, subject).await?;
    let mut steps = 0_u64;
    let mut holds = async |streams: usize| -> anyhow::Result<bool> {
        steps += 1;
        Ok(step(args, server, streams).await?.p99_ms() <= args.p99_ms)
    };
    let (mut good, mut bad) = (0, args.streams.max(1));
    while holds(bad).await? {
        (good, bad) = (bad, bad * 2);
        // If it holds far more than the limit says the machine can do, the limit is not a limit.
        if good as f64 > 2.0 * limit.streams(args.rate) {
            bail!("{good} streams hold, twice what engine and echo can do one after another; the limit is wrong");
        }
    }
    while bad - good > ((good as f64 * PRECISION) as usize).max(1) {
        let middle = good.midpoint(bad);
        if holds(middle).await? { good = middle } else { bad = middle }
    }
    let mut streams = good;
    let (p50, p99, late) = loop {
        if streams == 0 {
            bail!("not even one stream has its p99 within {} ms", args.p99_ms);
        }
        let [mut p50, mut p99] = std::array::from_fn(|_| Rounds::default());
        let mut late = 0;
        for _ in 0..args.rounds {
            let heard = step(args, server, streams).await?;
            p50.push(heard.latency.quantile_ms(0.5));
            p99.push(heard.p99_ms());
            late += heard.late;
        }
        if p99.median() <= args.p99_ms {
            break (p50, p99, late);
        }
        streams -= ((streams as f64 * PRECISION) as usize).max(1);
    };
    Ok(Report::single(vec![
        ("engine", args.engine.engine.label().into()),
        ("streams", Cell::Count(streams as u64)),
        ("p50_ms", Cell::Figure(p50.median(), 2)),
        ("p99_ms", Cell::Figure(p99.median(), 2)),
        ("p99_ms_max", Cell::Figure(args.p99_ms, 1)),
        ("late_sends", Cell::Count(late)),
        ("steps", Cell::Count(steps)),
        ("engine_batch", Cell::Count(limit.batch as u64)),
        ("engine_items_per_s", Cell::Figure(limit.engine.median(), 0)),
        ("echo_items_per_s", Cell::Figure(limit.echo.median(), 0)),
        ("limit_streams", Cell::Figure(limit.streams(args.rate), 1)),
        ("ratio_to_composed_limit", Cell::Figure(streams as f64 / limit.streams(args.rate), 3)),
    ]))
}

/// The rate that engine and transport can reach on the same cores.
struct Limit {
    batch: usize,
    engine: Rounds,
    echo: Rounds,
}

impl Limit {
    async fn measure(args: &Args, subject: &Subject) -> anyhow::Result<Self> {
        let engine = BareEngine::load(subject, LANES)?;
        let batch = engine.best_batch().await?;
        let workload = engine.workload();
        let echo =
            Target::echo(args.place.connections, Reply::Bytes(workload.output_bytes), args.place.encryption().as_ref()).await?;
        let (streams, window) = SATURATION;
        let duration = Duration::from_secs_f64(args.seconds.min(2.0));
        let mut limit = Self { batch, engine: Rounds::default(), echo: Rounds::default() };
        for _ in 0..args.rounds {
            limit.engine.push(engine.items_per_s(batch, duration).await?);
            limit.echo.push(echo.closed_loop(workload, streams, window, duration).await?);
        }
        Ok(limit)
    }

    /// Streams of `rate` items a second.
    fn streams(&self, rate: f64) -> f64 {
        1.0 / (1.0 / self.engine.median() + 1.0 / self.echo.median()) / rate
    }
}

/// The result for one number of streams.
struct Heard {
    offered: u64,
    /// From each item's moment to its answer. A late send counts as latency.
    latency: Samples,
    late: u64,
}

impl Heard {
    /// Infinite if some items were not even sent: a stream that falls behind is not read, and its last items stay with the client.
    fn p99_ms(&self) -> f64 {
        if self.latency.count() < self.offered { f64::INFINITY } else { self.latency.quantile_ms(0.99) }
    }
}

async fn step(args: &Args, server: &Target, streams: usize) -> anyhow::Result<Heard> {
    let workload = Workload::silero();
    let period = Duration::from_secs_f64(1.0 / args.rate);
    let jitter = Duration::from_millis(args.jitter_ms).min(period.mul_f64(0.9));
    let start = clock::now() + LEAD + OPENING_EACH * streams as u32;
    let end = start + Duration::from_secs_f64(args.seconds);
    let schedules: Vec<_> = (0..streams).map(|stream| Schedule::new(start, period, jitter, stream as u64)).collect();
    let opening =
        schedules.iter().enumerate().map(|(stream, schedule)| Feed::open(server.channel(stream), &workload, 64, Some(*schedule)));
    let feeds = try_join_all(opening).await?;
    let valves: Vec<_> = feeds.iter().map(|feed| Arc::clone(feed.valve())).collect();
    let agenda = agenda(&schedules, end);
    let offered = agenda.len() as u64;
    let listening: Vec<_> =
        feeds.into_iter().zip(schedules).map(|(feed, schedule)| tokio::spawn(listen(feed, schedule))).collect();
    let pacing = {
        let valves = valves.clone();
        // The runtime's timers tick in milliseconds, too coarse for what is measured.
        tokio::task::spawn_blocking(move || pace(&agenda, &valves))
    };
    pacing.await?;
    let mut latency = Samples::default();
    for heard in try_join_all(listening).await? {
        latency.add(&heard?);
    }
    let late = valves.iter().map(|valve| valve.late()).sum();
    Ok(Heard { offered, latency, late })
}

async fn listen(mut feed: Feed, schedule: Schedule) -> anyhow::Result<Samples> {
    let mut latency = Samples::default();
    while let Some(number) = feed.answer().await? {
        latency.record(clock::now().since(schedule.due(number)));
    }
    Ok(latency)
}
