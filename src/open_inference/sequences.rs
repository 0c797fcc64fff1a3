//! Sequences over unary calls: each is a stream of the server's own, whose items come from whichever call names it.
//!
//! They are known by tenant, model and id, wherever the calls come from. A sequence is one task that drives one session; it ends
//! with END, when the idle limit passes, when no connection that used it has been open for a time of grace, or when the server drains, and
//! its state goes with it. A call that is cancelled leaves its step in the sequence: it was sent, and the steps after it count on it.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{
    book::{SequenceBook, SequenceEnd},
    infer::terms,
    items::SplitItem,
    options::{Options, SequenceId, SequenceStep},
    request::InferRequest,
    users::{Orphans, Users},
};
use crate::{
    clock,
    config::SequenceConfig,
    domain::{Fault, FaultKind, ItemOutputs, Timestamp},
    registry::Model,
    service::{Caller, Method, Service, TenantKey, draining},
    session::{CheckedItem, Event, Inbound, Session},
    telemetry::StreamEnd,
};

/// Requests of one sequence that wait for their turn.
const STEPS_WAITING_MAX: usize = 64;

/// Of how many streams one may be a sequence whose connections are gone. So nobody keeps more by closing connections than by holding them.
const STREAMS_PER_ORPHAN: usize = 8;

/// The sequences of all unary calls.
#[derive(Debug, Clone)]
pub(super) struct Sequences {
    book: Arc<Mutex<Book>>,
    idle_timeout: Duration,
    grace: Duration,
    orphans: Orphans,
}

type Book = SequenceBook<Key, Alive>;

/// By tenant, so that nobody can reach another's sequence by its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tenant: TenantKey,
    model: String,
    id: SequenceId,
}

#[derive(Debug)]
struct Alive {
    steps: mpsc::Sender<Step>,
    /// Bytes of the steps that its session has not taken yet.
    bytes_waiting: Arc<AtomicUsize>,
    model: Arc<Model>,
    users: Arc<Users>,
}

/// A request of a sequence, checked against its model.
#[derive(Debug)]
pub(super) struct StepRequest<'a> {
    pub(super) item: SplitItem,
    pub(super) options: &'a Options,
    pub(super) step: &'a SequenceStep,
    pub(super) caller: Caller,
    pub(super) model: &'a Arc<Model>,
}

/// The same on its way to the session.
#[derive(Debug)]
struct Step {
    item: SplitItem,
    bytes: usize,
    deadline: Option<Duration>,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<ItemOutputs, Fault>>;

/// The answer to a step, once it is there.
#[derive(Debug)]
pub(super) struct StepAnswer {
    answer: oneshot::Receiver<Result<ItemOutputs, Fault>>,
    book: Arc<Mutex<Book>>,
    key: Key,
}

impl StepAnswer {
    /// # Errors
    /// The item's own fault; [`FaultKind::Invalid`] if the sequence ended before the step was its turn.
    pub(super) async fn outputs(self) -> Result<ItemOutputs, Fault> {
        let Self { answer, book, key } = self;
        answer.await.unwrap_or_else(|_| Err(missing(&book.lock(), &key)))
    }
}

impl Sequences {
    /// Sequences that are freed as `config` says, of at most so many streams.
    pub(super) fn new(config: &SequenceConfig, streams_max: usize) -> Self {
        let orphans = Orphans::at_most(streams_max / STREAMS_PER_ORPHAN);
        Self { book: Arc::default(), idle_timeout: config.idle_timeout(), grace: config.grace(), orphans }
    }

    /// The model that a step runs on; `None` if that model keeps no state, so that sequences mean nothing to it.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] or [`FaultKind::Unavailable`] for a model that cannot be had; [`FaultKind::Invalid`] if the
    /// sequence runs on another version than the request names.
    pub(super) fn model_for(
        &self,
        request: &InferRequest,
        step: &SequenceStep,
        tenant: TenantKey,
        service: &Service,
    ) -> Result<Option<Arc<Model>>, Fault> {
        if !step.starts {
            let key = Key { tenant, model: request.model.clone(), id: step.id.clone() };
            if let Some(alive) = self.book.lock().get(&key) {
                check_version(&alive.model, &request.version, &step.id)?;
                return Ok(Some(Arc::clone(&alive.model)));
            }
        }
        let model = service.find(&request.model, &request.version)?;
        Ok(model.is_stateful().then_some(model))
    }

    /// Hands a step to its sequence, which it begins or ends as it says.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if the sequence has not begun or has ended; [`FaultKind::Overloaded`] if too many of its steps wait, or too much;
    /// those of [`Service::open`] if it begins, and while memory is short.
    pub(super) fn advance(&self, method: &Method, request: StepRequest<'_>, service: &Service) -> Result<StepAnswer, Fault> {
        if service.drain().is_draining() {
            return Err(draining());
        }
        let StepRequest { item, options, step, caller, model } = request;
        let key = Key { tenant: caller.principal.tenant, model: String::from(&*model.loaded.name), id: step.id.clone() };
        let deadline = [options.timeout, left_until(caller.ends_at)].into_iter().flatten().min();
        let (answer, receiver) = oneshot::channel();
        let bytes = item.iter().flatten().map(|tensor| tensor.data().len()).sum();
        let sent = Step { item, bytes, deadline, answer };
        if step.starts {
            service.memory().admit()?;
            let bytes_waiting = Arc::new(AtomicUsize::new(bytes));
            let (steps, task) = self.session(method, options, caller, model, service, &bytes_waiting)?;
            let users = Arc::clone(&task.users);
            users.join(caller.principal.peer, service.connections());
            // There is room: nothing has been sent yet.
            let _ = steps.try_send(sent);
            let own = steps.downgrade();
            let mut book = self.book.lock();
            // One that is alive ends with the steps that it has.
            book.start(key.clone(), Alive { steps, bytes_waiting, model: Arc::clone(model), users });
            if step.ends {
                book.end(&key, SequenceEnd::Asked);
            }
            drop(book);
            tokio::spawn(task.run(key.clone(), own));
        } else {
            let mut book = self.book.lock();
            let alive = book.get(&key).ok_or_else(|| missing(&book, &key))?;
            let bytes_max = service.config().window_bytes;
            if alive.bytes_waiting.load(Ordering::Relaxed) >= bytes_max {
                return Err(too_much_waiting(&step.id, bytes_max));
            }
            // Counted under the book's lock and before it can be taken, so that the count never falls below zero.
            alive.bytes_waiting.fetch_add(bytes, Ordering::Relaxed);
            match alive.steps.try_send(sent) {
                Ok(()) => alive.users.join(caller.principal.peer, service.connections()),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    alive.bytes_waiting.fetch_sub(bytes, Ordering::Relaxed);
                    return Err(too_many_waiting(&step.id));
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(missing(&book, &key)),
            }
            if step.ends {
                book.end(&key, SequenceEnd::Asked);
            }
        }
        Ok(StepAnswer { answer: receiver, book: Arc::clone(&self.book), key })
    }

    fn session(
        &self,
        method: &Method,
        options: &Options,
        caller: Caller,
        model: &Arc<Model>,
        service: &Service,
        bytes_waiting: &Arc<AtomicUsize>,
    ) -> Result<(mpsc::Sender<Step>, SequenceTask), Fault> {
        let version = String::from(&*model.loaded.version);
        // The call's own deadline is its steps'; the sequence outlives the call.
        let caller = Caller { ends_at: Timestamp::NEVER, ..caller };
        let opened = service.open_found(method, Arc::clone(model), terms(model, version, options, caller, STEPS_WAITING_MAX))?;
        let (steps, receiver) = mpsc::channel(STEPS_WAITING_MAX);
        let waiting = Arc::new(Mutex::new(VecDeque::new()));
        let inbound = Steps { receiver, bytes_waiting: Arc::clone(bytes_waiting), waiting: Arc::clone(&waiting) };
        let session = opened.idle_after(Some(self.idle_timeout)).ended_by_drain().session(inbound)?;
        let sequences = self.clone();
        Ok((steps, SequenceTask { session: Box::new(session), waiting, users: Arc::default(), sequences }))
    }
}

/// # Errors
/// [`FaultKind::Invalid`] if `version` names another than that of the sequence's model.
pub(super) fn check_version(model: &Model, version: &str, id: &SequenceId) -> Result<(), Fault> {
    if version.is_empty() || *version == *model.loaded.version {
        return Ok(());
    }
    let message = format!("sequence {id} runs on version {} of the model, not on '{version}'", model.loaded.version);
    Err(Fault::invalid("model_version", message))
}

fn missing(book: &Book, key: &Key) -> Fault {
    book.missing(key, &key.id, &key.model, "over unary calls")
}

fn too_many_waiting(id: &SequenceId) -> Fault {
    let message = format!("{STEPS_WAITING_MAX} requests of sequence {id} wait for their turn; wait for answers");
    Fault::new(FaultKind::Overloaded, message)
}

fn too_much_waiting(id: &SequenceId, bytes_max: usize) -> Fault {
    let message = format!(
        "requests of sequence {id} with the {bytes_max} bytes that session.window_bytes allows wait for their turn; wait for answers"
    );
    Fault::new(FaultKind::Overloaded, message).with_limit("session.window_bytes", bytes_max as u64)
}

fn left_until(ends_at: Timestamp) -> Option<Duration> {
    (ends_at != Timestamp::NEVER).then(|| ends_at.since(clock::now()))
}

/// The steps of a sequence as its session's input. Who waits for the answer of a step that the session has taken is in `waiting`.
struct Steps {
    receiver: mpsc::Receiver<Step>,
    bytes_waiting: Arc<AtomicUsize>,
    waiting: Arc<Mutex<VecDeque<Answer>>>,
}

impl Stream for Steps {
    type Item = Result<Inbound, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|step| {
            let Step { item, bytes, deadline, answer } = step?;
            self.bytes_waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.waiting.lock().push_back(answer);
            Some(Ok(Inbound::Checked(CheckedItem { inputs: item, deadline })))
        })
    }
}

/// What drives a sequence.
struct SequenceTask {
    session: Box<Session<Steps>>,
    waiting: Arc<Mutex<VecDeque<Answer>>>,
    users: Arc<Users>,
    sequences: Sequences,
}

impl SequenceTask {
    /// Runs until the sequence ends; then it is no longer in the book, if it is still the one of its name.
    async fn run(self, key: Key, own: mpsc::WeakSender<Step>) {
        let Self { mut session, waiting, users, sequences } = self;
        let Sequences { book, idle_timeout, grace, orphans } = sequences;
        let mut end = SequenceEnd::Asked;
        let mut deserted = pin!(users.deserted(grace, &orphans));
        loop {
            let event = tokio::select! {
                event = session.next() => event,
                () = deserted.as_mut() => {
                    session.abandon(StreamEnd::Idle);
                    end = SequenceEnd::Left(grace);
                    break;
                }
            };
            match event {
                Some(Ok(Event::Result(result))) => {
                    if let Some(answer) = waiting.lock().pop_front() {
                        // A caller that went away needs no answer; its step counts all the same.
                        let _ = answer.send(result.outcome);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(fault)) if fault.kind() == FaultKind::Expired => end = SequenceEnd::Idle(idle_timeout),
                Some(Err(_)) => end = SequenceEnd::Lost,
                None => break,
            }
        }
        let mut book = book.lock();
        let is_own = |alive: &Alive| own.upgrade().is_some_and(|own| own.same_channel(&alive.steps));
        if book.get(&key).is_some_and(is_own) {
            book.end(&key, end);
        }
        // Under the lock, so that a step which came too late to be taken finds why in the book.
        drop(session);
    }
}
