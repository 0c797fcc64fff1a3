//! Whether streams, tenants and priorities get their shares, and whether a flood or a slow stream gets in the way of others.

use std::time::Duration;

use tidemill_client::wire::v1::{self, feed_request::Message};
use tonic::metadata::MetadataMap;

use super::{live_plan, live_plans};
use crate::{
    crowd::{Beat, Flood, Latency, Tally, WARM_UP, paced},
    feed::FeedPlan,
    findings::{Findings, Wanted, jain_index},
    report::Report,
    stage::{Blocker, Stage},
    workload::item,
};

const LANES: usize = 4;
const TENANT_METADATA: &str = "x-tenant";
/// Windows of the saturating streams, whose shares must still be equal.
const WINDOWS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// How long a priority that has work may be passed over.
const STARVATION_MAX: Duration = tidemill::scheduler::STARVATION_MAX;

/// Measure shares and latencies of streams, tenants and priorities alongside each other
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure; all of it by default
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,

    /// Seconds of load in each arm of a round
    #[arg(long, default_value_t = 3.0, value_parser = super::seconds)]
    seconds: f64,

    /// Rounds of the arms that are compared
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Saturating streams with windows of 1 to 64
    Windows,
    /// Slow live streams next to a flood
    Flood,
    /// Live streams next to one whose items are a hundred times as slow
    Slow,
    /// A tenant with one stream next to one with twenty
    Tenants,
    /// High, normal and low
    Priorities,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let mut findings = Findings::new();
    let wanted = |part| args.part.is_empty() || args.part.contains(&part);
    let duration = Duration::from_secs_f64(args.seconds);
    if wanted(Part::Windows) {
        windows(&mut findings, duration).await?;
    }
    if wanted(Part::Flood) {
        flood(&mut findings, duration, args.rounds).await?;
    }
    if wanted(Part::Slow) {
        slow(&mut findings, duration, args.rounds).await?;
    }
    if wanted(Part::Tenants) {
        tenants(&mut findings, duration).await?;
    }
    if wanted(Part::Priorities) {
        priorities(&mut findings, duration, args.rounds).await?;
    }
    Ok(findings.report())
}

fn flood_plan(model: &str, window_items: u32) -> FeedPlan {
    let open = v1::StreamConfig { model: model.to_owned(), window_items, ..v1::StreamConfig::default() };
    FeedPlan::of(open, item("x", 4))
}

async fn windows(findings: &mut Findings, duration: Duration) -> anyhow::Result<()> {
    const ARM: &str = "100 saturating streams, windows 1 to 64";
    // One turn of all streams takes longer than a round trip, so that a window of one item can keep up.
    let model = Blocker::default();
    let stage = Stage::start(LANES, std::slice::from_ref(&model), |_| {}).await?;
    let channels = stage.connect(8).await?;
    let plans = WINDOWS.iter().cycle().take(100).map(|window| flood_plan(model.name, *window)).collect();
    let flood = Flood::start(&channels, plans).await?;
    let rates = flood.rates(duration).await;
    flood.stop().await?;
    drop(channels);
    stage.finish().await?;
    findings.add(ARM, "items_per_s", rates.iter().sum(), Wanted::Anything);
    let of_window = |window: usize| {
        let rates: Vec<f64> = rates.iter().skip(window).step_by(WINDOWS.len()).copied().collect();
        rates.iter().sum::<f64>() / rates.len() as f64
    };
    findings.add(ARM, "items_per_s_window_1", of_window(0), Wanted::Anything);
    findings.add(ARM, "items_per_s_window_64", of_window(WINDOWS.len() - 1), Wanted::Anything);
    findings.add(ARM, "jain_index", jain_index(&rates), Wanted::AtLeast(0.99));
    Ok(())
}

async fn flood(findings: &mut Findings, duration: Duration, rounds: u32) -> anyhow::Result<()> {
    let model = Blocker::default();
    let stage = Stage::start(LANES, std::slice::from_ref(&model), |_| {}).await?;
    let channels = stage.connect(8).await?;
    let beat = Beat { rate_hz: 10.0, warm_up: WARM_UP, duration, limit: Duration::MAX };
    let (mut alone, mut beside) = (Latency::default(), Latency::default());
    for _ in 0..rounds {
        alone.add(&paced(&channels, live_plans(model.name, 4), beat).await?);
        let flood = Flood::start(&channels[..1], vec![flood_plan(model.name, 1024)]).await?;
        beside.add(&paced(&channels[1..], live_plans(model.name, 4), beat).await?);
        flood.stop().await?;
    }
    drop(channels);
    stage.finish().await?;
    let batch_ms = model.call(model.max_batch).as_secs_f64() * 1e3;
    let limit = 1.5 * alone.p99_ms() + batch_ms;
    add_latency(findings, "4 streams of 10 Hz alone", &alone, Wanted::Anything);
    add_latency(findings, "next to a stream with a window of 1024", &beside, Wanted::AtMost(limit));
    Ok(())
}

async fn slow(findings: &mut Findings, duration: Duration, rounds: u32) -> anyhow::Result<()> {
    let waits = Blocker { values: None, max_batch: 4, per_call: Duration::ZERO, per_item: Duration::ZERO, ..Blocker::default() };
    slow_beside(findings, &waits, LANES, duration, rounds).await?;
    // The system's scheduler matters here only if calls take cores from one another.
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    slow_beside(findings, &Blocker { name: "computing", computes: true, ..waits }, lanes, duration, rounds).await
}

/// Live streams with items of 2 ms next to a stream with items of 200 ms, on this many lanes, of which the former need a fifth.
async fn slow_beside(
    findings: &mut Findings,
    model: &Blocker,
    lanes: usize,
    duration: Duration,
    rounds: u32,
) -> anyhow::Result<()> {
    const VALUES: usize = 16;
    // A call costs what its elements cost: 2 ms for 16, 200 ms for 1,600.
    let model = Blocker { per_element_ns: 125_000, ..model.clone() };
    let stage = Stage::start(lanes, std::slice::from_ref(&model), |_| {}).await?;
    let channels = stage.connect(8).await?;
    let beat = Beat { rate_hz: 20.0, warm_up: WARM_UP, duration, limit: Duration::MAX };
    let streams = 5 * lanes;
    let plans = || (0..streams).map(|_| live_plan(model.name, item("x", VALUES))).collect::<Vec<_>>();
    let (mut alone, mut beside, mut long) = (Latency::default(), Latency::default(), Tally::default());
    for _ in 0..rounds {
        alone.add(&paced(&channels, plans(), beat).await?);
        let mut slow = flood_plan(model.name, 8);
        let large = item("x", 100 * VALUES);
        slow.message = Box::new(move |_| Message::Item(large.clone()));
        let flood = Flood::start(&channels[..1], vec![slow]).await?;
        beside.add(&paced(&channels[1..], plans(), beat).await?);
        long.add(&Tally::sum_of(&flood.stop().await?));
    }
    drop(channels);
    stage.finish().await?;
    let (name, wanted) = (model.name, Wanted::AtMost(1.25 * alone.p99_ms()));
    add_latency(findings, &format!("{name}: {streams} live streams on {lanes} lanes alone"), &alone, Wanted::Anything);
    add_latency(findings, &format!("{name}: next to a stream of 100x items"), &beside, wanted);
    findings.add(&format!("{name}: next to a stream of 100x items"), "long_items", long.ok as f64, Wanted::Anything);
    Ok(())
}

async fn tenants(findings: &mut Findings, duration: Duration) -> anyhow::Result<()> {
    const ARM: &str = "a tenant of 20 streams, one of 1";
    let model = Blocker::default();
    // As behind a proxy, which names the tenant of whatever it sends over each of its connections.
    let adjust = |config: &mut tidemill::config::Config| {
        config.session.tenant_metadata = TENANT_METADATA.to_owned();
        config.server.proxies = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    };
    let stage = Stage::start(LANES, std::slice::from_ref(&model), adjust).await?;
    let channels = stage.connect(8).await?;
    let plans = (0..21).map(|stream| {
        let tenant = if stream == 0 { "one" } else { "twenty" };
        let mut metadata = MetadataMap::new();
        metadata.insert(TENANT_METADATA, tonic::metadata::MetadataValue::from_static(tenant));
        FeedPlan { metadata, ..flood_plan(model.name, 256) }
    });
    let flood = Flood::start(&channels, plans.collect()).await?;
    let rates = flood.rates(duration).await;
    flood.stop().await?;
    drop(channels);
    stage.finish().await?;
    let (one, all) = (rates[0], rates.iter().sum::<f64>());
    findings.add(ARM, "items_per_s", all, Wanted::Anything);
    findings.add(ARM, "share_of_the_one", one / all, Wanted::Anything);
    findings.add(ARM, "unequal_by", (one / (all - one) - 1.0).abs(), Wanted::AtMost(0.05));
    Ok(())
}

async fn priorities(findings: &mut Findings, duration: Duration, rounds: u32) -> anyhow::Result<()> {
    let model = Blocker::default();
    let stage = Stage::start(LANES, std::slice::from_ref(&model), |_| {}).await?;
    let channels = stage.connect(8).await?;
    let beat = Beat { rate_hz: 20.0, warm_up: WARM_UP, duration, limit: Duration::MAX };
    let with = |priority: v1::Priority, plan: FeedPlan| {
        let open = v1::StreamConfig { priority: priority.into(), ..plan.open };
        FeedPlan { open, ..plan }
    };
    let high = || vec![with(v1::Priority::High, live_plan(model.name, item("x", 4)))];
    let floods = |priority| (0..4).map(|_| with(priority, flood_plan(model.name, 64))).collect::<Vec<_>>();
    let (mut alone, mut beside) = (Latency::default(), Latency::default());
    let (mut normal_items, mut low) = (0, Tally::default());
    for _ in 0..rounds {
        alone.add(&paced(&channels, high(), beat).await?);
        let normal = Flood::start(&channels[1..3], floods(v1::Priority::Normal)).await?;
        // One stream, so that its gaps are those of its priority.
        let lows = Flood::start(&channels[3..4], vec![with(v1::Priority::Low, flood_plan(model.name, 64))]).await?;
        beside.add(&paced(&channels[4..], high(), beat).await?);
        normal_items += Tally::sum_of(&normal.stop().await?).ok;
        low.add(&Tally::sum_of(&lows.stop().await?));
    }
    drop(channels);
    stage.finish().await?;
    let batch_ms = model.call(model.max_batch).as_secs_f64() * 1e3;
    let starvation_ms = STARVATION_MAX.as_secs_f64() * 1e3 + 2.0 * batch_ms;
    add_latency(findings, "high, 20 Hz, alone", &alone, Wanted::Anything);
    add_latency(findings, "next to plenty of normal and low", &beside, Wanted::AtMost(1.5 * alone.p99_ms() + batch_ms));
    findings.add("normal, saturating", "items", normal_items as f64, Wanted::Anything);
    findings.add("low, saturating", "items", low.ok as f64, Wanted::AtLeast(1.0));
    findings.add("low, saturating", "longest_gap_ms", low.longest_gap.as_secs_f64() * 1e3, Wanted::AtMost(starvation_ms));
    Ok(())
}

fn add_latency(findings: &mut Findings, arm: &str, latency: &Latency, wanted: Wanted) {
    findings.add(arm, "items", latency.tally.ok as f64, Wanted::Anything);
    findings.add(arm, "p50_ms", latency.tally.latency.quantile_ms(0.5), Wanted::Anything);
    findings.add(arm, "p99_ms", latency.p99_ms(), wanted);
}
