//! `tidemill-load`: measures a Tidemill server, always against a limit that is measured in the same run.
//!
//! Each scenario is one file of [`scenario`]. Rounds of the arms take turns (A B A B), and medians are reported, so that a machine that
//! slows down in between slows both. Knows nothing about the inside of the server, except in the arms that call a bare engine, and in
//! [`stage`], which holds and slows synthetic models and looks at the ledger.

mod canned;
mod crowd;
mod cut;
mod encryption;
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
mod socket;
mod stage;
mod stats;
mod subject;
mod target;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::Report;

/// The one that the server's binary uses, so that a server inside this process behaves in the same way.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure a Tidemill server against its limits.
///
/// Without --addr, the server runs inside this process, on its own port; the scenarios of the scheduler, from `deadlines` on,
/// always make their own. Everything stays on the loopback interface.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    Echo(Told<scenario::echo::Args>),
    Latency(Told<scenario::latency::Args>),
    Saturate(Told<scenario::saturate::Args>),
    Realtime(Told<scenario::realtime::Args>),
    Doors(Told<scenario::doors::Args>),
    Idle(Told<scenario::idle::Args>),
    Deadlines(Told<scenario::deadlines::Args>),
    Fairness(Told<scenario::fairness::Args>),
    Freshness(Told<scenario::freshness::Args>),
    Overload(Told<scenario::overload::Args>),
    Readers(Told<scenario::readers::Args>),
    Cancel(Told<scenario::cancel::Args>),
    Neighbours(Told<scenario::neighbours::Args>),
    Without(Told<scenario::without::Args>),
    Lone(Told<scenario::lone::Args>),
    Costs(Told<scenario::costs::Args>),
    Soak(Told<scenario::soak::Args>),
    Run(load::Args),
    Canned(canned::Args),
}

// A scenario of this tool, and how its report is printed. No doc comment: in the help it would replace the scenario's own.
#[derive(Debug, clap::Args)]
struct Told<A: clap::Args> {
    #[command(flatten)]
    scenario: A,

    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
}

impl<A: clap::Args> Told<A> {
    async fn by<F: Future<Output = anyhow::Result<Report>>>(self, run: impl FnOnce(A) -> F) -> anyhow::Result<ExitCode> {
        let report = run(self.scenario).await?;
        print!("{}", if self.json { report.json_lines() } else { report.table() });
        for reason in &report.reasons {
            eprintln!("failed: {reason}");
        }
        Ok(if report.reasons.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Scenario {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Echo(told) => told.by(scenario::echo::run).await,
            Self::Latency(told) => told.by(scenario::latency::run).await,
            Self::Saturate(told) => told.by(scenario::saturate::run).await,
            Self::Realtime(told) => told.by(scenario::realtime::run).await,
            Self::Doors(told) => told.by(scenario::doors::run).await,
            Self::Idle(told) => told.by(scenario::idle::run).await,
            Self::Deadlines(told) => told.by(scenario::deadlines::run).await,
            Self::Fairness(told) => told.by(scenario::fairness::run).await,
            Self::Freshness(told) => told.by(scenario::freshness::run).await,
            Self::Overload(told) => told.by(scenario::overload::run).await,
            Self::Readers(told) => told.by(scenario::readers::run).await,
            Self::Cancel(told) => told.by(scenario::cancel::run).await,
            Self::Neighbours(told) => told.by(scenario::neighbours::run).await,
            Self::Without(told) => told.by(scenario::without::run).await,
            Self::Lone(told) => told.by(scenario::lone::run).await,
            Self::Costs(told) => told.by(scenario::costs::run).await,
            Self::Soak(told) => told.by(scenario::soak::run).await,
            Self::Run(args) => load::run(args).await,
            Self::Canned(args) => canned::run(args).await,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended =
        tidemill::threads::runtime().map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(cli.scenario.run()));
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
