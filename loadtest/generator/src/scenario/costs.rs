//! A model whose calls become three times as slow during the run, then fast again: how soon the learned cost follows.

use std::time::Duration;

use tidemill::{clock, domain::Timestamp, scheduler::CostModel};
use tidemill_client::wire::v1;

use super::live_plans;
use crate::{
    crowd::Flood,
    feed::FeedPlan,
    findings::{Findings, Wanted},
    report::Report,
    stage::{Blocker, Stage},
};

const LANES: usize = 4;
/// How often the learned cost is looked at.
const TICK: Duration = Duration::from_millis(20);
/// The tolerance that counts as learned.
const TOLERANCE: f64 = 0.1;

/// Measure how soon the learned cost follows a model that becomes slower, then faster
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds in each of the three phases
    #[arg(long, default_value_t = 5.0, value_parser = super::seconds)]
    seconds: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let model =
        Blocker { per_call: Duration::from_millis(8), per_item: Duration::from_millis(1), max_batch: 16, ..Blocker::default() };
    let stage = Stage::start(LANES, std::slice::from_ref(&model), |_| {}).await?;
    let control = stage.control(model.name)?;
    let channels = stage.connect(4).await?;
    let plans = live_plans(model.name, 16).into_iter();
    let plans = plans.map(|plan| FeedPlan { open: v1::StreamConfig { window_items: 16, ..plan.open }, ..plan });
    let flood = Flood::start(&channels, plans.collect()).await?;
    let mut findings = Findings::new();
    for (arm, factor) in [("as measured", 1), ("three times as slow", 3), ("as before", 1)] {
        control.set_costs(model.per_call * factor, model.per_item * factor);
        let calls_before = control.calls();
        let start = clock::now();
        let end = start + Duration::from_secs_f64(args.seconds);
        let mut learning = Learning::default();
        let mut rows = [0.1, 0.25, 0.5, 1.0].into_iter().peekable();
        while clock::now() < end {
            tokio::time::sleep(TICK).await;
            let status = stage.status(model.name)?;
            let size = status.batch_cap;
            let truth = model.call(size) * factor;
            let ratio = learned(&status.curve, size).as_secs_f64() / truth.as_secs_f64();
            learning.note(start, ratio, control.calls() - calls_before);
            let share = clock::now().since(start).as_secs_f64() / args.seconds;
            if rows.next_if(|row| share >= *row).is_some() {
                let at = clock::now().since(start).as_secs_f64();
                findings.add(&format!("{arm}, after {at:.1} s"), "batch_cap", size as f64, Wanted::Anything);
                findings.add(&format!("{arm}, after {at:.1} s"), "learned_of_true_cost_at_cap", ratio, Wanted::Anything);
            }
        }
        let status = stage.status(model.name)?;
        for (size, cost) in status.curve.points() {
            let truth = model.call(size) * factor;
            let ratio = cost.as_secs_f64() / truth.as_secs_f64();
            findings.add(&format!("{arm}, at the end"), learned_name(size), ratio, Wanted::Anything);
        }
        let Some((seconds, calls)) = learning.settled else {
            anyhow::bail!("{arm}: the learned cost was never within 10 % in {} s", args.seconds);
        };
        findings.add(arm, "seconds_until_within_a_tenth", seconds, Wanted::AtMost(args.seconds / 2.0));
        findings.add(arm, "calls_until_within_a_tenth", calls as f64, Wanted::Anything);
    }
    flood.stop().await?;
    drop(channels);
    stage.finish().await?;
    Ok(findings.report())
}

/// When the learned cost came within the tolerance to stay.
#[derive(Debug, Default)]
struct Learning {
    settled: Option<(f64, u64)>,
}

impl Learning {
    fn note(&mut self, start: Timestamp, ratio: f64, calls: u64) {
        if (ratio - 1.0).abs() > TOLERANCE {
            self.settled = None;
        } else if self.settled.is_none() {
            self.settled = Some((clock::now().since(start).as_secs_f64(), calls));
        }
    }
}

/// The learned cost of a batch, linear between the recorded sizes.
fn learned(curve: &tidemill::scheduler::CostCurve, size: usize) -> Duration {
    CostModel::new(curve, curve.largest()).call(size)
}

fn learned_name(size: usize) -> &'static str {
    match size {
        1 => "learned_of_true_cost_at_1",
        2 => "learned_of_true_cost_at_2",
        4 => "learned_of_true_cost_at_4",
        8 => "learned_of_true_cost_at_8",
        _ => "learned_of_true_cost_at_16",
    }
}
