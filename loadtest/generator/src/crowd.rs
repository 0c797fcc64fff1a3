//! Many feeds at once, paced or saturating, and what each of them got.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use tidemill::{clock, domain::Timestamp};
use tidemill_client::{Client, ItemError, outputs, wire::v1};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::{
    feed::{Feed, FeedPlan, Valve},
    pace::{LEAD, pace},
    schedule::{Schedule, agenda},
    stats::{Rounds, Samples},
};

/// How long load runs before counting begins.
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);

/// The answers to one feed, or to several.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    /// Answers with outputs.
    pub(crate) ok: u64,
    /// Answers with an error, by its code.
    pub(crate) errors: BTreeMap<i32, u64>,
    /// From an item's moment to its outputs, on paced feeds.
    pub(crate) latency: Samples,
    /// Of outputs, from arrival to the connection, according to the server.
    pub(crate) age: Samples,
    /// Outputs that were computed within the limit, according to the server.
    pub(crate) in_time: u64,
    /// Outputs that were here within the limit, counted from the item's moment.
    pub(crate) here_in_time: u64,
    /// Longest time from one answer to the next, within one feed.
    pub(crate) longest_gap: Duration,
}

impl Tally {
    pub(crate) fn answered(&self) -> u64 {
        self.ok + self.errors.values().sum::<u64>()
    }

    pub(crate) fn errors_of(&self, code: Code) -> u64 {
        self.errors.get(&(code as i32)).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.ok += other.ok;
        for (code, count) in &other.errors {
            *self.errors.entry(*code).or_default() += count;
        }
        self.latency.add(&other.latency);
        self.age.add(&other.age);
        self.in_time += other.in_time;
        self.here_in_time += other.here_in_time;
        self.longest_gap = self.longest_gap.max(other.longest_gap);
    }

    pub(crate) fn sum_of(tallies: &[Self]) -> Self {
        let mut sum = Self::default();
        for tally in tallies {
            sum.add(tally);
        }
        sum
    }

    pub(crate) fn p99_ms(&self) -> f64 {
        self.latency.quantile_ms(0.99)
    }

    /// Counts outputs that came `latency` after their moment.
    pub(crate) fn count_outputs(&mut self, timing: Option<&v1::Timing>, latency: Option<Duration>, limit: Duration) {
        self.ok += 1;
        if let Some(timing) = timing {
            self.age.record(Duration::from_nanos(timing.age_ns));
            self.in_time += u64::from(Duration::from_nanos(timing.queue_ns + timing.compute_ns) <= limit);
        }
        if let Some(latency) = latency {
            self.latency.record(latency);
            self.here_in_time += u64::from(latency <= limit);
        }
    }

    fn count(&mut self, result: &v1::ItemResult, latency: Option<Duration>, limit: Duration) -> anyhow::Result<()> {
        match outputs(result) {
            Ok(_) => self.count_outputs(result.timing.as_ref(), latency, limit),
            Err(ItemError::Answered(status)) => *self.errors.entry(status.code).or_default() += 1,
            Err(ItemError::Empty) => bail!("the answer to item {} is empty", result.seq),
        }
        Ok(())
    }
}

/// The latency of one arm over all rounds: for p99, the median of the rounds, so that one stall of the machine does not decide the result.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    pub(crate) tally: Tally,
    p99_ms: Rounds,
}

impl Latency {
    /// Adds a round.
    pub(crate) fn add(&mut self, round: &[Tally]) {
        let round = Tally::sum_of(round);
        self.p99_ms.push(round.p99_ms());
        self.tally.add(&round);
    }

    pub(crate) fn p99_ms(&self) -> f64 {
        self.p99_ms.median()
    }
}

/// How many items per second, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beat {
    pub(crate) rate_hz: f64,
    pub(crate) duration: Duration,
    /// Items before this are answered and counted, but their latencies are not.
    pub(crate) warm_up: Duration,
    /// The limit that counts as in time.
    pub(crate) limit: Duration,
}

/// Runs feeds that each send `beat.rate_hz` items a second, out of step with each other, and waits for all answers.
///
/// # Errors
/// If a stream breaks off, or an item is not answered.
pub(crate) async fn paced(channels: &[Client], plans: Vec<FeedPlan>, beat: Beat) -> anyhow::Result<Vec<Tally>> {
    let period = Duration::from_secs_f64(1.0 / beat.rate_hz);
    let start = clock::now() + LEAD;
    let schedules: Vec<_> =
        (0..plans.len()).map(|stream| Schedule::new(start, period, period.mul_f64(0.2), 1 + stream as u64)).collect();
    let opening = plans
        .into_iter()
        .zip(&schedules)
        .enumerate()
        .map(|(stream, (plan, schedule))| Feed::start(channels[stream % channels.len()].clone(), plan, Some(*schedule)));
    let feeds = try_join_all(opening).await?;
    let valves: Vec<_> = feeds.iter().map(|feed| Arc::clone(feed.valve())).collect();
    let listening: Vec<_> = feeds
        .into_iter()
        .zip(&schedules)
        .map(|(feed, schedule)| tokio::spawn(listen(feed, Some((*schedule, start + beat.warm_up)), beat.limit)))
        .collect();
    let agenda = agenda(&schedules, start + beat.duration);
    tokio::task::spawn_blocking(move || pace(&agenda, &valves)).await?;
    try_join_all(listening).await?.into_iter().collect()
}

/// Reads a feed to its end; without a schedule, also keeps the window full.
async fn listen(mut feed: Feed, schedule: Option<(Schedule, Timestamp)>, limit: Duration) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut last: Option<Timestamp> = None;
    while let Some(result) = feed.result().await.context("a stream broke off")? {
        let now = clock::now();
        let due = schedule.map(|(schedule, counts_from)| (schedule.due(result.seq), counts_from));
        let latency = due.filter(|(due, counts_from)| due >= counts_from).map(|(due, _)| now.since(due));
        tally.count(&result, latency, limit)?;
        tally.longest_gap = tally.longest_gap.max(last.map_or(Duration::ZERO, |last| now.since(last)));
        last = Some(now);
        if schedule.is_none() {
            feed.valve().let_through(1);
        }
    }
    tally.sent = feed.valve().sent();
    if tally.answered() != tally.sent {
        bail!("a stream sent {} items and got {} answers", tally.sent, tally.answered());
    }
    Ok(tally)
}

/// Feeds that keep their windows full until they are stopped.
pub(crate) struct Flood {
    valves: Vec<Arc<Valve>>,
    tasks: Vec<JoinHandle<anyhow::Result<Tally>>>,
}

impl Flood {
    /// Opens the feeds, each with the window that its plan asks for.
    pub(crate) async fn start(channels: &[Client], plans: Vec<FeedPlan>) -> anyhow::Result<Self> {
        let windows: Vec<u64> = plans.iter().map(|plan| plan.open.window_items.max(1).into()).collect();
        let opening = plans
            .into_iter()
            .enumerate()
            .map(|(stream, plan)| Feed::start(channels[stream % channels.len()].clone(), plan, None));
        let feeds = try_join_all(opening).await?;
        let valves: Vec<_> = feeds.iter().map(|feed| Arc::clone(feed.valve())).collect();
        for (valve, window) in valves.iter().zip(windows) {
            valve.let_through(window);
        }
        let tasks = feeds.into_iter().map(|feed| tokio::spawn(listen(feed, None, Duration::MAX))).collect();
        Ok(Self { valves, tasks })
    }

    /// Items per second of each feed, over `duration`, after some time to warm up.
    pub(crate) async fn rates(&self, duration: Duration) -> Vec<f64> {
        let answered = || self.valves.iter().map(|valve| valve.answered()).collect::<Vec<_>>();
        tokio::time::sleep(WARM_UP).await;
        let (start, before) = (clock::now(), answered());
        tokio::time::sleep(duration).await;
        let (end, after) = (clock::now(), answered());
        let seconds = end.since(start).as_secs_f64();
        before.iter().zip(after).map(|(before, after)| (after - before) as f64 / seconds).collect()
    }

    /// Ends the feeds, and waits until all that they sent is answered.
    ///
    /// # Errors
    /// If a stream breaks off, or an item is not answered with outputs.
    pub(crate) async fn stop(self) -> anyhow::Result<Vec<Tally>> {
        for valve in &self.valves {
            valve.close();
        }
        let tallies: Vec<Tally> = try_join_all(self.tasks).await?.into_iter().collect::<anyhow::Result<_>>()?;
        if let Some(tally) = tallies.iter().find(|tally| !tally.errors.is_empty()) {
            bail!("a saturating stream got errors, by code: {:?}", tally.errors);
        }
        Ok(tallies)
    }
}
