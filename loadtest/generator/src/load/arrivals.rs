//! When the items of one stream arrive: the arrival processes of a scenario file.
//!
//! A schedule follows only from its process and its seed, so that two runs of a file offer the same load at the same moments. Knows nothing
//! about connections and answers.

use std::time::Duration;

use serde::Deserialize;
use tidemill::domain::Timestamp;

/// The most items a second on one stream.
const RATE_HZ_MAX: f64 = 1e6;

/// The most items at once.
const BURST_MAX: u32 = 100_000;

/// How items arrive on each stream of a load.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "Table")]
pub(crate) enum Arrivals {
    /// As many items in flight as there is room for: the next one goes when one is answered.
    Closed,
    /// Equal gaps; the phase of each stream is drawn.
    Constant { rate_hz: f64 },
    /// Equal gaps, with each item up to `jitter` of a gap late, like sources that have their own clocks.
    Paced { rate_hz: f64, jitter: f64 },
    /// Independent items: gaps are drawn from an exponential distribution.
    Poisson { rate_hz: f64 },
    /// `burst` items at once; bursts are independent of each other. `rate_hz` counts items.
    Bursty { rate_hz: f64, burst: u32 },
}

impl Arrivals {
    /// The same process at `factor` times the rate. A closed loop has none, and stays as it is.
    pub(crate) fn faster(self, factor: f64) -> Self {
        match self {
            Self::Closed => Self::Closed,
            Self::Constant { rate_hz } => Self::Constant { rate_hz: rate_hz * factor },
            Self::Paced { rate_hz, jitter } => Self::Paced { rate_hz: rate_hz * factor, jitter },
            Self::Poisson { rate_hz } => Self::Poisson { rate_hz: rate_hz * factor },
            Self::Bursty { rate_hz, burst } => Self::Bursty { rate_hz: rate_hz * factor, burst },
        }
    }

    pub(crate) const fn is_closed(self) -> bool {
        matches!(self, Self::Closed)
    }

    /// The moments of one stream from `start` on, in order and endless; `None` for a closed loop.
    pub(crate) fn moments(self, start: Timestamp, seed: u64) -> Option<Moments> {
        let mut random = fastrand::Rng::with_seed(seed);
        let (gap, kind) = match self {
            Self::Closed => return None,
            Self::Constant { rate_hz } => (1.0 / rate_hz, Kind::Even { phase: random.f64(), jitter: 0.0 }),
            Self::Paced { rate_hz, jitter } => (1.0 / rate_hz, Kind::Even { phase: random.f64(), jitter }),
            Self::Poisson { rate_hz } => (1.0 / rate_hz, Kind::Drawn { burst: 1 }),
            Self::Bursty { rate_hz, burst } => (f64::from(burst) / rate_hz, Kind::Drawn { burst }),
        };
        Some(Moments { start, gap_ns: gap * 1e9, kind, random, number: 0, elapsed_ns: 0.0 })
    }
}

/// The table as it is in a file. It is flat, so that a wrong key is reported by its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    process: Process,
    rate_hz: Option<f64>,
    jitter: Option<f64>,
    burst: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Process {
    Closed,
    Constant,
    Paced,
    Poisson,
    Bursty,
}

impl TryFrom<Table> for Arrivals {
    type Error = String;

    fn try_from(table: Table) -> Result<Self, String> {
        let Table { process, rate_hz, jitter, burst } = table;
        if jitter.is_some() && process != Process::Paced {
            return Err("arrivals.jitter belongs only to the process \"paced\"".to_owned());
        }
        if burst.is_some() && process != Process::Bursty {
            return Err("arrivals.burst belongs only to the process \"bursty\"".to_owned());
        }
        if process == Process::Closed {
            return match rate_hz {
                None => Ok(Self::Closed),
                Some(_) => {
                    Err("arrivals.rate_hz has no meaning for the process \"closed\", which sends at the pace of the answers"
                        .to_owned())
                }
            };
        }
        let rate_hz = rate_hz.ok_or("arrivals.rate_hz is missing: items per second of each stream")?;
        if !(rate_hz > 0.0 && rate_hz <= RATE_HZ_MAX) {
            return Err(format!("arrivals.rate_hz = {rate_hz}: more than 0 and at most {RATE_HZ_MAX} is allowed"));
        }
        Ok(match process {
            Process::Constant | Process::Closed => Self::Constant { rate_hz },
            Process::Poisson => Self::Poisson { rate_hz },
            Process::Paced => match jitter.unwrap_or(0.0) {
                jitter if (0.0..=1.0).contains(&jitter) => Self::Paced { rate_hz, jitter },
                jitter => {
                    return Err(format!("arrivals.jitter = {jitter}: 0 to 1 is allowed, as a share of the gap between items"));
                }
            },
            Process::Bursty => match burst {
                Some(burst @ 1..=BURST_MAX) => Self::Bursty { rate_hz, burst },
                Some(burst) => return Err(format!("arrivals.burst = {burst}: 1 to {BURST_MAX} items are allowed")),
                None => return Err("arrivals.burst is missing: how many items come at once".to_owned()),
            },
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Even { phase: f64, jitter: f64 },
    Drawn { burst: u32 },
}

/// The moments at which one stream's items are due. Some 64 bytes, whatever the length of the run.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    start: Timestamp,
    gap_ns: f64,
    kind: Kind,
    random: fastrand::Rng,
    number: u64,
    /// The sum of the drawn gaps so far.
    elapsed_ns: f64,
}

impl Moments {
    pub(crate) fn next(&mut self) -> Timestamp {
        let number = self.number;
        self.number += 1;
        let elapsed_ns = match self.kind {
            // Computed from the number and not by adding up, so that a long run does not drift.
            Kind::Even { phase, jitter } => (number as f64 + phase + jitter * self.random.f64()) * self.gap_ns,
            Kind::Drawn { burst } => {
                if number.is_multiple_of(burst.into()) {
                    // From 1 - [0, 1), so that the logarithm is finite.
                    self.elapsed_ns -= (1.0 - self.random.f64()).ln() * self.gap_ns;
                }
                self.elapsed_ns
            }
        };
        self.start + Duration::from_nanos(elapsed_ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_nanos(5_000_000_000);

    fn any_process() -> impl Strategy<Value = Arrivals> {
        let rate = 0.1..5_000.0_f64;
        prop_oneof![
            rate.clone().prop_map(|rate_hz| Arrivals::Constant { rate_hz }),
            (rate.clone(), 0.0..=1.0_f64).prop_map(|(rate_hz, jitter)| Arrivals::Paced { rate_hz, jitter }),
            rate.clone().prop_map(|rate_hz| Arrivals::Poisson { rate_hz }),
            (rate, 1..50_u32).prop_map(|(rate_hz, burst)| Arrivals::Bursty { rate_hz, burst }),
        ]
    }

    fn moments(arrivals: Arrivals, seed: u64, count: usize) -> Vec<Timestamp> {
        let mut moments = arrivals.moments(START, seed).expect("an open loop");
        (0..count).map(|_| moments.next()).collect()
    }

    fn rate_hz(arrivals: Arrivals) -> f64 {
        match arrivals {
            Arrivals::Closed => f64::NAN,
            Arrivals::Constant { rate_hz }
            | Arrivals::Paced { rate_hz, .. }
            | Arrivals::Poisson { rate_hz }
            | Arrivals::Bursty { rate_hz, .. } => rate_hz,
        }
    }

    proptest! {
        #[test]
        fn items_stay_in_order_and_none_is_due_before_the_start(arrivals in any_process(), seed: u64) {
            let moments = moments(arrivals, seed, 500);
            prop_assert!(moments.is_sorted());
            prop_assert!(moments[0] >= START);
        }

        #[test]
        fn the_same_seed_gives_the_same_moments(arrivals in any_process(), seed: u64) {
            prop_assert_eq!(moments(arrivals, seed, 200), moments(arrivals, seed, 200));
            prop_assert_ne!(moments(arrivals, seed, 200), moments(arrivals, seed ^ 1, 200));
        }

        #[test]
        fn the_rate_is_kept(arrivals in any_process(), seed: u64) {
            // 2,000 independent gaps deviate by 2.2% (one standard deviation) from their mean; six deviations are never reached.
            let burst = if let Arrivals::Bursty { burst, .. } = arrivals { burst as usize } else { 1 };
            let count = 2_000 * burst;
            let moments = moments(arrivals, seed, count);
            let found = count as f64 / moments[count - 1].since(START).as_secs_f64();
            prop_assert!((found / rate_hz(arrivals) - 1.0).abs() < 0.14, "{} of {}", found, rate_hz(arrivals));
        }

        #[test]
        fn an_even_stream_does_not_drift(rate_hz in 0.1..1_000.0_f64, jitter in 0.0..=1.0_f64, seed: u64) {
            let moments = moments(Arrivals::Paced { rate_hz, jitter }, seed, 1_000);
            for (number, moment) in moments.iter().enumerate() {
                let gaps = moment.since(START).as_secs_f64() * rate_hz;
                prop_assert!(gaps >= number as f64 - 1e-6 && gaps <= number as f64 + 1.0 + jitter + 1e-6);
            }
        }

        #[test]
        fn a_burst_comes_at_once(rate_hz in 1.0..1_000.0_f64, burst in 2..20_u32, seed: u64) {
            let moments = moments(Arrivals::Bursty { rate_hz, burst }, seed, 100 * burst as usize);
            for burst in moments.chunks(burst as usize) {
                prop_assert!(burst.iter().all(|moment| *moment == burst[0]));
            }
        }
    }

    #[test]
    fn gaps_of_independent_items_spread_as_an_exponential_distribution_does() {
        let moments = moments(Arrivals::Poisson { rate_hz: 100.0 }, 7, 20_000);
        let gaps: Vec<f64> = moments.windows(2).map(|pair| pair[1].since(pair[0]).as_secs_f64() * 100.0).collect();
        let longer = |gap: f64| gaps.iter().filter(|found| **found > gap).count() as f64 / gaps.len() as f64;
        for gap in [0.1, 1.0, 3.0] {
            assert!((longer(gap) - (-gap).exp()).abs() < 0.015, "{gap}: {}", longer(gap));
        }
    }

    fn read(text: &str) -> Result<Arrivals, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_table_is_read_and_a_wrong_one_says_what_is_allowed() {
        assert_eq!(read("process = 'paced'\nrate_hz = 31.25\njitter = 0.2"), Ok(Arrivals::Paced { rate_hz: 31.25, jitter: 0.2 }));
        assert_eq!(read("process = 'poisson'\nrate_hz = 5"), Ok(Arrivals::Poisson { rate_hz: 5.0 }));
        assert_eq!(read("process = 'closed'"), Ok(Arrivals::Closed));
        for (text, complaint) in [
            ("process = 'closed'\nrate_hz = 1", "no meaning"),
            ("process = 'constant'", "arrivals.rate_hz is missing"),
            ("process = 'constant'\nrate_hz = 0", "more than 0"),
            ("process = 'constant'\nrate_hz = nan", "more than 0"),
            ("process = 'paced'\nrate_hz = 1\njitter = 1.5", "0 to 1 is allowed"),
            ("process = 'poisson'\nrate_hz = 1\njitter = 0.5", "only to the process \"paced\""),
            ("process = 'bursty'\nrate_hz = 1", "arrivals.burst is missing"),
            ("process = 'bursty'\nrate_hz = 1\nburst = 0", "1 to 100000"),
            ("process = 'uniform'\nrate_hz = 1", "one of `closed`, `constant`"),
            ("process = 'constant'\nrate_hz = 1\nrate = 2", "unknown field `rate`"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }
}
