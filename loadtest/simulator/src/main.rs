//! `tidemill-sim`: runs the server's own scheduler in virtual time, against hand-tuned batching and other policies.
//!
//! `point` draws what is offered, `world` lets time pass, `policy` decides, `sweep` runs them all, `report` writes the results. Nothing
//! here opens a socket, runs a model, or reads a clock except to show progress: equal seeds give equal files.

mod curve;
mod long;
mod plot;
mod point;
mod policy;
mod random;
mod record;
mod replay;
mod report;
mod sweep;
mod trace;
mod workload;
mod world;

#[cfg(test)]
mod quotas;
#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{BufWriter, Write as _},
    path::PathBuf,
    process::ExitCode,
    thread,
};

use anyhow::{Context as _, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use curve::{Conditions, CurveName};
use point::{Arrivals, Point, Slo};
use policy::Kind;
use record::Recorder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The seed of published results. The scheduler's constants were chosen on seed 1.
const SEED: u64 = 20_261;

/// Simulate the scheduler against hand-tuned batching.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Sweep(SweepArgs),
    Point(PointArgs),
    Replay(ReplayArgs),
    Long(long::LongArgs),
}

/// Run the whole study and write summary.json, points.csv, report.md and plots
#[derive(Debug, Args)]
struct SweepArgs {
    /// Folder for the results, created if it is not there
    #[arg(long)]
    out: PathBuf,
    /// Only a fifth of the points
    #[arg(long)]
    quick: bool,
    /// Leave out the runs under other conditions
    #[arg(long)]
    study_only: bool,
    /// Seed of all draws; constants are tuned on seed 1, so publish another
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// Threads; results do not depend on their number [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
}

/// Run one point in detail
#[derive(Debug, Args)]
struct PointArgs {
    #[arg(long)]
    curve: CurveName,
    #[arg(long, default_value_t = 1)]
    lanes: usize,
    #[arg(long)]
    arrivals: Arrivals,
    /// Streams carry state: one item of each at a time
    #[arg(long)]
    stateful: bool,
    /// Stateful streams keep late items
    #[arg(long)]
    block: bool,
    /// Relative to all lanes running calls at the knee
    #[arg(long)]
    load: f64,
    #[arg(long)]
    slo: Slo,
    /// What makes calls deviate from their curve
    #[arg(long, default_value = "steady")]
    conditions: World,
    /// tidemill, aimd, least-squares, deferred, or batch=N,delay=D,expiry=never|deadline|timeout [default: all, and the best]
    #[arg(long)]
    policy: Option<Kind>,
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// Write a line for each call of the policy (of Tidemill, if none is given)
    #[arg(long)]
    log: Option<PathBuf>,
}

/// Replay a recorded trace
#[derive(Debug, Args)]
struct ReplayArgs {
    /// JSON Lines, as the server records them
    file: PathBuf,
    /// As for `point` [default: tidemill and a few hand-set ones]
    #[arg(long)]
    policy: Option<Kind>,
    #[arg(long, default_value_t = SEED)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum World {
    Steady,
    Noisy,
    Coupled,
    Drifting,
}

impl World {
    const fn conditions(self) -> Conditions {
        match self {
            Self::Steady => Conditions::STEADY,
            Self::Noisy => Conditions::NOISY,
            Self::Coupled => Conditions::COUPLED,
            Self::Drifting => Conditions::DRIFTING,
        }
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Sweep(args) => sweep(&args),
        Command::Point(args) => point(&args),
        Command::Replay(args) => replay::run(&args.file, args.policy, args.seed).map(|table| print!("{table}")),
        Command::Long(args) => long::run(&args).map(|table| print!("{table}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn sweep(args: &SweepArgs) -> anyhow::Result<()> {
    let threads = args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let started = tidemill_clock::now();
    let points = if args.quick { Point::few() } else { Point::all() };
    let told = |done: usize| {
        if done.is_multiple_of(100) {
            eprintln!("{done} of {} points, {:.0?}", points.len(), tidemill_clock::now().since(started));
        }
    };
    let rows = sweep::run(&points, Conditions::STEADY, args.seed, threads, told);
    let extras = if args.study_only { Vec::new() } else { report::extras(args.quick, args.seed, threads) };
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    let summary = report::Summary::new(&rows, args.seed);
    for (name, text) in [
        ("summary.json", summary.json()?),
        ("points.csv", report::csv(&rows)),
        ("report.md", report::markdown(&summary, &rows, &extras)),
        ("ratios.svg", plot::ratios(&rows)),
        ("goodput.svg", plot::goodput(&rows)),
    ] {
        let path = args.out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}", summary.line());
    eprintln!("{:.0?}", tidemill_clock::now().since(started));
    Ok(())
}

fn point(args: &PointArgs) -> anyhow::Result<()> {
    ensure!(args.load > 0.0 && args.load <= 10.0, "--load must be above 0 and at most 10, not {}", args.load);
    ensure!((1..=64).contains(&args.lanes), "--lanes must be 1 to 64, not {}", args.lanes);
    ensure!(!args.stateful || args.arrivals == Arrivals::Streams, "--stateful needs --arrivals streams");
    let point = Point {
        curve: args.curve,
        lanes: args.lanes,
        arrivals: args.arrivals,
        stateful: args.stateful,
        load: args.load,
        slo: args.slo,
        sheds: !args.block,
    };
    let conditions = args.conditions.conditions();
    let (workload, service) = point.draw(conditions, args.seed);
    if let Some(path) = &args.log {
        let file = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = BufWriter::new(file);
        let mut failed = None;
        let mut log = |line: &str| {
            if let Err(error) = writeln!(file, "{line}") {
                failed.get_or_insert(error);
            }
        };
        let kind = args.policy.unwrap_or(Kind::Tidemill);
        policy::run(kind, &workload, &service, conditions, args.seed, Recorder::with_log(&mut log));
        if let Some(error) = failed.or_else(|| file.flush().err()) {
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
    }
    let kinds = match args.policy {
        Some(kind) => vec![kind],
        None => {
            let row = sweep::run_point(point, conditions, args.seed, &policy::Setting::grid());
            println!("ratio to the best hand-set: {:.4}", row.ratio());
            [Kind::Tidemill, Kind::Fixed(row.best_setting)].into_iter().chain(sweep::OTHERS).collect()
        }
    };
    let runs = kinds
        .into_iter()
        .map(|kind| (kind.label(), policy::run(kind, &workload, &service, conditions, args.seed, Recorder::default())));
    print!("{}", report::outcomes(runs));
    Ok(())
}
