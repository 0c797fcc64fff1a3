//! The cost of open streams while nothing is sent on them.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tidemill_cli::{KeyArgs, TlsArgs};
use tidemill_client::Address;

use super::beside_this_one;
use crate::{
    feed::Feed,
    process::{ServerProcess, Usage},
    report::{Cell, Report},
    target::{Means, connect_with},
    workload::Workload,
};

/// Streams that are being opened at a time.
const OPENING: usize = 256;
/// Time for the server to come to rest.
const SETTLE: Duration = Duration::from_secs(2);

/// Measure the memory and the processor time of open streams that are silent
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Streams, each opened and acknowledged
    #[arg(long, default_value_t = 10_000)]
    streams: usize,

    /// Connections over which they are spread
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,

    /// Seconds of silence
    #[arg(long, default_value_t = 10.0, value_parser = super::seconds)]
    seconds: f64,

    /// The server's binary; by default the `tidemill` next to this one
    #[arg(long, value_name = "PATH", conflicts_with = "addr")]
    server: Option<PathBuf>,

    /// A setting of the new server, such as grpc.keepalive_interval_s=5; may be given several times
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "addr")]
    set: Vec<String>,

    /// A running server instead of a new one; it must allow that many streams (session.max_streams)
    #[arg(long, value_name = "ADDR", requires = "pid")]
    addr: Option<Address>,

    /// Its process
    #[arg(long, requires = "addr")]
    pid: Option<u32>,

    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    credential: KeyArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let (address, pid, _server) = match (args.addr, args.pid) {
        (Some(address), Some(pid)) => (address, pid, None),
        _ => {
            let binary = args.server.map_or_else(beside_this_one, Ok)?;
            let server = ServerProcess::start(&binary, args.streams, &args.set).await?;
            (Address::try_from(server.address)?, server.pid, Some(server))
        }
    };
    let means = Means::read(&args.tls, &args.credential)?;
    let channels = connect_with(&address, args.connections.into(), &means).await?;
    tokio::time::sleep(SETTLE).await;
    let before = Usage::of(pid)?;
    let workload = Workload::silero();
    let feeds: Vec<Feed> = stream::iter(0..args.streams)
        .map(|index| Feed::open(channels[index % channels.len()].clone(), &workload, 0, None))
        .buffer_unordered(OPENING)
        .try_collect()
        .await?;
    let opened = Usage::of(pid)?;
    tokio::time::sleep(SETTLE).await;
    let resting = Usage::of(pid)?;
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    let after = Usage::of(pid)?;
    if feeds.len() != args.streams {
        bail!("{} streams are open instead of {}", feeds.len(), args.streams);
    }
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let (opening, idle) = (opened.since(&before), after.since(&resting));
    let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
    Ok(Report::single(vec![
        ("streams", Cell::Count(args.streams as u64)),
        ("connections", Cell::Count(args.connections.into())),
        ("resident_before_mib", Cell::Figure(kib(before.resident_bytes) / 1024.0, 1)),
        ("resident_after_mib", Cell::Figure(kib(after.resident_bytes) / 1024.0, 1)),
        ("kib_per_stream", Cell::Figure(kib(grown) / args.streams as f64, 2)),
        ("open_cpu_us_per_stream", Cell::Figure(opening.cpu.as_secs_f64() * 1e6 / args.streams as f64, 1)),
        ("idle_s", Cell::Figure(args.seconds, 1)),
        ("idle_cpu_ms", Cell::Figure(idle.cpu.as_secs_f64() * 1e3, 3)),
        ("idle_context_switches", Cell::Count(idle.context_switches)),
    ]))
}
