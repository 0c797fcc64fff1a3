//! Clients that never read: whether the server's memory stays constant, and whether those that do read notice.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use futures::future::try_join_all;
use tidemill::clock;
use tidemill_client::{Client, wire::v1};

use super::live_plan;
use crate::{
    crowd::{Beat, Tally, paced},
    feed::{Feed, FeedPlan},
    findings::{Findings, Wanted},
    process::Usage,
    report::Report,
    stage::{Blocker, Stage},
    stats::Rounds,
    workload::item,
};

const LANES: usize = 4;
/// FP32 values in an item, so that unread answers soon fill a flow-control window of 256 KiB.
const VALUES: usize = 1024;
/// How long it may take until everything that will be taken from those that never read has been taken.
const SETTLE: Duration = Duration::from_secs(1);
/// More than any flow control lets through.
const ALL: u64 = 1 << 40;

/// Measure memory, and the latency of healthy streams, next to streams that send and never read
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of load in total, over both arms of all rounds
    #[arg(long, default_value_t = 20.0, value_parser = super::seconds)]
    seconds: f64,

    /// Rounds of the arms with and without the streams that never read
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Streams, a tenth of which never read
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(10..))]
    streams: u16,

    /// Items per second of each healthy stream
    #[arg(long, default_value_t = 2.0)]
    rate: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let per_call = Duration::from_millis(2);
    let model = Blocker { values: Some(VALUES), per_call, per_item: Duration::from_micros(100), ..Blocker::default() };
    let stage = Stage::start(LANES, std::slice::from_ref(&model), |_| {}).await?;
    let mut findings = Findings::new();
    // Four fifths for the many, one fifth for the streams of one connection.
    let arm = Duration::from_secs_f64(args.seconds / f64::from(2 * args.rounds));
    let bad = usize::from(args.streams) / 10;
    let healthy = usize::from(args.streams) - bad;
    let crowd = Crowd {
        healthy,
        bad,
        connections: 8,
        beat: Beat { rate_hz: args.rate, duration: arm.mul_f64(0.8), warm_up: Duration::ZERO, limit: Duration::MAX },
    };
    measure(&mut findings, &stage, &model, "a tenth never reads", crowd, args.rounds).await?;
    let beat = Beat {
        rate_hz: 31.25,
        duration: arm.mul_f64(0.2).max(Duration::from_secs(1)),
        warm_up: Duration::ZERO,
        limit: Duration::MAX,
    };
    let crowd = Crowd { healthy: 31, bad: 1, connections: 1, beat };
    measure(&mut findings, &stage, &model, "1 of 32 on a connection", crowd, args.rounds).await?;
    stage.finish().await?;
    Ok(findings.report())
}

/// Which clients there are.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    healthy: usize,
    bad: usize,
    connections: u16,
    beat: Beat,
}

async fn measure(
    findings: &mut Findings,
    stage: &Stage,
    model: &Blocker,
    name: &str,
    crowd: Crowd,
    rounds: u32,
) -> anyhow::Result<()> {
    let Crowd { healthy, bad, connections, beat } = crowd;
    let channels = stage.connect(connections).await?;
    let plans = |streams: usize| (0..streams).map(|_| live_plan(model.name, item("x", VALUES))).collect::<Vec<_>>();
    let [mut without, mut with, mut ratio, mut first_mib, mut last_mib, mut grown] = std::array::from_fn(|_| Rounds::default());
    let (mut taken, mut reset) = (0, 0);
    // All buffers reach their size before counting begins.
    let warm_up = open_silent(&channels, plans(bad)).await?;
    paced(&channels, plans(healthy), Beat { duration: SETTLE, ..beat }).await?;
    read_out(warm_up).await?;
    for _ in 0..rounds {
        let calm = Tally::sum_of(&paced(&channels, plans(healthy), beat).await?);
        let silent = open_silent(&channels, plans(bad)).await?;
        tokio::time::sleep(SETTLE).await;
        let watch = tokio::spawn(resident(beat.duration));
        let beside = Tally::sum_of(&paced(&channels, plans(healthy), beat).await?);
        let resident = watch.await??;
        taken = silent.iter().map(|feed| feed.valve().sent()).sum();
        reset += read_out(silent).await?;
        without.push(calm.p99_ms());
        with.push(beside.p99_ms());
        ratio.push(beside.p99_ms() / calm.p99_ms());
        let (first, last) = outer_thirds(&resident);
        first_mib.push(first / f64::from(1 << 20));
        last_mib.push(last / f64::from(1 << 20));
        grown.push(last / first);
    }
    findings.add(name, "items_taken_from_each_that_never_reads", taken as f64 / bad as f64, Wanted::Anything);
    findings.add(name, "streams_that_the_server_ended", f64::from(reset), Wanted::Anything);
    findings.add(name, "healthy_p99_ms_without_them", without.median(), Wanted::Anything);
    findings.add(name, "healthy_p99_ms_with_them", with.median(), Wanted::Anything);
    findings.add(name, "ratio", ratio.median(), Wanted::AtMost(1.1));
    findings.add(name, "resident_first_third_mib", first_mib.median(), Wanted::Anything);
    findings.add(name, "resident_last_third_mib", last_mib.median(), Wanted::Anything);
    findings.add(name, "resident_last_third_of_first", grown.median(), Wanted::AtMost(1.02));
    Ok(())
}

/// Feeds that send all they can, and of whose answers only the first is read.
async fn open_silent(channels: &[Client], plans: Vec<FeedPlan>) -> anyhow::Result<Vec<Feed>> {
    let opening = plans.into_iter().enumerate().map(|(stream, plan)| {
        let open = v1::StreamConfig { window_items: 64, ..plan.open };
        Feed::start(channels[stream % channels.len()].clone(), FeedPlan { open, ..plan }, None)
    });
    let feeds = try_join_all(opening).await?;
    for feed in &feeds {
        Arc::clone(feed.valve()).let_through(ALL);
    }
    Ok(feeds)
}

/// Reads everything that was not read, and returns how many streams the server has ended by then.
///
/// # Errors
/// If an item of a stream that is still there is not answered.
async fn read_out(feeds: Vec<Feed>) -> anyhow::Result<u32> {
    let reading = feeds.into_iter().map(|mut feed| async move {
        feed.valve().close();
        loop {
            match feed.result().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return Ok(1),
            }
        }
        let (sent, answered) = (feed.valve().sent(), feed.valve().answered());
        ensure!(sent == answered, "a stream sent {sent} items and got {answered} answers");
        Ok(0)
    });
    Ok(try_join_all(reading).await?.into_iter().sum())
}

/// Resident bytes of this process, ten times a second.
async fn resident(duration: Duration) -> anyhow::Result<Vec<f64>> {
    let end = clock::now() + duration;
    let mut samples = Vec::new();
    while clock::now() < end {
        samples.push(Usage::of(std::process::id())?.resident_bytes as f64);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(samples)
}

/// Medians of the first and the last third.
fn outer_thirds(samples: &[f64]) -> (f64, f64) {
    let third = samples.len() / 3;
    let median = |part: &[f64]| {
        let mut rounds = Rounds::default();
        part.iter().for_each(|sample| rounds.push(*sample));
        rounds.median()
    };
    (median(&samples[..third]), median(&samples[samples.len() - third..]))
}
