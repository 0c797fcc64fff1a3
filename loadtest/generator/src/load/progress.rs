//! How a run is going, on standard error: one line that is rewritten in place, or nothing if there is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tidemill_plot::short;

use super::recorder::Tally;

/// The line.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    label: String,
    before: (Duration, Tally),
}

impl Progress {
    /// Shows nothing if `is_quiet`, or if standard error is not a terminal.
    pub(crate) fn new(is_quiet: bool) -> Self {
        let target = if is_quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        // A faulty template would leave the plain style, which shows the same.
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, label: String::new(), before: (Duration::ZERO, Tally::default()) }
    }

    /// A step begins that takes `length`, warm-up and all.
    pub(crate) fn begin(&mut self, label: &str, length: Duration) {
        label.clone_into(&mut self.label);
        self.before = (Duration::ZERO, Tally::default());
        self.bar.set_length(length.as_millis() as u64);
        self.bar.set_position(0);
        self.bar.set_message(self.label.clone());
    }

    /// Shows what has been counted `elapsed` after the step began. To be called once a second.
    pub(crate) fn tell(&mut self, elapsed: Duration, tally: &Tally) {
        let (then, before) = self.before;
        let line = line(&self.label, elapsed.saturating_sub(then), &before, tally);
        self.bar.set_position(elapsed.as_millis() as u64);
        self.bar.set_message(line);
        self.before = (elapsed, *tally);
    }

    /// Takes the line away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(label: &str, span: Duration, before: &Tally, now: &Tally) -> String {
    let (then, counts) = (&before.counts, &now.counts);
    let pace = |before: u64, now: u64| short(now.saturating_sub(before) as f64 / span.as_secs_f64().max(1e-3));
    format!(
        "{label}  offered {}/s  ok {}/s  good {}/s  errors {}/s  p99 {} ms  in flight {}",
        pace(then.offered, counts.offered),
        pace(then.ok, counts.ok),
        pace(then.good, counts.good),
        pace(then.errors, counts.errors),
        short(now.p99_us as f64 / 1e3),
        now.in_flight(),
    )
}

#[cfg(test)]
mod tests {
    use super::{super::recorder::Counts, *};

    #[test]
    fn a_line_shows_what_came_since_the_last() {
        let before = Tally { counts: Counts { offered: 100, sent: 100, ok: 90, good: 80, errors: 5 }, p99_us: 1 };
        let now = Tally { counts: Counts { offered: 300, sent: 290, ok: 180, good: 130, errors: 10 }, p99_us: 12_345 };
        let text = line("x2", Duration::from_secs(2), &before, &now);
        assert_eq!(text, "x2  offered 100/s  ok 45/s  good 25/s  errors 2.5/s  p99 12.3 ms  in flight 100");
    }

    #[test]
    fn a_step_starts_over() {
        let mut progress = Progress::new(true);
        let offered = |offered| Tally { counts: Counts { offered, ..Counts::default() }, p99_us: 0 };
        progress.begin("x1", Duration::from_secs(10));
        progress.tell(Duration::from_secs(9), &offered(50));
        progress.begin("x2", Duration::from_secs(10));
        progress.tell(Duration::from_secs(1), &offered(7));
        assert!(progress.bar.message().starts_with("x2  offered 7/s"), "{}", progress.bar.message());
        progress.end();
    }
}
