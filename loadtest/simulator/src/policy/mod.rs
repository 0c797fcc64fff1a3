//! The policies that are compared, and how to start a run of one.

mod aimd;
mod deferred;
mod fixed;
mod fixed_fast;
mod least_squares;
mod ready;
mod tidemill;

use crate::{
    curve::{Conditions, Service},
    record::{Outcome, Recorder},
    workload::Workload,
    world,
};

pub(crate) use fixed::{Expiry, Setting};

/// A way of forming batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// The server's scheduler.
    Tidemill,
    /// Numbers set by hand.
    Fixed(Setting),
    Aimd,
    LeastSquares,
    Deferred,
}

impl Kind {
    pub(crate) fn label(self) -> String {
        match self {
            Self::Tidemill => "tidemill".to_owned(),
            Self::Fixed(setting) => setting.label(),
            Self::Aimd => "aimd".to_owned(),
            Self::LeastSquares => "least-squares".to_owned(),
            Self::Deferred => "deferred".to_owned(),
        }
    }

    /// Whether it can serve several models at once.
    pub(crate) const fn serves_many(self) -> bool {
        matches!(self, Self::Tidemill | Self::Fixed(_))
    }
}

impl std::str::FromStr for Kind {
    type Err = anyhow::Error;

    /// A label as [`Kind::label`] gives it, but with commas for spaces.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "tidemill" => Ok(Self::Tidemill),
            "aimd" => Ok(Self::Aimd),
            "least-squares" => Ok(Self::LeastSquares),
            "deferred" => Ok(Self::Deferred),
            _ => text.replace(',', " ").parse().map(Self::Fixed),
        }
    }
}

/// Runs a policy on a workload. Everything is decided by the arguments.
pub(crate) fn run(
    kind: Kind,
    workload: &Workload,
    service: &Service,
    conditions: Conditions,
    seed: u64,
    mut recorder: Recorder<'_>,
) -> Outcome {
    let out = &mut recorder;
    match kind {
        Kind::Tidemill => world::run(workload, service, &mut tidemill::Tidemill::new(workload, conditions, seed), out),
        Kind::Fixed(setting) => world::run(workload, service, &mut fixed::Fixed::new(workload, setting), out),
        Kind::Aimd => world::run(workload, service, &mut aimd::Aimd::new(workload), out),
        Kind::LeastSquares => world::run(workload, service, &mut least_squares::LeastSquares::new(workload), out),
        Kind::Deferred => world::run(workload, service, &mut deferred::Deferred::new(workload), out),
    }
    recorder.outcome(workload)
}

/// Goodput of hand-set numbers, found in the fastest way.
pub(crate) fn goodput(setting: Setting, workload: &Workload, service: &Service, conditions: Conditions) -> f64 {
    let kind = Kind::Fixed(setting);
    if workload.models.iter().any(|model| model.stateful) {
        return run(kind, workload, service, conditions, 0, Recorder::default()).goodput;
    }
    fixed_fast::on_time(workload, service, setting) as f64 / workload.counted_items().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_policies_again() {
        let kinds = [Kind::Tidemill, Kind::Aimd, Kind::LeastSquares, Kind::Deferred].into_iter();
        for kind in kinds.chain(Setting::grid().into_iter().map(Kind::Fixed)) {
            assert_eq!(kind.label().replace(' ', ",").parse::<Kind>().expect("a policy"), kind);
        }
        for wrong in ["triton", "batch=0", "batch=99", "batch=x", "batch=2,delay=-1", "batch=2,expiry=soon", ""] {
            assert!(wrong.parse::<Kind>().is_err(), "{wrong}");
        }
        assert_eq!(Setting::grid().len(), 111);
    }
}
