//! `tidemill top`: what a server is doing, from its metrics.
//!
//! Sees only the admin port's `/metrics`, so it costs the server one scrape per interval. A full screen on a terminal ([`live`]), one plain
//! report elsewhere, JSON for programs; all three are one [`Report`].

mod cells;
mod change;
mod distribution;
mod exposition;
mod live;
mod report;
mod scrape;
mod screen;
mod text;
mod view;

use std::{
    io::{IsTerminal as _, stdin, stdout},
    time::Duration,
};

use clap::Args;
use tidemill_client::Error;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::{
    report::Report,
    scrape::{AdminAddress, AdminPort, ScrapeFault},
};
use super::{
    connection::{KeyArgs, TlsArgs, unless_interrupted},
    output::Printer,
    status::{Ending, Failure},
};

const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

const HELP: &str = help!(
    "\
Examples:
  tidemill top                                      full screen; ? explains the columns, q quits
  tidemill top --once --interval 10s                one report of ten seconds
  tidemill top --json | jq .top.server.cpu_cores    a number each second"
);

/// Watch what a server is doing: rates, queues, batches, waits, lanes, streams
///
/// Reads the metrics of the admin port. Shows a full screen on a terminal and prints one report otherwise. Rates, shares and quantiles are
/// those of the last interval; a dash stands for what the server does not report.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct TopArgs {
    /// Where the server's admin port is: HOST:PORT, http://HOST:PORT, https://HOST:PORT if it is encrypted, or unix:/PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    admin: AdminAddress,

    /// Time between two looks at the server, such as 500ms or 2s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// Print one report after one interval
    #[arg(long)]
    once: bool,

    /// Print one JSON object per interval on standard output, errors included
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    credential: KeyArgs,
}

pub(super) async fn run(args: &TopArgs, printer: &mut Printer, interrupt: &CancellationToken) -> Result<Ending, Failure> {
    let tls = args.tls.read().map_err(Failure::BadInput)?;
    let credential = args.credential.read().map_err(Failure::BadInput)?;
    let admin = AdminPort::new(args.admin.clone(), tls, credential).map_err(Failure::BadInput)?;
    let first = unless_interrupted(interrupt, async { scrape(&admin).await }).await?;
    if !args.json && !args.once && stdin().is_terminal() && stdout().is_terminal() {
        return Box::pin(live::run(&admin, args.interval, first, interrupt)).await;
    }
    unless_interrupted(interrupt, async {
        let (mut last, mut due) = (first, Instant::now());
        loop {
            due = (due + args.interval).max(Instant::now());
            sleep_until(due).await;
            let scrape = scrape(&admin).await?;
            printer.print(&Report::new(admin.to_string(), Some(&last), &scrape))?;
            printer.flush()?;
            if args.once || !args.json {
                return Ok(Ending::Ok);
            }
            last = scrape;
        }
    })
    .await
}

async fn scrape(admin: &AdminPort) -> Result<change::Scrape, Failure> {
    let address = || admin.to_string();
    admin.scrape().await.map_err(|fault| match fault {
        ScrapeFault::NoAnswer(reason) => Failure::NoMetrics { address: address(), reason },
        ScrapeFault::UnexpectedAnswer(reason) => Error::UnexpectedAnswer(format!("from {}: {reason}", address())).into(),
    })
}

/// Reads `500ms` or `2s`.
fn interval(text: &str) -> Result<Duration, String> {
    let in_unit = |unit, unit_s| text.strip_suffix(unit)?.parse().ok().map(|number: f64| number * unit_s);
    in_unit("ms", 1e-3)
        .or_else(|| in_unit("s", 1.0))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|interval| (INTERVAL_MIN..=INTERVAL_MAX).contains(interval))
        .ok_or_else(|| format!("'{text}' is not a time from {INTERVAL_MIN:?} to {INTERVAL_MAX:?}, such as 500ms or 2s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_a_unit_and_is_neither_too_short_nor_too_long() {
        let times = [("100ms", 0.1), ("1s", 1.0), ("2.5s", 2.5), ("3600s", 3600.0)];
        for (text, seconds) in times {
            assert_eq!(interval(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "1", "s", "ms", "99ms", "3601s", "-1s", "NaNs", "infs", "1m", "1 s", "1ss"] {
            assert!(interval(text).expect_err(text).contains("from 100ms to 3600s"), "{text}");
        }
    }
}
