//! Clients that misbehave on purpose, alongside those that are measured: what a server must withstand without harm to the others.
//!
//! [`ChaosPlan`] says how many and how often, [`Chaos::start`] starts them, [`ChaosHandle::finish`] ends them and returns what they
//! met. Moments, sizes and kinds of rubbish follow only from the seed; what the network makes of them does not. Every act has an
//! end: nothing waits for an answer longer than [`PATIENCE`]. Knows nothing about the clients that are measured.

mod acts;
mod garbage;
mod plan;
mod residents;
mod result;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tidemill::clock;
use tidemill_client::{Address, Client, Settings, wire::v1};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use self::result::Notes;
pub(crate) use self::{
    plan::ChaosPlan,
    result::{ChaosResult, Kind},
};

/// Longest wait for an answer that must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Acts of one kind at the same time; beyond that, the next one is late.
const ACTS_AT_ONCE: usize = 64;
/// How many connections are shared by the streams that do not have their own.
const SHARED_CONNECTIONS: usize = 4;
/// HTTP/2 window of their streams, so that the server soon notices what is not read.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024;
/// Wide, so that clients that do not read hold up nobody else on their connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Where the misbehaving clients go, and what they send.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) grpc: SocketAddr,
    /// For every other connection with rubbish; without this, all go to the gRPC port.
    pub(crate) http: Option<SocketAddr>,
    pub(crate) model: String,
    /// An item that the model takes.
    pub(crate) item: v1::Item,
}

/// Starts the clients.
#[derive(Debug)]
pub(crate) struct Chaos;

impl Chaos {
    /// Opens the streams that stay, and begins with what happens repeatedly.
    ///
    /// # Errors
    /// If the plan has a fault, or if nothing listens at the address. What happens later is part of the result.
    pub(crate) async fn start(plan: &ChaosPlan, place: Place, seed: u64) -> anyhow::Result<ChaosHandle> {
        let faults = plan.faults();
        if !faults.is_empty() {
            bail!("{}", faults.join("\n"));
        }
        let result = Arc::new(Mutex::new(ChaosResult::default()));
        let (stop, stopped) = watch::channel(false);
        let crew = Crew::assemble(place, stopped).await?;
        let mut tasks = JoinSet::new();
        let notes = |kind| Notes::new(&result, kind);
        let residents =
            [(plan.slow_readers, Kind::SlowReader), (plan.never_readers, Kind::NeverReader), (plan.idle_streams, Kind::Idle)];
        let pause = Duration::from_millis(plan.slow_reader_ms);
        for (streams, kind) in residents {
            for number in 0..streams {
                tasks.spawn(residents::stay(crew.clone(), number as usize, kind, pause, notes(kind)));
            }
        }
        let acts = [
            (plan.resets_hz, Kind::Reset),
            (plan.cuts_hz, Kind::Cut),
            (plan.churn_hz, Kind::Churn),
            (plan.giants_hz, Kind::Giant),
            (plan.garbage_hz, Kind::Garbage),
        ];
        for (rate_hz, kind) in acts {
            if rate_hz > 0.0 {
                let random = fastrand::Rng::with_seed(seed ^ ((kind as u64 + 1) << 32));
                tasks.spawn(again_and_again(crew.clone(), kind, rate_hz, random, plan.giant_bytes, notes(kind)));
            }
        }
        Ok(ChaosHandle { tasks, stop, result })
    }
}

/// The running clients. Dropping it ends them at once.
#[derive(Debug)]
pub(crate) struct ChaosHandle {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    result: Arc<Mutex<ChaosResult>>,
}

impl ChaosHandle {
    /// Begins nothing new, ends the streams that stayed, waits for what is under way, and returns what they met.
    ///
    /// # Errors
    /// If a client panicked.
    pub(crate) async fn finish(mut self) -> anyhow::Result<ChaosResult> {
        // If there are no clients, nothing listens.
        let _ = self.stop.send(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a misbehaving client panicked")?;
        }
        Ok(self.result.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The state that all clients share.
#[derive(Debug, Clone)]
struct Crew {
    place: Arc<Place>,
    channels: Vec<Client>,
    stopped: watch::Receiver<bool>,
}

impl Crew {
    async fn assemble(place: Place, stopped: watch::Receiver<bool>) -> anyhow::Result<Self> {
        let settings = Settings {
            keepalive: None,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            ..Settings::default()
        };
        let address = Address::try_from(place.grpc)?;
        let mut channels = Vec::with_capacity(SHARED_CONNECTIONS);
        for _ in 0..SHARED_CONNECTIONS {
            channels.push(Client::connect_with(&address, &settings).await?);
        }
        Ok(Self { place: Arc::new(place), channels, stopped })
    }

    fn channel(&self, number: usize) -> Client {
        self.channels[number % self.channels.len()].clone()
    }

    /// Returns when it is over.
    async fn over(&self) {
        let mut stopped = self.stopped.clone();
        // An error means that the handle is gone, which ends it as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Acts of one kind at random moments, `rate_hz` a second, until it is over.
async fn again_and_again(crew: Crew, kind: Kind, rate_hz: f64, mut random: fastrand::Rng, giant_bytes: usize, notes: Notes) {
    let giant = if kind == Kind::Giant { acts::giant(&crew.place.item, giant_bytes) } else { v1::Item::default() };
    let mut acts = JoinSet::new();
    let mut due = clock::now();
    loop {
        due = due + Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate_hz);
        tokio::select! {
            () = sleep(due.since(clock::now())) => {}
            () = crew.over() => break,
        }
        while acts.len() >= ACTS_AT_ONCE {
            acts.join_next().await;
        }
        while acts.try_join_next().is_some() {}
        let (crew, own, notes) = (crew.clone(), fastrand::Rng::with_seed(random.u64(..)), notes.clone());
        match kind {
            Kind::Reset => drop(acts.spawn(acts::reset(crew, own, notes))),
            Kind::Cut => drop(acts.spawn(acts::cut(crew, own, notes))),
            Kind::Churn => drop(acts.spawn(acts::churn(crew, notes))),
            Kind::Giant => drop(acts.spawn(acts::send_giant(crew, own, giant.clone(), notes))),
            _ => drop(acts.spawn(garbage::throw(crew, own, notes))),
        }
    }
    while acts.join_next().await.is_some() {}
}
