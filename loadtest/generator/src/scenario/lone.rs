//! A heavy call that comes alone and may use all cores, against the same call on a busy machine.

use std::{num::NonZeroUsize, path::PathBuf, thread::available_parallelism, time::Duration};

use tidemill::clock;
use tidemill_client::{Client, wire::v1};

use crate::{
    crowd::Flood,
    feed::{Feed, FeedPlan},
    findings::{Findings, Wanted},
    report::Report,
    stage::{Blocker, Stage},
    stats::Durations,
    workload::item_of,
};

/// Items before counting begins.
const WARM_UP: usize = 3;

/// Measure one heavy item at a time, on an idle server and on a busy one
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of models; without it, a synthetic model that claims to be faster on all lanes by nine tenths of their number
    #[arg(long, value_name = "DIR", requires = "model")]
    models: Option<PathBuf>,

    /// A model in that folder
    #[arg(long, requires = "models")]
    model: Option<String>,

    /// Lanes; by default as many as the machine has cores
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    lanes: Option<u8>,

    /// Items one at a time in each arm
    #[arg(long, default_value_t = 100)]
    items: usize,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let lanes = args.lanes.map_or_else(|| available_parallelism().map_or(1, NonZeroUsize::get), usize::from);
    let per_call = Duration::from_millis(40);
    let speedup = (0.9 * lanes as f64).max(1.0);
    let heavy = Blocker { name: "heavy", per_call, per_item: Duration::ZERO, wide_speedup: Some(speedup), ..Blocker::default() };
    let name = args.model.clone().unwrap_or_else(|| heavy.name.to_owned());
    let synthetic = args.models.is_none();
    let mut findings = Findings::new();
    let kind = if synthetic { "synthetic (wide_speedup)" } else { name.as_str() };
    let mut narrow_p50_ms = f64::NAN;
    for lanes in [1, lanes] {
        let models = if synthetic { std::slice::from_ref(&heavy) } else { &[] };
        let stage = Stage::start(lanes, models, |config| {
            if let Some(folder) = &args.models {
                config.models.dir = Some(folder.clone());
            }
        })
        .await?;
        let item = item_of(&*stage.model(&name)?)?;
        let channels = stage.connect(4).await?;
        let alone = one_at_a_time(channels[0].clone(), &name, &item, args.items).await?;
        let p50_ms = alone.quantile_us(0.5) / 1e3;
        let mut add = |load: &str, durations: &Durations, wanted| {
            let arm = format!("{kind}, {lanes} lane(s), {load}");
            findings.add(&arm, "p50_ms", durations.quantile_us(0.5) / 1e3, wanted);
            findings.add(&arm, "p99_ms", durations.quantile_us(0.99) / 1e3, Wanted::Anything);
        };
        if lanes == 1 {
            narrow_p50_ms = p50_ms;
            add("idle", &alone, Wanted::Anything);
        } else {
            // A real model gains what it gains; a synthetic one states what it must gain.
            let limit_ms = if synthetic { per_call.as_secs_f64() * 1e3 / speedup + 3.0 } else { 1.1 * narrow_p50_ms };
            add("idle", &alone, Wanted::AtMost(limit_ms));
            let plans = (0..2 * lanes).map(|_| plan(&name, item.clone(), 4)).collect();
            let flood = Flood::start(&channels[1..], plans).await?;
            let busy = one_at_a_time(channels[0].clone(), &name, &item, args.items.min(50)).await?;
            flood.stop().await?;
            add("busy", &busy, Wanted::Anything);
            let wanted = if synthetic { Wanted::AtLeast(0.9 * speedup) } else { Wanted::AtLeast(1.0) };
            findings.add(&format!("{kind}, {lanes} lanes"), "one_lane_idle_p50_of_idle_p50", narrow_p50_ms / p50_ms, wanted);
        }
        drop(channels);
        stage.finish().await?;
        if args.lanes == Some(1) {
            break;
        }
    }
    Ok(findings.report())
}

fn plan(model: &str, item: v1::Item, window_items: u32) -> FeedPlan {
    FeedPlan::of(v1::StreamConfig { model: model.to_owned(), window_items, ..v1::StreamConfig::default() }, item)
}

async fn one_at_a_time(channel: Client, model: &str, item: &v1::Item, items: usize) -> anyhow::Result<Durations> {
    let mut feed = Feed::start(channel, plan(model, item.clone(), 1), None).await?;
    let mut durations = Durations::new()?;
    for number in 0..WARM_UP + items {
        let start = clock::now();
        feed.valve().let_through(1);
        let result = feed.result().await?;
        let outputs = result.is_some_and(|result| matches!(result.outcome, Some(v1::item_result::Outcome::Outputs(_))));
        anyhow::ensure!(outputs, "item {number} has no outputs");
        if number >= WARM_UP {
            durations.record(clock::now().since(start));
        }
    }
    feed.valve().close();
    while feed.result().await?.is_some() {}
    Ok(durations)
}
