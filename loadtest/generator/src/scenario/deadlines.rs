//! How soon a client learns that a deadline has passed while all lanes are held, in each of the ways in which it can.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{bail, ensure};
use futures::future::try_join_all;
use tidemill::{clock, domain::Timestamp};
use tidemill_client::{
    Client,
    wire::{
        duration_to_wire,
        v1::{self, feed_request::Message, item_result, predict_request},
    },
};
use tonic::{Code, Request, metadata::MetadataMap};

use crate::{
    feed::{Feed, FeedPlan},
    findings::{Findings, Wanted},
    report::Report,
    stage::{Blocker, PatientClient, Stage},
    workload::item,
};

const LANES: usize = 4;
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(5);
/// The time over which the items are sent.
const SPREAD: Duration = Duration::from_secs(1);
/// Feeds that share the items with their own deadlines.
const FEEDS: usize = 5;

/// Measure how long after their deadlines clients learn of them while all lanes are held
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Items in each of the four ways, with deadlines from 20 ms to 5 s
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    items: u32,
}

/// How long after its deadline an error came, in milliseconds; negative if it came before.
type Lateness = f64;

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let model = Blocker::default();
    let stage = Stage::start(LANES, std::slice::from_ref(&model), |_| {}).await?;
    let control = stage.control(model.name)?;
    let channels = stage.connect(8).await?;
    let before = control.items();
    control.close_gate();
    let holding: Vec<_> = (0..LANES).map(|lane| tokio::spawn(hold_lane(channels[lane].clone(), model.name))).collect();
    while control.held() < LANES {
        ensure!(!holding.iter().any(tokio::task::JoinHandle::is_finished), "an item that was to hold a lane has ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let patient = stage.patient_client()?;
    let count = args.items as usize;
    let way = |of: usize| (0..count).map(move |index| Draw::new((of * count + index) as u64));
    let whole_calls = try_join_all(way(0).map(|draw| tokio::spawn(unary(patient.clone(), model.name, draw, true))));
    let items = try_join_all(way(1).map(|draw| tokio::spawn(unary(patient.clone(), model.name, draw, false))));
    let on_feeds = try_join_all((0..FEEDS).map(|feed| {
        let draws: Vec<_> = way(2).skip(feed).step_by(FEEDS).collect();
        tokio::spawn(feed_items(channels[feed].clone(), model.name, draws))
    }));
    let whole_feeds = try_join_all(
        way(3).enumerate().map(|(index, draw)| tokio::spawn(whole_feed(channels[index % 8].clone(), model.name, draw))),
    );
    let timers = try_join_all(way(4).map(|draw| tokio::spawn(bare_timer(draw))));
    let (whole_calls, items, on_feeds, whole_feeds, timers) =
        tokio::try_join!(whole_calls, items, on_feeds, whole_feeds, timers)?;
    let executed = control.items() - before - LANES as u64;
    control.open_gate();
    for held in try_join_all(holding).await? {
        held?;
    }
    drop(channels);
    stage.finish().await?;

    let mut findings = Findings::new();
    add(&mut findings, "unary, grpc-timeout", whole_calls.into_iter().collect::<anyhow::Result<_>>()?);
    add(&mut findings, "unary, item's deadline", items.into_iter().collect::<anyhow::Result<_>>()?);
    let on_feeds: Vec<Vec<Lateness>> = on_feeds.into_iter().collect::<anyhow::Result<_>>()?;
    add(&mut findings, "feed, item's deadline", on_feeds.concat());
    add(&mut findings, "feed, grpc-timeout", whole_feeds.into_iter().collect::<anyhow::Result<_>>()?);
    add(&mut findings, "a bare timer alongside", timers);
    findings.add("all", "expired_items_executed", executed as f64, Wanted::AtMost(0.0));
    Ok(findings.report())
}

fn add(findings: &mut Findings, arm: &str, mut late_ms: Vec<Lateness>) {
    late_ms.sort_by(f64::total_cmp);
    let quantile = |share: f64| late_ms[((late_ms.len() - 1) as f64 * share).round() as usize];
    findings.add(arm, "items", late_ms.len() as f64, Wanted::Anything);
    findings.add(arm, "earliest_ms", quantile(0.0), Wanted::AtLeast(0.0));
    findings.add(arm, "late_p50_ms", quantile(0.5), Wanted::AtMost(2.0));
    findings.add(arm, "late_p99_ms", quantile(0.99), Wanted::AtMost(10.0));
    findings.add(arm, "late_max_ms", quantile(1.0), Wanted::Anything);
}

/// When an item is sent, and how long it has; short deadlines are as frequent as ones ten times as long.
#[derive(Debug, Clone, Copy)]
struct Draw {
    wait: Duration,
    deadline: Duration,
}

impl Draw {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let ratio = LONGEST.as_secs_f64() / SHORTEST.as_secs_f64();
        Self { wait: SPREAD.mul_f64(random.f64()), deadline: SHORTEST.mul_f64(ratio.powf(random.f64())) }
    }

    fn lateness(&self, sent: Timestamp) -> Lateness {
        let due = sent + self.deadline;
        let now = clock::now();
        (now.as_nanos() as f64 - due.as_nanos() as f64) / 1e6
    }
}

/// The best that this machine and runtime can do.
async fn bare_timer(draw: Draw) -> Lateness {
    tokio::time::sleep(draw.wait).await;
    let begun = clock::now();
    tokio::time::sleep(draw.deadline).await;
    draw.lateness(begun)
}

fn predict_request(model: &str, item: v1::Item) -> v1::PredictRequest {
    v1::PredictRequest {
        model: model.to_owned(),
        payload: Some(predict_request::Payload::Item(item)),
        ..v1::PredictRequest::default()
    }
}

async fn hold_lane(channel: Client, model: &str) -> anyhow::Result<()> {
    channel.inference().predict(predict_request(model, item("x", 4))).await?;
    Ok(())
}

async fn unary(mut client: PatientClient, model: &str, draw: Draw, whole_call: bool) -> anyhow::Result<Lateness> {
    tokio::time::sleep(draw.wait).await;
    let mut item = item("x", 4);
    item.deadline = (!whole_call).then(|| duration_to_wire(draw.deadline));
    let mut request = Request::new(predict_request(model, item));
    if whole_call {
        request.set_timeout(draw.deadline);
    }
    let sent = clock::now();
    match client.predict(request).await {
        Err(status) if status.code() == Code::DeadlineExceeded => Ok(draw.lateness(sent)),
        other => bail!("an item that must expire was answered with {other:?}"),
    }
}

async fn feed_items(channel: Client, model: &'static str, draws: Vec<Draw>) -> anyhow::Result<Vec<Lateness>> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let window_items = draws.len() as u32;
    let order = v1::ResultOrder::AsReady.into();
    let open = v1::StreamConfig { model: model.to_owned(), window_items, order, ..v1::StreamConfig::default() };
    let mut waits: Vec<Duration> = draws.iter().map(|draw| draw.wait).collect();
    waits.sort_unstable();
    let (moments, deadlines) = (Arc::clone(&sent), draws.clone());
    let make = move |number: u64| {
        let mut item = item("x", 4);
        item.deadline = deadlines.get(number as usize).map(|draw| duration_to_wire(draw.deadline));
        moments.lock().unwrap_or_else(PoisonError::into_inner).push(clock::now());
        item
    };
    let plan = FeedPlan { open, message: Box::new(move |number| Message::Item(make(number))), metadata: MetadataMap::new() };
    let mut feed = Feed::start(channel, plan, None).await?;
    let valve = Arc::clone(feed.valve());
    let begun = tokio::time::Instant::now();
    let sending = tokio::spawn(async move {
        for wait in waits {
            tokio::time::sleep_until(begun + wait).await;
            valve.let_through(1);
        }
    });
    let mut late = Vec::new();
    while late.len() < draws.len() {
        let Some(result) = feed.result().await? else { bail!("a feed ended before all its items were answered") };
        match result.outcome {
            Some(item_result::Outcome::Error(status)) if status.code == Code::DeadlineExceeded as i32 => {}
            other => bail!("an item that must expire was answered with {other:?}"),
        }
        let number = result.seq as usize;
        let sent = sent.lock().unwrap_or_else(PoisonError::into_inner)[number];
        late.push(draws[number].lateness(sent));
    }
    sending.await?;
    feed.valve().close();
    ensure!(feed.result().await?.is_none(), "a feed answered more items than it was sent");
    Ok(late)
}

async fn whole_feed(channel: Client, model: &str, draw: Draw) -> anyhow::Result<Lateness> {
    tokio::time::sleep(draw.wait).await;
    let open = v1::StreamConfig { model: model.to_owned(), window_items: 1, ..v1::StreamConfig::default() };
    let mut plan = FeedPlan::of(open, item("x", 4));
    let mut request = Request::new(());
    request.set_timeout(draw.deadline);
    plan.metadata = request.into_parts().0;
    let sent = clock::now();
    let mut feed = Feed::start(channel, plan, None).await?;
    feed.valve().let_through(1);
    loop {
        match feed.result().await {
            // The item in flight ends with its call.
            Ok(Some(_)) => {}
            Ok(None) => bail!("a feed ended without the status of its deadline"),
            Err(status) if status.code() == Code::DeadlineExceeded => return Ok(draw.lateness(sent)),
            Err(status) => bail!("a feed that must expire ended with {status:?}"),
        }
    }
}
