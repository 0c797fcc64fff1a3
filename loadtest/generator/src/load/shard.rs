//! One thread of the driver: its connections, its share of the streams, and their pacing.
//!
//! A shard has a runtime with one thread, so that an item crosses no threads on its way out or back, and what paces it wakes together with
//! the sockets. Everything in a shard ends with its thread.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tidemill::{clock, domain::Timestamp};
use tidemill_client::{Address, Client, Error, wire::code_name};
use tokio::{sync::oneshot, task::JoinSet};
use tonic::Status;

use super::{
    agenda::Agenda,
    call::{Caller, Callers},
    file::{Load, Protocol},
    http,
    line::{Book, Line},
    native::{self, Feed, NativeCaller},
    open_inference::{self, InferCaller, InferStream},
    recorder::{Recorder, RecorderPlan},
    timer::Timer,
};
use crate::target::{Means, connect_with};

/// How many streams a shard opens at once.
const OPENING_AT_ONCE: usize = 64;

/// How long one stream may take to open.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);

/// How many items are released before answers are looked at again.
const PACED_AT_ONCE: usize = 64;

/// How many tasks run before the sockets are looked at again: few, so that a due timer does not wait for them.
const TASKS_AT_ONCE: u32 = 16;

/// A shard's part of a step.
pub(crate) struct ShardPlan {
    /// This shard's number, and how many there are: it has every `of`-th stream of a load.
    pub(crate) number: usize,
    pub(crate) of: usize,
    pub(crate) loads: Arc<[Load]>,
    pub(crate) seed: u64,
    pub(crate) address: Option<Address>,
    pub(crate) http_address: Option<SocketAddr>,
    pub(crate) means: Means,
    /// gRPC connections of this shard.
    pub(crate) connections: usize,
    pub(crate) drain: Duration,
    /// One per load.
    pub(crate) books: Vec<Arc<Book>>,
}

/// When a step begins, and which part of it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) at: Timestamp,
    pub(crate) counts: RecorderPlan,
}

/// How the opening went.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// For each load: the streams that are open, and the first refusal.
    pub(crate) loads: Vec<(usize, Option<Error>)>,
}

/// Runs a shard on this thread, from its first connection to its last answer, and returns what it has counted for each load.
pub(crate) fn run(
    plan: ShardPlan,
    opened: oneshot::Sender<anyhow::Result<Opened>>,
    start: oneshot::Receiver<Start>,
) -> anyhow::Result<Vec<Recorder>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(TASKS_AT_ONCE).build()?;
    runtime.block_on(async move {
        let (shard, report) = match Shard::open(plan).await {
            Ok(open) => open,
            Err(error) => {
                // Reported by the task that waits for this.
                let _ = opened.send(Err(error));
                return Ok(Vec::new());
            }
        };
        let _ = opened.send(Ok(report));
        // If there is no start, another shard could not open.
        let Ok(start) = start.await else { return Ok(Vec::new()) };
        shard.run(start).await
    })
}

/// Reads a stream, or makes a caller's calls, until the line is over.
type Session = BoxFuture<'static, ()>;

struct Shard {
    plan: ShardPlan,
    lines: Vec<Stream>,
    sessions: Vec<Session>,
}

/// A line, and where it belongs.
struct Stream {
    line: Arc<Line>,
    load: usize,
    /// Among the load's streams of all shards.
    number: usize,
}

impl Shard {
    async fn open(plan: ShardPlan) -> anyhow::Result<(Self, Opened)> {
        let channels = match &plan.address {
            Some(address) => connect_with(address, plan.connections, &plan.means).await?,
            None => Vec::new(),
        };
        let mut shard = Self { plan, lines: Vec::new(), sessions: Vec::new() };
        let mut report = Opened::default();
        let loads = Arc::clone(&shard.plan.loads);
        for (place, load) in loads.iter().enumerate() {
            let opened = shard.open_load(place, load, &channels).await.with_context(|| format!("load '{}'", load.name))?;
            report.loads.push(opened);
        }
        Ok((shard, report))
    }

    async fn open_load(&mut self, place: usize, load: &Load, channels: &[Client]) -> anyhow::Result<(usize, Option<Error>)> {
        let numbers: Vec<usize> = (self.plan.number..load.streams).step_by(self.plan.of).collect();
        let channel = |turn: usize| -> anyhow::Result<Client> {
            channels.get(turn % channels.len().max(1)).cloned().context("there is no gRPC connection")
        };
        let seed = self.plan.seed;
        let callers: Callers = match load.protocol {
            Protocol::Feed => {
                let template = Arc::new(native::Template::new(load, seed));
                return self
                    .open_streams(place, load, &numbers, |turn, line| {
                        let (channel, template) = (channel(turn), Arc::clone(&template));
                        Box::pin(async move {
                            let channel = channel.map_err(|error| Status::internal(error.to_string()))?;
                            Ok(Box::pin(Feed::open(channel, template, line).await?.listen()) as Session)
                        })
                    })
                    .await;
            }
            Protocol::InferStream => {
                let template = Arc::new(open_inference::Template::new(load, place, seed));
                return self
                    .open_streams(place, load, &numbers, |turn, line| {
                        let (channel, template, number) = (channel(turn), Arc::clone(&template), numbers[turn]);
                        Box::pin(async move {
                            let channel = channel.map_err(|error| Status::internal(error.to_string()))?;
                            Ok(Box::pin(InferStream::open(channel, template, number, line).await?.listen()) as Session)
                        })
                    })
                    .await;
            }
            Protocol::Predict | Protocol::Scan | Protocol::Upload => {
                let template = Arc::new(native::Template::new(load, seed));
                let caller = |turn| -> anyhow::Result<Box<dyn Caller>> {
                    Ok(Box::new(NativeCaller::new(load.protocol, channel(turn)?, Arc::clone(&template))))
                };
                (0..numbers.len()).map(caller).collect::<anyhow::Result<_>>()?
            }
            Protocol::Infer => {
                let template = Arc::new(open_inference::Template::new(load, place, seed));
                let caller = |(turn, number): (usize, &usize)| -> anyhow::Result<Box<dyn Caller>> {
                    Ok(Box::new(InferCaller::new(&channel(turn)?, Arc::clone(&template), *number)))
                };
                numbers.iter().enumerate().map(caller).collect::<anyhow::Result<_>>()?
            }
            Protocol::HttpInfer | Protocol::HttpPost => {
                let address = self.plan.http_address.context("there is no HTTP address")?;
                http::open(load, address, Some(&self.plan.means), numbers.len(), seed).await?
            }
        };
        let opened = callers.len();
        for (caller, number) in callers.into_iter().zip(numbers) {
            let line = self.add_line(place, load, number);
            self.sessions.push(Box::pin(make_calls(caller, line)));
        }
        Ok((opened, None))
    }

    fn add_line(&mut self, place: usize, load: &Load, number: usize) -> Arc<Line> {
        let line = Arc::new(Line::new(Arc::clone(&self.plan.books[place]), load.in_flight, load.arrivals.is_closed()));
        self.lines.push(Stream { line: Arc::clone(&line), load: place, number });
        line
    }

    /// Opens streams; if one is refused, all its items are answered with the refusal.
    async fn open_streams(
        &mut self,
        place: usize,
        load: &Load,
        numbers: &[usize],
        open: impl Fn(usize, Arc<Line>) -> BoxFuture<'static, Result<Session, Error>>,
    ) -> anyhow::Result<(usize, Option<Error>)> {
        let lines: Vec<_> = numbers.iter().map(|number| self.add_line(place, load, *number)).collect();
        let opening = lines.into_iter().enumerate().map(|(turn, line)| {
            let session = tokio::time::timeout(OPENING_TIMEOUT, open(turn, Arc::clone(&line)));
            async move { (line, session.await) }
        });
        let mut opening = stream::iter(opening).buffer_unordered(OPENING_AT_ONCE);
        let (mut open, mut refusal) = (0, None);
        while let Some((line, session)) = opening.next().await {
            match session {
                Ok(Ok(session)) => {
                    open += 1;
                    self.sessions.push(session);
                }
                Ok(Err(error)) => {
                    line.broke(code_name(error.code()).into());
                    refusal.get_or_insert(error);
                }
                Err(_) => {
                    line.broke("NOT_OPENED".into());
                    refusal.get_or_insert_with(|| Status::deadline_exceeded("a stream did not open in time").into());
                }
            }
        }
        Ok((open, refusal))
    }

    async fn run(self, start: Start) -> anyhow::Result<Vec<Recorder>> {
        let Self { plan, lines, sessions } = self;
        for book in &plan.books {
            book.open(&start.counts)?;
        }
        let moments = lines.iter().enumerate().filter_map(|(turn, stream)| {
            let seed = stream_seed(plan.seed, stream.load, stream.number);
            Some((plan.loads[stream.load].arrivals.moments(start.at, seed)?, turn as u32))
        });
        let agenda = Agenda::new(moments, start.counts.ends);
        let mut listening: JoinSet<()> = JoinSet::new();
        for session in sessions {
            listening.spawn(session);
        }
        let mut timer = Timer::new()?;
        timer.until(start.at).await?;
        for stream in &lines {
            stream.line.start();
        }
        pace(agenda, &lines, &mut timer).await?;
        timer.until(start.counts.ends).await?;
        for stream in &lines {
            stream.line.close();
        }
        // Anything not answered by then counts as unanswered.
        let _ = tokio::time::timeout(plan.drain, async { while listening.join_next().await.is_some() {} }).await;
        listening.abort_all();
        plan.books.iter().map(|book| book.close().ok_or_else(|| anyhow!("a book is closed already"))).collect()
    }
}

/// Releases each item at its moment.
async fn pace(mut agenda: Agenda, lines: &[Stream], timer: &mut Timer) -> anyhow::Result<()> {
    while let Some(due) = agenda.next_due() {
        timer.until(due).await?;
        let now = clock::now();
        for (due, turn) in std::iter::from_fn(|| agenda.take(now)).take(PACED_AT_ONCE) {
            lines[turn as usize].line.offer(due);
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Makes a caller's calls, as many at once as its line allows.
async fn make_calls(caller: Box<dyn Caller>, line: Arc<Line>) {
    let mut calls = FuturesUnordered::new();
    let mut is_over = false;
    std::future::poll_fn(|cx| {
        loop {
            while !is_over && let std::task::Poll::Ready(next) = line.poll_send(cx) {
                match next {
                    Some(seq) => calls.push(caller.call(seq)),
                    None => is_over = true,
                }
            }
            match calls.poll_next_unpin(cx) {
                std::task::Poll::Ready(Some(answer)) => line.answered(&answer),
                _ if is_over && calls.is_empty() => return std::task::Poll::Ready(()),
                _ => return std::task::Poll::Pending,
            }
        }
    })
    .await;
    if let Some(finish) = caller.finish(line.sent()) {
        finish.await;
    }
}

/// Each stream has its own schedule.
fn stream_seed(seed: u64, load: usize, number: usize) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    for part in [load as u64, number as u64] {
        random = fastrand::Rng::with_seed(random.u64(..) ^ part.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }
    random.u64(..)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_stream_of_each_load_has_a_seed_of_its_own() {
        let seeds: BTreeSet<_> = (0..4).flat_map(|load| (0..5_000).map(move |number| stream_seed(1, load, number))).collect();
        assert_eq!(seeds.len(), 20_000);
        assert_eq!(stream_seed(1, 2, 3), stream_seed(1, 2, 3));
        assert_ne!(stream_seed(1, 2, 3), stream_seed(2, 2, 3));
    }
}
