//! Dynamic batching by hand-set numbers, as in Triton, TF Serving or TEI: a largest batch, a longest delay, and perhaps a timeout
//! in the queue.

use anyhow::{Context as _, bail, ensure};

use super::ready::{Order, Ready};
use crate::{
    curve::BATCH_MAX,
    workload::{NEVER, Workload},
    world::Policy,
};

/// The treatment of a late item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// It is run.
    Never,
    /// It is dropped once its deadline has passed.
    Deadline,
    /// It is dropped once a call of the largest batch would miss its deadline, by the true curve and a tenth more.
    Timeout,
}

/// A hand-set policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Setting {
    pub(crate) batch_max: usize,
    /// Relative to a call at the knee, so that a setting means the same on all curves.
    pub(crate) delay: f64,
    pub(crate) expiry: Expiry,
}

impl Setting {
    /// All those that are tried: 37 of batch and delay, each with the three kinds of expiry.
    pub(crate) fn grid() -> Vec<Self> {
        let batches = [2, 4, 8, 16, 32, 64];
        let delays = [0.0, 0.05, 0.1, 0.25, 0.5, 1.0];
        let pairs: Vec<_> = std::iter::once((1, 0.0))
            .chain(batches.into_iter().flat_map(|batch| delays.into_iter().map(move |delay| (batch, delay))))
            .collect();
        let kinds = [Expiry::Never, Expiry::Deadline, Expiry::Timeout];
        kinds
            .into_iter()
            .flat_map(|expiry| pairs.iter().map(move |(batch_max, delay)| Self { batch_max: *batch_max, delay: *delay, expiry }))
            .collect()
    }

    pub(crate) fn label(&self) -> String {
        let expiry = match self.expiry {
            Expiry::Never => "never",
            Expiry::Deadline => "deadline",
            Expiry::Timeout => "timeout",
        };
        format!("batch={} delay={} expiry={expiry}", self.batch_max, self.delay)
    }

    /// The setting in the units of one model.
    pub(crate) fn rule(&self, workload: &Workload, model: usize) -> Rule {
        let model = &workload.models[model];
        let batch_max = self.batch_max.min(model.batch_max);
        let slack = match self.expiry {
            Expiry::Never => None,
            Expiry::Deadline => Some(0),
            Expiry::Timeout => Some((model.curve.call(batch_max) * 1.1) as u64),
        };
        Rule { batch_max, delay: (model.curve.call(model.curve.knee()) * self.delay) as u64, slack }
    }
}

impl std::str::FromStr for Setting {
    type Err = anyhow::Error;

    /// Reads what [`Setting::label`] writes; `delay` and `expiry` may be left out.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut setting = Self { batch_max: 0, delay: 0.0, expiry: Expiry::Never };
        for part in text.split_whitespace() {
            match part.split_once('=') {
                Some(("batch", size)) => {
                    setting.batch_max = size.parse().with_context(|| format!("'{size}' is not a batch size"))?;
                }
                Some(("delay", delay)) => setting.delay = delay.parse().with_context(|| format!("'{delay}' is not a delay"))?,
                Some(("expiry", "never")) => setting.expiry = Expiry::Never,
                Some(("expiry", "deadline")) => setting.expiry = Expiry::Deadline,
                Some(("expiry", "timeout")) => setting.expiry = Expiry::Timeout,
                _ => bail!(
                    "'{part}' is not part of a policy: give tidemill, aimd, least-squares, deferred, or \
                     batch=N,delay=D,expiry=never|deadline|timeout with the delay in calls at the knee"
                ),
            }
        }
        ensure!((1..=BATCH_MAX).contains(&setting.batch_max), "the policy's batch must be 1 to {BATCH_MAX}");
        ensure!(setting.delay >= 0.0 && setting.delay.is_finite(), "the policy's delay must not be negative");
        Ok(setting)
    }
}

/// A setting for one model, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) batch_max: usize,
    pub(crate) delay: u64,
    /// Items due sooner than this are dropped.
    pub(crate) slack: Option<u64>,
}

impl Rule {
    pub(crate) const fn drops(&self, deadline: u64, now: u64) -> bool {
        match self.slack {
            Some(slack) => deadline < now.saturating_add(slack),
            None => false,
        }
    }
}

/// A queue in order of arrival for each model.
pub(crate) struct Fixed<'a> {
    workload: &'a Workload,
    queues: Vec<(Rule, Ready<'a>)>,
    arrived: u32,
}

impl<'a> Fixed<'a> {
    pub(crate) fn new(workload: &'a Workload, setting: Setting) -> Self {
        let queue = |model| (setting.rule(workload, model), Ready::new(workload, model, Order::Arrival));
        Self { workload, queues: (0..workload.models.len()).map(queue).collect(), arrived: 0 }
    }

    fn due(&self, rule: &Rule, head: u32) -> u64 {
        self.workload.item(head).at.saturating_add(rule.delay)
    }
}

impl Policy for Fixed<'_> {
    fn arrive(&mut self, item: u32) {
        self.arrived = item + 1;
        self.queues[self.workload.model_of(item)].1.arrive(item);
    }

    fn next_batch(&mut self, now: u64, _lane: usize, batch: &mut Vec<u32>) {
        for (rule, queue) in &mut self.queues {
            while let Some(head) = queue.first().filter(|head| rule.drops(self.workload.item(*head).deadline, now)) {
                queue.take_first();
                queue.done(head, self.arrived);
            }
        }
        let due = |(_, (rule, queue)): &(usize, &(Rule, Ready<'_>))| {
            queue.first().is_some_and(|head| queue.len() >= rule.batch_max || now >= self.due(rule, head))
        };
        let oldest = self.queues.iter().enumerate().filter(due).min_by_key(|(_, (_, queue))| queue.first());
        let Some(model) = oldest.map(|(model, _)| model) else { return };
        let (rule, queue) = &mut self.queues[model];
        while batch.len() < rule.batch_max
            && let Some(head) = queue.first()
        {
            let item = self.workload.item(head);
            if rule.drops(item.deadline, now) {
                queue.take_first();
                queue.done(head, self.arrived);
                continue;
            }
            if batch.first().is_some_and(|first| self.workload.item(*first).shape != item.shape) {
                break;
            }
            queue.take_first();
            batch.push(head);
        }
    }

    fn finish(&mut self, _lane: usize, batch: &[u32], _nanos: u64) {
        for item in batch {
            self.queues[self.workload.model_of(*item)].1.done(*item, self.arrived);
        }
    }

    fn next_wakeup(&self, _now: u64, lane_is_idle: bool) -> u64 {
        if !lane_is_idle {
            return NEVER;
        }
        self.queues.iter().filter_map(|(rule, queue)| Some(self.due(rule, queue.first()?))).min().unwrap_or(NEVER)
    }
}
