//! What a live feed costs the server through each door: gRPC with connections that are shared or not, and WebSocket in each of its forms.
//!
//! All doors carry the same audio at the same pace to the same model, one after the other in one run, so that only the wire differs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use tidemill::clock;
use tidemill_client::wire::v1::{self, feed_request::Message};
use tonic::metadata::MetadataMap;

use super::{Effort, beside_this_one};
use crate::{
    feed::{Feed, FeedPlan, Valve},
    pace::{LEAD, pace},
    process::{ServerProcess, Usage},
    report::{Cell, Report},
    schedule::{Schedule, agenda},
    socket::{Form, SocketFeed},
    stats::{Rounds, Samples},
    target::connect,
};

const MODEL: &str = "silero-vad";
/// A window of the model: 512 samples of two bytes.
const CHUNK_BYTES: usize = 1_024;
/// Connections that all streams of the first door share.
const SHARED: usize = 8;
/// Streams that are being opened at a time.
const OPENING: usize = 64;
/// Time to open each stream, on top of what there is for all of them.
const OPENING_EACH: Duration = Duration::from_millis(1);

/// Measure what live audio costs the server through each door, in processor time per item
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Streams at once
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    streams: u16,

    /// Chunks per second of each stream; windows of 512 samples at 16 kHz come 31.25 times
    #[arg(long, default_value_t = 31.25)]
    rate: f64,

    #[command(flatten)]
    effort: Effort,

    /// The server's binary; by default the `tidemill` next to this one
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,

    /// A setting of the server, such as engine.default=onnxruntime; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// With this many connections, or one for each stream.
    Grpc(Option<usize>),
    Socket(Form),
}

impl Door {
    /// The second is what the others are compared with.
    const ALL: [Self; 5] = [
        Self::Grpc(Some(SHARED)),
        Self::Grpc(None),
        Self::Socket(Form::Protobuf),
        Self::Socket(Form::RawAndJson),
        Self::Socket(Form::Json),
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Grpc(Some(_)) => "gRPC, 8 connections",
            Self::Grpc(None) => "gRPC, a connection each",
            Self::Socket(Form::Protobuf) => "WebSocket, protobuf",
            Self::Socket(Form::RawAndJson) => "WebSocket, audio as it is, answers in JSON",
            Self::Socket(Form::Json) => "WebSocket, JSON and base64",
        }
    }
}

/// A stream through any door.
enum Live {
    Grpc(Box<Feed>),
    Socket(Box<SocketFeed>),
}

impl Live {
    fn valve(&self) -> &Arc<Valve> {
        match self {
            Self::Grpc(feed) => feed.valve(),
            Self::Socket(feed) => feed.valve(),
        }
    }

    async fn answer(&mut self) -> anyhow::Result<Option<u64>> {
        match self {
            Self::Grpc(feed) => Ok(feed.result().await?.map(|result| result.seq)),
            Self::Socket(feed) => feed.answer().await,
        }
    }
}

/// One round through one door.
struct Heard {
    latency: Samples,
    cpu: Duration,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let streams = usize::from(args.streams);
    let binary = args.server.clone().map_or_else(beside_this_one, Ok)?;
    let places = streams + 100;
    let mut settings = vec![format!("grpc.max_connections={places}"), format!("http.max_connections={places}")];
    settings.extend(args.set.iter().cloned());
    let server = ServerProcess::start(&binary, streams, &settings).await?;
    let mut cpu = Door::ALL.map(|_| Rounds::default());
    let [mut p50, mut p99] = [Door::ALL.map(|_| Rounds::default()), Door::ALL.map(|_| Rounds::default())];
    for _ in 0..args.effort.rounds {
        for (index, door) in Door::ALL.into_iter().enumerate() {
            let heard = round(&args, &server, door).await?;
            cpu[index].push(heard.cpu.as_secs_f64() * 1e6 / heard.latency.count() as f64);
            p50[index].push(heard.latency.quantile_ms(0.5) * 1e3);
            p99[index].push(heard.latency.quantile_ms(0.99) * 1e3);
        }
    }
    let mut report = Report::new(&["door", "streams", "cpu_us_per_item", "spread", "ratio", "p50_us", "p99_us"]);
    let base = cpu[1].median();
    for (index, door) in Door::ALL.into_iter().enumerate() {
        report.row(vec![
            door.label().into(),
            Cell::Count(streams as u64),
            Cell::Figure(cpu[index].median(), 2),
            Cell::Figure(cpu[index].spread(), 3),
            Cell::Figure(cpu[index].median() / base, 3),
            Cell::Figure(p50[index].median(), 0),
            Cell::Figure(p99[index].median(), 0),
        ]);
    }
    Ok(report)
}

async fn round(args: &Args, server: &ServerProcess, door: Door) -> anyhow::Result<Heard> {
    let streams = usize::from(args.streams);
    let period = Duration::from_secs_f64(1.0 / args.rate);
    let feeds = open(server, door, streams).await?;
    let start = clock::now() + LEAD + OPENING_EACH * u32::from(args.streams);
    let schedules: Vec<_> =
        (0..streams).map(|stream| Schedule::new(start, period, period.mul_f64(0.25), stream as u64)).collect();
    let agenda = agenda(&schedules, start + args.effort.duration());
    let offered = agenda.len() as u64;
    let valves: Vec<_> = feeds.iter().map(|feed| Arc::clone(feed.valve())).collect();
    let before = Usage::of(server.pid)?;
    let listening: Vec<_> =
        feeds.into_iter().zip(schedules).map(|(feed, schedule)| tokio::spawn(listen(feed, schedule))).collect();
    tokio::task::spawn_blocking(move || pace(&agenda, &valves)).await?;
    let mut latency = Samples::default();
    for heard in try_join_all(listening).await? {
        latency.add(&heard?);
    }
    let cpu = Usage::of(server.pid)?.since(&before).cpu;
    anyhow::ensure!(latency.count() == offered, "{} of {offered} items were answered through {}", latency.count(), door.label());
    Ok(Heard { latency, cpu })
}

async fn open(server: &ServerProcess, door: Door, streams: usize) -> anyhow::Result<Vec<Live>> {
    let chunk = noise();
    match door {
        Door::Grpc(connections) => {
            let channels = connect(server.address, connections.unwrap_or(streams)).await?;
            let opening = stream::iter(0..streams).map(|stream| {
                let channel = channels[stream % channels.len()].clone();
                Feed::start(channel, plan(chunk.clone()), None)
            });
            opening.buffer_unordered(OPENING).map_ok(|feed| Live::Grpc(Box::new(feed))).try_collect().await
        }
        Door::Socket(form) => {
            let opening = stream::iter(0..streams).map(|_| SocketFeed::open(server.http_address, MODEL, chunk.clone(), form));
            opening.buffer_unordered(OPENING).map_ok(|feed| Live::Socket(Box::new(feed))).try_collect().await
        }
    }
}

fn plan(chunk: Bytes) -> FeedPlan {
    let payload = v1::PayloadKind::PcmS16le.into();
    let open = v1::StreamConfig { model: MODEL.to_owned(), payload, ..v1::StreamConfig::default() };
    FeedPlan { open, message: Box::new(move |_| Message::Chunk(chunk.clone())), metadata: MetadataMap::new() }
}

/// Faint noise; it begins like no file.
fn noise() -> Bytes {
    let mut random = fastrand::Rng::with_seed(1);
    (0..CHUNK_BYTES / 2).flat_map(|_| random.i16(-900..900).to_le_bytes()).collect::<Vec<_>>().into()
}

async fn listen(mut feed: Live, schedule: Schedule) -> anyhow::Result<Samples> {
    let mut latency = Samples::default();
    while let Some(number) = feed.answer().await? {
        latency.record(clock::now().since(schedule.due(number)));
    }
    Ok(latency)
}
