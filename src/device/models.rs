//! The models of a device: how they come and go, and what their metrics show.
//!
//! A retired model is dropped together with its last stream, outside the lock: freeing weights takes time.
//!
//! # Metrics
//! A reload makes a new copy of a model version while the old copy still has streams; both share the version's series. Counters
//! and item gauges move by what has changed since they were last published, so they are sums over the copies. A gauge that can
//! show only one copy shows the one that takes streams, and 0 if none does.

use super::{
    hosted::{Account, Hosted, ModelRuntime, QueueStatus, Repaired},
    state::{Device, Shared},
};
use crate::{
    domain::DropReason,
    scheduler::{ModelKey, ModelOptions, Repair},
};

impl Device {
    /// Opens a queue for a model.
    pub fn add_model(&self, (name, version): (&str, &str), options: ModelOptions, runtime: ModelRuntime) -> ModelKey {
        let hosted = Hosted::new((name, version), runtime);
        let mut shared = self.shared.lock();
        let recorded = shared.trace.is_some().then(|| options.clone());
        let key = shared.queue.add_model(options);
        if let (Some(trace), Some(options)) = (&mut shared.trace, recorded) {
            trace.model(key, name, version, &options);
        }
        shared.models.insert(key, hosted);
        key
    }

    /// Lets no more streams of a model open. Open ones go on; the model is dropped with the last of them.
    pub fn retire_model(&self, key: ModelKey) {
        self.act(|shared, after| {
            shared.queue.retire_model(key);
            shared.clear_gauges(key);
            after.gone = shared.remove_spent(key);
        });
    }

    /// What can be asked about a model's queue; `None` if there is no such model.
    #[must_use]
    pub fn status(&self, model: ModelKey) -> Option<QueueStatus> {
        let shared = self.shared.lock();
        let cost = shared.queue.cost(model)?;
        let (queued, running) = shared.queue.load(model);
        Some(QueueStatus {
            curve: cost.curve(),
            shape_curves: shared.queue.costs_by_shape(model),
            batch_cap: cost.cap(),
            streams: shared.queue.streams_of(model),
            queued,
            queued_max: shared.queue.admission().model_items,
            running,
            ledger: shared.queue.ledger(model),
            statistics: shared.queue.statistics(model),
        })
    }

    /// Brings counters and gauges up to date. Called when metrics are read, so that the hot path need not count twice.
    pub fn publish_metrics(&self) {
        let mut shared = self.shared.lock();
        let keys: Vec<ModelKey> = shared.models.keys().collect();
        keys.into_iter().for_each(|key| shared.publish(key));
    }
}

impl Shared {
    fn publish(&mut self, key: ModelKey) {
        let Self { queue, models, .. } = self;
        let Some(Hosted { runtime, shown, .. }) = models.get_mut(key) else { return };
        let metrics = &runtime.metrics;
        let (queued, running) = queue.load(key);
        let account = Account {
            ledger: queue.ledger(key),
            drops: DropReason::ALL.map(|reason| queue.dropped(key, reason)),
            rebuilds: runtime.executable.rebuilds(),
            repairs: queue.repairs(key),
            queued,
            running,
        };
        account.show(shown, metrics);
        *shown = account;
        if queue.is_retired(key) {
            return;
        }
        metrics.ready.set(f64::from(u8::from(runtime.executable.lost().is_none())));
        if let Some(cost) = queue.cost(key) {
            metrics.batch_cap.set(cost.cap() as f64);
            for (gauge, (_, cost)) in runtime.costs.iter().zip(cost.curve().points()) {
                gauge.set(cost.as_secs_f64());
            }
        }
    }

    /// Zeroes the gauges of a retired model that no other copy of it will set.
    fn clear_gauges(&self, key: ModelKey) {
        let Some(Hosted { runtime, labels, .. }) = self.models.get(key) else { return };
        let copies = self.models.iter().filter(|(copy, hosted)| hosted.labels == *labels && !self.queue.is_retired(*copy));
        let costs_shown = copies.map(|(_, hosted)| hosted.runtime.costs.len()).max();
        if costs_shown.is_none() {
            runtime.metrics.ready.set(0.0);
            runtime.metrics.batch_cap.set(0.0);
        }
        for gauge in runtime.costs.iter().skip(costs_shown.unwrap_or(0)) {
            gauge.set(0.0);
        }
    }

    /// What there is to report about the last decision, if it found a queue that contradicted itself.
    pub(super) fn take_repaired(&mut self) -> Option<Repaired> {
        let Repair { model, times } = self.queue.take_repair()?;
        let labels = self.models.get(model)?.labels.clone();
        Some(Repaired { labels, times })
    }

    /// Takes out a retired model without streams. Drop it outside the lock.
    pub(super) fn remove_spent(&mut self, key: ModelKey) -> Option<Hosted> {
        if !self.queue.is_spent(key) {
            return None;
        }
        self.publish(key);
        self.queue.remove_spent(key);
        self.models.remove(key)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Weak},
        task::{Context, Waker},
        time::Duration,
    };

    use super::{super::staged::Staged, *};
    use crate::{
        device::{StreamHandle, Submitted, hosted::Job},
        domain::{Datatype, Outcome, Signature, Tensor, TensorSpec, Timestamp},
        engine::{
            Executable, LaneThreads,
            synthetic::{Script, SyntheticEngine},
        },
        scheduler::{Admission, CostCurve, Executed, Item, ShapeKey, StreamOptions},
        telemetry::Telemetry,
        vitals::Pulse,
    };

    const ADMISSION: Admission = Admission { items: 100, bytes: 1 << 20, model_items: 100, model_bytes: 1 << 20 };

    struct Fixture {
        device: Arc<Device>,
        telemetry: Telemetry,
    }

    impl Fixture {
        fn new() -> Self {
            let telemetry = Telemetry::new();
            Self { device: Device::new(1, ADMISSION, &telemetry), telemetry }
        }

        /// A copy of the same version of the same model, with costs for `sizes` batch sizes.
        fn add(&self, sizes: usize) -> (ModelKey, Weak<Executable>) {
            let spec = |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![], batch_axis: Some(0) };
            let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() };
            let signature = Arc::new(signature);
            let engine = SyntheticEngine::new(Arc::clone(&signature), Script::default()).expect("a sound script");
            let executable = Executable::new(Arc::new(engine), signature, &[LaneThreads::new()]).expect("a sound signature");
            let executable = Arc::new(executable);
            let weak = Arc::downgrade(&executable);
            let (metrics, costs) = (self.telemetry.model("m", "1"), self.telemetry.model_costs("m", "1", sizes));
            let options = ModelOptions {
                curve: CostCurve::new(vec![Duration::from_millis(1); sizes]),
                item_bytes: 4,
                max_batch: 8,
                max_delay: Duration::ZERO,
                max_call_bytes: 1 << 20,
                stateful: false,
                padding_waste_max: None,
                wide_ratio: None,
            };
            (self.device.add_model(("m", "1"), options, ModelRuntime { executable, metrics, costs }), weak)
        }

        fn open(&self, model: ModelKey) -> Option<StreamHandle> {
            self.device.open(StreamOptions::of(model))
        }

        /// The sum of a metric over the series whose labels contain `labels`.
        fn metric(&self, name: &str, labels: &str) -> f64 {
            self.device.publish_metrics();
            let text = self.telemetry.render();
            let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
            lines.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number")).sum()
        }

        /// What lane 0 does with one batch.
        fn run_batch(&self) {
            let batch = self.device.next_batch(0, &Pulse::default()).expect("something is queued").batch;
            let outcomes = batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok));
            self.device.finish(&batch.report(Some(Duration::from_millis(1))), outcomes, &Executed::default());
        }
    }

    fn submit(stream: &StreamHandle) {
        let item = Item {
            ticket: 0,
            arrived: Timestamp::ZERO,
            deadline: Timestamp::NEVER,
            stale_at: Timestamp::NEVER,
            bytes: 4,
            length: 0,
            shape: ShapeKey::default(),
            payload: [Tensor::from_f32(&[1.0])].into_iter().collect(),
        };
        assert_eq!(stream.submit(&mut Staged::from_iter([item]), false), Submitted::All);
    }

    #[test]
    fn a_retired_model_without_streams_is_freed_at_once() {
        let fixture = Fixture::new();
        let (model, executable) = fixture.add(1);
        fixture.device.retire_model(model);
        assert_eq!((executable.strong_count(), fixture.device.models()), (0, 0));
        assert!(fixture.device.status(model).is_none() && fixture.open(model).is_none());
        fixture.device.retire_model(model);
    }

    #[test]
    fn open_streams_keep_a_retired_model_and_the_last_frees_it() {
        let fixture = Fixture::new();
        let (model, executable) = fixture.add(1);
        let [first, last] = [(); 2].map(|()| fixture.open(model).expect("it serves"));
        fixture.device.retire_model(model);
        assert!(fixture.open(model).is_none());
        drop(first);
        submit(&last);
        fixture.run_batch();
        assert!(last.poll_answers(&mut Context::from_waker(Waker::noop()), &mut VecDeque::new()).is_pending());
        assert_eq!(fixture.device.models(), 1);
        drop(last);
        assert_eq!((executable.strong_count(), fixture.device.models()), (0, 0));
    }

    #[test]
    fn a_call_that_runs_keeps_a_retired_model_until_it_is_finished() {
        let fixture = Fixture::new();
        let (model, executable) = fixture.add(1);
        let stream = fixture.open(model).expect("it serves");
        submit(&stream);
        let Job { batch, runtime } = fixture.device.next_batch(0, &Pulse::default()).expect("an item is queued");
        fixture.device.retire_model(model);
        drop(stream);
        assert_eq!(fixture.device.models(), 1, "its item runs");
        fixture.device.finish(
            &batch.report(None),
            batch.entries.iter().map(|entry| (entry.stream, Outcome::Ok)),
            &Executed::default(),
        );
        assert_eq!((executable.strong_count(), fixture.device.models()), (1, 0), "the lane still holds it");
        drop(runtime);
        assert_eq!(executable.strong_count(), 0);
    }

    #[test]
    fn a_queue_that_contradicts_itself_is_repaired_counted_and_reported_and_loses_no_item() {
        let fixture = Fixture::new();
        let (model, _executable) = fixture.add(1);
        let stream = fixture.open(model).expect("it serves");
        for times in 1..=3 {
            submit(&stream);
            fixture.device.shared.lock().queue.forget_ready_streams(model);
            fixture.run_batch();
            assert_eq!(fixture.metric("tidemill_queue_repairs_total", "m"), f64::from(times));
        }
        assert_eq!(fixture.metric("tidemill_items_ended_total", "outcome=\"ok\""), 3.0);
        assert!(fixture.device.shared.lock().take_repaired().is_none(), "reported with the batch");
    }

    #[test]
    fn copies_of_a_version_share_its_series_and_counters_outlive_them() {
        let fixture = Fixture::new();
        let (old, _) = fixture.add(3);
        let held = fixture.open(old).expect("it serves");
        submit(&held);
        fixture.run_batch();
        assert_eq!(fixture.metric("tidemill_items_received_total", "m"), 1.0);
        submit(&held);
        let (new, _) = fixture.add(2);
        fixture.device.retire_model(old);
        assert_eq!(fixture.metric("tidemill_model_cost_seconds", "batch_size=\"4\""), 0.0, "the new copy has no such size");
        assert!(fixture.metric("tidemill_model_cost_seconds", "batch_size=\"2\"") > 0.0);
        let stream = fixture.open(new).expect("it serves");
        submit(&stream);
        assert_eq!(fixture.metric("tidemill_items_queued", "m"), 2.0, "one of each copy");
        drop(held);
        assert_eq!(fixture.metric("tidemill_items_ended_total", "cancelled"), 1.0);
        assert_eq!((fixture.metric("tidemill_items_queued", "m"), fixture.metric("tidemill_model_ready", "m")), (1.0, 1.0));
        fixture.run_batch();
        drop(stream);
        fixture.device.retire_model(new);
        let ended = fixture.metric("tidemill_items_ended_total", "m");
        assert_eq!((fixture.metric("tidemill_items_received_total", "m"), ended), (3.0, 3.0));
        for gauge in ["model_ready", "model_batch_cap", "model_cost_seconds", "items_queued", "items_in_flight"] {
            assert_eq!(fixture.metric(&format!("tidemill_{gauge}"), "m"), 0.0, "{gauge}");
        }
    }
}
