//! The instances that a model has on its lanes: made when it is loaded, or for a lane's first call, and made again after a panic.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};
use tidemill_domain::Tensor;

use crate::{Call, CallPlan, Engine, EngineError, Instance, LaneThreads, Parts, RunError, buffer::AlignedBuffer, panic_message};

/// The lanes' instances of one model.
pub(super) struct Instances {
    engine: Arc<dyn Engine>,
    plan: CallPlan,
    pub(super) by_lane: Vec<LaneInstance>,
    /// How many instances were made again.
    rebuilds: AtomicU64,
    /// Why the last attempt to make one failed.
    lost: Mutex<Option<Arc<str>>>,
}

/// A model's instance for one lane, and the threads that it computes on.
pub(super) struct LaneInstance {
    threads: LaneThreads,
    pub(super) slot: Mutex<LaneSlot>,
}

/// One lane's instance and buffers. The lane is the only user, so the lock around them is free.
pub(super) struct LaneSlot {
    pub(super) instance: Option<Box<dyn Instance>>,
    /// Whether it was ever made: a long lane's is made for its first call.
    was_made: bool,
    /// One buffer for each input, then state. They keep the memory of the largest batch until they are [trimmed](Instances::trim).
    pub(super) scratch: Vec<AlignedBuffer>,
}

impl Instances {
    /// One for each of `lanes` except the long ones, with this many buffers each.
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        plan: CallPlan,
        lanes: &[LaneThreads],
        scratch_count: usize,
    ) -> Result<Self, EngineError> {
        let by_lane = lanes
            .iter()
            .map(|threads| {
                let was_made = !threads.is_long_lane();
                let instance = was_made.then(|| make_instance(&*engine, &plan, threads)).transpose()?;
                let scratch = (0..scratch_count).map(|_| AlignedBuffer::default()).collect();
                Ok(LaneInstance { threads: threads.clone(), slot: Mutex::new(LaneSlot { instance, was_made, scratch }) })
            })
            .collect::<Result<_, EngineError>>()?;
        Ok(Self { engine, plan, by_lane, rebuilds: AtomicU64::new(0), lost: Mutex::new(None) })
    }

    pub(super) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// How many outputs a call gives.
    pub(super) const fn outputs(&self) -> usize {
        self.plan.outputs.len()
    }

    pub(super) fn rebuilds(&self) -> u64 {
        self.rebuilds.load(Ordering::Relaxed)
    }

    pub(super) fn lost(&self) -> Option<Arc<str>> {
        self.lost.lock().clone()
    }

    /// All lanes, long ones included.
    pub(super) const fn count(&self) -> usize {
        self.by_lane.len()
    }

    /// The lanes that are not long ones.
    pub(super) fn lanes(&self) -> usize {
        self.by_lane.iter().filter(|lane| !lane.threads.is_long_lane()).count()
    }

    /// The lane with this number, for its only user. A long lane whose instance cannot be made, perhaps for lack of memory, shares
    /// that of an ordinary one.
    pub(super) fn occupy(&self, lane: usize) -> Option<(&LaneInstance, MutexGuard<'_, LaneSlot>)> {
        let own = self.by_lane.get(lane)?;
        let mut slot = own.slot.lock();
        if slot.was_made {
            return Some((own, slot));
        }
        match make_instance(&*self.engine, &self.plan, &own.threads) {
            Ok(instance) => {
                (slot.instance, slot.was_made) = (Some(instance), true);
                Some((own, slot))
            }
            Err(error) => {
                drop(slot);
                tracing::debug!(%error, lane, "a long lane shares the instance of another lane: it could not be given one");
                let other = self.by_lane.get(lane % self.lanes().max(1))?;
                Some((other, other.slot.lock()))
            }
        }
    }

    /// Lets lanes that run no call at this moment give back memory that their latest batches did not need.
    pub(super) fn trim(&self) {
        for mut slot in self.by_lane.iter().filter_map(|lane| lane.slot.try_lock()) {
            slot.scratch.iter_mut().for_each(AlignedBuffer::trim);
        }
    }

    /// Makes a call with the instance of `lane`, or with a new one if that was lost.
    pub(super) fn call(
        &self,
        lane: &LaneInstance,
        instance: &mut Option<Box<dyn Instance>>,
        call: &Call<'_>,
        parts: Option<&mut dyn Parts>,
    ) -> Result<Vec<Tensor>, RunError> {
        let running = match instance {
            Some(running) => running,
            None => {
                let made = make_instance(&*self.engine, &self.plan, &lane.threads).map_err(|error| error.to_string());
                *self.lost.lock() = made.as_ref().err().map(|error| error.as_str().into());
                let made = instance.insert(made.map_err(RunError::InstanceLost)?);
                self.rebuilds.fetch_add(1, Ordering::Relaxed);
                made
            }
        };
        let run = || match parts {
            None => running.run(call),
            Some(parts) => running.run_in_parts(call, parts),
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(outputs) => Ok(outputs?),
            Err(panic) => {
                // Dropping what a panic left behind may panic as well.
                let broken = instance.take();
                let _ = catch_unwind(AssertUnwindSafe(move || drop(broken)));
                Err(RunError::Panicked(panic_message(&*panic).to_owned()))
            }
        }
    }
}

fn make_instance(engine: &dyn Engine, plan: &CallPlan, threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
    catch_unwind(AssertUnwindSafe(|| engine.instance(plan, threads))).unwrap_or_else(|panic| {
        Err(EngineError::Load(format!("{} panicked while it was starting: {}", engine.name(), panic_message(&*panic))))
    })
}

#[cfg(test)]
mod tests {
    use tidemill_domain::{Signature, Tensor};

    use super::super::tests::{executable, fp32, script};
    use crate::{CallThreads, ItemCall};

    #[test]
    fn the_memory_of_a_large_batch_goes_once_batches_are_small_and_a_busy_lane_keeps_its_own() {
        let signature = Signature { inputs: vec![fp32("x", &[None])], outputs: vec![fp32("y", &[None])], ..Signature::default() };
        let model = executable(signature, script(&[]));
        let run = |length: usize| {
            let inputs = [Tensor::from_f32(&vec![1.0; length])];
            model.run(0, &[ItemCall { inputs: &inputs, state: None }], CallThreads::One).expect("no fault planned");
        };
        let kept = || model.instances.by_lane[0].slot.lock().scratch[0].capacity();
        run(1 << 20);
        model.trim();
        assert!(kept() >= 4 << 20, "the latest batch needed it");
        run(4);
        let busy = model.instances.by_lane[0].slot.lock();
        model.trim();
        drop(busy);
        assert!(kept() >= 4 << 20, "nobody waits for a call to end");
        model.trim();
        assert_eq!(kept(), 0);
        run(4);
    }
}
