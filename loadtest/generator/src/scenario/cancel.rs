//! Clients that go away at any moment: whether anything of theirs is left behind, and how soon it is freed.

use std::{sync::Arc, time::Duration};

use futures::future::try_join_all;
use tidemill::domain::Outcome;
use tidemill_client::{
    Client,
    wire::v1::{self, predict_request},
};

use super::live_plans;
use crate::{
    feed::Feed,
    findings::{Findings, Wanted},
    report::Report,
    stage::{Blocker, Stage, series},
    workload::item,
};

const LANES: usize = 4;
/// How many clients go away at the same time.
const WORKERS: u32 = 64;
/// Feeds on a connection that is closed.
const FEEDS_PER_CONNECTION: u32 = 8;
/// Items that a feed has sent when it goes.
const ITEMS_MAX: u64 = 16;

/// Measure what is left behind by calls, streams and connections that clients give up
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Calls, streams and streams of closed connections
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(64..))]
    cancels: u32,
}

/// The thing that was given up.
#[derive(Debug, Clone, Copy, Default)]
struct GivenUp {
    calls: u32,
    feeds: u32,
    connections: u32,
}

impl GivenUp {
    const fn all(self) -> u32 {
        self.calls + self.feeds + self.connections * FEEDS_PER_CONNECTION
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let (per_call, per_item) = (Duration::from_millis(1), Duration::from_micros(100));
    let model = Blocker { stateful: true, per_call, per_item, ..Blocker::default() };
    let stage = Arc::new(Stage::start(LANES, std::slice::from_ref(&model), |_| {}).await?);
    let channels = stage.connect(8).await?;
    let share = args.cancels.div_ceil(WORKERS);
    let workers = (0..WORKERS).map(|worker| {
        let (stage, channel) = (Arc::clone(&stage), channels[worker as usize % channels.len()].clone());
        tokio::spawn(give_up(stage, channel, model.name, share, u64::from(worker)))
    });
    let mut given_up = GivenUp::default();
    for worker in try_join_all(workers).await? {
        let GivenUp { calls, feeds, connections } = worker?;
        given_up.calls += calls;
        given_up.feeds += feeds;
        given_up.connections += connections;
    }
    drop(channels);
    let mut findings = Findings::new();
    let Some(stage) = Arc::into_inner(stage) else { anyhow::bail!("a worker still holds the server") };
    stage.rest().await?;
    let ledger = stage.status(model.name)?.ledger;
    let metrics = stage.metrics();
    findings.add("clients", "calls_dropped", f64::from(given_up.calls), Wanted::Anything);
    findings.add("clients", "streams_dropped", f64::from(given_up.feeds), Wanted::Anything);
    findings.add("clients", "connections_cut", f64::from(given_up.connections), Wanted::Anything);
    findings.add("server", "items_received", ledger.received() as f64, Wanted::Anything);
    findings.add("server", "items_ok", ledger.outcome(Outcome::Ok) as f64, Wanted::Anything);
    findings.add("server", "items_cancelled", ledger.outcome(Outcome::Cancelled) as f64, Wanted::AtLeast(1.0));
    findings.add("server", "items_leaked", ledger.open() as f64, Wanted::AtMost(0.0));
    let (count, p99_s) = bucket_quantile(&metrics, "tidemill_cancel_release_seconds", 0.99);
    findings.add("server", "releases", count, Wanted::Anything);
    findings.add("server", "release_p99_below_ms", p99_s * 1e3, Wanted::AtMost(1.0));
    stage.finish().await?;
    Ok(findings.report())
}

/// Gives up this many calls and streams, each in one of three ways and at a random moment.
async fn give_up(stage: Arc<Stage>, channel: Client, model: &'static str, cancels: u32, seed: u64) -> anyhow::Result<GivenUp> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut given_up = GivenUp::default();
    while given_up.all() < cancels {
        match random.u8(0..20) {
            0 => {
                let own = stage.connect_to_cut().await?;
                let seeds = (0..FEEDS_PER_CONNECTION).map(|_| fastrand::Rng::with_seed(random.u64(..)));
                let opening = seeds.map(|random| half_a_feed(own.client.clone(), model, random));
                let feeds = try_join_all(opening).await?;
                own.cut()?;
                drop(feeds);
                given_up.connections += 1;
            }
            1..10 => {
                drop(half_a_feed(channel.clone(), model, fastrand::Rng::with_seed(random.u64(..))).await?);
                given_up.feeds += 1;
            }
            _ => {
                let payload = Some(predict_request::Payload::Item(item("x", 4)));
                let request = v1::PredictRequest { model: model.to_owned(), payload, ..v1::PredictRequest::default() };
                let mut client = channel.inference();
                let patience = Duration::from_micros(random.u64(0..5_000));
                // Some are answered first; they are not counted.
                if tokio::time::timeout(patience, client.predict(request)).await.is_err() {
                    given_up.calls += 1;
                }
            }
        }
    }
    Ok(given_up)
}

/// A feed with items in flight, some of whose answers have been read.
async fn half_a_feed(channel: Client, model: &str, mut random: fastrand::Rng) -> anyhow::Result<Feed> {
    let mut feed = Feed::start(channel, live_plans(model, 1).remove(0), None).await?;
    let items = random.u64(1..=ITEMS_MAX);
    feed.valve().let_through(items);
    for _ in 0..random.u64(0..items) {
        feed.result().await?;
    }
    Ok(feed)
}

/// The samples of a histogram, and the upper bound of the bucket that the quantile is in.
fn bucket_quantile(metrics: &str, name: &str, quantile: f64) -> (f64, f64) {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for (labels, count) in series(metrics, &format!("{name}_bucket")) {
        let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
        let bound = bound.map_or(f64::NAN, |bound| bound.parse().unwrap_or(f64::INFINITY));
        match buckets.iter_mut().find(|(known, _)| known.to_bits() == bound.to_bits()) {
            Some((_, sum)) => *sum += count,
            None => buckets.push((bound, count)),
        }
    }
    buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
    let all = buckets.last().map_or(0.0, |(_, count)| *count);
    let within = buckets.iter().find(|(_, count)| *count >= quantile * all);
    (all, within.map_or(f64::NAN, |(bound, _)| *bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_in_the_first_bucket_that_holds_as_many() {
        let text = "a_bucket{m=\"x\",le=\"0.1\"} 5\na_bucket{m=\"x\",le=\"0.2\"} 99\na_bucket{m=\"x\",le=\"+Inf\"} 100\na_count{m=\"x\"} 100\n";
        assert_eq!(bucket_quantile(text, "a", 0.05), (100.0, 0.1));
        assert_eq!(bucket_quantile(text, "a", 0.99), (100.0, 0.2));
        assert_eq!(bucket_quantile(text, "a", 0.995), (100.0, f64::INFINITY));
    }
}
