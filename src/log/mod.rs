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
//!
//! The audit log is a second one of the same kind: events of the target [`AUDIT`], in a file of their own with a queue and a thread of
//! its own, whatever `log.filter` says. Without that file, they are written nowhere.

mod escape;
mod file;
mod queue;
mod writer;

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _, Write, stderr},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{Filtered, LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::{
    clock,
    config::{LogConfig, LogFormat},
    telemetry::Seldom,
    threads,
};

use file::Appended;
use queue::Queue;
use writer::{Form, Stderr, Writer};

pub use queue::lines_lost;

/// How long the exiting process waits for lines to be written.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// The target of events that go to the audit log.
pub const AUDIT: &str = "audit";

/// The log of this process.
#[must_use = "what is not finished may not have been written"]
pub struct Log {
    queue: Arc<Queue>,
    audit: Option<Audit>,
}

/// The audit log.
struct Audit {
    queue: Arc<Queue>,
    reopens: Arc<AtomicBool>,
}

/// Starts logging to standard error, panics included, and to the file of the audit log if there is one. Call it once in a process.
///
/// # Errors
/// The system's error if it refuses a thread or the file, with what was refused.
pub fn start(config: &LogConfig) -> io::Result<Log> {
    let queue = written_by("log", Writer::new(Stderr, config.format))?;
    let audit = config.audit.as_deref().map(Audit::start).transpose()?;
    let form = Form { format: config.format, is_coloured: stderr().is_terminal() };
    let filter = filter(config);
    match &audit {
        None => tracing_subscriber::registry().with(layer::<Registry>(form, &queue)).with(filter).init(),
        Some(audit) => {
            let lines = layer::<Registry>(form, &queue).with_filter(filter);
            tracing_subscriber::registry().with(lines).with(audit_layer(&audit.queue)).init();
        }
    }
    log_panics();
    Ok(Log { queue, audit })
}

/// A queue, and the thread of this name that writes its lines.
fn written_by<W: Write + Send + 'static>(name: &str, mut writer: Writer<W>) -> io::Result<Arc<Queue>> {
    let queue = Arc::new(Queue::default());
    let written = Arc::clone(&queue);
    let write = move || {
        // A panic here would be a bug in the writer itself; the line that caused it is lost, the next ones are not.
        while catch_unwind(AssertUnwindSafe(|| writer.work(&written))).is_err() {}
    };
    let started = thread::Builder::new().name(name.to_owned()).spawn(write);
    match started {
        Ok(_) => Ok(queue),
        Err(error) => Err(io::Error::other(format!("the system does not allow a thread for the log: {error}"))),
    }
}

/// Which events the log on standard error takes.
fn filter(config: &LogConfig) -> EnvFilter {
    // h2 warns about each connection that resets too many streams, and the decoders of recordings about each packet that is damaged, as
    // often as clients please. A directive for them from the user wins, and so does one for the audit log's events.
    EnvFilter::new(format!("h2=error,symphonia=off,{AUDIT}=off,{}", config.filter))
}

/// Writes events as lines into a queue.
fn layer<S>(form: Form, queue: &Arc<Queue>) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    let lines = Arc::clone(queue);
    let layer = fmt::layer::<S>()
        .with_writer(move || Line { queue: Arc::clone(&lines), form })
        .with_ansi(form.is_coloured)
        .log_internal_errors(false);
    match form.format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}

/// Writes the audit log's events as lines into a queue.
fn audit_layer<S>(queue: &Arc<Queue>) -> Filtered<Box<dyn Layer<S> + Send + Sync>, Targets, S>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    let form = Form { format: LogFormat::Json, is_coloured: false };
    layer::<S>(form, queue).with_filter(Targets::new().with_target(AUDIT, LevelFilter::INFO))
}

impl Audit {
    fn start(path: &Path) -> io::Result<Self> {
        let reopens = Arc::new(AtomicBool::new(false));
        let file = Appended::open(path, Arc::clone(&reopens))
            .map_err(|error| io::Error::other(format!("log.audit = {}: {error}", path.display())))?;
        let queue = written_by("audit", Writer::new(file, LogFormat::Json))?;
        Ok(Self { queue, reopens })
    }
}

impl Log {
    /// Waits until all lines are written, but no longer than a second for each log.
    pub fn finish(&self) {
        self.queue.wait_written(FINISH_WITHIN);
        if let Some(audit) = &self.audit {
            audit.queue.wait_written(FINISH_WITHIN);
        }
    }

    /// Opens the file of the audit log again before the next line: the one that is open may have been moved away.
    pub fn reopen(&self) {
        if let Some(audit) = &self.audit {
            audit.reopens.store(true, Ordering::Relaxed);
        }
    }
}

/// Prints to standard error before there is a log, or when there is none. A missing standard error is no reason to fail.
pub fn complain(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

/// A line being written; `tracing` writes each line in one go.
struct Line {
    queue: Arc<Queue>,
    form: Form,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(writer::shortened(line, self.form));
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

#[cfg(test)]
mod tests;
