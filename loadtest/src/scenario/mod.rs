//! The scenarios, one file each: flags, rounds, report.

pub(crate) mod echo;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod realtime;
pub(crate) mod saturate;

use std::time::Duration;

/// How long and how often is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Effort {
    /// Rounds of all arms in turn; medians are given
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Seconds of load in each arm of a round
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
}

impl Effort {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("between 0.01 and 3600".to_owned()) }
}
