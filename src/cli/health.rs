//! `tidemill health`: whether the server, or one of its models, is serving.
//!
//! Knows the standard health protocol; does not know why something is not serving.

use std::fmt;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    connection::{ConnectionArgs, question, unless_interrupted},
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
        let channel = args.connection.connect().await?;
        let client = HealthClient::new(channel);
        if args.watch { watch(args, client, printer).await } else { check(args, client, printer).await }
    })
    .await
}

async fn check(args: &HealthArgs, mut client: HealthClient<Channel>, printer: &mut Printer) -> Result<Ending, Failure> {
    let response = client.check(question(HealthCheckRequest { service: args.model.clone() })).await?.into_inner();
    print(args, &response, printer)
}

async fn watch(args: &HealthArgs, mut client: HealthClient<Channel>, printer: &mut Printer) -> Result<Ending, Failure> {
    let mut changes = client.watch(HealthCheckRequest { service: args.model.clone() }).await?.into_inner();
    let mut ending = Ending::SomeFailed;
    while let Some(response) = changes.message().await? {
        ending = print(args, &response, printer)?;
        printer.flush()?;
    }
    Ok(ending)
}

fn print(args: &HealthArgs, response: &HealthCheckResponse, printer: &mut Printer) -> Result<Ending, Failure> {
    let status = response.status();
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
