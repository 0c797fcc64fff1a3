//! The cost or gain of one part of the server: the server as it is, against the same server without that part.

use std::path::Path;

use anyhow::Context as _;
use tidemill::{
    config::Config,
    registry::{EMBEDDED_NAME, EMBEDDED_VERSION, Embedded, ModelSource},
};
use tidemill_cli::{KeyArgs, TlsArgs};

use super::Effort;
use crate::{
    report::{Cell, Report},
    stats::Rounds,
    subject::{EngineArgs, Subject},
    target::{Place, Target},
    workload::{Workload, identity_models},
};

/// Bytes of an item when metrics are measured.
const IDENTITY_BYTES: usize = 2_304;

/// A part that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Counting for Prometheus, on a model that costs nothing
    Metrics,
    /// Calls of more than one item, on the speech model
    Batching,
}

/// Measure items per second of a server with and without one of its parts
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to leave out
    #[arg(value_enum)]
    part: Part,

    #[command(flatten)]
    effort: Effort,

    #[command(flatten)]
    engine: EngineArgs,

    /// Connections over which the streams are spread
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,

    /// Streams; 256 by default for metrics, 64 for batching
    #[arg(long)]
    streams: Option<usize>,

    /// Items in flight on each stream
    #[arg(long, default_value_t = 8)]
    window: u32,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let (tls, credential) = (TlsArgs::default(), KeyArgs::default());
    let place = Place { addr: None, connections: args.connections, encrypted: None, tls, credential };
    let models = match args.part {
        Part::Metrics => identity_models(IDENTITY_BYTES)?,
        Part::Batching => one_by_one_models()?,
    };
    let subject = Subject::silero(args.engine.clone());
    let (workload, streams, whole, less) = match args.part {
        Part::Metrics => {
            let configure = |config: &mut Config, enabled: bool| {
                config.models.dir = Some(models.path().to_owned());
                config.metrics.enabled = enabled;
            };
            let whole = Target::tidemill(&place, |config| configure(config, true)).await?;
            let less = Target::tidemill(&place, |config| configure(config, false)).await?;
            (Workload::identity(IDENTITY_BYTES), 256, whole, less)
        }
        Part::Batching => {
            let whole = Target::tidemill(&place, |config| subject.configure(config)).await?;
            let less = Target::tidemill(&place, |config| {
                subject.configure(config);
                config.models.dir = Some(models.path().to_owned());
            })
            .await?;
            (Workload::silero(), 64, whole, less)
        }
    };
    let streams = args.streams.unwrap_or(streams);
    let [mut with, mut without, mut ratio] = std::array::from_fn(|_| Rounds::default());
    for _ in 0..args.effort.rounds {
        let whole_rate = whole.closed_loop(&workload, streams, args.window, args.effort.duration()).await?;
        let less_rate = less.closed_loop(&workload, streams, args.window, args.effort.duration()).await?;
        with.push(whole_rate);
        without.push(less_rate);
        ratio.push(whole_rate / less_rate);
    }
    Ok(Report::single(vec![
        ("streams", Cell::Count(streams as u64)),
        ("window", Cell::Count(args.window.into())),
        ("items_per_s", Cell::Figure(with.median(), 0)),
        ("spread", Cell::Figure(with.spread(), 3)),
        ("items_per_s_without", Cell::Figure(without.median(), 0)),
        ("ratio_to_without", Cell::Figure(ratio.median(), 3)),
    ]))
}

/// A folder with the binary's speech model, which takes one item a call there.
fn one_by_one_models() -> anyhow::Result<tempfile::TempDir> {
    let found = Embedded::SILERO_VAD.scan().models.into_iter().next().context("the binary holds no model")?;
    let version = found.versions.first().context("the model of the binary has no version")?;
    let manifest = found.manifest.map_err(anyhow::Error::msg)?;
    let file = Embedded::SILERO_VAD.read(version).map_err(anyhow::Error::msg)?;
    let models = tempfile::tempdir()?;
    let folder = models.path().join(EMBEDDED_NAME);
    write(&folder.join("model.toml"), format!("max_batch = 1\n{manifest}").as_bytes())?;
    write(&folder.join(EMBEDDED_VERSION.to_string()).join("model.onnx"), &file)?;
    Ok(models)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}
