//! `tidemill-load`: measures a Tidemill server, always against a limit that is measured beside it in the same run.
//!
//! Each scenario is one file of [`scenario`]. Rounds of the arms take turns (A B A B), and medians are given, so that a machine
//! that gets slower in between slows both. Knows nothing of the server's inside except in the arms that call an engine bare, and in
//! [`stage`], which holds and slows synthetic models and looks at the ledger.

mod crowd;
mod cut;
mod engine;
mod feed;
mod findings;
mod limit;
mod load;
mod mix;
mod pace;
mod patience;
mod process;
mod report;
mod scenario;
mod schedule;
mod scrape;
mod stage;
mod stats;
mod target;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::Report;

/// What the server's binary uses, so that a server inside this process behaves alike.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure a Tidemill server against its limits.
///
/// Without --addr, the server runs inside this process, on a port of its own; the scenarios of the scheduler, from `deadlines` on,
/// always make their own. Everything stays on the loopback interface.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Print one JSON object a line in place of a table
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    Echo(scenario::echo::Args),
    Latency(scenario::latency::Args),
    Saturate(scenario::saturate::Args),
    Realtime(scenario::realtime::Args),
    Idle(scenario::idle::Args),
    Deadlines(scenario::deadlines::Args),
    Fairness(scenario::fairness::Args),
    Freshness(scenario::freshness::Args),
    Overload(scenario::overload::Args),
    Readers(scenario::readers::Args),
    Cancel(scenario::cancel::Args),
    Neighbours(scenario::neighbours::Args),
    Lone(scenario::lone::Args),
    Costs(scenario::costs::Args),
    Soak(scenario::soak::Args),
}

impl Scenario {
    async fn run(self) -> anyhow::Result<Report> {
        match self {
            Self::Echo(args) => scenario::echo::run(args).await,
            Self::Latency(args) => scenario::latency::run(args).await,
            Self::Saturate(args) => scenario::saturate::run(args).await,
            Self::Realtime(args) => scenario::realtime::run(args).await,
            Self::Idle(args) => scenario::idle::run(args).await,
            Self::Deadlines(args) => scenario::deadlines::run(args).await,
            Self::Fairness(args) => scenario::fairness::run(args).await,
            Self::Freshness(args) => scenario::freshness::run(args).await,
            Self::Overload(args) => scenario::overload::run(args).await,
            Self::Readers(args) => scenario::readers::run(args).await,
            Self::Cancel(args) => scenario::cancel::run(args).await,
            Self::Neighbours(args) => scenario::neighbours::run(args).await,
            Self::Lone(args) => scenario::lone::run(args).await,
            Self::Costs(args) => scenario::costs::run(args).await,
            Self::Soak(args) => scenario::soak::run(args).await,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(cli.scenario.run()));
    match report {
        Ok(report) => {
            print!("{}", if cli.json { report.json_lines() } else { report.table() });
            for reason in &report.reasons {
                eprintln!("failed: {reason}");
            }
            if report.reasons.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
