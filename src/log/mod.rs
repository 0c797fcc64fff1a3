//! The log on standard error, which never blocks or ends the code that writes to it.
//!
//! The thread that logs formats a line, puts it into a bounded [`Queue`] and goes on. Another thread writes the lines out, and
//! may wait for as long as the reader of a pipe, or a full disk, takes. Lines that find no room in the queue, or cannot be
//! written, are lost and counted; as soon as lines can be written again, one of them says how many were lost.
//!
//! `tracing-appender` would do half of this: it does not count lines that could not be written, and when the process ends it
//! waits for more than a second and then prints to standard output.
//!
//! Panics are written the same way, at most one a second ([`log_panics`]).

mod queue;
mod writer;

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _, Write, stderr},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook},
    sync::Arc,
    thread,
    time::Duration,
};

use tracing_subscriber::EnvFilter;

use crate::{
    clock,
    config::{LogConfig, LogFormat},
    telemetry::Seldom,
    threads,
};

use queue::Queue;
use writer::{Stderr, Writer};

pub use queue::lines_lost;

/// How long the exiting process waits for lines to be written.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// The log of this process.
#[must_use = "what is not finished may not have been written"]
pub struct Log {
    queue: Arc<Queue>,
}

/// Starts logging to standard error, panics included. Call it once in a process.
///
/// # Errors
/// The system's error if it refuses the thread.
pub fn start(config: &LogConfig) -> io::Result<Log> {
    let queue = Arc::new(Queue::default());
    let written = Arc::clone(&queue);
    let mut writer = Writer::new(Stderr, config.format);
    let write = move || {
        // A panic here would be a bug in the writer itself; the line that caused it is lost, the next ones are not.
        while catch_unwind(AssertUnwindSafe(|| writer.work(&written))).is_err() {}
    };
    thread::Builder::new().name("log".to_owned()).spawn(write)?;
    // h2 warns about each connection that resets too many streams, as often as clients please. A directive for it from the user
    // wins.
    let filter = EnvFilter::new(format!("h2=error,{}", config.filter));
    let (format, lines) = (config.format, Arc::clone(&queue));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Line { queue: Arc::clone(&lines), format })
        .with_ansi(stderr().is_terminal())
        .log_internal_errors(false);
    match config.format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    log_panics();
    Ok(Log { queue })
}

impl Log {
    /// Waits until all lines are written, but no longer than a second.
    pub fn finish(&self) {
        self.queue.wait_written(FINISH_WITHIN);
    }
}

/// Prints to standard error before there is a log, or when there is none. A missing standard error is no reason to fail.
pub fn complain(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// A line being written; `tracing` writes each line in one go.
struct Line {
    queue: Arc<Queue>,
    format: LogFormat,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(writer::shortened(line, self.format));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on, panics are logged: one a second, with a backtrace if `RUST_BACKTRACE` asks for it.
fn log_panics() {
    let seldom = Seldom::default();
    set_hook(Box::new(move |panic| {
        if threads::may_be_refused() {
            return;
        }
        if let Some(left_out) = seldom.due(clock::now()) {
            log_panic(panic, left_out);
        }
    }));
}

fn log_panic(panic: &PanicHookInfo<'_>, left_out: u64) {
    let thread = thread::current();
    let (thread, message) = (thread.name().unwrap_or("without a name"), message_of(panic.payload()));
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(thread, %place, left_out, "panicked: {message}\n{backtrace}");
    } else {
        tracing::error!(thread, %place, left_out, "panicked: {message}");
    }
}

fn message_of(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
