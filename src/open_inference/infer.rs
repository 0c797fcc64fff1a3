//! One request, one response.

use std::sync::Arc;

use bytes::Bytes;
use futures::{
    Stream, StreamExt as _, TryStreamExt as _, future,
    stream::{self, Iter},
};

use super::{
    OpenInference,
    cache::RequestKey,
    items::{self, Items, Place, SizeLimits, SplitItem},
    options::Options,
    placement::Placement,
    reply::{ReplyPlan, wanted},
    request::{InferRequest, InputTensor, Parameters},
    response::InferResponse,
    sequences::{StepAnswer, StepRequest},
    shared_memory::SHARED_MEMORY_REGION,
};
use crate::{
    auth::Scope,
    clock,
    domain::{Datatype, Fault, FaultKind, ItemOutputs, Signature, data_bytes},
    registry::Model,
    service::{Caller, KnownCall, Method},
    session::{CheckedItem, Event, Inbound, Session},
    side::INLINE_BYTES_MAX,
};

/// Longest id of a request: ids are kept until they are echoed.
const ID_BYTES_MAX: usize = 256;

/// How much is copied from shared memory, or into a response, where the request is served. It takes a good part of a
/// millisecond.
pub(super) const COPIED_HERE_MAX: usize = 1 << 20;

/// A request that has been checked against its model.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) items: Items,
    pub(super) reply: ReplyPlan,
    /// How many of its bytes were read from shared memory.
    pub(super) shared_bytes: usize,
}

type RequestSession = Session<Iter<std::vec::IntoIter<Result<Inbound, Fault>>>>;

impl OpenInference {
    /// Answers a request once all its items are computed.
    ///
    /// # Errors
    /// Those of [`Service::open`](crate::service::Service::open) and of the request's first item that fails, and
    /// [`FaultKind::Invalid`] with the field that does not fit the model, or the rule of sequences that the request breaks.
    pub async fn infer(&self, method: &Method, request: InferRequest, caller: Caller) -> Result<InferResponse, Fault> {
        let replies = Replies::One;
        let request = self.fetch(request).await.map_err(|fault| method.refuse(fault))?;
        let Begun { plan, running, unknown } = if self.read_bytes(&request) <= INLINE_BYTES_MAX {
            self.begin(method, request, caller, replies)?
        } else {
            let (door, method, holder) = (self.clone(), method.clone(), self.service.caller());
            let begin = move || match holder {
                Some(holder) => holder.acting(|| door.begin(&method, request, caller, replies)),
                None => door.begin(&method, request, caller, replies),
            };
            self.side.run(begin).await?
        };
        let outputs: Vec<ItemOutputs> = match running {
            Running::Together(session, items) => outputs_of(session, items).try_collect().await?,
            Running::Apart(sessions) => outputs_apart(sessions).try_collect().await?,
            Running::Step(answer) => vec![answer.outputs().await?],
            Running::Known(outputs) => outputs,
        };
        if let Some(key) = unknown {
            self.keep(key, &plan.model, &outputs);
        }
        let work_bytes = plan.work_bytes(&outputs);
        self.side.run_long(work_bytes, COPIED_HERE_MAX, move || plan.response(&outputs)).await
    }

    /// How many bytes of a request are looked at one by one: those of strings, and all of a request that may have been answered before.
    fn read_bytes(&self, request: &InferRequest) -> usize {
        let bytes = request.inputs.iter().filter_map(|input| input.data.as_ref()).map(Bytes::len).sum();
        let may_be_known = || {
            let model = self.service.find(&request.model, &request.version);
            model.is_ok_and(|model| model.may_cache())
        };
        if bytes > INLINE_BYTES_MAX && self.cache.is_on() && may_be_known() {
            return bytes;
        }
        request.inputs.iter().map(strings_bytes).sum()
    }

    /// Keeps the answer to a request, for as long as its model serves.
    fn keep(&self, key: RequestKey, model: &Model, outputs: &[ItemOutputs]) {
        if self.service.memory().is_short() {
            return self.cache.clear();
        }
        let begun = clock::now();
        self.cache.keep(key, outputs);
        self.cache.count_keeping(&key, clock::now().since(begun));
        // Asked for afterwards, so that a model that leaves in the meantime takes this answer along.
        let registry = self.service.repository().registry();
        let serving = registry.get(&model.loaded.name, Some(&model.loaded.version));
        if serving.map_or(true, |serving| serving.key != model.key) {
            self.cache.forget_models(|known| known != model.key);
        }
    }

    /// What is known about a request that may have been answered before: the answer, or the key to keep it under.
    fn look_up(
        &self,
        method: &Method,
        options: &Options,
        caller: Caller,
        reply: &ReplyPlan,
        items: &[SplitItem],
    ) -> Result<LookUp, Fault> {
        let model = &reply.model;
        if !self.cache.is_on() || !model.may_cache() || reply.has_places() {
            return Ok(LookUp::Never);
        }
        let begun = clock::now();
        let (tenant, count) = (caller.principal.tenant, items.len());
        let Some(key) = RequestKey::of(model.key, tenant, items) else { return Ok(LookUp::Never) };
        let found = self.cache.find(&key);
        let time = clock::now().since(begun);
        let (name, version) = (&model.loaded.name, &model.loaded.version);
        let Some(outputs) = found else {
            self.cache.count_miss(&key, name, version, count, time);
            return Ok(LookUp::Unknown(key));
        };
        let call = KnownCall {
            model: name,
            priority: options.priority,
            caller,
            items: count,
            bytes_in: items.iter().flatten().map(|inputs| data_bytes(inputs)).sum(),
            bytes_out: outputs.iter().map(|outputs| data_bytes(outputs)).sum(),
        };
        self.service.pass(method, &call)?;
        self.cache.count_hit(&key, name, version, count, time);
        Ok(LookUp::Known(outputs))
    }

    /// Whether [`OpenInference::fetch`] has anything to do.
    #[must_use]
    pub fn is_long(request: &InferRequest) -> bool {
        // A step is one item, and so never long; only its sequence knows which version it is for.
        let is_step = || Options::of(&request.parameters).is_ok_and(|options| options.step.is_some());
        Self::shared_bytes(request) > COPIED_HERE_MAX as u64 && !is_step()
    }

    /// How much of a request lies in shared memory, according to the request.
    #[must_use]
    pub fn shared_bytes(request: &InferRequest) -> u64 {
        request.inputs.iter().map(|input| Placement::claimed_bytes(&input.parameters)).fold(0, u64::saturating_add)
    }

    /// The request with everything that it has in shared memory, if that is too much to read while others wait; otherwise
    /// unchanged. Faults are found later, when it is checked against its model.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] with the field for what does not fit the model or lie in its region,
    /// [`FaultKind::TooLarge`] for what no item may have; those of the system.
    pub async fn fetch(&self, request: InferRequest) -> Result<InferRequest, Fault> {
        if !Self::is_long(&request) {
            return Ok(request);
        }
        // Here, because the caller is not known to other threads.
        self.check_memory_access(&request)?;
        let Ok(model) = self.service.find(&request.model, &request.version) else { return Ok(request) };
        let door = self.clone();
        self.side
            .run(move || {
                let mut request = request;
                let places = items::places(&request.inputs, model.signature())?;
                door.read_shared(&mut request.inputs, &places, model.signature())?;
                Ok(request)
            })
            .await
    }

    /// Answers each item of a request as soon as it and those before it are computed. Dropping the stream cancels the rest.
    ///
    /// # Errors
    /// As [`OpenInference::infer`]: those of the request here, those of items in the stream.
    pub fn infer_each(
        &self,
        method: &Method,
        request: InferRequest,
        caller: Caller,
    ) -> Result<impl Stream<Item = Result<InferResponse, Fault>> + Send + use<>, Fault> {
        let Begun { plan, running, .. } = self.begin(method, request, caller, Replies::Several)?;
        let outputs = match running {
            Running::Together(session, items) => outputs_of(session, items).boxed(),
            Running::Apart(sessions) => outputs_apart(sessions).boxed(),
            Running::Step(answer) => stream::once(answer.outputs()).boxed(),
            Running::Known(outputs) => stream::iter(outputs.into_iter().map(Ok)).boxed(),
        };
        Ok(outputs.map(move |outputs| plan.clone().response(&[outputs?])))
    }

    fn begin(&self, method: &Method, request: InferRequest, caller: Caller, replies: Replies) -> Result<Begun, Fault> {
        self.try_begin(method, request, caller, replies).map_err(|fault| method.refuse(fault))
    }

    fn try_begin(&self, method: &Method, request: InferRequest, caller: Caller, replies: Replies) -> Result<Begun, Fault> {
        let options = Options::of(&request.parameters)?;
        self.service.permit(Scope::Infer, Some(&request.model))?;
        if let Some(step) = &options.step
            && let Some(model) = self.sequences.model_for(&request, step, caller.principal.tenant, &self.service)?
        {
            // A step is answered by one response.
            model.gives_one_answer("model_name")?;
            let Prepared { items, reply, .. } = self.prepare(request, model)?;
            let step = StepRequest { item: single(items)?, options: &options, step, caller, model: &reply.model };
            let answer = self.sequences.advance(method, step, &self.service)?;
            return Ok(Begun { plan: reply, running: Running::Step(answer), unknown: None });
        }
        let bytes = request.inputs.iter().filter_map(|input| input.data.as_ref()).map(Bytes::len).sum();
        self.service.memory().admit_bytes(bytes).inspect_err(|_| self.cache.clear())?;
        let model = self.service.find(&request.model, &request.version)?;
        if replies == Replies::One {
            model.gives_one_answer("model_name")?;
        }
        let version = request.version.clone();
        let Prepared { items: Items { items, .. }, reply, .. } = self.prepare(request, model)?;
        let open = |items: Vec<SplitItem>| -> Result<RequestSession, Fault> {
            let request = options.open_request(&reply.model, version.clone(), caller, items.len());
            let opened = self.service.open_found(method, Arc::clone(&reply.model), request)?;
            let inbound: Vec<_> = items.into_iter().map(|item| Ok(inbound(item, &options))).collect();
            opened.session(stream::iter(inbound))
        };
        check_lone(&reply.model, items.len())?;
        let mut unknown = None;
        if replies == Replies::One {
            match self.look_up(method, &options, caller, &reply, &items)? {
                LookUp::Never => {}
                LookUp::Unknown(key) => unknown = Some(key),
                LookUp::Known(outputs) => return Ok(Begun { plan: reply, running: Running::Known(outputs), unknown }),
            }
        }
        // Without a sequence nothing is remembered: each item of a stateful model starts from scratch, on its own
        // stream.
        let running = if reply.model.is_stateful() && items.len() > 1 {
            Running::Apart(items.into_iter().map(|item| open(vec![item])).collect::<Result<_, _>>()?)
        } else {
            let count = items.len();
            Running::Together(Box::new(open(items)?), count)
        };
        Ok(Begun { plan: reply, running, unknown })
    }

    /// # Errors
    /// Those of [`OpenInference::shared_memory`], if the request names a place in it.
    fn check_memory_access(&self, request: &InferRequest) -> Result<(), Fault> {
        if !self.service.knows_callers() {
            return Ok(());
        }
        let mut parameters = request.inputs.iter().map(|input| &input.parameters);
        let mut of_outputs = request.outputs.iter().map(|output| &output.parameters);
        let names = |parameters: &Parameters| parameters.contains_key(SHARED_MEMORY_REGION);
        if parameters.any(names) || of_outputs.any(names) { self.shared_memory().map(drop) } else { Ok(()) }
    }

    /// Checks a request against `model`.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] with the field at fault.
    pub(super) fn prepare(&self, request: InferRequest, model: Arc<Model>) -> Result<Prepared, Fault> {
        self.check_memory_access(&request)?;
        let InferRequest { id, inputs, outputs, .. } = request;
        if id.len() > ID_BYTES_MAX {
            return Err(Fault::invalid("id", format!("the id has {} bytes; at most {ID_BYTES_MAX} are allowed", id.len())));
        }
        let wanted = wanted(&outputs, model.signature(), &self.shared_memory)?;
        // Before anything is read: a short request could name a large place in shared memory any number of times.
        let places = items::places(&inputs, model.signature())?;
        let mut inputs = inputs;
        let shared_bytes = self.read_shared(&mut inputs, &places, model.signature())?;
        let inputs = inputs.into_iter().enumerate().map(with_data).collect::<Result<Vec<_>, _>>()?;
        let items = items::split(inputs, &places, model.signature(), self.items_max())?;
        let batched = items.batched;
        Ok(Prepared { items, reply: ReplyPlan::new(model, id, batched, wanted), shared_bytes })
    }

    /// Replaces inputs in shared memory with their contents, and returns how many bytes those are. Nothing is read that could not
    /// be an input of the model.
    fn read_shared(&self, inputs: &mut [InputTensor], places: &[Place], signature: &Signature) -> Result<usize, Fault> {
        let limits = SizeLimits { items_max: self.items_max(), item_bytes_max: self.service.config().max_item_bytes };
        let mut bytes = 0;
        for (index, (input, of_signature)) in inputs.iter_mut().zip(places).enumerate() {
            let field = format!("inputs[{index}]");
            let Some(place) = Placement::of(&input.parameters, &field, &self.shared_memory)? else { continue };
            if input.data.is_some() {
                let message = format!("input '{}' is in shared memory and in the request; send it once", input.name);
                return Err(Fault::invalid(format!("{field}.data"), message));
            }
            place.check()?;
            items::check_size(input, index, *of_signature, place.bytes(), signature, limits)?;
            let data = place.read()?;
            bytes += data.len();
            input.data = Some(data);
            Placement::forget(&mut input.parameters);
        }
        Ok(bytes)
    }

    /// How many items a request may hold.
    pub(super) fn items_max(&self) -> usize {
        self.service.config().window_items_max as usize
    }
}

/// How many responses a call has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replies {
    One,
    Several,
}

/// # Errors
/// [`FaultKind::Invalid`] for several items in one request to a model that gives several answers to each.
pub(super) fn check_lone(model: &Model, items: usize) -> Result<(), Fault> {
    if items <= 1 || !model.is_decoupled() {
        return Ok(());
    }
    let message = format!(
        "model '{}' gives several answers to an item, so a request may hold only one; this one holds {items}: send one at a time",
        model.loaded.name
    );
    Err(Fault::invalid("inputs[0].shape", message))
}

/// A request on its way.
struct Begun {
    plan: ReplyPlan,
    running: Running,
    /// The key to keep its answer under.
    unknown: Option<RequestKey>,
}

/// What is known about a request.
enum LookUp {
    /// Its answer is not kept.
    Never,
    /// It may be kept under this key, and is not yet.
    Unknown(RequestKey),
    /// The answer.
    Known(Vec<ItemOutputs>),
}

/// Where a request's items are.
enum Running {
    Together(Box<RequestSession>, usize),
    Apart(Vec<RequestSession>),
    Step(StepAnswer),
    /// They are answered already.
    Known(Vec<ItemOutputs>),
}

/// An item of a request on its way into a session.
pub(super) fn inbound(inputs: SplitItem, options: &Options) -> Inbound {
    Inbound::Checked(CheckedItem { inputs, deadline: options.timeout })
}

/// The one item of a request that is a step of a sequence.
///
/// # Errors
/// [`FaultKind::Invalid`] if there are several.
pub(super) fn single(Items { mut items, .. }: Items) -> Result<SplitItem, Fault> {
    match (items.pop(), items.len()) {
        (Some(item), 0) => Ok(item),
        (_, more) => Err(Fault::invalid(
            "inputs[0].shape",
            format!("a request of a sequence is one step of it, but this one holds {} items; send one at a time", more + 1),
        )),
    }
}

/// How many bytes an input of strings has.
fn strings_bytes(input: &InputTensor) -> usize {
    if input.datatype == Datatype::Bytes { input.data.as_ref().map_or(0, Bytes::len) } else { 0 }
}

fn with_data((index, mut input): (usize, InputTensor)) -> Result<(InputTensor, Bytes), Fault> {
    match input.data.take() {
        Some(data) => Ok((input, data)),
        None => Err(Fault::invalid(format!("inputs[{index}].data"), format!("input '{}' has no data", input.name))),
    }
}

/// The outputs of a session's items, in order. Once read to its end it counts as finished; dropped before that, it cancels the
/// rest.
fn outputs_of<S>(session: S, items: usize) -> impl Stream<Item = Result<ItemOutputs, Fault>> + Send
where
    S: Stream<Item = Result<Event, Fault>> + Send,
{
    session.filter_map(move |event| {
        future::ready(match event {
            Ok(Event::Result(result)) => Some(result.outcome.map_err(|fault| fault.in_item(result.seq, items))),
            Ok(_) => None,
            Err(fault) => Some(Err(fault)),
        })
    })
}

/// The outputs of sessions of one item each, in order; all of them run at once.
fn outputs_apart(sessions: Vec<RequestSession>) -> impl Stream<Item = Result<ItemOutputs, Fault>> + Send {
    let items = sessions.len();
    let outputs = move |(item, session)| async move {
        let found: Result<Vec<_>, Fault> = outputs_of(session, 1).try_collect().await;
        let lost = || Fault::new(FaultKind::Failed, "the item got no answer");
        found.and_then(|mut outputs| outputs.pop().ok_or_else(lost)).map_err(|fault| fault.in_item(item, items))
    };
    stream::iter((0..).zip(sessions)).map(outputs).buffered(items)
}
