//! How much goodput is left when more is offered than can be run, and how the rest is refused.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::try_join_all;
use tidemill::{clock, domain::Timestamp};
use tidemill_client::{
    Client,
    wire::{
        duration_to_wire,
        v1::{self, predict_request},
    },
};
use tokio::runtime::Handle;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::live_plans;
use crate::{
    crowd::{Beat, Flood, Tally, paced},
    feed::FeedPlan,
    findings::{Findings, Wanted},
    pace::{LEAD, wait_until},
    process::Usage,
    report::Report,
    stage::{Blocker, Stage},
    workload::item,
};

const LANES: usize = 4;
/// Loads as multiples of the capacity.
const LOADS: [f64; 3] = [1.0, 2.0, 3.0];
/// Live streams in the arms with feeds.
const FEEDS: usize = 64;

/// Measure answers within their deadlines at one, two and three times the capacity
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of load in each arm
    #[arg(long, default_value_t = 3.0, value_parser = super::seconds)]
    seconds: f64,

    /// Deadline of each item, in milliseconds
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    deadline_ms: u64,

    /// Items that may wait (scheduler.max_queued_items_per_model)
    #[arg(long, default_value_t = 96)]
    queue: usize,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    // About a thousand items a second, so that even three times as many calls leave the cores free.
    let model = Blocker { per_call: Duration::from_millis(16), per_item: Duration::from_millis(2), ..Blocker::default() };
    let adjust = |config: &mut tidemill::config::Config| config.scheduler.max_queued_items_per_model = args.queue;
    let stage = Arc::new(Stage::start(LANES, std::slice::from_ref(&model), adjust).await?);
    let channels = stage.connect(8).await?;
    let duration = Duration::from_secs_f64(args.seconds);
    let deadline = Duration::from_millis(args.deadline_ms);
    let mut findings = Findings::new();

    let capacity = capacity(&channels, model.name, duration).await?;
    findings.add("saturating feeds, no deadline", "items_per_s", capacity, Wanted::Anything);

    let resident_before = Usage::of(std::process::id())?.resident_bytes;
    for by_calls in [true, false] {
        let (mut peak, mut peak_here) = (0.0_f64, 0.0_f64);
        for load in LOADS {
            let watch = QueueWatch::start(&stage, model.name);
            let rate = load * capacity;
            let found = if by_calls {
                open_loop(&channels, model.name, rate, duration, deadline).await?
            } else {
                feeds(&channels, model.name, rate, duration, deadline).await?
            };
            let longest = watch.longest();
            let Found { tally, vague } = found;
            let arm = format!("{} {load}x", if by_calls { "unary" } else { "feeds" });
            let goodput = tally.in_time as f64 / args.seconds;
            let here = tally.here_in_time as f64 / args.seconds;
            (peak, peak_here) = (peak.max(goodput), peak_here.max(here));
            findings.add(&arm, "sent_per_s", tally.sent as f64 / args.seconds, Wanted::Anything);
            findings.add(&arm, "in_time_per_s", goodput, Wanted::Anything);
            findings.add(&arm, "here_in_time_per_s", here, Wanted::Anything);
            findings.add(&arm, "p99_ms", tally.p99_ms(), Wanted::Anything);
            findings.add(&arm, "expired_per_s", tally.errors_of(Code::DeadlineExceeded) as f64 / args.seconds, Wanted::Anything);
            if by_calls {
                let refused = tally.errors_of(Code::ResourceExhausted);
                findings.add(&arm, "refused_per_s", refused as f64 / args.seconds, Wanted::Anything);
                findings.add(&arm, "refusals_that_lack_details", vague as f64, Wanted::AtMost(0.0));
            }
            findings.add(&arm, "unanswered", (tally.sent - tally.answered()) as f64, Wanted::AtMost(0.0));
            findings.add(&arm, "queue_longest_items", longest as f64, Wanted::AtMost(args.queue as f64));
            if load == LOADS[LOADS.len() - 1] {
                findings.add(&arm, "in_time_of_peak", goodput / peak, Wanted::AtLeast(0.95));
                findings.add(&arm, "here_in_time_of_peak", here / peak_here, Wanted::AtLeast(0.95));
            }
        }
    }
    let resident_after = Usage::of(std::process::id())?.resident_bytes;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    findings.add("process, clients included", "resident_before_mib", mib(resident_before), Wanted::Anything);
    findings.add("process, clients included", "resident_after_mib", mib(resident_after), Wanted::Anything);
    drop(channels);
    if let Some(stage) = Arc::into_inner(stage) {
        stage.finish().await?;
    }
    Ok(findings.report())
}

/// Items per second of feeds that keep their windows full.
async fn capacity(channels: &[Client], model: &str, duration: Duration) -> anyhow::Result<f64> {
    let windows = live_plans(model, 16).into_iter();
    let plans = windows.map(|plan| FeedPlan { open: v1::StreamConfig { window_items: 8, ..plan.open }, ..plan }).collect();
    let flood = Flood::start(channels, plans).await?;
    let rates = flood.rates(duration).await;
    flood.stop().await?;
    Ok(rates.iter().sum())
}

/// What became of one arm's items.
struct Found {
    tally: Tally,
    /// Refusals that do not say what is full and when to come back.
    vague: u64,
}

/// Calls at random moments, `rate` a second, whether the earlier ones have been answered or not.
async fn open_loop(channels: &[Client], model: &str, rate: f64, duration: Duration, deadline: Duration) -> anyhow::Result<Found> {
    let start = clock::now() + LEAD;
    let mut random = fastrand::Rng::with_seed(1);
    let mut at = 0.0;
    let gaps = std::iter::from_fn(|| {
        at -= (1.0 - random.f64()).ln() / rate;
        (at < duration.as_secs_f64()).then(|| start + Duration::from_secs_f64(at))
    });
    let moments: Vec<Timestamp> = gaps.collect();
    let found = Arc::new(Mutex::new(Found { tally: Tally::default(), vague: 0 }));
    found.lock().unwrap_or_else(PoisonError::into_inner).tally.sent = moments.len() as u64;
    let clients: Vec<_> = channels.iter().map(Client::inference).collect();
    let mut item = item("x", 4);
    item.deadline = Some(duration_to_wire(deadline));
    let payload = Some(predict_request::Payload::Item(item));
    let request = v1::PredictRequest { model: model.to_owned(), payload, ..v1::PredictRequest::default() };
    let (runtime, results) = (Handle::current(), Arc::clone(&found));
    let calls = tokio::task::spawn_blocking(move || {
        let call = |(number, due): (usize, Timestamp)| {
            wait_until(due);
            let (mut client, request, results) = (clients[number % clients.len()].clone(), request.clone(), Arc::clone(&results));
            runtime.spawn(async move {
                let answer = client.predict(request).await;
                let latency = clock::now().since(due);
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                match answer {
                    Ok(answer) => {
                        results.tally.count_outputs(answer.into_inner().timing.as_ref(), Some(latency), deadline);
                    }
                    Err(status) => {
                        *results.tally.errors.entry(status.code() as i32).or_default() += 1;
                        results.vague += u64::from(status.code() == Code::ResourceExhausted && is_vague(&status));
                    }
                }
            })
        };
        moments.into_iter().enumerate().map(call).collect::<Vec<_>>()
    });
    try_join_all(calls.await?).await?;
    let Found { tally, vague } = &*found.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Found { tally: tally.clone(), vague: *vague })
}

/// Feeds that send so many items a second together.
async fn feeds(channels: &[Client], model: &str, rate: f64, duration: Duration, deadline: Duration) -> anyhow::Result<Found> {
    let plans = live_plans(model, FEEDS).into_iter();
    let default_deadline = Some(duration_to_wire(deadline));
    let plans = plans.map(|plan| FeedPlan { open: v1::StreamConfig { default_deadline, ..plan.open }, ..plan });
    let beat = Beat { rate_hz: rate / FEEDS as f64, duration, warm_up: Duration::ZERO, limit: deadline };
    Ok(Found { tally: Tally::sum_of(&paced(channels, plans.collect(), beat).await?), vague: 0 })
}

fn is_vague(status: &Status) -> bool {
    let details = status.get_error_details();
    let says_when = details.retry_info().is_some_and(|info| info.retry_delay.is_some());
    let says_what = details.quota_failure().is_some_and(|quota| !quota.violations.is_empty());
    !(says_when && says_what && status.metadata().contains_key("grpc-retry-pushback-ms"))
}

/// Looks at the queue now and then, and remembers the longest that it saw.
struct QueueWatch {
    longest: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl QueueWatch {
    fn start(stage: &Arc<Stage>, model: &'static str) -> Self {
        let longest = Arc::new(AtomicUsize::new(0));
        let (stage, seen) = (Arc::downgrade(stage), Arc::clone(&longest));
        let task = tokio::spawn(async move {
            while let Some(Ok(status)) = stage.upgrade().map(|stage| stage.status(model)) {
                seen.fetch_max(status.queued, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { longest, task }
    }

    fn longest(self) -> usize {
        self.task.abort();
        self.longest.load(Ordering::Relaxed)
    }
}
