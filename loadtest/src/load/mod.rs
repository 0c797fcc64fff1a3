//! `run`: an open-loop load that a scenario file describes, and what came of it.
//!
//! `file` is the scenario, `arrivals` and `agenda` say when its items are due, `shard` and `line` send them at their moments, and the
//! protocols put them on the wire; `pcm` is audio in place of items. `recorder` counts while a run is on and `progress` shows how it
//! goes; `results` is what is there to say when it is over, and `output` writes that as `summary`, `csv` and `html` put it. `chaos` are
//! clients that misbehave beside the load. Knows nothing of the scenarios that are built into this tool, nor of the server's inside.

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

/// Run the load that a scenario file describes, and measure how the server bears it
///
/// The load is open: every item has its moment before the run begins, whatever the server does, and its latency counts from that
/// moment. An item that has to wait, be it for a slow server, a full window or this tool, has waited. Only the process `closed` sends
/// as it is answered.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// The scenario; loadtest/scenarios has some
    file: PathBuf,

    /// Where the gRPC protocols go, in place of the file's `addr`
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,

    /// Where the HTTP protocols go, in place of the file's `http_addr`
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: Option<String>,

    /// Change a value of the file, such as loads.0.streams=256; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// The server's process on this machine, to measure what it and those it started use
    #[arg(long, value_name = "PID")]
    server: Option<u32>,

    #[command(flatten)]
    output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  tidemill-load run loadtest/scenarios/live-speech.toml
  tidemill-load run loadtest/scenarios/live-speech.toml --set loads.0.streams=256 --set duration_s=60
  tidemill-load run loadtest/scenarios/search-realtime.toml --server $(pidof tidemill) --json found.json

Exit status: 0 if the run could be made, whatever the server answered; 1 if not; 3 if the file's [expect] was not met.";

/// What the exit status says when the file's bounds are not kept.
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
    let result = plan::run(&scenario, args.server, &mut progress).await;
    progress.end();
    let result = result?;
    args.output.write(&result)?;
    Ok(if result.expectations.iter().all(|expectation| expectation.met) { ExitCode::SUCCESS } else { ExitCode::from(NOT_MET) })
}
