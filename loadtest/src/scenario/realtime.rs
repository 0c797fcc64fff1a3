//! Live sources: streams at the pace of their clocks, and how long after its moment each item is answered.

use std::{sync::Arc, time::Duration};

use futures::future::try_join_all;
use tidemill::clock;

use crate::{
    feed::{Feed, LATE_AFTER},
    pace::{LEAD, pace},
    report::{Cell, Report},
    schedule::{Schedule, agenda},
    stats::Durations,
    target::{Place, Target},
    workload::Workload,
};

/// Measure latency from the scheduled moment of each item, on streams at the pace of live audio
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Streams
    #[arg(long, default_value_t = 64)]
    streams: usize,

    /// Items per second of each stream; windows of 512 samples at 16 kHz come 31.25 times
    #[arg(long, default_value_t = 31.25)]
    rate: f64,

    /// Largest delay of an item at its source, in milliseconds
    #[arg(long, default_value_t = 8)]
    jitter_ms: u64,

    /// Seconds of load
    #[arg(long, default_value_t = 10.0, value_parser = super::seconds)]
    seconds: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let workload = Workload::silero();
    let target = Target::tidemill(&args.place, None).await?;
    let period = Duration::from_secs_f64(1.0 / args.rate);
    let jitter = Duration::from_millis(args.jitter_ms).min(period.mul_f64(0.9));
    let start = clock::now() + LEAD;
    let end = start + Duration::from_secs_f64(args.seconds);
    let schedules: Vec<_> = (0..args.streams).map(|stream| Schedule::new(start, period, jitter, stream as u64)).collect();
    let opening =
        schedules.iter().enumerate().map(|(stream, schedule)| Feed::open(target.channel(stream), &workload, 64, Some(*schedule)));
    let feeds = try_join_all(opening).await?;
    let valves: Vec<_> = feeds.iter().map(|feed| Arc::clone(feed.valve())).collect();
    let agenda = agenda(&schedules, end);
    let offered = agenda.len() as u64;
    let listening: Vec<_> =
        feeds.into_iter().zip(schedules).map(|(feed, schedule)| tokio::spawn(listen(feed, schedule))).collect();
    let pacing = {
        let valves = valves.clone();
        // The runtime's timers tick in milliseconds, too coarse beside what is measured.
        tokio::task::spawn_blocking(move || pace(&agenda, &valves))
    };
    pacing.await?;
    let mut latency = Durations::new()?;
    for heard in try_join_all(listening).await? {
        latency.add(&heard?)?;
    }
    let late: u64 = valves.iter().map(|valve| valve.late()).sum();
    Ok(Report::single(vec![
        ("streams", Cell::Count(args.streams as u64)),
        ("items_per_s_offered", Cell::Figure(offered as f64 / args.seconds, 1)),
        ("items_offered", Cell::Count(offered)),
        ("items_answered", Cell::Count(latency.count())),
        ("p50_us", Cell::Figure(latency.quantile_us(0.5), 0)),
        ("p99_us", Cell::Figure(latency.quantile_us(0.99), 0)),
        ("p999_us", Cell::Figure(latency.quantile_us(0.999), 0)),
        ("max_us", Cell::Figure(latency.max_us(), 0)),
        ("late_sends", Cell::Count(late)),
        ("late_after_us", Cell::Count(LATE_AFTER.as_micros() as u64)),
    ]))
}

/// Latencies from each item's moment to its answer. A late send counts as latency.
async fn listen(mut feed: Feed, schedule: Schedule) -> anyhow::Result<Durations> {
    let mut latency = Durations::new()?;
    while let Some(number) = feed.answer().await? {
        latency.record(clock::now().since(schedule.due(number)));
    }
    Ok(latency)
}
