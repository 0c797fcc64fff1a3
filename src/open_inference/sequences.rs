//! Sequences over unary calls: each is a stream inside the server, whose items come from whichever call names it.
//!
//! They are known by tenant, model and id, wherever the calls come from. A sequence is one task that drives one session; it ends
//! with END, when the idle limit passes, when no connection that used it has been open for the grace period, or when the server
//! drains, and its state goes with it. A cancelled call leaves its step in the sequence: it was sent, and the steps after it count
//! on it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    book::{SequenceBook, SequenceEnd},
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
    session::{CheckedItem, NotParked, Parked, ParkedAnswer, ParkedId, ParkedLimits, Parking, park},
    telemetry::StreamEnd,
};

/// How many requests of one sequence may wait for their turn.
const STEPS_WAITING_MAX: usize = 64;

/// One in this many streams may be a sequence whose connections are gone. So nobody can keep more by closing connections than by
/// holding them.
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
    parked: Parked,
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

/// The answer to a step, once it is there.
#[derive(Debug)]
pub(super) struct StepAnswer {
    answer: ParkedAnswer,
    book: Arc<Mutex<Book>>,
    key: Key,
}

impl StepAnswer {
    /// # Errors
    /// The item's own fault; [`FaultKind::Invalid`] if the sequence ended before the step's turn came.
    pub(super) async fn outputs(self) -> Result<ItemOutputs, Fault> {
        let Self { answer, book, key } = self;
        answer.outcome().await.unwrap_or_else(|| Err(missing(&book.lock(), &key)))
    }
}

impl Sequences {
    /// No sequences yet; they are freed as `config` says, and after their connections only so many of `streams_max` are kept.
    pub(super) fn new(config: &SequenceConfig, streams_max: usize) -> Self {
        let orphans = Orphans::at_most(streams_max / STREAMS_PER_ORPHAN);
        Self { book: Arc::default(), idle_timeout: config.idle_timeout(), grace: config.grace(), orphans }
    }

    /// The model that a step runs on; `None` if that model keeps no state, so that sequences mean nothing to it.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] or [`FaultKind::Unavailable`] for a model that is not available; [`FaultKind::Invalid`] if
    /// the sequence runs on a version other than the one that the request names.
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

    /// Passes a step to its sequence, which it may begin or end.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if the sequence has not begun or has ended; [`FaultKind::Overloaded`] if too many of its steps wait,
    /// or too many bytes; those of [`Service::open`] if it begins, and while memory is short.
    pub(super) fn advance(&self, method: &Method, request: StepRequest<'_>, service: &Service) -> Result<StepAnswer, Fault> {
        if service.drain().is_draining() {
            return Err(draining());
        }
        let StepRequest { item, options, step, caller, model } = request;
        let key = Key { tenant: caller.principal.tenant, model: String::from(&*model.loaded.name), id: step.id.clone() };
        let deadline = [options.timeout, left_until(caller.ends_at)].into_iter().flatten().min();
        let item = CheckedItem { inputs: item, deadline };
        let answer = if step.starts {
            service.memory().admit()?;
            let (parked, parking) = self.open(method, options, caller, model, service)?;
            let users = Arc::<Users>::default();
            users.join(caller.principal.peer, service.connections());
            let refused = |refused| refusal(refused, &step.id, service);
            let (answer, id) = (parked.push(item).map_err(refused)?, parked.id());
            let task = SequenceTask { parking, users: Arc::clone(&users), sequences: self.clone() };
            let mut book = self.book.lock();
            // A live one ends with the steps that it has.
            book.start(key.clone(), Alive { parked, model: Arc::clone(model), users });
            if step.ends {
                book.end(&key, SequenceEnd::Asked);
            }
            drop(book);
            // It ends with its session, which a drain ends and waits for.
            tokio::spawn(task.run(key.clone(), id));
            answer
        } else {
            let mut book = self.book.lock();
            let alive = book.get(&key).ok_or_else(|| missing(&book, &key))?;
            let answer = alive.parked.push(item).map_err(|refused| match refused {
                NotParked::Ended => missing(&book, &key),
                refused => refusal(refused, &step.id, service),
            })?;
            alive.users.join(caller.principal.peer, service.connections());
            if step.ends {
                book.end(&key, SequenceEnd::Asked);
            }
            answer
        };
        Ok(StepAnswer { answer, book: Arc::clone(&self.book), key })
    }

    fn open(
        &self,
        method: &Method,
        options: &Options,
        caller: Caller,
        model: &Arc<Model>,
        service: &Service,
    ) -> Result<(Parked, Parking), Fault> {
        let version = String::from(&*model.loaded.version);
        // The call's deadline applies to its steps; the sequence outlives the call.
        let caller = Caller { ends_at: Timestamp::NEVER, ..caller };
        let request = options.open_request(model, version, caller, STEPS_WAITING_MAX);
        let opened = service.open_found(method, Arc::clone(model), request)?;
        let limits = ParkedLimits { items: STEPS_WAITING_MAX, bytes: service.config().window_bytes };
        park(limits, |input| opened.idle_after(Some(self.idle_timeout)).ended_by_drain().session(input))
    }
}

/// # Errors
/// [`FaultKind::Invalid`] if `version` is not that of the sequence's model.
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

fn refusal(refused: NotParked, id: &SequenceId, service: &Service) -> Fault {
    match refused {
        NotParked::TooMuch => {
            let bytes_max = service.config().window_bytes;
            let message = format!(
                "requests of sequence {id} with the {bytes_max} bytes that session.window_bytes allows wait for their turn; wait for answers"
            );
            Fault::new(FaultKind::Overloaded, message).with_limit("session.window_bytes", bytes_max as u64)
        }
        NotParked::TooMany | NotParked::Ended => {
            let message = format!("{STEPS_WAITING_MAX} requests of sequence {id} wait for their turn; wait for answers");
            Fault::new(FaultKind::Overloaded, message)
        }
    }
}

fn left_until(ends_at: Timestamp) -> Option<Duration> {
    (ends_at != Timestamp::NEVER).then(|| ends_at.since(clock::now()))
}

/// Drives a sequence.
struct SequenceTask {
    parking: Parking,
    users: Arc<Users>,
    sequences: Sequences,
}

impl SequenceTask {
    /// Runs until the sequence ends, and then takes it out of the book, unless another of its name is there by now.
    async fn run(self, key: Key, id: ParkedId) {
        let Self { mut parking, users, sequences } = self;
        let Sequences { book, idle_timeout, grace, orphans } = sequences;
        let ended = tokio::select! {
            ended = parking.drive() => Ok(ended),
            () = users.deserted(grace, &orphans) => Err(SequenceEnd::Left(grace)),
        };
        let end = match ended {
            Ok(None) => SequenceEnd::Asked,
            Ok(Some(fault)) if fault.kind() == FaultKind::Expired => SequenceEnd::Idle(idle_timeout),
            Ok(Some(_)) => SequenceEnd::Lost,
            Err(left) => {
                parking.abandon(StreamEnd::Idle);
                left
            }
        };
        let mut book = book.lock();
        if book.get(&key).is_some_and(|alive| id.is_of(&alive.parked)) {
            book.end(&key, end);
        }
        // Under the lock, so that a step that came too late finds the reason in the book.
        drop(parking);
    }
}
