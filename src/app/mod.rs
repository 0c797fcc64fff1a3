//! The composition root: the only file that knows all the parts.
//!
//! # START
//! All ports are bound first, so that a port in use is noticed before any model is loaded. The admin port answers from then on;
//! the gRPC and HTTP ports accept once every model is ready. The models' folder is watched before it is read, so that no change
//! is missed.
//!
//! # LOSS
//! A panic may end a lane, the timekeeper or another part that the server cannot do without. From that moment on the server is
//! not ready and takes no new sessions; [`Server::lost`] tells its owner, which drains it, for [`LOSS_DEADLINE`] at most.
//!
//! # SHUTDOWN
//! [`Server::drain`] does these in order, each within its own budget: readiness and health off, no new sessions, GOAWAY; sessions
//! finish what is in flight (`drain.deadline_s`); the gRPC and HTTP ports close, then their connections ([`CONNECTIONS_GRACE`]);
//! lanes end; the admin port closes last.

mod callers;
mod changes;
mod error;
mod issuer;
mod ports;
mod record;
mod upkeep;

use std::{io, net::SocketAddr, num::NonZeroUsize, path::Path, sync::Arc, thread::available_parallelism, time::Duration};

use futures::FutureExt as _;
use tokio::{runtime::Handle, task::JoinHandle};

pub use self::error::StartError;
use self::{
    callers::Callers,
    ports::{Addresses, Bound, ClientPorts, open_inference},
    upkeep::{tend_cache, trim_models},
};
use crate::{
    certificates::Certificates,
    clock,
    config::{self, BindAddress, Config, Port},
    descriptors::Descriptors,
    device::{Device, Devices, Lanes, ModelRuntime, Timekeeper},
    domain::{Fault, FaultKind},
    drain::{Drain, Phase},
    engine::{ENGINES, LaneThreads},
    frontend::{
        Bounds, WebRules,
        admin::{self, AdminHandle, AdminSource, Readiness},
        grpc::HealthKeeper,
    },
    log,
    memory::Memory,
    open_inference::AnswerCache,
    proof::{self, Aside, Proof, ProofError, Store},
    registry::{
        self, Embedded, Example, Folder, Host, Installer, LoadedModel, Measured, ModelSource, ModelState, Place, Registry,
        Repository, Watcher,
    },
    scheduler::{Admission, CostCurve, ModelKey, ModelOptions},
    service::Service,
    telemetry::Telemetry,
    threads,
    transport::{BoundSocket, Shutdown, Surroundings},
    vitals::{Liveness, Part, Vitals},
};

/// Input bytes in one model call; a single larger item still runs.
const MAX_CALL_BYTES: usize = 64 << 20;

/// How long connections without sessions, such as those that watch health, may take to close by themselves.
const CONNECTIONS_GRACE: Duration = Duration::from_secs(1);

/// The longest drain of a server that has lost a part: the rest of it may never answer again.
const LOSS_DEADLINE: Duration = Duration::from_secs(5);

/// How long the recording of arrivals may take to write what is left of it. It may be writing to a file that accepts nothing.
const RECORD_GRACE: Duration = Duration::from_secs(1);

/// A running server.
pub struct Server {
    addresses: Addresses,
    drain: Drain,
    repository: Repository,
    devices: Devices,
    telemetry: Telemetry,
    shutdown: Shutdown,
    /// The servers of the client ports.
    ports: JoinHandle<()>,
    background: Vec<JoinHandle<Option<()>>>,
    lanes: Lanes,
    timekeeper: Timekeeper,
    admin: AdminHandle,
    recording: Option<JoinHandle<()>>,
    vitals: Vitals,
    certificates: Option<Certificates>,
    config: Config,
}

impl Server {
    /// Binds, loads, measures and serves.
    ///
    /// # Errors
    /// [`StartError`]; in that case nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let callers = Callers::of(&config).await?;
        let Bound { grpc, http, admin, addresses } = Bound::as_configured(&config)?;
        let web = WebRules::new(&config.server);
        let telemetry = if config.metrics.enabled { Telemetry::new() } else { Telemetry::off() };
        let certificates = Certificates::load(&config.tls, &telemetry)?;
        let lane_count = lane_count(&config);
        let (vitals, descriptors) = (Vitals::new(&telemetry), Descriptors::at_start(lane_count)?);
        let memory = Memory::within(config.memory.limit_bytes, &telemetry.server());
        let drain = Drain::new();
        let long_lanes = if config.scheduler.long_lanes { lane_count } else { 0 };
        let cpu = Device::with_long_lanes(lane_count, long_lanes, admission(&config), &telemetry);
        let devices = Devices::new(Arc::clone(&cpu));
        let recording = config.scheduler.record.as_deref().map(|path| record::start(path, &devices)).transpose()?;
        let compute = LaneThreads::device_with_long_lanes(lane_count, long_lanes);
        let host = ModelHost { compute: compute.clone(), devices: devices.clone(), telemetry: telemetry.clone() };
        let repository = repository(&config, host);
        let mut admin_source = admin_source(&config, &telemetry, &drain, &vitals, &devices, repository.registry(), web.clone());
        admin_source.gate = callers.as_ref().and_then(|callers| callers.metrics_gate(&config));
        let admin = admin_port(admin, &config, certificates.as_ref(), admin_source, descriptors.admin())?;
        let watcher = watcher(&config)?;
        load_aside(&config, &repository).await?;
        let lanes = Lanes::start(&cpu, &compute, &vitals)?;
        let timekeeper = Timekeeper::start(&cpu, &vitals)?;

        let service = service(&config, repository.clone(), devices.clone(), drain.clone(), &telemetry, callers.as_ref());
        let bounds = Bounds::new(&config, telemetry.server());
        let cache = AnswerCache::new(&config.cache, &telemetry);
        let open_inference = open_inference(&config, service.within(memory.clone()), &cache, &descriptors, &bounds);
        let (shutdown, shown) = (Shutdown::default(), certificates.clone());
        let surroundings = Surroundings { descriptors, vitals: vitals.clone() };
        let client_ports = ClientPorts { open_inference, bounds, web, surroundings, shown, shutdown: shutdown.clone() };
        let (servers, mut health) = client_ports.open(&config, grpc, http)?;
        drain.serve();
        health.tell();
        let mut background = background(cpu, health, &vitals, callers, repository.registry());
        background.extend(certificates.clone().map(|all| tokio::spawn(keep_certificates(all, vitals.clone()))));
        background.push(tokio::spawn(tend_cache(cache, Arc::clone(repository.registry()), memory)));
        background.push(tokio::spawn(drain_when_lost(vitals.clone(), drain.clone())));
        background.extend(watcher.map(|watcher| tokio::spawn(keep_fresh(watcher, repository.clone(), vitals.clone()))));
        let ports = tokio::spawn(servers.serve());
        Ok(Self {
            addresses,
            drain,
            repository,
            devices,
            telemetry,
            shutdown,
            ports,
            background,
            lanes,
            timekeeper,
            admin,
            recording,
            vitals,
            certificates,
            config,
        })
    }

    /// The phase of its life that the server is in.
    #[must_use]
    pub fn phase(&self) -> Drain {
        self.drain.clone()
    }

    /// Where a port listens.
    #[must_use]
    pub const fn address(&self, port: Port) -> &BindAddress {
        match port {
            Port::Grpc => &self.addresses.grpc,
            Port::Http => &self.addresses.http,
            Port::Admin => &self.addresses.admin,
        }
    }

    /// Where gRPC clients connect over IP; see [`BindAddress::over_ip`].
    #[must_use]
    pub const fn grpc_addr(&self) -> SocketAddr {
        self.address(Port::Grpc).over_ip()
    }

    /// Where HTTP clients connect over IP; see [`BindAddress::over_ip`].
    #[must_use]
    pub const fn http_addr(&self) -> SocketAddr {
        self.address(Port::Http).over_ip()
    }

    /// Where metrics and probes are served over IP; see [`BindAddress::over_ip`].
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.address(Port::Admin).over_ip()
    }

    /// Number of lanes.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.devices.lanes()
    }

    /// The metrics, as a scrape would see them; empty if they are off.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.devices.publish_metrics();
        self.telemetry.render()
    }

    /// The models, and the queue's keys for them.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        self.repository.registry()
    }

    /// The means to load and unload models.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Starts bringing the models in line with their folder; the log reports the outcome.
    pub fn refresh_models(&self) {
        let repository = self.repository.clone();
        tokio::spawn(async move { registry::refresh(&repository).await });
    }

    /// Starts reading the certificates again, if there are any; the log reports the outcome.
    pub fn refresh_certificates(&self) {
        if let Some(certificates) = self.certificates.clone() {
            tokio::spawn(threads::aside(move || certificates.reload()));
        }
    }

    /// The devices, for looking at their queues.
    #[must_use]
    pub const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Waits until a part that the server cannot do without is lost.
    pub async fn lost(&self) {
        self.vitals.lost().await;
    }

    /// The parts of the server; clones outlive it.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.vitals.clone()
    }

    /// Shuts down in order; see the module's text.
    pub async fn drain(self) {
        let Self { drain, devices, shutdown, mut ports, background, lanes, timekeeper, admin, recording, vitals, config, .. } =
            self;
        let deadline = config.drain.deadline();
        let deadline = if vitals.loss().is_some() { deadline.min(LOSS_DEADLINE) } else { deadline };
        tracing::info!(sessions = drain.sessions_open(), ?deadline, "draining");
        drain.begin();
        devices.drain();
        devices.nudge_all();
        shutdown.graceful();
        match drain.wait_idle_for(deadline).await {
            Ok(()) => tracing::info!("all sessions have ended"),
            Err(left) => {
                tracing::warn!("drain.deadline_s has passed: {left}; they are cut off");
                shutdown.abort();
            }
        }
        shutdown.close();
        if tokio::time::timeout(CONNECTIONS_GRACE, &mut ports).await.is_err() {
            shutdown.abort();
            // It ends by itself now; the only possible error is a panic, which tokio has reported.
            let _ = ports.await;
        }
        drain.close();
        for task in background {
            task.abort();
        }
        drop(timekeeper);
        devices.record(None);
        // It reports its own errors. A file that accepts nothing does not hold up the shutdown.
        if let Some(recording) = recording
            && tokio::time::timeout(RECORD_GRACE, recording).await.is_err()
        {
            tracing::warn!("the end of the recording of arrivals (scheduler.record) could not be written in time");
        }
        if let Err(error) = threads::aside(move || lanes.join()).await {
            tracing::error!(%error, "the lanes did not stop cleanly");
        }
        admin.close().await;
        tracing::info!("closed");
    }
}

/// A server that has lost a part starts to shut down by itself, without waiting for its owner.
async fn drain_when_lost(vitals: Vitals, drain: Drain) -> Option<()> {
    vitals.lost().await;
    drain.begin();
    None
}

/// The tasks that go on for as long as the server does.
fn background(
    cpu: Arc<Device>,
    health: HealthKeeper,
    vitals: &Vitals,
    callers: Option<Callers>,
    registry: &Arc<Registry>,
) -> Vec<JoinHandle<Option<()>>> {
    let mut tasks = vec![
        tokio::spawn(vitals.clone().keep(Part::Kicker, cpu, |device| Arc::clone(device).kick_lanes().boxed())),
        tokio::spawn(vitals.clone().keep(Part::Health, health, |health| health.keep().boxed())),
        tokio::spawn(trim_models(Arc::clone(registry))),
    ];
    tasks.extend(callers.map(|callers| tokio::spawn(callers.follow())));
    tasks
}

/// The door to the models, as configured.
fn service(
    config: &Config,
    repository: Repository,
    devices: Devices,
    drain: Drain,
    telemetry: &Telemetry,
    callers: Option<&Callers>,
) -> Service {
    let service = Service::new(repository, devices, config.session.clone(), drain, telemetry);
    service.connections().govern(ports::rules(config));
    if !config.control.priority_high.is_on(true) {
        service.refuse_high_priority();
    }
    let counted = &config.metrics.tenants;
    let Some(callers) = callers else {
        // Their series are there all the same.
        counted.iter().for_each(|name| drop(telemetry.tenant(name)));
        return service;
    };
    callers.keyring().count(telemetry, counted);
    service.with_keyring(callers.keyring().clone())
}

/// Loads the models on a thread that may block.
async fn load_aside(config: &Config, repository: &Repository) -> Result<(), StartError> {
    let (config, repository) = (config.clone(), repository.clone());
    threads::aside(move || load(&config, &repository)).await.map_err(io::Error::other)?
}

/// Follows what changes in the models' folder.
async fn keep_fresh(watcher: Watcher, repository: Repository, vitals: Vitals) -> Option<()> {
    vitals.keep(Part::Watcher, (watcher, repository), |(watcher, models)| watcher.keep_fresh(models).boxed()).await
}

/// Follows changes of certificates.
async fn keep_certificates(certificates: Certificates, vitals: Vitals) -> Option<()> {
    vitals.keep(Part::Certificates, certificates, |all| async move { all.keep_fresh().await }.boxed()).await
}

/// Serves the admin port, encrypted if it should be.
fn admin_port(
    bound: BoundSocket,
    config: &Config,
    certificates: Option<&Certificates>,
    mut source: AdminSource,
    connections_max: usize,
) -> Result<AdminHandle, StartError> {
    let mut gate = None;
    if let Some(certificates) = certificates {
        gate = certificates.gate(config.encryption(Port::Admin))?;
        let (refresh, certificates) = (source.refresh, certificates.clone());
        source.refresh = Arc::new(move || {
            refresh();
            certificates.publish();
        });
    }
    Ok(admin::spawn(bound, gate, source, connections_max)?)
}

fn lane_count(config: &Config) -> usize {
    match config.scheduler.lanes {
        0 => available_parallelism().map_or(1, NonZeroUsize::get),
        lanes => lanes,
    }
}

const fn admission(config: &Config) -> Admission {
    let scheduler = &config.scheduler;
    Admission {
        items: scheduler.max_queued_items,
        bytes: scheduler.max_queued_bytes,
        model_items: scheduler.max_queued_items_per_model,
        model_bytes: scheduler.max_queued_bytes_per_model,
    }
}

fn admin_source(
    config: &Config,
    telemetry: &Telemetry,
    drain: &Drain,
    vitals: &Vitals,
    devices: &Devices,
    registry: &Arc<Registry>,
    web: WebRules,
) -> AdminSource {
    let (phase, registry, allow_partial) = (drain.clone(), Arc::clone(registry), config.models.allow_partial);
    let (published, lines_lost) = (devices.clone(), telemetry.server().log_lines_lost);
    let refresh = move || {
        published.publish_metrics();
        lines_lost.absolute(log::lines_lost());
    };
    let devices = devices.clone();
    let liveness = Liveness::new(vitals.clone(), Handle::current().metrics(), move || devices.longest_call());
    AdminSource {
        telemetry: telemetry.clone(),
        drain: drain.clone(),
        vitals: vitals.clone(),
        liveness: Arc::new(liveness),
        refresh: Arc::new(refresh),
        models: Arc::new(move || readiness(&registry, phase.phase(), allow_partial)),
        web,
        gate: None,
    }
}

/// While the server starts, every model counts. Later it is sent work whatever is loaded, fails to load or is unloaded among its
/// models; only a lost engine takes it out, or having no model that could be loaded. With `models.allow_partial`, a model that
/// failed or lost its engine never takes it out, unless no other model is left.
fn readiness(registry: &Registry, phase: Phase, allow_partial: bool) -> Readiness {
    let hindrance = if phase == Phase::Starting {
        let hinders = |state| state == ModelState::Loading || (state == ModelState::Failed && !allow_partial);
        registry.list().into_iter().find(|model| hinders(model.state))
    } else if registry.serves_nothing() {
        let Some(failed) = registry.list().into_iter().next() else { return Readiness::NoModel };
        Some(failed)
    } else {
        registry.first_lost().filter(|_| !allow_partial)
    };
    hindrance.map_or(Readiness::Ready, |model| {
        let name = model.name.to_string();
        match model.state {
            ModelState::Failed => Readiness::Failed { model: name, error: model.reason.to_string() },
            ModelState::Loading | ModelState::Ready | ModelState::Unloaded => Readiness::Loading { model: name },
        }
    })
}

/// The models in the binary and in the folder; of two with the same name, the folder's counts.
fn repository(config: &Config, host: ModelHost) -> Repository {
    let engine_default = config.engine.default.or_named_library(|engine| config.engine.library(engine).is_some());
    let models = [(config.models.embedded, Embedded::SILERO_VAD), (config.models.embedded_8khz, Embedded::SILERO_VAD_8K)];
    let embedded = models.into_iter().filter(|(is_on, _)| *is_on).map(|(_, model)| Box::new(model) as Box<dyn ModelSource>);
    let example = config.models.example.then(|| Box::new(Example) as Box<dyn ModelSource>);
    let name = config.models.name.clone();
    let folder = config.models.dir.clone().map(|path| Box::new(Folder::of_model(path, name)) as Box<dyn ModelSource>);
    let sources = embedded.chain(example).chain(folder).collect();
    Repository::new(sources, engine_default, host.compute.clone(), Box::new(host), proofs(config))
}

/// Proofs from earlier starts. Without a usable folder, each start proves all models.
fn proofs(config: &Config) -> Store {
    let Some(path) = config.models.cache_dir.as_deref() else { return Store::none() };
    Store::open(path).unwrap_or_else(|error| {
        tracing::info!(folder = %path.display(), %error, "proofs of models are not kept; set models.cache_dir to another folder");
        Store::none()
    })
}

fn watcher(config: &Config) -> Result<Option<Watcher>, StartError> {
    if !config.models.watch {
        return Ok(None);
    }
    let path = config.models.dir.as_deref().ok_or(StartError::NoFolder)?;
    Watcher::start(path).map(Some).map_err(|error| StartError::Watch { path: path.to_owned(), error })
}

/// Loads the engines' libraries, and all models, then proves and measures several at a time.
fn load(config: &Config, repository: &Repository) -> Result<(), StartError> {
    for engine in ENGINES {
        let (Some(library), Some(path)) = (engine.library(), config.engine.library(engine.name())) else { continue };
        if path == Path::new(config::FIND_LIBRARY) {
            let path = library.find(&config::process_variable)?;
            library.load(&path)?;
            tracing::info!(path = %path.display(), "found the library of {}", engine.name());
        } else {
            library.load(path)?;
        }
    }
    Ok(repository.start(config.models.allow_partial)?)
}

/// The devices, as the repository of models sees them.
struct ModelHost {
    compute: Vec<LaneThreads>,
    devices: Devices,
    telemetry: Telemetry,
}

impl Installer for ModelHost {
    fn prove(&self, loaded: &mut LoadedModel, place: Place<'_>) -> Result<Measured, Fault> {
        let started = clock::now();
        let proven: Result<Proof, ProofError> = match place {
            Place::Lane { lane, company } => {
                loaded.try_packing(|this, packed, terms| proof::gain(this, packed, lane, terms, Some(company)));
                let proven = proof::prove(&loaded.executable, lane, &loaded.terms, Some(company));
                proven.inspect(|_| warm_up(loaded, lane))
            }
            Place::Beside(aside) => {
                loaded.try_packing(|this, packed, terms| proof::gain_beside(this, packed, terms, aside));
                let proven = proof::prove_beside(&loaded.executable, &loaded.terms, aside);
                proven.inspect(|_| aside.press(|| warm_up(loaded, 0)))
            }
        };
        let proof = proven.map_err(|error| Fault::new(FaultKind::Failed, error.to_string()))?;
        Ok(Measured { proof, wide: None, is_remembered: false, took: clock::now().since(started) })
    }

    fn wide_gain(&self, loaded: &LoadedModel) -> Option<f64> {
        proof::wide_gain(&loaded.executable, self.compute.first()?, &loaded.terms)
    }

    fn install(&self, loaded: &LoadedModel, measured: &Measured) -> Result<ModelKey, Fault> {
        let Self { devices, telemetry, .. } = self;
        let Proof { medians, item_bytes, .. } = &measured.proof;
        let metrics = telemetry.model(&loaded.name, &loaded.version);
        metrics.load_seconds.set((loaded.load_duration + measured.took).as_secs_f64());
        metrics.tell_batching(loaded.batching.verdict);
        let options = ModelOptions {
            curve: CostCurve::new(medians.clone()),
            max_batch: loaded.max_batch,
            max_delay: loaded.max_delay,
            max_call_bytes: MAX_CALL_BYTES,
            stateful: loaded.executable.signature().is_stateful(),
            item_bytes: *item_bytes,
            padding_waste_max: loaded.padding_waste_max,
            wide_ratio: measured.wide,
        };
        let costs = telemetry.model_costs(&loaded.name, &loaded.version, options.curve.points().count());
        let runtime = ModelRuntime { executable: Arc::clone(&loaded.executable), metrics, costs };
        let device = devices.for_new_model();
        let key = device.add_model((&loaded.name, &loaded.version), options, runtime);
        if let Some(status) = device.status(key) {
            let costs: Vec<String> = status.curve.points().map(|(size, cost)| format!("{size}: {cost:.2?}")).collect();
            let how = if measured.is_remembered { "measured at an earlier start" } else { "measured" };
            tracing::info!(
                model = %loaded.name, version = %loaded.version, engine = loaded.executable.engine_name(),
                batch_cap = status.batch_cap, "{how}; a call takes {}", costs.join(", ")
            );
        }
        Ok(key)
    }
}

/// Calls the model's instances on all lanes except one, which has already run.
fn warm_up(loaded: &LoadedModel, lane: usize) {
    let LoadedModel { executable, terms, .. } = loaded;
    let others = (0..executable.lanes()).filter(|other| *other != lane);
    if let Err(error) = proof::warm_up(executable, others, terms, terms.budget) {
        tracing::debug!(model = %loaded.name, version = %loaded.version, %error, "a lane was not warmed up");
    }
}

impl Host for ModelHost {
    fn aside(&self) -> Aside {
        Aside::new(threads::stand_back)
    }

    fn retire(&self, key: ModelKey) {
        self.devices.of_model(key).retire_model(key);
    }

    fn holds(&self, key: ModelKey) -> bool {
        self.devices.of_model(key).holds(key)
    }

    fn count_load(&self, name: &str, version: &str, loaded: bool, serves: bool) {
        let loads = self.telemetry.model_loads(name);
        let outcome = if loaded { loads.ok } else { loads.failed };
        outcome.increment(1);
        if !serves {
            self.telemetry.model(name, version).ready.set(0.0);
        }
    }
}
