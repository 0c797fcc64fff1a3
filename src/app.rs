//! The composition root: the only file that knows all the parts.
//!
//! # START
//! All ports are bound first, so that a port in use is known before any model is loaded. The admin port answers from then on;
//! the gRPC and HTTP ports accept once every model is ready.
//!
//! # SHUTDOWN
//! [`Server::drain`], in this order, each step with its budget: readiness and health off, no new sessions, GOAWAY; sessions finish
//! what is in flight (`drain.deadline_s`); the gRPC and HTTP ports close, then their connections ([`CONNECTIONS_GRACE`]); lanes
//! end; the admin port closes last.

use std::{
    fs::File,
    io::{self, BufWriter},
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::{
    clock,
    config::{Config, DefaultEngine},
    domain::{Fault, FaultKind},
    drain::Drain,
    engine::{self, LaneThreads},
    frontend::{
        Shutdown,
        admin::{self, AdminHandle, AdminSource, Readiness},
        grpc::{GrpcServer, keep_health},
        http::HttpServer,
    },
    open_inference::OpenInference,
    registry::{self, Embedded, EngineChoice, Example, Folder, LoadOptions, LoadedModel, ModelSource, ModelState, Registry},
    scheduler::{self, Admission, Calibration, Handoff, Lanes, ModelKey, ModelOptions, ModelRuntime, Trace, WideGain},
    service::Service,
    session::keep_time,
    telemetry::Telemetry,
};

/// Input bytes in one model call; a single larger item still runs.
const MAX_CALL_BYTES: usize = 64 << 20;

/// Time to measure what one model's calls cost.
const CALIBRATION_BUDGET: Duration = Duration::from_secs(3);

/// Time in which connections without sessions, such as those that watch health, may close by themselves.
const CONNECTIONS_GRACE: Duration = Duration::from_secs(1);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be bound.
    #[error("cannot listen on {address} ({key}): {error}; is another server running there? Port 0 takes any free one")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The file to record in cannot be made.
    #[error("cannot record in {path} (scheduler.record): {error}")]
    Record {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The engine's library cannot be loaded.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// Models cannot be loaded.
    #[error(transparent)]
    Models(#[from] registry::LoadFaults),
    /// The system refuses a thread or a socket.
    #[error("the system refuses a thread or socket: {0}")]
    System(#[from] io::Error),
    /// Reflection cannot be set up.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running server.
pub struct Server {
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
    drain: Drain,
    registry: Arc<Registry>,
    handoff: Arc<Handoff>,
    telemetry: Telemetry,
    shutdown: Shutdown,
    /// The servers of the ports for clients.
    ports: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    lanes: Lanes,
    admin: AdminHandle,
    recording: Option<JoinHandle<()>>,
    config: Config,
}

impl Server {
    /// Binds, loads, measures and serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let grpc_listener = bind("server.grpc_addr", config.server.grpc_addr)?;
        let http_listener = bind("server.http_addr", config.server.http_addr)?;
        let admin_listener = bind("server.admin_addr", config.server.admin_addr)?;
        let telemetry = Telemetry::new();
        let drain = Drain::new();
        let lane_count = lane_count(&config);
        let handoff = Handoff::new(lane_count, admission(&config));
        let recording = config.scheduler.record.as_deref().map(|path| start_recording(path, &handoff)).transpose()?;
        let registry = Arc::new(Registry::default());
        let admin = admin::spawn(admin_listener, admin_source(&config, &telemetry, &drain, &handoff, &registry))?;

        let compute = LaneThreads::device(lane_count);
        let loading = {
            let (config, compute, telemetry) = (config.clone(), compute.clone(), telemetry.clone());
            let (handoff, registry) = (Arc::clone(&handoff), Arc::clone(&registry));
            tokio::task::spawn_blocking(move || load(&config, &registry, &compute, &handoff, &telemetry))
        };
        loading.await.map_err(io::Error::other)??;
        for failed in registry.list().iter().filter(|model| model.state == ModelState::Failed) {
            telemetry.model(&failed.name, &failed.version).ready.set(0.0);
        }
        let lanes = Lanes::start(&handoff, &compute, |lane| telemetry.lane(lane))?;

        let service =
            Service::new(Arc::clone(&registry), Arc::clone(&handoff), config.session.clone(), drain.clone(), &telemetry);
        let open_inference = OpenInference::new(service.clone(), config.sequence.clone(), config.shared_memory.clone());
        let shutdown = Shutdown::default();
        let (grpc_listener, grpc_addr) = nonblocking(grpc_listener)?;
        let (http_listener, http_addr) = nonblocking(http_listener)?;
        let (grpc, reporter) =
            GrpcServer::new(grpc_listener, open_inference.clone(), config.grpc.clone(), telemetry.server(), shutdown.clone())?;
        let http = HttpServer::new(http_listener, open_inference, config.http.clone(), telemetry.server(), shutdown.clone());
        drain.serve();
        let background = vec![
            tokio::spawn(Arc::clone(&handoff).kick_lanes()),
            tokio::spawn(keep_time(Arc::clone(&handoff))),
            tokio::spawn(keep_health(service, drain.clone(), reporter)),
        ];
        let ports = tokio::spawn(async move {
            tokio::join!(grpc.serve(), http.serve());
        });
        Ok(Self {
            grpc_addr,
            http_addr,
            drain,
            registry,
            handoff,
            telemetry,
            shutdown,
            ports,
            background,
            lanes,
            admin,
            recording,
            config,
        })
    }

    /// Where gRPC clients connect.
    #[must_use]
    pub const fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Where HTTP clients connect.
    #[must_use]
    pub const fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where metrics and probes are.
    #[must_use]
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Number of lanes.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.handoff.lanes()
    }

    /// The metrics as a scrape gives them.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.handoff.publish_metrics();
        self.telemetry.render()
    }

    /// The models, and under which keys the queue knows them.
    #[must_use]
    pub const fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The queue, for those who want to look at its account.
    #[must_use]
    pub const fn handoff(&self) -> &Arc<Handoff> {
        &self.handoff
    }

    /// Shuts down in order; see the module's text.
    pub async fn drain(self) {
        let Self { drain, handoff, shutdown, mut ports, background, lanes, admin, recording, config, .. } = self;
        let deadline = config.drain.deadline();
        tracing::info!(sessions = drain.sessions_open(), ?deadline, "draining");
        drain.begin();
        handoff.drain();
        handoff.nudge_all();
        shutdown.graceful();
        match drain.wait_idle_for(deadline).await {
            Ok(()) => tracing::info!("all sessions have ended"),
            Err(left) => {
                tracing::warn!("drain.deadline_s is over: {left}; they are cut off");
                shutdown.abort();
            }
        }
        shutdown.close();
        if tokio::time::timeout(CONNECTIONS_GRACE, &mut ports).await.is_err() {
            shutdown.abort();
            // It ends by itself now; an error could only be a panic, which tokio has reported.
            let _ = ports.await;
        }
        drain.close();
        for task in background {
            task.abort();
        }
        handoff.record(None);
        if let Some(recording) = recording {
            // Its own errors are told; an error here could only be a panic, which tokio has reported.
            let _ = recording.await;
        }
        let joined = tokio::task::spawn_blocking(move || lanes.join()).await;
        if let Err(error) = joined {
            tracing::error!(%error, "the lanes did not end in order");
        }
        admin.close().await;
        tracing::info!("closed");
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Bind { key, address, error })
}

/// The same listener for the runtime, and where it listens.
fn nonblocking(listener: TcpListener) -> io::Result<(tokio::net::TcpListener, SocketAddr)> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
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
    handoff: &Arc<Handoff>,
    registry: &Arc<Registry>,
) -> AdminSource {
    let (handoff, registry, allow_partial) = (Arc::clone(handoff), Arc::clone(registry), config.models.allow_partial);
    AdminSource {
        telemetry: telemetry.clone(),
        drain: drain.clone(),
        refresh: Arc::new(move || handoff.publish_metrics()),
        models: Arc::new(move || readiness(&registry, allow_partial)),
    }
}

/// With `models.allow_partial`, a model that failed does not keep the others from being sent work.
fn readiness(registry: &Registry, allow_partial: bool) -> Readiness {
    let counts = |state| state != ModelState::Ready && !(allow_partial && state == ModelState::Failed);
    let unready = registry.list().into_iter().find(|model| counts(model.state));
    unready.map_or(Readiness::Ready, |model| {
        let name = model.name.to_string();
        match model.state {
            ModelState::Failed => Readiness::Failed { model: name, error: model.reason.to_string() },
            ModelState::Loading | ModelState::Ready => Readiness::Loading { model: name },
        }
    })
}

/// Loads all models and measures each, one after the other.
fn load(
    config: &Config,
    registry: &Registry,
    compute: &[LaneThreads],
    handoff: &Handoff,
    telemetry: &Telemetry,
) -> Result<(), StartError> {
    if let Some(path) = &config.engine.onnxruntime {
        engine::onnxruntime::OnnxRuntime::load_library(path)?;
    }
    let install = |loaded: &LoadedModel| install(loaded, compute, handoff, telemetry);
    let engine_default = match config.engine.default {
        DefaultEngine::Auto if config.engine.onnxruntime.is_some() => EngineChoice::Onnxruntime,
        DefaultEngine::Auto | DefaultEngine::Rten => EngineChoice::Rten,
        DefaultEngine::Onnxruntime => EngineChoice::Onnxruntime,
    };
    let options = LoadOptions { engine_default, lanes: compute, keep_going: config.models.allow_partial };
    let folder = config.models.dir.clone().map(Folder::new);
    let embedded = config.models.embedded.then_some(&Embedded as &dyn ModelSource);
    let example = config.models.example.then_some(&Example as &dyn ModelSource);
    let folder = folder.as_ref().map(|folder| folder as &dyn ModelSource);
    let sources: Vec<_> = embedded.into_iter().chain(example).chain(folder).collect();
    Ok(registry::load_into(registry, &sources, &options, &install)?)
}

/// Records what comes to the queue; the task ends once the record does.
fn start_recording(path: &Path, handoff: &Handoff) -> Result<JoinHandle<()>, StartError> {
    let file = File::create(path).map_err(|error| StartError::Record { path: path.to_owned(), error })?;
    let (trace, writer) = Trace::begin(clock::now(), handoff.lanes());
    handoff.record(Some(trace));
    let path = path.to_owned();
    Ok(tokio::task::spawn_blocking(move || {
        if let Err(error) = writer.write(BufWriter::new(file)) {
            tracing::error!(path = %path.display(), %error, "the record of arrivals breaks off");
        }
    }))
}

/// Measures a model and opens its queue.
fn install(loaded: &LoadedModel, compute: &[LaneThreads], handoff: &Handoff, telemetry: &Telemetry) -> Result<ModelKey, Fault> {
    let started = clock::now();
    let Calibration { curve, wide, item_bytes } =
        scheduler::calibrate(&loaded.executable, compute, loaded.max_batch, CALIBRATION_BUDGET)
            .map_err(|error| Fault::new(FaultKind::Failed, error.to_string()))?;
    let metrics = telemetry.model(&loaded.name, &loaded.version);
    let calibration = clock::now().since(started);
    metrics.load_seconds.set((loaded.load_duration + calibration).as_secs_f64());
    let options = ModelOptions {
        curve,
        max_batch: loaded.max_batch,
        max_delay: loaded.max_delay,
        max_call_bytes: MAX_CALL_BYTES,
        stateful: loaded.executable.signature().is_stateful(),
        item_bytes,
        padding_waste_max: loaded.padding_waste_max,
        wide_ratio: wide.map(|WideGain(ratio)| ratio),
    };
    let costs = telemetry.model_costs(&loaded.name, &loaded.version, options.curve.points().count());
    let runtime = ModelRuntime { executable: Arc::clone(&loaded.executable), metrics, costs };
    let key = handoff.add_model((&loaded.name, &loaded.version), options, runtime);
    if let Some(status) = handoff.status(key) {
        let costs: Vec<String> = status.curve.points().map(|(size, cost)| format!("{size}: {cost:.2?}")).collect();
        tracing::info!(
            model = %loaded.name, version = %loaded.version, engine = loaded.executable.engine_name(),
            batch_cap = status.batch_cap, "measured; a call takes {}", costs.join(", ")
        );
    }
    Ok(key)
}
