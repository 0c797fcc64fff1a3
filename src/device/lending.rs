//! Short calls may run on the thread that pushes their items.
//!
//! Waking a lane and being woken by it costs a lone item about as much as running a small model, and costs very cheap items more
//! than their call. So a pusher borrows an idle lane, with its engine instance and its place in the account, for one short call,
//! and lets the lane's own thread sleep. A session that pushes in that time finds one lane fewer.

use std::time::Duration;

use super::{
    after::{After, Loan},
    state::{Device, LaneState, Shared},
    waking::FLOWING_BATCH,
};
use crate::{
    clock,
    scheduler::{CostModel, ModelKey, WAKE_UP},
};

/// Longest learned call of a lone item that the pusher's other work can wait for.
const CALL_MAX: Duration = Duration::from_micros(300);

/// Roughly what switching to a lane's thread and back costs a core. A batch that would gain less than this by waiting for more
/// items does not wait.
const SWITCHES: Duration = Duration::from_micros(5);

impl Shared {
    /// Takes what is queued, from a stream of `model`, to run on the caller's thread. `None` if it should be left to the lanes.
    pub(super) fn borrow_lane(&mut self, model: ModelKey, after: &mut After) -> Option<Loan> {
        if !self.lends || self.idle.is_empty() || self.closed {
            return None;
        }
        let (ready, cost) = (self.queue.only_ready(model)?, self.queue.cost(model)?);
        let lone = ready == 1 && self.idle.len() == self.lanes.len() && self.last_batch <= FLOWING_BATCH;
        if !(lone && cost.call(1) <= CALL_MAX || is_cheap(cost, ready)) {
            return None;
        }
        if !self.models.get(model)?.runtime.executable.engine().runs_on_any_thread() {
            return None;
        }
        let job = self.take_batch(clock::now(), after)?;
        let lane = self.idle.pop()?;
        self.lanes[lane] = LaneState::Lent;
        Some(Loan { lane, job })
    }
}

impl Device {
    /// From now on idle lanes are lent: their threads are about to start.
    pub(super) fn lend_lanes(&self) {
        self.shared.lock().lends = true;
    }

    /// Runs a call on this thread, then gives the lane back.
    pub(super) fn run_loan(&self, loan: Loan) {
        let Loan { lane, job } = loan;
        let _back = Back { device: self, lane };
        self.run(&self.lanes[lane], job);
    }

    fn take_back(&self, lane: usize) {
        let now = clock::now();
        self.act(|shared, after| {
            if shared.lanes[lane] == LaneState::Lent {
                shared.lanes[lane] = LaneState::Idle;
                shared.idle.push(lane);
            }
            after.wake = shared.lane_to_wake(1);
            after.rearm = shared.wakes_earlier(now);
        });
    }
}

/// Whether a call with this many items ends before a lane would be awake, and a fuller one would gain next to nothing.
fn is_cheap(cost: &CostModel, items: usize) -> bool {
    let (cap, items) = (cost.cap(), items.clamp(1, cost.cap()));
    let call = cost.call(items);
    let at_best = cost.call(cap) * u32::try_from(items).unwrap_or(u32::MAX) / u32::try_from(cap).unwrap_or(u32::MAX);
    call <= WAKE_UP && call.saturating_sub(at_best) <= SWITCHES
}

/// Gives a lane back, whatever happens.
struct Back<'a> {
    device: &'a Device,
    lane: usize,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.device.lanes[self.lane].pulse.rest();
        self.device.take_back(self.lane);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, mpsc},
        task::{Context, Waker},
        thread::{self, ThreadId},
    };

    use parking_lot::Mutex;

    use super::{super::staged::Staged, *};
    use crate::{
        device::{Lanes, ModelRuntime, StreamHandle, Submitted},
        domain::{Answer, Datatype, ItemInputs, Shape, Signature, Tensor, TensorSpec, Timestamp},
        engine::{Call, CallPlan, Contract, DeclaredTensor, Engine, EngineError, Executable, Instance, LaneThreads},
        scheduler::{Admission, CostCurve, Item, ModelOptions, ShapeKey, StreamOptions},
        telemetry::Telemetry,
        vitals::Vitals,
    };

    /// Echoes its input, reports its thread, and waits for permission.
    struct Echo {
        contract: Contract,
        calls: mpsc::SyncSender<ThreadId>,
        leave: Arc<Mutex<mpsc::Receiver<()>>>,
        anywhere: bool,
    }

    struct EchoInstance {
        calls: mpsc::SyncSender<ThreadId>,
        leave: Arc<Mutex<mpsc::Receiver<()>>>,
    }

    impl Engine for Echo {
        fn name(&self) -> &'static str {
            "echo"
        }

        fn runs_on_any_thread(&self) -> bool {
            self.anywhere
        }

        fn contract(&self) -> &Contract {
            &self.contract
        }

        fn instance(&self, _: &CallPlan, _: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
            Ok(Box::new(EchoInstance { calls: self.calls.clone(), leave: Arc::clone(&self.leave) }))
        }
    }

    impl Instance for EchoInstance {
        fn run(&mut self, call: &Call<'_>) -> Result<Vec<Tensor>, EngineError> {
            self.calls.send(thread::current().id()).expect("the test listens");
            self.leave.lock().recv().expect("the test permits it");
            let input = call.inputs[0];
            let shape = Shape::from_slice(input.shape);
            Ok(vec![Tensor::new(input.datatype, shape, input.data.to_vec().into()).expect("as long as the input")])
        }
    }

    struct World {
        device: Arc<Device>,
        stream: StreamHandle,
        calls: mpsc::Receiver<ThreadId>,
        leave: mpsc::SyncSender<()>,
        _lanes: Lanes,
    }

    /// A server with idle lanes, and a model whose call is known to take `call`.
    fn world(lanes: usize, call: Duration, anywhere: bool) -> World {
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![Some(1)], batch_axis: Some(0) };
        let declared = |name: &str| DeclaredTensor {
            name: name.to_owned(),
            datatype: Some(Datatype::Fp32),
            dims: Some(vec![None, Some(1)]),
            has_default: false,
        };
        let contract = Contract { inputs: vec![declared("x")], outputs: vec![declared("y")] };
        let signature = Arc::new(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() });
        let ((sender, calls), (leave, leaves)) = (mpsc::sync_channel(8), mpsc::sync_channel(8));
        let engine = Echo { contract, calls: sender, leave: Arc::new(Mutex::new(leaves)), anywhere };
        let compute = LaneThreads::device(lanes);
        let executable = Arc::new(Executable::new(Arc::new(engine), signature, &compute).expect("a sound model"));
        let limit = 1 << 20;
        let telemetry = Telemetry::new();
        let admission = Admission { items: limit, bytes: limit, model_items: limit, model_bytes: limit };
        let device = Device::new(lanes, admission, &telemetry);
        let options = ModelOptions {
            curve: CostCurve::new(vec![call]),
            item_bytes: 4,
            max_batch: 1,
            max_delay: Duration::ZERO,
            max_call_bytes: limit,
            stateful: false,
            padding_waste_max: None,
            wide_ratio: None,
        };
        let runtime = ModelRuntime { executable, metrics: telemetry.model("echo", "1"), costs: Vec::new() };
        let model = device.add_model(("echo", "1"), options, runtime);
        let started = Lanes::start(&device, &compute, &Vitals::new(&telemetry)).expect("threads");
        while device.shared.lock().idle.len() < lanes {
            thread::yield_now();
        }
        let stream = device.open(StreamOptions::of(model)).expect("the model is there");
        World { device, stream, calls, leave, _lanes: started }
    }

    fn submit(stream: &StreamHandle, ticket: u64) {
        let tensor = Tensor::new(Datatype::Fp32, Shape::from_slice(&[1]), vec![0; 4].into()).expect("four bytes");
        let item = Item {
            ticket,
            arrived: clock::now(),
            deadline: Timestamp::NEVER,
            stale_at: Timestamp::NEVER,
            bytes: 4,
            length: 0,
            shape: ShapeKey::default(),
            payload: ItemInputs::from_iter([tensor]),
        };
        assert_eq!(stream.submit(&mut Staged::from_iter([item]), true), Submitted::All);
    }

    fn answers(stream: &StreamHandle) -> VecDeque<Answer> {
        let mut answers = VecDeque::new();
        let _ = stream.poll_answers(&mut Context::from_waker(Waker::noop()), &mut answers);
        answers
    }

    #[test]
    fn a_lone_item_with_a_short_call_runs_on_the_thread_that_pushes_it() {
        let world = world(2, Duration::from_micros(10), true);
        for ticket in 0..3 {
            world.leave.send(()).expect("the engine listens");
            submit(&world.stream, ticket);
            assert_eq!(world.calls.recv().expect("a call"), thread::current().id());
            let answers = answers(&world.stream);
            assert_eq!(answers.iter().map(|answer| (answer.seq, answer.outcome.is_ok())).collect::<Vec<_>>(), [(ticket, true)]);
        }
        assert_eq!(world.device.shared.lock().idle.len(), 2, "the lane is given back");
    }

    #[test]
    fn long_calls_and_engines_with_their_own_threads_are_left_to_the_lanes() {
        for (call, anywhere) in [(CALL_MAX + Duration::from_nanos(1), true), (Duration::from_micros(10), false)] {
            let world = world(1, call, anywhere);
            submit(&world.stream, 0);
            assert_ne!(world.calls.recv().expect("a call"), thread::current().id());
            world.leave.send(()).expect("the engine listens");
        }
    }

    #[test]
    fn calls_that_cost_next_to_nothing_run_where_their_items_arrive_while_a_lane_is_idle() {
        let world = world(2, Duration::from_micros(1), true);
        let (device, model) = (Arc::clone(&world.device), world.stream.model);
        let pusher = thread::spawn(move || {
            let stream = device.open(StreamOptions::of(model)).expect("the model is there");
            submit(&stream, 0);
        });
        assert_eq!(world.calls.recv().expect("a call"), pusher.thread().id());
        world.leave.send(()).expect("the engine listens");
        world.leave.send(()).expect("the engine listens");
        submit(&world.stream, 0);
        assert_eq!(world.calls.recv().expect("a second call"), thread::current().id());
        pusher.join().expect("no panic");
        assert_eq!(world.device.shared.lock().idle.len(), 2, "both lanes are given back");
    }

    #[test]
    fn a_batch_that_a_fuller_one_would_make_cheaper_is_left_to_the_lanes() {
        let cost = |micros: [u64; 4]| CostModel::new(&CostCurve::new(micros.map(Duration::from_micros).to_vec()), 8);
        let steep = cost([30, 31, 32, 34]);
        assert_eq!([1, 4, 7, 8].map(|items| is_cheap(&steep, items)), [false, false, true, true]);
        assert!(is_cheap(&steep, 100), "more than fit counts as a full call");
        let small = cost([2, 2, 3, 4]);
        assert!((1..=8).all(|items| is_cheap(&small, items)));
        assert!(!is_cheap(&cost([60, 60, 60, 60]), 8), "a lane is awake sooner");
    }

    #[test]
    fn items_that_arrive_during_the_call_run_on_another_lane_or_on_this_one_afterwards() {
        for lanes in [1, 2] {
            let world = world(lanes, Duration::from_micros(100), true);
            let (device, model) = (Arc::clone(&world.device), world.stream.model);
            let pusher = thread::spawn(move || {
                let stream = device.open(StreamOptions::of(model)).expect("the model is there");
                submit(&stream, 0);
                answers(&stream).len()
            });
            assert_eq!(world.calls.recv().expect("a call"), pusher.thread().id());
            submit(&world.stream, 0);
            world.leave.send(()).expect("the engine listens");
            world.leave.send(()).expect("the engine listens");
            assert_eq!(pusher.join().expect("no panic"), 1);
            assert_ne!(world.calls.recv().expect("a second call"), thread::current().id());
        }
    }
}
