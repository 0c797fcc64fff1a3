//! A session with its queue and one lane, without a network: from items of a stream in this process to results of a model that costs
//! nothing.

#[path = "setup/identity.rs"]
mod identity;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::{StreamExt as _, future::join_all, stream};
use tidemill::{
    device::{Device, Lanes},
    drain::Drain,
    engine::{
        Executable, LaneThreads,
        synthetic::{Script, SyntheticEngine, SyntheticKind},
    },
    registry::Model,
    scheduler::{CostCurve, ModelOptions, StreamOptions},
    session::{Event, Inbound, ItemRequest, Session, SessionMetrics},
    telemetry::Telemetry,
    vitals::Vitals,
};

use identity::{ADMISSION, BYTES, install, session_options, signature, tensor};

/// Items of a session.
const ITEMS: usize = 2_000;
/// Items in flight.
const WINDOW: usize = 16;

struct Server {
    device: Arc<Device>,
    model: Arc<Model>,
    drain: Drain,
    telemetry: Telemetry,
    _lanes: Lanes,
}

impl Server {
    fn start() -> Self {
        let signature = signature(Vec::new());
        let script = Script { kind: SyntheticKind::Identity, ..Script::default() };
        let engine = SyntheticEngine::new(Arc::clone(&signature), script).expect("a sound script");
        let compute = [LaneThreads::new()];
        let executable = Executable::new(Arc::new(engine), signature, &compute).expect("a sound model");
        let telemetry = Telemetry::new();
        let device = Device::new(1, ADMISSION, &telemetry);
        let curve = CostCurve::new([1, 1, 2, 2, 3, 4, 5].map(Duration::from_micros).to_vec());
        let options = ModelOptions {
            curve,
            item_bytes: 24,
            max_batch: 64,
            max_delay: Duration::ZERO,
            max_call_bytes: 1 << 30,
            stateful: false,
            padding_waste_max: None,
            wide_ratio: None,
        };
        let model = install(&device, &telemetry, executable, options);
        let lanes = Lanes::start(&device, &compute, &Vitals::new(&telemetry)).expect("threads");
        Self { device, model, drain: Drain::new(), telemetry, _lanes: lanes }
    }

    /// Runs one session to its end and counts its results.
    async fn session(&self, data: Bytes) -> usize {
        let item =
            move |_| Ok(Inbound::Item(ItemRequest { id: String::new(), tensors: Ok(vec![tensor(&data)]), deadline: None }));
        let options = session_options(WINDOW);
        let handle = self.device.open(StreamOptions::of(self.model.key)).expect("the model is there");
        let metrics = SessionMetrics::open(Arc::new(self.telemetry.method("feed")));
        let guard = self.drain.session().expect("not draining");
        let (inbound, model) = (stream::iter((0..ITEMS).map(item)), Arc::clone(&self.model));
        let session = Session::new(inbound, handle, model, options, self.drain.clone(), metrics, guard).expect("a sound session");
        session
            .filter(|event| std::future::ready(matches!(event, Ok(Event::Result(result)) if result.outcome.is_ok())))
            .count()
            .await
    }
}

fn session(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let mut group = criterion.benchmark_group("session");
    for sessions in [1, 16] {
        group.throughput(Throughput::Elements((sessions * ITEMS) as u64));
        let server = Arc::new(Server::start());
        let kicker = runtime.spawn(Arc::clone(&server.device).kick_lanes());
        let data = Bytes::from(vec![0; BYTES]);
        group.bench_function(BenchmarkId::new("identity_2304_bytes", sessions), |bencher| {
            bencher.to_async(&runtime).iter(|| {
                let (server, data) = (Arc::clone(&server), data.clone());
                async move {
                    let running = (0..sessions).map(|_| {
                        let (server, data) = (Arc::clone(&server), data.clone());
                        tokio::spawn(async move { server.session(data).await })
                    });
                    for results in join_all(running).await {
                        assert_eq!(results.expect("no panic"), ITEMS);
                    }
                }
            });
        });
        kicker.abort();
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = session
}
criterion_main!(benches);
