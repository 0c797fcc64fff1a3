//! Work for idle lanes while a model is measured, so that its calls cost what they will cost when all lanes compute.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::items::TrialItem;
use crate::engine::{CallThreads, Executable, ItemCall};

/// The call that is being measured on some lane. Idle lanes make the same call, each with its own instance of the model.
#[derive(Default)]
pub struct Company {
    shared: Mutex<Shared>,
    changed: Condvar,
}

#[derive(Default)]
struct Shared {
    /// Models that are being measured.
    measuring: usize,
    call: Option<Arc<(Arc<Executable>, Vec<TrialItem>)>>,
}

impl Company {
    /// This many models will be measured. Lanes keep company until each is [done](Company::done).
    #[must_use]
    pub fn of(models: usize) -> Self {
        Self { shared: Mutex::new(Shared { measuring: models, call: None }), changed: Condvar::new() }
    }

    /// A model has been measured.
    pub fn done(&self) {
        let mut shared = self.shared.lock();
        shared.measuring = shared.measuring.saturating_sub(1);
        shared.call = None;
        self.changed.notify_all();
    }

    /// On this lane, makes the calls that other lanes measure, until no model is left to measure.
    pub fn keep(&self, lane: usize) {
        loop {
            let mut shared = self.shared.lock();
            let call = loop {
                match &shared.call {
                    _ if shared.measuring == 0 => return,
                    Some(call) => break Arc::clone(call),
                    None => self.changed.wait(&mut shared),
                }
            };
            drop(shared);
            let (executable, items) = &*call;
            let items: Vec<ItemCall<'_>> = items.iter().map(|item| ItemCall { inputs: &item.inputs, state: None }).collect();
            // A call that fails here also fails on the lane that measures, which deals with it.
            if executable.run(lane, &items, CallThreads::One).is_err() {
                let mut shared = self.shared.lock();
                if shared.call.as_ref().is_some_and(|current| Arc::ptr_eq(current, &call)) {
                    shared.call = None;
                }
            }
        }
    }

    pub(super) fn show(&self, executable: &Arc<Executable>, items: Vec<TrialItem>) {
        self.shared.lock().call = Some(Arc::new((Arc::clone(executable), items)));
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::{
        domain::{Datatype, Signature, TensorSpec},
        engine::{
            LaneThreads,
            synthetic::{Script, SyntheticEngine},
        },
        proof::{Terms, prove},
    };

    #[test]
    fn idle_lanes_make_the_same_calls_until_all_models_are_measured() {
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![Some(4)], batch_axis: Some(0) };
        let signature = Arc::new(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() });
        let engine = SyntheticEngine::new(Arc::clone(&signature), Script::default()).expect("a sound script");
        let control = engine.control();
        let model = Executable::new(Arc::new(engine), signature, &LaneThreads::device(2)).expect("a sound signature");
        let model = Arc::new(model);
        let company = Company::of(1);
        thread::scope(|scope| {
            scope.spawn(|| company.keep(1));
            prove(&model, 0, &Terms::default(), Some(&company)).expect("it runs");
            let before = control.calls();
            while control.calls() == before {
                thread::yield_now();
            }
            company.done();
        });
        company.keep(1);
    }
}
