//! The binary: flags → configuration → log → server → signals → exit code, and the client commands.

use std::{path::PathBuf, pin::pin, process::ExitCode, thread, time::Duration};

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidemill::{
    app::{Server, StartError},
    config::{Config, Port, process_environment},
    log::{self, Log, complain},
    registry::Embedded,
    signals, threads,
};
use tidemill_cli::{self as cli, ClientCommand, ModelFile};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The server could not start: bad settings, a port in use, a broken model.
const EXIT_START: u8 = 2;
/// A second signal arrived while the server was draining.
const EXIT_FORCED: u8 = 1;
/// The server lost a part that it cannot do without.
const EXIT_LOST: u8 = 3;

/// How long a server that has lost a part may take to end, including its drain.
const LOST_WITHIN: Duration = Duration::from_secs(10);

/// How often unused memory goes back to the system: slightly sooner than a serving thread would do it, a second after it was freed.
const RETURN_MEMORY_EVERY: Duration = Duration::from_millis(900);

/// A streaming-first, real-time inference server, and its clients.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_long_help = cli::CLIENT_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<ServeArgs>),
    #[command(flatten)]
    Client(Box<ClientCommand>),
}

/// Serve models over gRPC and HTTP
///
/// Without flags, serves the speech model inside the binary (Silero VAD, as `silero-vad`) to gRPC clients on 127.0.0.1:50051 and to HTTP
/// clients on 127.0.0.1:8080, with metrics and probes on 127.0.0.1:9464.
///
/// Settings come from a file, then TIDEMILL_SECTION__KEY variables, then flags; the last one wins. SIGTERM or Ctrl-C drains: open
/// streams finish what is in flight, then the server exits with 0. A second signal exits at once with 1. SIGHUP brings the models in line
/// with what is in their folder now, reads certificates again, and opens the file of the audit log again. A server that cannot start exits with 2 and says why; one that has lost a thread it cannot do without
/// drains and exits with 3.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tidemill serve
  tidemill serve --models ./models --onnxruntime /usr/lib/libonnxruntime.so
  tidemill serve --grpc-addr 0.0.0.0:50051 --set security.keys=keys.toml --set drain.deadline_s=10")]
struct ServeArgs {
    /// Where gRPC clients connect; port 0 takes any free port, and unix:/PATH is a Unix socket [server.grpc_addr]
    #[arg(long, value_name = "ADDR")]
    grpc_addr: Option<String>,

    /// Where HTTP clients connect: the REST form of the Open Inference Protocol [server.http_addr]
    #[arg(long, value_name = "ADDR")]
    http_addr: Option<String>,

    /// Where /metrics, /livez and /readyz are [server.admin_addr]
    #[arg(long, value_name = "ADDR")]
    admin_addr: Option<String>,

    /// Settings in TOML; docs/configuration.md has all keys
    #[arg(long, value_name = "FILE", env = "TIDEMILL_CONFIG")]
    config: Option<PathBuf>,

    /// Folder of models: DIR/NAME/model.toml and DIR/NAME/VERSION/model.onnx; or of one model, DIR/model.onnx [models.dir]
    #[arg(long, value_name = "DIR")]
    models: Option<String>,

    /// Name of the model if DIR is the folder of a single one [default: the folder's name] [models.name]
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,

    /// Serve the models that load even if others do not [models.allow_partial]
    #[arg(long)]
    allow_partial: bool,

    /// Load, replace and unload models as the folder changes [models.watch]
    #[arg(long)]
    watch: bool,

    /// ONNX Runtime's shared library, or auto to find one in an installed Python package or on the system; models whose engine is "auto"
    /// then run on it [engine.onnxruntime]
    #[arg(long, value_name = "PATH|auto")]
    onnxruntime: Option<String>,

    /// File in which to record what arrives and when, without payloads, for tidemill-sim replay [scheduler.record]
    #[arg(long, value_name = "FILE")]
    record: Option<String>,

    /// Seconds that open streams have to finish when the server drains [drain.deadline_s]
    #[arg(long, value_name = "SECONDS")]
    drain_deadline: Option<String>,

    /// Any other setting, such as session.window_items=16; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

impl ServeArgs {
    /// The flags as settings. A named flag beats `--set`.
    fn overrides(&self) -> Vec<(String, String)> {
        let named = [
            ("server.grpc_addr", self.grpc_addr.clone()),
            ("server.http_addr", self.http_addr.clone()),
            ("server.admin_addr", self.admin_addr.clone()),
            ("models.dir", self.models.clone()),
            ("models.name", self.model_name.clone()),
            ("models.allow_partial", self.allow_partial.then(|| "true".to_owned())),
            ("models.watch", self.watch.then(|| "true".to_owned())),
            ("engine.onnxruntime", self.onnxruntime.clone()),
            ("scheduler.record", self.record.clone()),
            ("drain.deadline_s", self.drain_deadline.clone()),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        self.set.iter().cloned().chain(named).collect()
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as session.window_items=16")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    // Parts that a test wants to fail; does nothing in a build without fail points.
    let _scenario = fail::FailScenario::setup();
    let cli = Cli::parse();
    keep_pages_small();
    let runtime = match threads::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("error: the system does not allow more threads: {error}"));
            return ExitCode::from(EXIT_START);
        }
    };
    let exit_code = match cli.command {
        Command::Serve(args) => runtime.block_on(serve(&args)),
        Command::Client(command) => {
            let files = Embedded::ALL.map(|model| ModelFile { name: model.name(), bytes: model.file() });
            runtime.block_on(cli::run(*command, &files))
        }
    };
    runtime.shutdown_background();
    exit_code
}

async fn serve(args: &ServeArgs) -> ExitCode {
    let config = match Config::resolve(args.config.as_deref(), process_environment().into_iter(), args.overrides()) {
        Ok(config) => config,
        Err(faults) => {
            complain(&format!("error: {faults}"));
            return ExitCode::from(EXIT_START);
        }
    };
    let log = match log::start(&config.log) {
        Ok(log) => log,
        Err(error) => {
            complain(&format!("error: {error}"));
            return ExitCode::from(EXIT_START);
        }
    };
    raise_file_limit();
    let exit_code = run(config, &log).await.unwrap_or_else(|error| {
        tracing::error!("the server could not start: {error}");
        ExitCode::from(EXIT_START)
    });
    log.finish();
    exit_code
}

/// Ends the process. Returning would not do: the lanes would first finish what is queued, or we would wait for whatever is
/// hanging.
fn exit(log: &Log, exit_code: u8) -> ! {
    log.finish();
    std::process::exit(exit_code.into())
}

/// Has the allocator return unused memory to the system. Left alone it does so only when a thread asks for a new page, and on that
/// thread, which then serves nobody for milliseconds; after a flood there may be no such thread for a long time.
fn return_memory() {
    let work = || {
        threads::give_way();
        loop {
            thread::park_timeout(RETURN_MEMORY_EVERY);
            collect();
        }
    };
    if let Err(error) = thread::Builder::new().name("memory".to_owned()).spawn(work) {
        tracing::warn!(%error, "the system does not allow the thread that returns unused memory: the process may keep more than it needs");
    }
}

#[expect(unsafe_code, reason = "the allocator's crate does not offer this function of its library")]
fn collect() {
    unsafe extern "C" {
        fn mi_collect(force: bool);
    }
    // SAFETY: this is how the linked mimalloc declares it; it concerns unused memory alone, and any thread may call it.
    unsafe { mi_collect(true) }
}

/// Lets the process open as many files as it may. Each connection and each region of shared memory takes one; the usual soft
/// limit, 1,024, exists for programs that still call `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, limit = limit.current, "the limit on open files stays low; connections beyond it are not accepted");
    }
}

/// Makes the system give this process memory in pages of the usual size. With huge pages, a few isolated bytes can hold two
/// megabytes, and the memory that a client can make the server hold is no longer proportional to what it sends.
fn keep_pages_small() {
    // If there are no huge pages, this does no harm.
    let _unsupported = rustix::thread::disable_transparent_huge_pages(true);
}

async fn run(config: Config, log: &Log) -> Result<ExitCode, StartError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    signals::pass_over()?;
    let server = tokio::select! {
        server = Server::start(config) => server?,
        () = either(&mut terminate, &mut interrupt) => return Ok(ExitCode::SUCCESS),
    };
    return_memory();
    let [grpc, http, admin] = [Port::Grpc, Port::Http, Port::Admin].map(|port| server.address(port));
    tracing::info!(lanes = server.lanes(), "listening grpc={grpc} http={http} admin={admin}");
    let vitals = server.vitals();
    loop {
        tokio::select! {
            () = either(&mut terminate, &mut interrupt) => break,
            () = vitals.lost() => break,
            _ = hangup.recv() => {
                log.reopen();
                server.refresh_models();
                server.refresh_certificates();
            }
        }
    }
    // Pinned here, so that the select does not drop it before its other branch runs: dropping it would wait for the lanes.
    let mut drained = pin!(server.drain());
    let lost = async {
        vitals.lost().await;
        // The remaining parts may be waiting for the one that is gone.
        sleep(LOST_WITHIN).await;
    };
    tokio::select! {
        () = drained.as_mut() => {}
        () = lost => exit(log, EXIT_LOST),
        () = either(&mut terminate, &mut interrupt) => {
            tracing::info!("a second signal: exiting at once");
            exit(log, EXIT_FORCED)
        }
    }
    Ok(vitals.loss().map_or(ExitCode::SUCCESS, |loss| {
        tracing::error!("{loss}: the process exits and should be started again");
        ExitCode::from(EXIT_LOST)
    }))
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path};

    use clap::{Arg, CommandFactory as _};
    use tidemill::config::describe;

    use super::*;

    const PREFACE: &str = "\
# Command line

One binary, `tidemill`: `serve` is the server, and the other commands are its clients. `tidemill COMMAND --help` says the same as this page,
`-h` says it shorter, and `-V` gives the version. This page is made from the code, and a test compares the two.

A setting that has a flag here may also come from a file or the environment; [configuration](configuration.md) has all settings, and says
which place wins.
";

    /// What the brackets at the end of an argument's help contain.
    #[derive(Default)]
    struct Notes {
        default: Option<String>,
        setting: Option<String>,
    }

    impl Notes {
        /// Removes them from the help.
        fn of(help: &mut String) -> Self {
            let mut notes = Self::default();
            while let Some((rest, note)) = help.strip_suffix(']').and_then(|help| help.rsplit_once(" [")) {
                match note.strip_prefix("default: ") {
                    Some(default) => notes.default = Some(default.to_owned()),
                    None => notes.setting = Some(note.to_owned()),
                }
                *help = rest.to_owned();
            }
            notes
        }
    }

    fn default_of(arg: &Arg, notes: &Notes) -> String {
        if !arg.get_action().takes_values() {
            return String::new();
        }
        if let Some(default) = &notes.default {
            return default.clone();
        }
        if let Some(setting) = &notes.setting {
            let doc = describe().into_iter().find(|doc| doc.key == setting).expect("a flag's setting is one of the settings");
            return match doc.default.trim_matches('"') {
                "" => "none".to_owned(),
                default => format!("`{default}`"),
            };
        }
        if arg.is_hide_default_value_set() {
            return String::new();
        }
        let values: Vec<_> = arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
        values.join(", ")
    }

    fn row(arg: &Arg) -> String {
        let values: Vec<_> = arg.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>")).collect();
        let values = values.join(" ");
        let flag = arg.get_long().map(|long| format!("--{long}"));
        let name = match (flag, arg.get_action().takes_values()) {
            (Some(flag), true) => format!("{flag} {values}"),
            (Some(flag), false) => flag,
            (None, _) => values,
        };
        let mut help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let notes = Notes::of(&mut help);
        let default = default_of(arg, &notes);
        if arg.get_action().takes_values() {
            let choices = arg.get_possible_values();
            let choices: Vec<_> = choices
                .iter()
                .map(|choice| match choice.get_help() {
                    Some(help) => format!("`{}` ({help})", choice.get_name()),
                    None => format!("`{}`", choice.get_name()),
                })
                .collect();
            if !choices.is_empty() {
                let _ = write!(help, ": {}", choices.join(", "));
            }
        }
        if let Some(setting) = notes.setting {
            let _ = write!(help, " (setting `{setting}`)");
        }
        if let Some(variable) = arg.get_env() {
            let _ = write!(help, "; also `{}`", variable.to_string_lossy());
        }
        // A bar ends a cell, even in code.
        let cells = [format!("`{name}`"), default, help].map(|cell| cell.replace('\n', " ").replace('|', "\\|"));
        format!("| {} |", cells.join(" | "))
    }

    /// The text of `docs/command-line.md`.
    fn page() -> String {
        let mut program = Cli::command();
        program.build();
        let mut page = PREFACE.to_owned();
        for command in program.get_subcommands() {
            describe_command(&mut page, command, "tidemill");
        }
        let _ = write!(page, "\n## Exit codes and JSON of the clients\n\n```\n{}\n```\n", cli::CLIENT_HELP);
        page
    }

    fn describe_command(page: &mut String, command: &clap::Command, above: &str) {
        let name = format!("{above} {}", command.get_name());
        if command.get_name() == "help" {
            return;
        }
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
        let (first, rest) = about.split_once("\n\n").map_or((about.as_str(), ""), |(first, rest)| (first, rest));
        let _ = write!(page, "\n## `{name}`\n\n{}.\n", first.trim_end_matches('.'));
        if !rest.is_empty() {
            let _ = write!(page, "\n{}\n", rest.trim_end());
        }
        let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        if let Some(examples) = help.strip_prefix("Examples:\n") {
            let examples = examples.split("\n\n").next().unwrap_or(examples);
            let lines: Vec<_> = examples.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
            let _ = write!(page, "\n```\n{}\n```\n", lines.join("\n"));
        }
        let ours = |arg: &&Arg| !["help", "version"].contains(&arg.get_id().as_str());
        let rows: Vec<_> = command.get_arguments().filter(ours).map(row).collect();
        if !rows.is_empty() {
            let _ = write!(page, "\n| argument | default | what it is |\n|---|---|---|\n{}\n", rows.join("\n"));
        }
        for command in command.get_subcommands() {
            describe_command(page, command, &name);
        }
    }

    #[test]
    fn the_page_is_what_the_program_takes() {
        let expected = page();
        if include_str!("../docs/command-line.md") != expected {
            let fresh = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/command-line.md");
            fs::write(&fresh, expected).expect("the target folder can be written");
            panic!("docs/command-line.md is out of date; the text it should have is in target/command-line.md");
        }
    }
}
