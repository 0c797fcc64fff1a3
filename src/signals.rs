//! Signals that would unexpectedly end the process, though they ask for nothing the server offers.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::{clock, telemetry::Seldom};

/// The signals to ignore. SIGXFSZ arrives when a file has grown to `ulimit -f`: writing then fails, and the writer handles that.
const PASSED_OVER: [(&str, i32); 8] = [
    ("SIGUSR1", libc::SIGUSR1),
    ("SIGUSR2", libc::SIGUSR2),
    ("SIGALRM", libc::SIGALRM),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGVTALRM", libc::SIGVTALRM),
    ("SIGPROF", libc::SIGPROF),
    ("SIGIO", libc::SIGIO),
    ("SIGXFSZ", libc::SIGXFSZ),
];

/// From now on these signals only make the log say what to send instead. Must be called within a runtime.
///
/// # Errors
/// The system's error if it refuses the handlers.
pub fn pass_over() -> io::Result<()> {
    for (name, number) in PASSED_OVER {
        let mut signal = signal(SignalKind::from_raw(number))?;
        let seldom = Seldom::default();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if let Some(left_out) = seldom.due(clock::now()) {
                    tracing::info!(
                        left_out,
                        "{name} does nothing here: send SIGTERM or SIGINT to drain and stop, twice to stop at once, SIGHUP to \
                         rescan the models and read the certificates again"
                    );
                }
            }
        });
    }
    Ok(())
}
