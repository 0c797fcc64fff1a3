//! `run`: an open-loop load that a scenario file describes, and what came out of it.
//!
//! `file` is the scenario, `arrivals` and `agenda` say when its items are due, `shard` and `line` send them at their moments, and the
//! protocols put them on the wire; `pcm` is audio instead of items. `recorder` counts during a run and `progress` shows how it is going;
//! `results` is what there is to report when it is over, and `output` writes that in the forms of `summary`, `csv` and `html`. `chaos` has
//! clients that misbehave alongside the load. Knows nothing about the scenarios that are built into this tool, or about the inside of the
//! server.

mod agenda;
mod arrivals;
mod call;
pub(crate) mod chaos;
mod charts;
mod csv;
mod date;
pub(crate) mod file;
pub(crate) mod grpc;
mod html;
mod http;
mod line;
mod machine;
mod native;
mod open_inference;
mod output;
mod overrides;
pub(crate) mod payload;
mod pcm;
mod plan;
mod progress;
mod recorder;
mod results;
#[cfg(test)]
mod sample;
mod search;
mod shard;
mod step;
mod summary;
mod timer;
mod usage;

use std::{path::PathBuf, process::ExitCode};

use file::Scenario;
use output::OutputArgs;
use progress::Progress;
use tidemill_cli::{KeyArgs, TlsArgs};

use crate::target::Means;

/// Run the load that a scenario file describes, and measure how the server copes
///
/// The load is open: every item's moment is fixed before the run begins, whatever the server does, and its latency counts from that moment.
/// If an item has to wait, whether for a slow server, a full window or this tool, the wait counts. Only the process `closed` sends at the
/// pace of the answers.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// The scenario; loadtest/scenarios has some
    file: PathBuf,

    /// Where the gRPC protocols go, instead of the file's `addr`: HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    addr: Option<String>,

    /// Where the HTTP protocols go, instead of the file's `http_addr`
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: Option<String>,

    /// Change a value of the file, such as loads.0.streams=256; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// The server's process on this machine, to measure what it and the processes it started use
    #[arg(long, value_name = "PID")]
    server: Option<u32>,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    credential: KeyArgs,
}

const EXAMPLES: &str = "\
Examples:
  tidemill-load run loadtest/scenarios/live-speech.toml
  tidemill-load run loadtest/scenarios/live-speech.toml --set loads.0.streams=256 --set duration_s=60
  tidemill-load run loadtest/scenarios/search-realtime.toml --server $(pidof tidemill) --json found.json

Exit status: 0 if the run could be made, whatever the server answered; 1 if not; 3 if the file's [expect] was not met.";

/// The exit status when the file's bounds are not met.
const NOT_MET: u8 = 3;

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut scenario = Scenario::read(&args.file, &args.set)?;
    if let Some(addr) = args.addr {
        scenario.addr = addr;
    }
    if let Some(addr) = args.http_addr {
        scenario.http_addr = addr;
    }
    let mut progress = Progress::new(args.output.quiet);
    let means = Means::read(&args.tls, &args.credential)?;
    let result = plan::run(&scenario, args.server, means, &mut progress).await;
    progress.end();
    let result = result?;
    args.output.write(&result)?;
    Ok(if result.expectations.iter().all(|expectation| expectation.met) { ExitCode::SUCCESS } else { ExitCode::from(NOT_MET) })
}
