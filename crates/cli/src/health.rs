//! `tidemill health`: whether the server, or one of its models, is serving.
//!
//! Knows the standard health protocol; does not know why something is not serving.

use std::fmt;

use clap::Args;
use serde::Serialize;
use tidemill_client::{Client, wire::health::health_check_response::ServingStatus};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{ConnectionArgs, unless_interrupted},
    output::Printer,
    printed::Record,
    status::{Ending, Failure},
};

const HELP: &str = help!(
    "\
Examples:
  tidemill health && echo up            the server as a whole
  tidemill health silero-vad            one model
  tidemill health --watch --json        every change, until Ctrl-C"
);

/// Ask whether the server, or one model, is serving
///
/// Exits with 0 if it is and with 1 if it is not. The protocol is grpc.health.v1, so other probes work as well.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct HealthArgs {
    /// Model to ask about [default: the server as a whole]
    #[arg(value_name = "MODEL", default_value = "", hide_default_value = true)]
    model: String,

    /// Stay and print every change; if the server ends the watch, the exit code gives the last state
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

pub(super) async fn run(args: &HealthArgs, printer: &mut Printer, interrupt: &CancellationToken) -> Result<Ending, Failure> {
    unless_interrupted(interrupt, async {
        let client = args.connection.connect().await?;
        if args.watch { watch(args, &client, printer).await } else { check(args, &client, printer).await }
    })
    .await
}

async fn check(args: &HealthArgs, client: &Client, printer: &mut Printer) -> Result<Ending, Failure> {
    print(args, client.health(&args.model).await?, printer)
}

async fn watch(args: &HealthArgs, client: &Client, printer: &mut Printer) -> Result<Ending, Failure> {
    let mut changes = client.watch_health(&args.model).await?;
    let mut ending = Ending::SomeFailed;
    while let Some(status) = changes.next().await? {
        ending = print(args, status, printer)?;
        printer.flush()?;
    }
    Ok(ending)
}

fn print(args: &HealthArgs, status: ServingStatus, printer: &mut Printer) -> Result<Ending, Failure> {
    printer.print(&HealthRecord { model: args.model.clone(), status: status.as_str_name() })?;
    Ok(if status == ServingStatus::Serving { Ending::Ok } else { Ending::SomeFailed })
}

/// `{"health":{"model":"","status":"SERVING"}}`; an empty model is the server as a whole.
#[derive(Debug, Serialize)]
struct HealthRecord {
    model: String,
    status: &'static str,
}

impl fmt::Display for HealthRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status)
    }
}

impl Record for HealthRecord {
    const KIND: &'static str = "health";
}
