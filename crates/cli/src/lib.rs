//! The binary's client commands: `feed`, `scan`, `upload`, `predict`, `models`, `health`, `top`, `keys` and `tls`.
//!
//! They talk to a server only through its public API and its metrics, and know nothing about how it works inside; `models export` writes
//! what the binary itself holds, `keys` edits a file, and `tls` makes certificates. Results go to standard output, notes and progress to
//! standard error.

/// The end of every command's help.
macro_rules! exit_codes {
    () => {
        "\
Exit codes:
    0  everything was answered with outputs; serving
    1  some items were answered with an error; a recording
       was cut off or damaged, and the rest was sent; not serving
    2  wrong usage, a file that cannot be read, or results
       that cannot be written
    3  no connection, or it was lost
    4  the server refused: code, message and details are printed
  130  interrupted by Ctrl-C"
    };
}

/// A command's examples, and what every command's help ends with.
macro_rules! help {
    ($examples:literal) => {
        concat!($examples, "\n\n", exit_codes!(), "\n\nThe keys of --json are listed by: tidemill --help")
    };
}

mod audio;
mod connection;
mod convert;
mod events;
mod export;
mod feed;
mod health;
mod keys;
mod models;
mod output;
mod predict;
mod printed;
mod records;
mod scan;
mod status;
mod tensors;
mod tls;
mod top;
mod upload;

#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    process::{self, ExitCode},
};

use clap::{Args, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use self::{
    connection::ConnectionArgs,
    output::Printer,
    status::{Ending, Failure},
};
pub use self::{
    connection::{KeyArgs, TlsArgs},
    feed::FeedArgs,
    health::HealthArgs,
    keys::KeysArgs,
    models::ModelsArgs,
    predict::PredictArgs,
    scan::ScanArgs,
    tls::TlsCommandArgs,
    top::TopArgs,
    upload::UploadArgs,
};
use tidemill_wire::v1::Priority;

/// The binary's help about all client commands, for its `after_long_help`.
pub const CLIENT_HELP: &str = concat!(
    exit_codes!(),
    "\n
JSON lines (--json), one object with one key a line, on standard output:
  opened           model version sample_rate_hz window_samples window_items
                   window_bytes max_message_bytes
  result           seq [id] [start_sample end_sample] outputs or error [timing]
                   outputs: name datatype shape data
                   timing: queue_ns compute_ns age_ns batch_size
                   (with --results, or if it is an error)
  segment_started  index start_sample start_ms
  segment          index start_sample end_sample start_ms end_ms
  skipped          first_seq results (results that --unread gave up)
  summary          completed interrupted items ok errors [skipped] segments
                   samples [payload_bytes elapsed_ms queue_ns compute_ns]
                   [received]
                   received: total_bytes crc32c [sha256]
  prediction       model version outputs [timing]
  model            name version state [reason] engine description stateful;
                   of one model also: inputs outputs states [framing] payloads
                   batch_costs [shape_costs] batch_cap [no_batch] [padding]
                   [segment_rules] [default_limits]
  exported         model file bytes sha256
  new_key          name key file
  key              name by tenant scopes models [expires]
  revoked          name file
  certificates     folder files hosts days
  health           model status
  top              admin interval_s server models lanes methods; null where
                   the server does not say (docs/operations.md has all keys)
  error            code message [reason metadata fields limits retry_after_ms]
                   code: a gRPC code, or BAD_INPUT, CANNOT_CONNECT,
                   CONNECTION_LOST, UNEXPECTED_ANSWER
Keys in brackets are left out where they do not apply.
What is done to a recording, and warnings about it, is text on standard error."
);

/// A model file inside the binary, which `models export` writes.
#[derive(Debug, Clone, Copy)]
pub struct ModelFile {
    /// Name of the model.
    pub name: &'static str,
    /// What the file holds.
    pub bytes: &'static [u8],
}

/// The commands that talk to a server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    Feed(FeedArgs),
    Scan(ScanArgs),
    Upload(UploadArgs),
    Predict(PredictArgs),
    Models(ModelsArgs),
    Health(HealthArgs),
    Top(TopArgs),
    Keys(KeysArgs),
    Tls(TlsCommandArgs),
}

/// The recording or feed to send.
#[derive(Debug, Args)]
struct AudioInput {
    /// A recording in any common format, or raw signed 16-bit little-endian mono samples; - for standard input
    #[arg(value_name = "FILE", required_unless_present = "sample")]
    file: Option<PathBuf>,

    /// Instead of a file, send a short clip of speech-like sound that the program makes itself
    #[arg(long, conflicts_with_all = ["file", "raw"])]
    sample: bool,

    #[command(flatten)]
    raw: RawArgs,
}

impl AudioInput {
    /// Its name in a command line.
    fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "--sample".to_owned(), |file| format!("'{}'", file.display()))
    }
}

/// What raw samples do not say about themselves.
#[derive(Debug, Clone, Copy, Args)]
struct RawArgs {
    /// Treat the input as raw signed 16-bit little-endian mono samples, whatever its first bytes are
    #[arg(long)]
    raw: bool,

    /// Samples per second of a --raw input [default: the model's]
    #[arg(long, value_name = "HZ", requires = "raw", value_parser = clap::value_parser!(u32).range(1..=768_000))]
    rate: Option<u32>,
}

/// How urgent a stream or call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum PriorityArg {
    /// Ahead of all others
    High,
    #[default]
    Normal,
    /// Only when there is nothing else to do
    Low,
}

impl PriorityArg {
    const fn wire(self) -> Priority {
        match self {
            Self::High => Priority::High,
            Self::Normal => Priority::Normal,
            Self::Low => Priority::Low,
        }
    }
}

/// The options of a stream of audio.
#[derive(Debug, Args)]
struct StreamArgs {
    /// Name of the model
    #[arg(long, value_name = "NAME", default_value = "silero-vad")]
    model: String,

    /// Version of the model [default: the newest that is ready]
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    model_version: String,

    /// Windows of audio that may be in flight; 0 for the server's default
    #[arg(long, value_name = "ITEMS", default_value_t = 0)]
    window: u32,

    /// Time within which a window's result must be computed, from its arrival, in milliseconds [default: none]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    deadline_ms: Option<u32>,

    /// Age at which a result is no longer of use, in milliseconds; an item that cannot make it is dropped [default: none]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    max_age_ms: Option<u32>,

    /// How urgent the stream is
    #[arg(long, value_enum, default_value_t)]
    priority: PriorityArg,

    /// Print the result of every window, not only segments and errors
    #[arg(long)]
    results: bool,
}

/// Runs one command and prints the outcome; `files` are what the binary holds. The first Ctrl-C ends it in an orderly way, the second ends the process.
///
/// A read of standard input cannot be cancelled: the caller's runtime must be shut down without waiting for it
/// (`Runtime::shutdown_background`).
pub async fn run(command: ClientCommand, files: &[ModelFile]) -> ExitCode {
    let interrupt = CancellationToken::new();
    let listening = tokio::spawn(listen_for_interrupts(interrupt.clone()));
    let mut printer = Printer::standard(command.wants_json());
    let exit_code = run_with(&command, files, &mut printer, &interrupt).await;
    listening.abort();
    ExitCode::from(exit_code)
}

async fn listen_for_interrupts(interrupt: CancellationToken) {
    while tokio::signal::ctrl_c().await.is_ok() {
        if interrupt.is_cancelled() {
            process::exit(Ending::Interrupted.exit_code().into());
        }
        interrupt.cancel();
    }
}

/// Runs one command with any printer and interrupt, and returns the exit code.
async fn run_with(command: &ClientCommand, files: &[ModelFile], printer: &mut Printer, interrupt: &CancellationToken) -> u8 {
    let ended = match command {
        ClientCommand::Feed(args) => Box::pin(feed::run(args, printer, interrupt)).await,
        ClientCommand::Scan(args) => Box::pin(scan::run(args, printer, interrupt)).await,
        ClientCommand::Upload(args) => Box::pin(upload::run(args, printer, interrupt)).await,
        ClientCommand::Predict(args) => Box::pin(predict::run(args, printer, interrupt)).await,
        ClientCommand::Models(args) => Box::pin(models::run(args, files, printer, interrupt)).await,
        ClientCommand::Health(args) => Box::pin(health::run(args, printer, interrupt)).await,
        ClientCommand::Keys(args) => keys::run(args, printer).map(|()| Ending::Ok),
        ClientCommand::Top(args) => Box::pin(top::run(args, printer, interrupt)).await,
        ClientCommand::Tls(args) => tls::run(args, printer).map(|()| Ending::Ok),
    };
    match ended.and_then(|ending| printer.flush().map(|()| ending)) {
        Ok(ending) => ending.exit_code(),
        Err(failure) => {
            let explained = match command.connection() {
                Some(connection) => connection.explained(failure).await,
                None => failure,
            };
            report(&explained, printer)
        }
    }
}

/// Prints a failure, unless nobody is listening, and returns its exit code.
fn report(failure: &Failure, printer: &mut Printer) -> u8 {
    printer.end_progress();
    if let Failure::Output(_) = failure {
        // Where results cannot go, the reason cannot either.
        if !failure.is_silent() {
            printer.complain(&failure.record());
        }
    } else if !failure.is_silent() {
        // If the failure cannot be printed, the exit code still shows it.
        printer.print(&failure.record()).and_then(|()| printer.flush()).ok();
    }
    failure.exit_code()
}

impl ClientCommand {
    const fn wants_json(&self) -> bool {
        match (self, self.connection()) {
            (Self::Top(args), _) => args.json,
            (Self::Keys(args), _) => args.wants_json(),
            (Self::Tls(args), _) => args.wants_json(),
            (Self::Models(args), _) => args.wants_json(),
            (_, Some(connection)) => connection.json,
            (_, None) => false,
        }
    }

    /// The gRPC server that it talks to, if it does.
    const fn connection(&self) -> Option<&ConnectionArgs> {
        Some(match self {
            Self::Feed(args) => &args.connection,
            Self::Scan(args) => &args.connection,
            Self::Upload(args) => &args.connection,
            Self::Predict(args) => &args.connection,
            Self::Models(args) => return args.connection(),
            Self::Health(args) => &args.connection,
            Self::Top(_) | Self::Keys(_) | Self::Tls(_) => return None,
        })
    }
}
