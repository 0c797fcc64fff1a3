//! A fast model and a slow one on the same lanes: what the slow one's flood costs the fast one.

use std::time::Duration;

use tidemill_client::wire::v1;

use super::live_plans;
use crate::{
    crowd::{Beat, Flood, Latency, WARM_UP, paced},
    feed::FeedPlan,
    findings::{Findings, Wanted},
    report::Report,
    stage::{Blocker, Stage},
};

/// Measure the latency of a fast model next to a slow one that is saturated, and alone
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of load in each arm of a round
    #[arg(long, default_value_t = 4.0, value_parser = super::seconds)]
    seconds: f64,

    /// Rounds of the two arms
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Lanes that they share
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    lanes: u8,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let per_item = Duration::ZERO;
    let fast = Blocker { name: "fast", per_call: Duration::from_millis(1), per_item, ..Blocker::default() };
    let slow = Blocker { name: "slow", per_call: Duration::from_millis(50), per_item, ..Blocker::default() };
    let stage = Stage::start(args.lanes.into(), &[fast.clone(), slow.clone()], |_| {}).await?;
    let channels = stage.connect(8).await?;
    let beat = Beat { rate_hz: 20.0, warm_up: WARM_UP, duration: Duration::from_secs_f64(args.seconds), limit: Duration::MAX };
    let (mut alone, mut beside) = (Latency::default(), Latency::default());
    let mut slow_rate = 0.0;
    for _ in 0..args.rounds {
        alone.add(&paced(&channels, live_plans(fast.name, 10), beat).await?);
        let plans = live_plans(slow.name, 4).into_iter();
        let plans = plans.map(|plan| FeedPlan { open: v1::StreamConfig { window_items: 64, ..plan.open }, ..plan });
        let flood = Flood::start(&channels[..4], plans.collect()).await?;
        let (tallies, rates) = tokio::join!(paced(&channels[4..], live_plans(fast.name, 10), beat), flood.rates(beat.duration));
        beside.add(&tallies?);
        slow_rate += rates.iter().sum::<f64>() / f64::from(args.rounds);
        flood.stop().await?;
    }
    drop(channels);
    stage.finish().await?;
    let mut findings = Findings::new();
    // The fast one's call, one of the slow one's that has begun, and 2 ms for everything else.
    let limit_ms = (fast.call(1) + slow.call(1)).as_secs_f64() * 1e3 + 2.0;
    for (arm, latency, wanted) in [
        ("fast, 10 streams of 20 Hz, alone", &alone, Wanted::Anything),
        ("fast, slow one saturated", &beside, Wanted::AtMost(limit_ms)),
    ] {
        findings.add(arm, "items", latency.tally.ok as f64, Wanted::Anything);
        findings.add(arm, "p50_ms", latency.tally.latency.quantile_ms(0.5), Wanted::Anything);
        findings.add(arm, "p99_ms", latency.p99_ms(), wanted);
        findings.add(arm, "max_ms", latency.tally.latency.quantile_ms(1.0), Wanted::Anything);
    }
    let full = f64::from(args.lanes) * slow.max_batch as f64 / slow.call(slow.max_batch).as_secs_f64();
    findings.add("slow, saturating", "items_per_s", slow_rate, Wanted::Anything);
    findings.add("slow, saturating", "share_of_all_lanes", slow_rate / full, Wanted::Anything);
    Ok(findings.report())
}
