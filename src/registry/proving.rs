//! Models between being loaded and being installed: each is proven and measured, unless an earlier proof is kept.
//!
//! Decides which models are proven and where. How is up to [`crate::proof`], and to the host, which has the lanes.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::{
    LoadedModel,
    faults::{LoadFaults, no_threads},
    options::LoadOptions,
};
use crate::{
    device::on_each_lane,
    domain::{Batching, Fault, FaultKind, Verdict},
    proof::{Aside, Company, Kept, Proof, gain},
    scheduler::ModelKey,
};

/// Where a model is proven.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// On this lane, before the lanes serve; idle lanes repeat its calls.
    Lane {
        /// The lane's number.
        lane: usize,
        /// What idle lanes do at the same time.
        company: &'a Company,
    },
    /// On threads other than the lanes', which serve other models or an older copy of this one.
    Beside(&'a Aside),
}

/// The findings about a model before it is installed.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The results and the costs of its trial calls.
    pub proof: Proof,
    /// The time of a call on all threads over that on one; `None` if it cannot use them, or that is still to be measured.
    pub wide: Option<f64>,
    /// Whether this is what an earlier start found out.
    pub is_remembered: bool,
    /// How long it took to find out.
    pub took: Duration,
}

impl Measured {
    /// Nothing: for hosts that run no model, or have its costs from elsewhere.
    #[must_use]
    pub fn nothing() -> Self {
        let batching = Batching { shares_calls: true, ..Batching::off("") };
        let proof = Proof { batching, medians: vec![Duration::from_nanos(1)], item_bytes: 0 };
        Self { proof, wide: None, is_remembered: false, took: Duration::ZERO }
    }

    /// The part of it that is kept.
    fn kept(&self, model: &LoadedModel) -> Kept {
        Kept { proof: self.proof.clone(), wide: self.wide, packs_weights: model.executable.engine().packs_weights() }
    }
}

/// Proves models and puts them where they will run.
pub trait Installer: Sync {
    /// Proves and measures a model, which may be given a faster form first. Blocks. Called on several threads at once, for different
    /// lanes.
    ///
    /// # Errors
    /// Why it cannot run.
    fn prove(&self, model: &mut LoadedModel, place: Place<'_>) -> Result<Measured, Fault>;

    /// The gain of a call from all threads, for a model that could use them; measured with all lanes idle.
    fn wide_gain(&self, model: &LoadedModel) -> Option<f64>;

    /// Puts a model where it will run, and returns its key.
    ///
    /// # Errors
    /// Why it cannot run.
    fn install(&self, model: &LoadedModel, measured: &Measured) -> Result<ModelKey, Fault>;
}

/// Lets every model serve unproven, with a key from a closure: for tools that only load models. They run as fast as in a server.
pub struct Unproven<F>(
    /// Makes a key, or says why not.
    pub F,
);

impl<F: Fn(&LoadedModel) -> Result<ModelKey, Fault> + Sync> Installer for Unproven<F> {
    fn prove(&self, model: &mut LoadedModel, place: Place<'_>) -> Result<Measured, Fault> {
        if let Place::Lane { lane, company } = place {
            model.try_packing(|this, packed, terms| gain(this, packed, lane, terms, Some(company)));
        }
        Ok(Measured::nothing())
    }

    fn wide_gain(&self, _model: &LoadedModel) -> Option<f64> {
        None
    }

    fn install(&self, model: &LoadedModel, _measured: &Measured) -> Result<ModelKey, Fault> {
        (self.0)(model)
    }
}

/// Proves several of `models` at a time, each on one lane, and applies what was found.
///
/// # Errors
/// If the system refuses threads.
pub(super) fn prove_all(
    models: &mut [LoadedModel],
    options: &LoadOptions<'_>,
    installer: &dyn Installer,
) -> Result<Vec<Result<Measured, Fault>>, LoadFaults> {
    let mut results: Vec<Option<Result<Measured, Fault>>> = models.iter_mut().map(|model| remembered(model).map(Ok)).collect();
    let open: VecDeque<usize> = (0..models.len()).filter(|at| results[*at].is_none()).collect();
    let company = Company::of(open.len());
    let (open, proven) = (Mutex::new(open), Mutex::new(Vec::new()));
    on_each_lane(options.lanes, |lane| {
        loop {
            let Some(at) = open.lock().pop_front() else { break };
            let mut model = models[at].clone();
            let measured = installer.prove(&mut model, Place::Lane { lane, company: &company });
            company.done();
            if let Ok(measured) = &measured {
                tell(&model, &measured.proof.batching);
            }
            proven.lock().push((at, model, measured));
        }
        company.keep(lane);
    })
    .map_err(no_threads)?;
    for (at, model, measured) in proven.into_inner() {
        models[at] = model;
        results[at] = Some(measured);
    }
    let nobody = || Err(Fault::new(FaultKind::Failed, "the model was not measured: the lane that should have done it ended"));
    let results = models.iter_mut().zip(results).map(|(model, measured)| {
        let mut measured = measured.unwrap_or_else(nobody)?;
        // A model that was last proven while the lanes served was not measured.
        let gain = if measured.wide.is_none() { installer.wide_gain(model) } else { None };
        let is_new = !measured.is_remembered || gain.is_some();
        measured.wide = measured.wide.or(gain);
        settle(model, &measured);
        if is_new {
            keep(model, &measured, options);
        }
        Ok(measured)
    });
    Ok(results.collect())
}

/// Proves one model while others serve.
pub(super) fn prove_beside(
    model: &mut LoadedModel,
    options: &LoadOptions<'_>,
    installer: &dyn Installer,
    aside: &Aside,
) -> Result<Measured, Fault> {
    let measured = match remembered(model) {
        Some(measured) => measured,
        None => {
            let measured = installer.prove(model, Place::Beside(aside))?;
            tell(model, &measured.proof.batching);
            measured
        }
    };
    settle(model, &measured);
    if !measured.is_remembered {
        keep(model, &measured, options);
    }
    Ok(measured)
}

fn remembered(model: &mut LoadedModel) -> Option<Measured> {
    let Kept { proof, wide, .. } = model.kept.take()?;
    tell(model, &proof.batching);
    Some(Measured { proof, wide, is_remembered: true, took: Duration::ZERO })
}

/// Makes the model serve as its proof allows.
fn settle(model: &mut LoadedModel, measured: &Measured) {
    let batching = &measured.proof.batching;
    if !batching.shares_calls {
        model.max_batch = 1;
    } else if batching.verdict == Verdict::PaddingLeaks {
        model.padding_waste_max = model.padding_waste_max.map(|_| 0.0);
    }
    model.batching = batching.clone();
}

/// Keeps the proof for the next start.
fn keep(model: &LoadedModel, measured: &Measured, options: &LoadOptions<'_>) {
    // The next start may have the time or the items that this one lacked.
    let is_final = measured.proof.batching.verdict != Verdict::Unproven;
    let Some(subject) = model.subject.as_ref().filter(|_| is_final) else { return };
    if let Err(error) = options.proofs.put(subject, &measured.kept(model)) {
        info!(model = %model.name, version = %model.version, %error, "the proof could not be kept; the next start repeats it");
    }
}

fn tell(model: &LoadedModel, batching: &Batching) {
    let LoadedModel { name, version, .. } = model;
    let Batching { verdict, shares_calls, detail, seed, .. } = batching;
    match verdict {
        Verdict::Off => {}
        Verdict::Independent => info!(model = %name, %version, %verdict, %detail, seed, "its items share calls"),
        _ if *shares_calls => warn!(model = %name, %version, %verdict, %detail, seed, "its items share calls all the same"),
        _ => warn!(model = %name, %version, %verdict, %detail, seed, "it runs one item a call"),
    }
}
