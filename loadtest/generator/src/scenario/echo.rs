//! The rate of a bare tonic echo of the same messages on this machine: the limit of the transport.

use super::Effort;
use crate::{
    limit::Reply,
    report::{Cell, Report},
    stats::Rounds,
    target::Target,
    workload::Workload,
};

/// Streams, and items in flight on each.
const SHAPES: [(usize, u32); 3] = [(1, 1), (16, 64), (256, 8)];
/// Bytes of data in an item.
const SIZES: [usize; 2] = [64, 2304];

/// Measure the limit: a bare tonic echo of the same messages
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    effort: Effort,

    /// Connections over which the streams are spread
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let target = Target::echo(args.connections, Reply::Item, None).await?;
    let cells: Vec<_> =
        SIZES.iter().flat_map(|bytes| SHAPES.iter().map(move |(streams, window)| (*bytes, *streams, *window))).collect();
    let mut rates = vec![Rounds::default(); cells.len()];
    for _ in 0..args.effort.rounds {
        for ((bytes, streams, window), rates) in cells.iter().zip(&mut rates) {
            let workload = Workload::identity(*bytes);
            rates.push(target.closed_loop(&workload, *streams, *window, args.effort.duration()).await?);
        }
    }
    let mut report = Report::new(&["streams", "window", "item_bytes", "items_per_s", "spread"]);
    for ((bytes, streams, window), rates) in cells.iter().zip(&rates) {
        report.row(vec![
            Cell::Count(*streams as u64),
            Cell::Count((*window).into()),
            Cell::Count(*bytes as u64),
            Cell::Figure(rates.median(), 0),
            Cell::Figure(rates.spread(), 3),
        ]);
    }
    Ok(report)
}
