//! The scenarios, one file each: flags, rounds, report.

pub(crate) mod cancel;
pub(crate) mod costs;
pub(crate) mod deadlines;
pub(crate) mod doors;
pub(crate) mod echo;
pub(crate) mod fairness;
pub(crate) mod freshness;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod lone;
pub(crate) mod neighbours;
pub(crate) mod overload;
pub(crate) mod readers;
pub(crate) mod realtime;
pub(crate) mod saturate;
pub(crate) mod soak;
pub(crate) mod without;

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use tidemill_client::wire::v1;

use crate::{feed::FeedPlan, workload::item};

/// How long and how often to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Effort {
    /// Rounds of all arms in turn; medians are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Seconds of load in each arm of a round
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
}

impl Effort {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("between 0.01 and 3600".to_owned()) }
}

/// A live stream of small items with the server's own window.
fn live_plan(model: &str, item: v1::Item) -> FeedPlan {
    FeedPlan::of(v1::StreamConfig { model: model.to_owned(), ..v1::StreamConfig::default() }, item)
}

fn live_plans(model: &str, streams: usize) -> Vec<FeedPlan> {
    (0..streams).map(|_| live_plan(model, item("x", 4))).collect()
}

/// The server's binary, which the build puts into the same folder.
fn beside_this_one() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("tidemill");
    if !path.is_file() {
        bail!("there is no server at {}; build it, or name one with --server", path.display());
    }
    Ok(path)
}
