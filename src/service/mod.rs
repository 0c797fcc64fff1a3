//! The one door for all front ends: models are looked up, streams opened and limits set here and nowhere else.
//!
//! Knows no protocol. A front end calls [`Service::open`], feeds its messages to the [`OpenStream`] it gets, and encodes what the
//! session returns.

mod holder;
mod keyring;
mod permission;
mod principal;
mod status;
mod terms;
mod tokens;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};

use crate::{
    accounts::Allowance,
    auth::{Scope, Scopes},
    clock,
    codec::{FramingRule, Sound},
    config::SessionConfig,
    connections::{self, Connections},
    device::{Devices, StreamHandle},
    domain::{Fault, FaultKind, Priority, Timestamp},
    drain::{Drain, Phase},
    memory::Memory,
    registry::{Model, ModelStatus, Repository},
    scheduler::{Overflow, StreamOptions},
    session::{
        Event, Inbound, ItemRequest, ItemResult, OnDrain, Order, OverflowPolicy, PayloadKind, PcmOptions, Place, Session,
        SessionMetrics, SessionOptions, Unread,
    },
    shares::Pool,
    telemetry::Telemetry,
};

pub use holder::Holder;
pub use keyring::Keyring;
pub use principal::Principal;
use principal::Tenants;
pub use status::{ModelActivity, Status};
pub use terms::{Method, Terms};
pub use tokens::{LentToken, TokenRequest, Tokens};

/// What the door hands out unchanged, so that a front end need not know anything behind it.
pub use crate::{
    device::{LanesInUse, QueueStatus},
    scheduler::{CallTimes, CostCurve, Statistics, TenantKey},
};

/// What is known about a call apart from its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The caller, with its tenant.
    pub principal: Principal,
    /// When the whole call ends.
    pub ends_at: Timestamp,
}

/// What a client asks for when it opens a stream.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// Name of the model.
    pub model: String,
    /// Version; empty for the newest that is ready.
    pub version: String,
    /// How items are sent.
    pub payload: PayloadKind,
    /// What the client says about its raw audio.
    pub pcm: PcmOptions,
    /// Order of results.
    pub order: Order,
    /// Requested window; 0 for the default.
    pub window_items: u32,
    /// What gives way when the client does not read.
    pub unread: Unread,
    /// Deadline for items that name none.
    pub default_deadline: Option<Duration>,
    /// What gives way when items arrive faster than they are run; only a live feed may drop.
    pub overflow: OverflowPolicy,
    /// Age at which a result is no longer of use.
    pub max_age: Option<Duration>,
    /// Which other streams it goes before.
    pub priority: Priority,
    /// When the call ends, and who makes it.
    pub caller: Caller,
}

/// A call whose answer is known already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownCall<'a> {
    /// Name of the model.
    pub(crate) model: &'a str,
    /// The priority that it asks for.
    pub(crate) priority: Priority,
    /// The caller that makes it.
    pub(crate) caller: Caller,
    /// Items of the request.
    pub(crate) items: usize,
    /// Their bytes.
    pub(crate) bytes_in: usize,
    /// Bytes of the answer.
    pub(crate) bytes_out: usize,
}

/// The limits in force on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Items in flight.
    pub window_items: usize,
    /// Input bytes in flight.
    pub window_bytes: usize,
    /// Largest item.
    pub max_item_bytes: usize,
    /// Longest silence allowed.
    pub idle_timeout: Duration,
}

/// The door. Clones share everything.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
    memory: Memory,
    /// What callers without a credential may do.
    anonymous: Scopes,
    keyring: Option<Keyring>,
}

struct Inner {
    repository: Repository,
    devices: Devices,
    config: SessionConfig,
    drain: Drain,
    connections: Connections,
    streams: Pool,
    telemetry: Telemetry,
    tenants: Tenants,
    /// Whether streams at priority HIGH are refused.
    refuses_high: AtomicBool,
}

/// A stream that has been let in; [`OpenStream::session`] feeds it the client's messages.
pub struct OpenStream {
    model: Arc<Model>,
    limits: StreamLimits,
    unread: Unread,
    options: SessionOptions,
    handle: StreamHandle,
    metrics: SessionMetrics,
    drain: Drain,
    place: Place,
}

impl Service {
    /// A door to the models of `repository`.
    #[must_use]
    pub fn new(repository: Repository, devices: Devices, config: SessionConfig, drain: Drain, telemetry: &Telemetry) -> Self {
        let telemetry = telemetry.clone();
        let streams = Pool::new("session.max_streams", config.max_streams);
        let tenants = Tenants::named_by(config.tenant_metadata.clone());
        let (connections, refuses_high) = (Connections::default(), AtomicBool::new(false));
        let inner = Inner { repository, devices, config, drain, connections, streams, telemetry, tenants, refuses_high };
        Self { inner: Arc::new(inner), memory: Memory::unlimited(), anonymous: Scopes::ALL, keyring: None }
    }

    /// The same door, which lets in no new streams or large calls while memory is short.
    #[must_use]
    pub fn within(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    /// The memory limit that it observes.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// From now on, no stream opens at priority HIGH.
    pub fn refuse_high_priority(&self) {
        self.inner.refuses_high.store(true, Ordering::Relaxed);
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] for an unknown model or version, [`FaultKind::Unavailable`] if it is not ready or the server is
    /// draining, [`FaultKind::Overloaded`] if `session.max_streams` are open or the caller's share of them is,
    /// [`FaultKind::Denied`] if it asks for priority HIGH and none may, [`FaultKind::Invalid`] if the model does not take this
    /// kind of payload.
    pub fn open(&self, method: &Method, request: OpenRequest) -> Result<OpenStream, Fault> {
        self.try_open(method, request).map_err(|fault| method.refuse(fault))
    }

    fn try_open(&self, method: &Method, request: OpenRequest) -> Result<OpenStream, Fault> {
        if request.model.is_empty() {
            return Err(Fault::invalid("model", "the name of the model is missing"));
        }
        let model = self.find(&request.model, &request.version)?;
        self.open_found(method, model, request)
    }

    /// Counts one more stream of `caller`, for as long as the place is kept.
    ///
    /// # Errors
    /// [`FaultKind::Unavailable`] if the server is draining, [`FaultKind::Overloaded`] if `session.max_streams` are open or the
    /// caller's share of them is, or as many as its quotas allow.
    pub(crate) fn admit(&self, caller: &Caller) -> Result<Place, Fault> {
        self.permit(Scope::Infer, None)?;
        let Inner { streams, drain, .. } = &*self.inner;
        let session = drain.session().ok_or_else(draining)?;
        match streams.claim(&caller.principal.path(), 1) {
            Ok(share) => {
                let claims = self.caller().map(|holder| holder.allowance().claim_stream()).transpose()?;
                Ok(Place::new(session, share, claims))
            }
            Err(full) => Err(full.fault("streams are open")),
        }
    }

    /// Whether the current call's caller may run this model at this priority.
    fn permit_run(&self, model: &str, priority: Priority) -> Result<(), Fault> {
        self.permit(Scope::Infer, Some(model))?;
        if priority == Priority::High && self.inner.refuses_high.load(Ordering::Relaxed) {
            let message = "clients of this server may not ask for priority HIGH (control.priority_high); ask for NORMAL or LOW";
            return Err(Fault::new(FaultKind::Denied, message).with_field("priority"));
        }
        self.caller().map_or(Ok(()), |holder| holder.allowance().permit_priority(priority))
    }

    /// Lets in a call that needs no stream, as its answer is known, and counts it as finished. It is subject to everything that a
    /// stream would be, but for the queue.
    ///
    /// # Errors
    /// As [`Service::open`], and those of the caller's quotas; nothing is counted.
    pub(crate) fn pass(&self, method: &Method, call: &KnownCall<'_>) -> Result<(), Fault> {
        let KnownCall { model, priority, caller, items, bytes_in, bytes_out } = *call;
        self.permit_run(model, priority)?;
        let _place = self.admit(&caller)?;
        if let Some(holder) = self.caller() {
            holder.allowance().spend(items as u64, bytes_in as u64, clock::now())?;
        }
        SessionMetrics::open(Arc::clone(method.metrics())).finish_at_once(bytes_in, bytes_out);
        Ok(())
    }

    /// Opens a stream on a model that [`Service::find`] has found.
    ///
    /// # Errors
    /// As [`Service::open`]; nothing is counted.
    pub(crate) fn open_found(&self, method: &Method, model: Arc<Model>, request: OpenRequest) -> Result<OpenStream, Fault> {
        self.permit_run(&model.loaded.name, request.priority)?;
        let Inner { repository, devices, drain, .. } = &*self.inner;
        let allowance = self.caller().map(|holder| holder.allowance().clone());
        let terms = method.terms();
        if request.unread != Unread::Block && !terms.may_skip {
            let message = "unread results are skipped only on a live feed; here all of them are kept, so leave it unset";
            return Err(Fault::invalid("unread", message));
        }
        if terms.opens_within_memory {
            self.memory.admit()?;
        }
        let caller = request.caller;
        let place = self.admit(&caller)?;
        if request.overflow != OverflowPolicy::Block && !terms.may_drop {
            return Err(Fault::invalid(
                "overflow",
                "items are dropped only on a live feed; here all of them are run, so leave it unset",
            ));
        }
        let limits = self.limits(request.window_items);
        let overflow = overflow(request.overflow, limits);
        let (peer, tenant) = (caller.principal.counted_peer(), caller.principal.tenant);
        let weight = allowance.as_ref().map_or(1, Allowance::weight);
        let stream = |model| StreamOptions { model, peer, tenant, weight, priority: request.priority, overflow };
        let open = |model: &Model| devices.open(stream(model.key));
        let (model, handle) = match open(&model) {
            Some(handle) => (model, handle),
            // Another copy has replaced it since it was found.
            None => repository.registry().get_with(&request.model, Some(&request.version), open)?,
        };
        let options = SessionOptions {
            payload: request.payload,
            pcm: request.pcm,
            order: request.order,
            window_items: limits.window_items,
            window_bytes: limits.window_bytes,
            max_item_bytes: limits.max_item_bytes,
            idle_timeout: terms.ends_when_idle.then_some(limits.idle_timeout),
            default_deadline: request.default_deadline,
            overflow: request.overflow,
            max_age: request.max_age,
            ends_at: caller.ends_at,
            when_full: terms.when_full,
            on_drain: terms.on_drain,
            allowance,
        };
        let metrics = SessionMetrics::open(Arc::clone(method.metrics()));
        Ok(OpenStream { model, limits, unread: request.unread, options, handle, metrics, drain: drain.clone(), place })
    }

    /// Runs one item, for a unary method.
    ///
    /// # Errors
    /// Those of [`Service::open`], and the item's own.
    pub async fn predict(
        &self,
        method: &Method,
        request: OpenRequest,
        input: PredictInput,
    ) -> Result<(Arc<Model>, ItemResult), Fault> {
        let (model, mut session) = self.open_prediction(method, request, input).map_err(|fault| method.refuse(fault))?;
        let mut answer = None;
        // Read to its end, so that it counts as finished; the session also counts its answer.
        while let Some(event) = session.next().await {
            if let Event::Result(result) = event? {
                answer = Some(result);
            }
        }
        let result = answer.ok_or_else(|| method.refuse(Fault::invalid("payload", "the request holds no item")))?;
        match result.outcome {
            Ok(_) => Ok((model, result)),
            Err(fault) => Err(fault),
        }
    }

    fn open_prediction(
        &self,
        method: &Method,
        mut request: OpenRequest,
        input: PredictInput,
    ) -> Result<(Arc<Model>, Prediction), Fault> {
        request.payload = input.kind();
        let pcm = request.pcm;
        self.memory.admit_bytes(input.bytes())?;
        let opened = self.try_open(method, request)?;
        let model = Arc::clone(opened.model());
        model.gives_one_answer("model")?;
        let inbound = match input {
            PredictInput::Item(item) => Inbound::Item(item),
            PredictInput::Pcm(samples) => {
                check_one_window(samples.len(), pcm, model.loaded.framing)?;
                Inbound::Chunk(samples)
            }
        };
        Ok((model, opened.session(stream::iter([Ok(inbound)]))?))
    }

    /// The models that the caller gets to know of, ready or not.
    ///
    /// # Errors
    /// [`FaultKind::Denied`] or [`FaultKind::Unauthenticated`] if it may not read about models.
    pub fn listed(&self) -> Result<Vec<ModelStatus>, Fault> {
        self.permit(Scope::ModelsRead, None)?;
        let mut models = self.models();
        models.retain(|model| self.shows(&model.name));
        Ok(models)
    }

    /// All models, ready or not, for the server itself.
    #[must_use]
    pub fn models(&self) -> Vec<ModelStatus> {
        self.inner.repository.registry().list()
    }

    /// One model; no version, or an empty one, means the newest that is ready.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] or [`FaultKind::Unavailable`]; [`FaultKind::Denied`] or [`FaultKind::Unauthenticated`] if the caller
    /// may neither run it nor read about it.
    pub fn find(&self, name: &str, version: &str) -> Result<Arc<Model>, Fault> {
        self.permit_either(name)?;
        self.inner.repository.registry().get(name, Some(version))
    }

    /// One model and its queue.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`] or [`FaultKind::Unavailable`]; [`FaultKind::Denied`] or [`FaultKind::Unauthenticated`] if the caller
    /// may not read about it.
    pub fn model(&self, name: &str, version: &str) -> Result<(Arc<Model>, QueueStatus), Fault> {
        self.permit(Scope::ModelsRead, Some(name))?;
        let Inner { repository, devices, .. } = &*self.inner;
        repository.registry().get_with(name, Some(version), |model| devices.status(model.key))
    }

    /// The repository of models: what it holds, and ways to load and unload them.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.inner.repository
    }

    /// The limits of a stream that asks for this window; 0 asks for the default.
    #[must_use]
    pub fn limits(&self, window_items: u32) -> StreamLimits {
        let config = &self.inner.config;
        let wanted = if window_items == 0 { config.window_items } else { window_items };
        StreamLimits {
            window_items: wanted.clamp(1, config.window_items_max) as usize,
            window_bytes: config.window_bytes,
            max_item_bytes: config.max_item_bytes,
            idle_timeout: config.idle_timeout(),
        }
    }

    /// The caller over this task's connection. `metadata` looks up the call's metadata by name; it names the tenant of an
    /// anonymous caller.
    #[must_use]
    pub fn principal<'a>(&self, metadata: impl FnOnce(&str) -> Option<&'a [u8]>) -> Principal {
        let (peer, tenants) = (connections::peer(), &self.inner.tenants);
        match self.caller() {
            // Whether it may act for the tenant that its metadata name has been decided before its call began.
            Some(holder) => Principal { peer, tenant: tenants.of_holder(holder.tenant()), is_proven: true },
            None => Principal { peer, tenant: tenants.find(metadata), is_proven: false },
        }
    }

    /// The connections of the client ports.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.inner.connections
    }

    /// The other limits of sessions.
    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.inner.config
    }

    /// The server's phase.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.inner.drain
    }

    /// Whether new calls are accepted.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.inner.drain.phase() == Phase::Serving
    }

    /// A method on these terms; methods with the same label are counted together. A front end asks once for each of its methods.
    #[must_use]
    pub fn method(&self, terms: Terms) -> Method {
        Method::new(terms, self.inner.telemetry.method(terms.label))
    }
}

/// The session of one item.
type Prediction = Session<stream::Iter<std::array::IntoIter<Result<Inbound, Fault>, 1>>>;

/// What `Predict` runs the model on.
#[derive(Debug, Clone)]
pub enum PredictInput {
    /// Tensors.
    Item(ItemRequest),
    /// At most one window of samples.
    Pcm(bytes::Bytes),
}

impl PredictInput {
    const fn kind(&self) -> PayloadKind {
        match self {
            Self::Item(_) => PayloadKind::Tensors,
            Self::Pcm(_) => PayloadKind::PcmS16le,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Item(item) => item.tensors.iter().flatten().map(|tensor| tensor.data.len()).sum(),
            Self::Pcm(samples) => samples.len(),
        }
    }
}

impl OpenStream {
    /// The model that the stream stays on.
    #[must_use]
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What gives way when the client does not read.
    #[must_use]
    pub const fn unread(&self) -> Unread {
        self.unread
    }

    /// The limits in force.
    #[must_use]
    pub const fn limits(&self) -> StreamLimits {
        self.limits
    }

    /// How raw payloads are cut, if the stream was opened for them.
    #[must_use]
    pub fn framing(&self) -> Option<FramingRule> {
        (self.options.payload != PayloadKind::Tensors).then_some(self.model.loaded.framing).flatten()
    }

    /// Ends the stream after this much silence, or never, in place of `session.idle_timeout_s`.
    #[must_use]
    pub(crate) fn idle_after(mut self, timeout: Option<Duration>) -> Self {
        self.options.idle_timeout = timeout;
        self
    }

    /// Ends the stream when the server drains, even if more of its input is still to come.
    #[must_use]
    pub(crate) fn ended_by_drain(mut self) -> Self {
        self.options.on_drain = OnDrain::Stop;
        self
    }

    /// Feeds the client's messages to the stream.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if the model does not take this kind of payload.
    pub fn session<I>(self, inbound: I) -> Result<Session<I>, Fault>
    where
        I: Stream<Item = Result<Inbound, Fault>> + Unpin,
    {
        Session::new(inbound, self.handle, self.model, self.options, self.drain, self.metrics, self.place)
    }
}

/// The policy as the queue sees it.
const fn overflow(policy: OverflowPolicy, limits: StreamLimits) -> Overflow {
    let bytes_max = limits.window_bytes;
    match policy {
        OverflowPolicy::Block => Overflow::Block,
        OverflowPolicy::DropOldest => Overflow::DropOldest { items_max: limits.window_items, bytes_max },
        OverflowPolicy::Latest => Overflow::DropOldest { items_max: 1, bytes_max },
    }
}

fn check_one_window(bytes: usize, pcm: PcmOptions, framing: Option<FramingRule>) -> Result<(), Fault> {
    let Some(framing) = framing else { return Ok(()) };
    let (rate_hz, window) = (framing.sample_rate_hz, u64::from(framing.window_samples));
    let sound = pcm.sound(rate_hz);
    sound.check(rate_hz)?;
    let each = sound.format.sample_bytes();
    let own = (bytes / each) as u64;
    let count = sound.samples_at(rate_hz, own);
    let at = |Sound { rate_hz: own_hz, .. }: Sound| if own_hz == rate_hz { String::new() } else { format!(", at {own_hz} Hz,") };
    let message = if bytes == 0 {
        "there are no samples".to_owned()
    } else if !bytes.is_multiple_of(each) {
        format!("{bytes} bytes are no whole samples, which take {each} each")
    } else if count > window {
        format!("{own} samples{} are more than the window of {window} that Predict takes; use Scan or Feed", at(sound))
    } else if count == 0 {
        format!("{own} samples{} make none at the model's {rate_hz} Hz", at(sound))
    } else {
        return Ok(());
    };
    Err(Fault::invalid("pcm_s16le", message))
}

/// The fault for a client that arrives while the server is draining.
#[must_use]
pub fn draining() -> Fault {
    Fault::new(FaultKind::Unavailable, "the server is draining before it shuts down; connect elsewhere")
}
