//! The one binary: client commands, and their exit codes.

use std::process::ExitCode;

use clap::Parser;
use tidemill::cli::{self, CLIENT_HELP, ClientCommand};

/// A streaming-first, real-time inference server, and its clients
#[derive(Parser)]
#[command(version, after_long_help = CLIENT_HELP)]
struct CommandLine {
    #[command(subcommand)]
    command: ClientCommand,
}

fn main() -> ExitCode {
    let command = CommandLine::parse().command;
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let exit_code = runtime.block_on(cli::run(command));
            // A read of standard input cannot be taken back; waiting for it would hold the process until somebody types.
            runtime.shutdown_background();
            exit_code
        }
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
