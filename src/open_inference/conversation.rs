//! Requests of one stream: answered in the order in which they came, and run as they can be.
//!
//! A stream's requests fall into flows, each of which is a session. Requests to one model share a flow; each sequence has its own
//! flow, which keeps the state; a request that belongs to no sequence, of a model that keeps state, has a flow for each item. So
//! sequences overtake each other on the way through the model, and the replies are put in order here.
//!
//! # Cancellation
//! Dropping a [`Conversation`] drops its flows: what is queued is cancelled, and the states of all its sequences are freed at once.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::SelectAll};
use slotmap::{SlotMap, new_key_type};

use super::{
    OpenInference,
    book::{SequenceBook, SequenceEnd},
    inbox::Inbox,
    infer::{COPIED_HERE_MAX, Prepared, check_lone, inbound, single},
    items::{Items, SplitItem},
    options::{Options, SequenceId, SequenceStep},
    reply::ReplyPlan,
    request::InferRequest,
    response::InferResponse,
    sequences::check_version,
};
use crate::{
    domain::{AnswerPart, Fault, FaultKind, ItemOutputs, Priority, data_bytes},
    registry::Model,
    service::{Caller, Method},
    session::{Event, ItemResult, Session},
    telemetry::StreamEnd,
};

/// How many answers to one request, before its last, may wait for their turn.
const PARTS_WAITING_MAX: usize = 1_024;
/// Bytes of output in all such answers of a stream.
const PART_BYTES_WAITING_MAX: usize = 64 << 20;

/// An answer to a request.
#[derive(Debug)]
pub struct Reply<T> {
    /// The tag that was pushed with the request.
    pub tag: T,
    /// Which of the request's answers it is.
    pub part: AnswerPart,
    /// Whether the model may give several answers to a request.
    pub decoupled: bool,
    /// The response, or why there is none.
    pub result: Result<InferResponse, Fault>,
}

/// The requests of one stream. Each is pushed with a tag, which comes back with its answer.
pub struct Conversation<T> {
    door: OpenInference,
    method: Method,
    caller: Caller,
    flows: SlotMap<FlowKey, Flow>,
    sessions: SelectAll<FlowSession>,
    shared: HashMap<SharedKey, FlowKey>,
    sequences: SequenceBook<SequenceKey, FlowKey>,
    exchanges: VecDeque<Exchange<T>>,
    /// Number of the first exchange.
    first: u64,
    /// The reply whose turn it is, while another thread puts it together.
    finishing: Option<(Turn<T>, Finishing)>,
    /// The weight of all exchanges.
    in_flight: Weight,
    part_room: PartRoom,
}

/// A response that is being put together.
type Finishing = BoxFuture<'static, Result<InferResponse, Fault>>;

/// A reply without its response.
struct Turn<T> {
    tag: T,
    part: AnswerPart,
    decoupled: bool,
}

impl<T> Turn<T> {
    fn reply(self, result: Result<InferResponse, Fault>) -> Reply<T> {
        let Self { tag, part, decoupled } = self;
        Reply { tag, part, decoupled, result }
    }
}

/// What a response is made of.
type Parts = (ReplyPlan, Vec<ItemOutputs>);

new_key_type! {
    struct FlowKey;
}

/// Which requests share a flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SharedKey {
    model: String,
    version: String,
    priority: Priority,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SequenceKey {
    model: String,
    id: SequenceId,
}

/// One session of the stream.
struct Flow {
    inbox: Inbox,
    model: Arc<Model>,
    /// The items that it has, in order.
    waiting: VecDeque<ItemPlace>,
    /// The name that it is known by, so that it can be forgotten.
    name: FlowName,
}

impl Flow {
    /// Takes in nothing more, and ends once it has answered what it has. Returns the name that it may still be known by.
    fn retire(&mut self) -> FlowName {
        self.inbox.close();
        std::mem::replace(&mut self.name, FlowName::None)
    }
}

/// Which item of which exchange.
#[derive(Debug, Clone, Copy)]
struct ItemPlace {
    exchange: u64,
    item: usize,
}

enum FlowName {
    /// None, or no longer any.
    None,
    Shared(SharedKey),
    Sequence(SequenceKey),
}

/// A request, and its answer so far.
struct Exchange<T> {
    tag: T,
    weight: Weight,
    state: ExchangeState,
}

/// The units of the stream's window.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    items: usize,
    bytes: usize,
}

enum ExchangeState {
    /// Items are on their way, or all of them are back.
    Running {
        plan: ReplyPlan,
        outputs: Vec<Option<ItemOutputs>>,
        /// Answers of its one item before the last, which wait for the request's turn.
        parts: VecDeque<ItemOutputs>,
        /// How many such answers the client has.
        parts_given: u32,
        /// Items yet to be answered.
        left: usize,
        /// The first fault.
        fault: Option<Fault>,
    },
    /// There never were any.
    Refused(Fault),
}

impl<T: Clone> Conversation<T> {
    /// A stream without requests.
    #[must_use]
    pub fn new(door: OpenInference, method: Method, caller: Caller) -> Self {
        Self {
            door,
            method,
            caller,
            flows: SlotMap::with_key(),
            sessions: SelectAll::new(),
            shared: HashMap::new(),
            sequences: SequenceBook::default(),
            exchanges: VecDeque::new(),
            first: 0,
            finishing: None,
            in_flight: Weight::default(),
            part_room: PartRoom::default(),
        }
    }

    /// Whether the stream's window has room for a request; if not, wait for a reply first.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let limits = self.door.service.limits(u32::MAX);
        self.exchanges.is_empty() || (self.in_flight.items < limits.window_items && self.in_flight.bytes < limits.window_bytes)
    }

    /// Whether every request has been answered.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.exchanges.is_empty() && self.finishing.is_none()
    }

    /// Takes in a request whose message has `bytes` bytes, or the fault in it, which becomes its answer.
    pub fn push(&mut self, tag: T, bytes: usize, request: Result<InferRequest, Fault>) {
        let number = self.first + self.exchanges.len() as u64;
        let begun = request.and_then(|request| self.begin(number, request));
        let (state, shared_bytes) = begun.unwrap_or_else(|fault| {
            self.method.count_fault(&fault);
            (ExchangeState::Refused(fault), 0)
        });
        let items = match &state {
            ExchangeState::Running { outputs, .. } => outputs.len(),
            // Its answer takes up room too.
            ExchangeState::Refused(_) => 1,
        };
        let weight = Weight { items, bytes: bytes + shared_bytes };
        self.in_flight.items += weight.items;
        self.in_flight.bytes += weight.bytes;
        self.exchanges.push_back(Exchange { tag, weight, state });
    }

    /// Nothing more is pushed: sequences end once their requests are answered.
    pub fn finish(&mut self) {
        self.flows.values().for_each(|flow| flow.inbox.close());
    }

    /// Says why the stream ends before its time.
    pub fn abandon(&mut self, end: StreamEnd) {
        for flow in self.sessions.iter_mut() {
            if let Some(session) = &mut flow.session {
                session.abandon(end);
            }
        }
    }

    /// The next reply. `None` if there is nothing to wait for.
    pub fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reply<T>>> {
        loop {
            if let Some(reply) = self.poll_turn(cx) {
                return Poll::Ready(Some(reply));
            }
            match self.sessions.poll_next_unpin(cx) {
                Poll::Ready(Some((flow, happened))) => self.note(flow, happened),
                Poll::Ready(None) if self.is_quiet() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The reply whose turn it is, if it is there.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Option<Reply<T>> {
        if self.finishing.is_none() {
            let (turn, made_of) = self.pop_part().or_else(|| self.pop_done())?;
            let (plan, outputs) = match made_of {
                Ok(parts) => parts,
                Err(fault) => return Some(turn.reply(Err(fault))),
            };
            if plan.work_bytes(&outputs) <= COPIED_HERE_MAX {
                return Some(turn.reply(plan.response(&outputs)));
            }
            let side = self.door.side.clone();
            let finishing = async move { side.run(move || plan.response(&outputs)).await }.boxed();
            self.finishing = Some((turn, finishing));
        }
        let (turn, mut finishing) = self.finishing.take()?;
        match finishing.poll_unpin(cx) {
            Poll::Ready(result) => Some(turn.reply(result)),
            Poll::Pending => {
                self.finishing = Some((turn, finishing));
                None
            }
        }
    }

    /// An answer of the first request that is not its last.
    fn pop_part(&mut self) -> Option<(Turn<T>, Result<Parts, Fault>)> {
        let Exchange { tag, state, .. } = self.exchanges.front_mut()?;
        let ExchangeState::Running { plan, parts, parts_given, .. } = state else { return None };
        let outputs = parts.pop_front()?;
        self.part_room.give_back(&outputs);
        let part = AnswerPart { number: *parts_given, last: false };
        *parts_given += 1;
        Some((Turn { tag: tag.clone(), part, decoupled: true }, Ok((plan.clone(), vec![outputs]))))
    }

    fn pop_done(&mut self) -> Option<(Turn<T>, Result<Parts, Fault>)> {
        if matches!(self.exchanges.front()?.state, ExchangeState::Running { left: 1.., .. }) {
            return None;
        }
        let Exchange { tag, weight, state } = self.exchanges.pop_front()?;
        self.first += 1;
        self.in_flight.items -= weight.items;
        self.in_flight.bytes -= weight.bytes;
        let (number, decoupled) = match &state {
            ExchangeState::Running { parts_given, plan, .. } => (*parts_given, plan.model.is_decoupled()),
            ExchangeState::Refused(_) => (0, false),
        };
        let made_of = match state {
            ExchangeState::Refused(fault) | ExchangeState::Running { fault: Some(fault), .. } => Err(fault),
            ExchangeState::Running { plan, outputs, .. } => Ok((plan, outputs.into_iter().flatten().collect())),
        };
        Some((Turn { tag, part: AnswerPart { number, last: true }, decoupled }, made_of))
    }

    /// Sends a request's items on their way; also returns how many bytes were read from shared memory.
    fn begin(&mut self, exchange: u64, mut request: InferRequest) -> Result<(ExchangeState, usize), Fault> {
        let options = Options::of(&request.parameters)?;
        let known = match &options.step {
            Some(step) => self.step_of(&request, step)?.map(|known| (step, known)),
            None => None,
        };
        let (name, version) = (std::mem::take(&mut request.model), std::mem::take(&mut request.version));
        if let Some((step, known)) = known {
            let model = match &known {
                Known::Model(model) => model,
                Known::Flow(flow) => &self.flows[*flow].model,
            };
            let Prepared { items, reply, shared_bytes } = self.door.prepare(request, Arc::clone(model))?;
            let item = single(items)?;
            let flow = match known {
                Known::Flow(flow) => flow,
                Known::Model(model) => {
                    self.start_sequence(SequenceKey { model: name, id: step.id.clone() }, model, version, &options)?
                }
            };
            self.send(flow, ItemPlace { exchange, item: 0 }, item, &options);
            if step.ends {
                self.end_flow(flow, SequenceEnd::Asked);
            }
            return Ok((running(reply, 1, 1, None), shared_bytes));
        }
        let model = self.door.service.find(&name, &version)?;
        let Prepared { items: Items { items, .. }, reply, shared_bytes } = self.door.prepare(request, Arc::clone(&model))?;
        let count = items.len();
        check_lone(&model, count)?;
        let shared = if model.is_stateful() {
            None
        } else {
            let key = SharedKey { model: name, version: version.clone(), priority: options.priority };
            Some(self.shared_flow(key, Arc::clone(&model), &options)?)
        };
        for (index, item) in items.into_iter().enumerate() {
            let place = ItemPlace { exchange, item: index };
            if let Some(flow) = shared {
                self.send(flow, place, item, &options);
                continue;
            }
            // Without a sequence nothing is remembered: each item of a stateful model starts from scratch.
            match self.open(FlowName::None, Arc::clone(&model), version.clone(), &options, 1) {
                Ok(flow) => {
                    self.send(flow, place, item, &options);
                    self.flows[flow].inbox.close();
                }
                Err(fault) if index == 0 => return Err(fault),
                Err(fault) => return Ok((running(reply, count, index, Some(fault)), shared_bytes)),
            }
        }
        Ok((running(reply, count, count, None), shared_bytes))
    }

    /// The model that a step runs on; `None` if sequences mean nothing to it.
    fn step_of(&self, request: &InferRequest, step: &SequenceStep) -> Result<Option<Known>, Fault> {
        let key = SequenceKey { model: request.model.clone(), id: step.id.clone() };
        if !step.starts
            && let Some(flow) = self.sequences.get(&key)
        {
            check_version(&self.flows[*flow].model, &request.version, &step.id)?;
            return Ok(Some(Known::Flow(*flow)));
        }
        let model = self.door.service.find(&request.model, &request.version)?;
        if !model.is_stateful() {
            return Ok(None);
        }
        if !step.starts {
            return Err(self.sequences.missing(&key, &step.id, &request.model, "on this stream"));
        }
        Ok(Some(Known::Model(model)))
    }

    fn start_sequence(
        &mut self,
        key: SequenceKey,
        model: Arc<Model>,
        version: String,
        options: &Options,
    ) -> Result<FlowKey, Fault> {
        let limit = self.door.config.max_per_stream;
        if self.sequences.get(&key).is_none() && self.sequences.len() >= limit {
            let message = format!(
                "{limit} sequences are open on this stream, as many as sequence.max_per_stream allows; end some, or open another stream"
            );
            return Err(Fault::new(FaultKind::Overloaded, message).with_limit("sequence.max_per_stream", limit as u64));
        }
        let flow = self.open(FlowName::Sequence(key.clone()), model, version, options, usize::MAX)?;
        if let Some(replaced) = self.sequences.start(key, flow) {
            // Its requests are answered; then it ends, with its state.
            self.flows[replaced].retire();
        }
        Ok(flow)
    }

    /// The flow of this name on `model`; a newer version of the model replaces an older one's flow.
    fn shared_flow(&mut self, key: SharedKey, model: Arc<Model>, options: &Options) -> Result<FlowKey, Fault> {
        let known = self.shared.get(&key).copied();
        let same = |flow: &FlowKey| self.flows[*flow].model.key == model.key;
        if let Some(flow) = known.filter(same) {
            return Ok(flow);
        }
        let version = key.version.clone();
        let flow = self.open(FlowName::Shared(key.clone()), model, version, options, usize::MAX)?;
        if let Some(outdated) = self.shared.insert(key, flow) {
            self.flows[outdated].retire();
        }
        Ok(flow)
    }

    fn open(
        &mut self,
        name: FlowName,
        model: Arc<Model>,
        version: String,
        options: &Options,
        window_items: usize,
    ) -> Result<FlowKey, Fault> {
        let service = &self.door.service;
        let request = options.open_request(&model, version, self.caller, window_items);
        let opened = service.open_found(&self.method, model, request)?;
        let idle_timeout = matches!(name, FlowName::Sequence(_)).then(|| self.door.config.idle_timeout());
        let inbox = Inbox::default();
        let model = Arc::clone(opened.model());
        let session = opened.idle_after(idle_timeout).session(inbox.clone())?;
        let flow = self.flows.insert(Flow { inbox, model, waiting: VecDeque::new(), name });
        self.sessions.push(FlowSession { flow, session: Some(Box::new(session)) });
        Ok(flow)
    }

    fn send(&mut self, flow: FlowKey, place: ItemPlace, item: SplitItem, options: &Options) {
        let Flow { inbox, waiting, .. } = &mut self.flows[flow];
        waiting.push_back(place);
        inbox.push(inbound(item, options));
    }

    /// Retires a flow, so that it is not found again.
    fn end_flow(&mut self, flow: FlowKey, end: SequenceEnd) {
        match self.flows[flow].retire() {
            FlowName::None => {}
            FlowName::Shared(key) => {
                self.shared.remove(&key);
            }
            FlowName::Sequence(key) => {
                self.sequences.end(&key, end);
            }
        }
    }

    fn note(&mut self, flow: FlowKey, happened: Happened) {
        match happened {
            Happened::Result(result) if !result.part.last => {
                if let (Some(place), Ok(outputs)) = (self.flows[flow].waiting.front().copied(), result.outcome) {
                    self.keep_part(place, outputs);
                }
            }
            Happened::Result(result) => {
                if let Some(place) = self.flows[flow].waiting.pop_front() {
                    self.answer(place, result.outcome);
                }
            }
            Happened::Fault(fault) => {
                let idle = fault.kind() == FaultKind::Expired && self.flows[flow].waiting.is_empty();
                let end = if idle { SequenceEnd::Idle(self.door.config.idle_timeout()) } else { SequenceEnd::Lost };
                self.end_flow(flow, end);
                for place in std::mem::take(&mut self.flows[flow].waiting) {
                    self.answer(place, Err(fault.clone()));
                }
            }
            Happened::End => {
                self.end_flow(flow, SequenceEnd::Lost);
                self.flows.remove(flow);
            }
        }
    }

    /// Keeps an answer that is not its item's last while there is room; once there is none, the request fails.
    fn keep_part(&mut self, place: ItemPlace, found: ItemOutputs) {
        let Some(exchange) = exchange_of(&mut self.exchanges, self.first, place) else { return };
        let ExchangeState::Running { parts, fault, .. } = &mut exchange.state else { return };
        if fault.is_some() {
            return;
        }
        if self.part_room.take(parts.len(), &found) {
            parts.push_back(found);
            return;
        }
        let message = format!(
            "more answers came than may wait for those to earlier requests, {PARTS_WAITING_MAX} to a request and {PART_BYTES_WAITING_MAX} bytes \
             of a stream; send the request on its own stream"
        );
        *fault = Some(Fault::new(FaultKind::Overloaded, message));
    }

    /// Records the outcome of an item. The first fault becomes the request's, but waits for the items after it: they take up room
    /// in the stream's window until they have left the flow.
    fn answer(&mut self, place: ItemPlace, outcome: Result<ItemOutputs, Fault>) {
        let Some(exchange) = exchange_of(&mut self.exchanges, self.first, place) else { return };
        let ExchangeState::Running { outputs, left, fault, .. } = &mut exchange.state else { return };
        match outcome {
            Ok(found) => outputs[place.item] = Some(found),
            Err(found) => _ = fault.get_or_insert(found.in_item(place.item as u64, outputs.len())),
        }
        *left -= 1;
    }
}

/// Bytes of output in a stream's answers that wait for their requests' turns, other than the requests' last.
#[derive(Debug, Default)]
struct PartRoom(usize);

impl PartRoom {
    /// Takes room for one more answer to a request of which so many wait, if there is any.
    fn take(&mut self, waiting: usize, answer: &ItemOutputs) -> bool {
        let bytes = self.0.saturating_add(data_bytes(answer));
        let fits = waiting < PARTS_WAITING_MAX && (self.0 == 0 || bytes <= PART_BYTES_WAITING_MAX);
        if fits {
            self.0 = bytes;
        }
        fits
    }

    fn give_back(&mut self, answer: &ItemOutputs) {
        self.0 -= data_bytes(answer);
    }
}

/// The exchange that an item belongs to, if it has not been answered yet. `first` is the number of the first exchange.
fn exchange_of<T>(exchanges: &mut VecDeque<Exchange<T>>, first: u64, place: ItemPlace) -> Option<&mut Exchange<T>> {
    let index = usize::try_from(place.exchange.checked_sub(first)?).ok()?;
    exchanges.get_mut(index)
}

/// Where a step of a sequence goes.
enum Known {
    /// To the sequence, which has begun.
    Flow(FlowKey),
    /// To a new one.
    Model(Arc<Model>),
}

/// A request of `items` items, of which `left` are on their way.
fn running(plan: ReplyPlan, items: usize, left: usize, fault: Option<Fault>) -> ExchangeState {
    ExchangeState::Running { plan, outputs: vec![None; items], parts: VecDeque::new(), parts_given: 0, left, fault }
}

/// A report of a flow's session.
enum Happened {
    Result(ItemResult),
    Fault(Fault),
    End,
}

/// A flow's session as one of many: it reports its end too.
struct FlowSession {
    flow: FlowKey,
    session: Option<Box<Session<Inbox>>>,
}

impl Stream for FlowSession {
    type Item = (FlowKey, Happened);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let flow = self.flow;
        loop {
            let Some(session) = &mut self.session else { return Poll::Ready(None) };
            let happened = match ready!(session.poll_next_unpin(cx)) {
                Some(Ok(Event::Result(result))) => Happened::Result(result),
                Some(Ok(_)) => continue,
                Some(Err(fault)) => Happened::Fault(fault),
                None => {
                    self.session = None;
                    Happened::End
                }
            };
            return Poll::Ready(Some((flow, happened)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Datatype, Shape, Tensor};

    fn answer(bytes: usize) -> ItemOutputs {
        let tensor = Tensor::new(Datatype::Uint8, Shape::from_slice(&[bytes]), vec![0; bytes].into());
        ItemOutputs::from_iter([tensor.expect("as long as it must be")])
    }

    #[test]
    fn answers_that_wait_have_room_for_so_many_of_a_request_and_so_many_bytes_of_the_stream() {
        let mut room = PartRoom::default();
        let quarter = answer(PART_BYTES_WAITING_MAX / 4);
        assert_eq!([0, 1, 0, 1, 2].map(|waiting| room.take(waiting, &quarter)), [true, true, true, true, false]);
        room.give_back(&quarter);
        assert!(!room.take(PARTS_WAITING_MAX, &quarter), "it is too many of one request");
        assert!(room.take(PARTS_WAITING_MAX - 1, &quarter));
    }

    #[test]
    fn one_answer_may_be_larger_than_all_that_wait() {
        let (mut room, large) = (PartRoom::default(), answer(PART_BYTES_WAITING_MAX + 1));
        assert!(room.take(0, &large));
        assert!(!room.take(0, &answer(1)));
        room.give_back(&large);
        assert!(room.take(0, &answer(1)));
    }
}
