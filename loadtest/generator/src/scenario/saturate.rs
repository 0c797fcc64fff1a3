//! How much of the limits a saturated server reaches.

use super::Effort;
use crate::{
    engine::BareEngine,
    limit::Reply,
    report::{Cell, Report},
    stats::Rounds,
    subject::Subject,
    target::{Place, Target},
    workload::{Workload, identity_models},
};

/// Measure items per second of many full streams, next to the bare engine and the bare echo
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    #[command(flatten)]
    effort: Effort,

    #[command(flatten)]
    subject: Subject,

    /// Streams; 64 by default, or 256 with --synthetic
    #[arg(long)]
    streams: Option<usize>,

    /// Items in flight on each stream; 8,64 by default, or 8 with --synthetic
    #[arg(long, value_delimiter = ',')]
    window: Vec<u32>,

    /// Lanes of the bare engine
    #[arg(long, default_value_t = 2)]
    lanes: usize,

    /// Instead of a real model, one that costs nothing and returns items: it leaves only the server's own work. A server at --addr must
    /// serve it under the name `identity`
    #[arg(long, conflicts_with = "models")]
    synthetic: bool,

    /// Bytes of data in an item of --synthetic
    #[arg(long, default_value_t = 2_304)]
    item_bytes: usize,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let (streams, windows) = if args.synthetic { (256, vec![8]) } else { (64, vec![8, 64]) };
    let streams = args.streams.unwrap_or(streams);
    let windows = if args.window.is_empty() { windows } else { args.window.clone() };
    if args.synthetic { synthetic(&args, streams, &windows).await } else { real(&args, streams, &windows).await }
}

async fn synthetic(args: &Args, streams: usize, windows: &[u32]) -> anyhow::Result<Report> {
    let workload = Workload::identity(args.item_bytes);
    let echo = Target::echo(args.place.connections, Reply::Item, args.place.encryption().as_ref()).await?;
    let models = identity_models(args.item_bytes)?;
    let server = Target::tidemill(&args.place, |config| config.models.dir = Some(models.path().to_owned())).await?;
    let mut report =
        Report::new(&["streams", "window", "item_bytes", "items_per_s", "spread", "echo_items_per_s", "ratio_to_echo"]);
    for window in windows {
        let [mut served, mut echoed, mut ratio] = std::array::from_fn(|_| Rounds::default());
        for _ in 0..args.effort.rounds {
            let echo_rate = echo.closed_loop(&workload, streams, *window, args.effort.duration()).await?;
            let rate = server.closed_loop(&workload, streams, *window, args.effort.duration()).await?;
            served.push(rate);
            echoed.push(echo_rate);
            ratio.push(rate / echo_rate);
        }
        report.row(vec![
            Cell::Count(streams as u64),
            Cell::Count((*window).into()),
            Cell::Count(args.item_bytes as u64),
            Cell::Figure(served.median(), 0),
            Cell::Figure(served.spread(), 3),
            Cell::Figure(echoed.median(), 0),
            Cell::Figure(ratio.median(), 3),
        ]);
    }
    Ok(report)
}

async fn real(args: &Args, streams: usize, windows: &[u32]) -> anyhow::Result<Report> {
    let engine = BareEngine::load(&args.subject, args.lanes)?;
    let workload = engine.workload();
    let batch = engine.best_batch().await?;
    let echo =
        Target::echo(args.place.connections, Reply::Bytes(workload.output_bytes), args.place.encryption().as_ref()).await?;
    let server = Target::tidemill(&args.place, |config| args.subject.configure(config)).await?;
    let mut report = Report::new(&[
        "model",
        "engine",
        "streams",
        "window",
        "items_per_s",
        "spread",
        "engine_batch",
        "engine_items_per_s",
        "echo_items_per_s",
        "ratio_to_engine",
        "ratio_to_composed_limit",
    ]);
    for window in windows {
        let [mut served, mut engines, mut echoed, mut of_engine, mut of_limit] = std::array::from_fn(|_| Rounds::default());
        for _ in 0..args.effort.rounds {
            let engine_rate = engine.items_per_s(batch, args.effort.duration()).await?;
            let echo_rate = echo.closed_loop(workload, streams, *window, args.effort.duration()).await?;
            let rate = server.closed_loop(workload, streams, *window, args.effort.duration()).await?;
            served.push(rate);
            engines.push(engine_rate);
            echoed.push(echo_rate);
            of_engine.push(rate / engine_rate);
            // Engine and transport share the cores, so the times that an item takes in each add up.
            of_limit.push(rate * (1.0 / engine_rate + 1.0 / echo_rate));
        }
        report.row(vec![
            args.subject.model().into(),
            args.subject.engine.engine.label().into(),
            Cell::Count(streams as u64),
            Cell::Count((*window).into()),
            Cell::Figure(served.median(), 0),
            Cell::Figure(served.spread(), 3),
            Cell::Count(batch as u64),
            Cell::Figure(engines.median(), 0),
            Cell::Figure(echoed.median(), 0),
            Cell::Figure(of_engine.median(), 3),
            Cell::Figure(of_limit.median(), 3),
        ]);
    }
    Ok(report)
}
