//! Live streams that send twice what can be run: how old results are, and how much of the capacity goes into useful ones.

use std::time::Duration;

use tidemill_client::wire::{duration_to_wire, v1};
use tonic::Code;

use super::live_plans;
use crate::{
    crowd::{Beat, Flood, Tally, paced},
    feed::FeedPlan,
    findings::{Findings, Wanted, jain_index},
    report::Report,
    stage::{Blocker, Stage},
};

const LANES: usize = 4;

/// Measure age and number of results of live streams at twice the capacity, with items dropped
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of load in each arm
    #[arg(long, default_value_t = 4.0, value_parser = super::seconds)]
    seconds: f64,

    /// Streams
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    streams: u16,

    /// Age at which a result is no longer of use, in milliseconds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    max_age_ms: u64,

    /// Load as a multiple of the capacity, which is measured first
    #[arg(long, default_value_t = 2.0)]
    load: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let max_age = Duration::from_millis(args.max_age_ms);
    let duration = Duration::from_secs_f64(args.seconds);
    let mut findings = Findings::new();
    for stateful in [false, true] {
        let per_item = Duration::from_millis(1);
        let model = Blocker { stateful, per_call: Duration::from_millis(8), per_item, ..Blocker::default() };
        let kind = if stateful { "stateful" } else { "stateless" };
        let stage = Stage::start(LANES, std::slice::from_ref(&model), |_| {}).await?;
        let channels = stage.connect(8).await?;
        let flood = Flood::start(&channels, with_windows(live_plans(model.name, args.streams.into()))).await?;
        let capacity: f64 = flood.rates(duration).await.iter().sum();
        flood.stop().await?;
        findings.add(&format!("{kind}, saturating"), "items_per_s", capacity, Wanted::Anything);
        let rate_hz = args.load * capacity / f64::from(args.streams);
        let beat = Beat { rate_hz, duration, warm_up: Duration::ZERO, limit: max_age };
        for (name, overflow) in [("latest", v1::OverflowPolicy::Latest), ("drop_oldest", v1::OverflowPolicy::DropOldest)] {
            let plans = live_plans(model.name, args.streams.into()).into_iter().map(|plan| {
                let max_age = Some(duration_to_wire(max_age));
                FeedPlan { open: v1::StreamConfig { overflow: overflow.into(), max_age, ..plan.open }, ..plan }
            });
            let tallies = paced(&channels, plans.collect(), beat).await?;
            let least = tallies.iter().map(|tally| tally.ok).min().unwrap_or(0);
            let tally = Tally::sum_of(&tallies);
            let arm = format!("{kind}, {name}, {}x", args.load);
            let useful = tally.in_time as f64 / args.seconds;
            let age = |quantile| tally.age.quantile_ms(quantile);
            findings.add(&arm, "sent_per_s", tally.sent as f64 / args.seconds, Wanted::Anything);
            findings.add(&arm, "dropped_per_s", tally.errors_of(Code::Aborted) as f64 / args.seconds, Wanted::Anything);
            findings.add(&arm, "unanswered", (tally.sent - tally.answered()) as f64, Wanted::AtMost(0.0));
            findings.add(&arm, "useful_of_capacity", useful / capacity, Wanted::AtLeast(0.95));
            findings.add(&arm, "age_p50_ms", age(0.5), Wanted::Anything);
            findings.add(&arm, "age_p99_ms", age(0.99), Wanted::AtMost(args.max_age_ms as f64));
            findings.add(&arm, "here_p99_ms", tally.p99_ms(), Wanted::Anything);
            let even = tally.ok as f64 / f64::from(args.streams);
            let shares: Vec<f64> = tallies.iter().map(|tally| tally.ok as f64).collect();
            findings.add(&arm, "jain_index_of_streams", jain_index(&shares), Wanted::AtLeast(0.97));
            findings.add(&arm, "least_stream_of_even", least as f64 / even, Wanted::AtLeast(0.75));
        }
        drop(channels);
        stage.finish().await?;
    }
    Ok(findings.report())
}

/// Enough room to saturate.
fn with_windows(plans: Vec<FeedPlan>) -> Vec<FeedPlan> {
    plans.into_iter().map(|plan| FeedPlan { open: v1::StreamConfig { window_items: 16, ..plan.open }, ..plan }).collect()
}
