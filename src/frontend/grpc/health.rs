//! `grpc.health.v1`: the server under the empty name and its services' names, each model under its own
//! (serving if any of its versions is ready). A server that could load none of its models serves nothing.

use std::{collections::BTreeMap, sync::Arc};

use futures::{
    FutureExt as _, Stream, StreamExt as _, future,
    stream::{self, BoxStream},
};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::{deadline, status::status_of};
use crate::{
    clock,
    domain::{Fault, FaultKind, Timestamp},
    drain::Phase,
    proto::health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse, health_check_response::ServingStatus,
        health_server::Health,
    },
    registry::ModelState,
    service::Service,
};

/// Names that stand for the whole server.
const SERVER_NAMES: [&str; 5] =
    ["", "tidemill.v1.InferenceService", "tidemill.v1.ModelService", "inference.GRPCInferenceService", "model.ModelInference"];

/// Longest name that is looked up or watched. No existing name is longer, and each watcher keeps its name.
const NAME_BYTES_MAX: usize = 1_024;

/// Which names take calls, and which do not.
type Board = Arc<BTreeMap<Arc<str>, bool>>;

/// The service; it reads what a [`HealthKeeper`] writes.
pub(super) struct HealthBoard {
    board: watch::Receiver<Board>,
}

impl HealthBoard {
    fn status(board: &Board, name: &str) -> Option<HealthCheckResponse> {
        board.get(name).map(|serving| response(if *serving { ServingStatus::Serving } else { ServingStatus::NotServing }))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthBoard {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let name = checked(&request.get_ref().service)?;
        let status = Self::status(&self.board.borrow(), name);
        let unknown = || status_of(&Fault::new(FaultKind::NotFound, format!("no service and no model is called '{name}'")));
        status.map(Response::new).ok_or_else(unknown)
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let board = Arc::clone(&self.board.borrow());
        let status = |name: &Arc<str>| Some((String::from(&**name), Self::status(&board, name)?));
        Ok(Response::new(HealthListResponse { statuses: board.keys().filter_map(status).collect() }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let ends_at = deadline::ends_at(request.metadata());
        let name = checked(&request.get_ref().service)?.to_owned();
        Ok(Response::new(until(ends_at, statuses(self.board.clone(), name)).boxed()))
    }
}

/// # Errors
/// INVALID_ARGUMENT if the name is too long to exist.
fn checked(name: &str) -> Result<&str, Status> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(name);
    }
    let message = format!("the name has {} bytes; no service and no model has one of more than {NAME_BYTES_MAX}", name.len());
    Err(status_of(&Fault::invalid("service", message)))
}

/// The same, until the call's deadline.
fn until<T: Send>(
    ends_at: Timestamp,
    statuses: impl Stream<Item = T> + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let statuses = statuses.map(Ok);
    if ends_at == Timestamp::NEVER {
        return statuses.left_stream();
    }
    let expired = || status_of(&Fault::new(FaultKind::Expired, "the deadline of the whole call (grpc-timeout) passed"));
    let expires = tokio::time::sleep(ends_at.since(clock::now())).map(move |()| Err(expired()));
    // Whichever comes first; after the end there is nothing.
    let merged = stream::select(statuses.map(Some).chain(stream::once(future::ready(None))), stream::once(expires).map(Some));
    merged
        .scan(false, |over, next| {
            let told = next.filter(|_| !*over);
            *over |= told.as_ref().is_none_or(Result::is_err);
            future::ready(told)
        })
        .right_stream()
}

/// The status of this name, and each change of it. Ends with the keeper.
fn statuses(board: watch::Receiver<Board>, name: String) -> impl Stream<Item = HealthCheckResponse> + Send {
    let mut told = None;
    WatchStream::new(board).filter_map(move |board| {
        let now = HealthBoard::status(&board, &name).unwrap_or_else(|| response(ServingStatus::ServiceUnknown));
        let changed = told != Some(now);
        told = Some(now);
        future::ready(changed.then_some(now))
    })
}

/// Keeps the health service in step with the server's phase and its models.
pub struct HealthKeeper {
    service: Service,
    phase: watch::Receiver<Phase>,
    changes: watch::Receiver<u64>,
    board: watch::Sender<Board>,
}

impl HealthKeeper {
    pub(super) fn new(service: Service) -> Self {
        let phase = service.drain().subscribe();
        let changes = service.repository().registry().changes();
        Self { service, phase, changes, board: watch::Sender::default() }
    }

    /// The service that reports what this keeper knows.
    pub(super) fn board(&self) -> HealthBoard {
        HealthBoard { board: self.board.subscribe() }
    }

    /// Publishes the current status, then each change. Run it as one task, and again if it panics; it ends when the server is
    /// closed, and the watches end with the keeper.
    pub async fn keep(&mut self) {
        while self.tell() != Phase::Closed {
            let changed = tokio::select! {
                changed = self.phase.changed() => changed,
                changed = self.changes.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Publishes the current status.
    pub fn tell(&mut self) -> Phase {
        let phase = *self.phase.borrow_and_update();
        self.changes.mark_unchanged();
        let serving = phase == Phase::Serving;
        let mut statuses: BTreeMap<Arc<str>, bool> = BTreeMap::new();
        for model in self.service.models() {
            *statuses.entry(model.name).or_insert(false) |= serving && model.state == ModelState::Ready;
        }
        let serves = serving && !self.service.repository().registry().serves_nothing();
        statuses.extend(SERVER_NAMES.map(|name| (name.into(), serves)));
        self.board.send_replace(Arc::new(statuses));
        phase
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(entries: &[(&str, bool)]) -> Board {
        Arc::new(entries.iter().map(|(name, serving)| ((*name).into(), *serving)).collect())
    }

    #[tokio::test]
    async fn who_watches_hears_how_it_is_and_each_change_once() {
        let sender = watch::Sender::new(board(&[("m", true)]));
        let mut watched = Box::pin(statuses(sender.subscribe(), "m".to_owned()));
        let mut unknown = Box::pin(statuses(sender.subscribe(), "n".to_owned()));
        let mut heard = Vec::new();
        for next in
            [board(&[("m", true), ("other", true)]), board(&[("m", false)]), board(&[]), board(&[("m", true), ("n", true)])]
        {
            heard.extend(future::poll_immediate(watched.next()).await.flatten().map(|response| response.status()));
            sender.send_replace(next);
        }
        heard.extend(future::poll_immediate(watched.next()).await.flatten().map(|response| response.status()));
        use ServingStatus::{NotServing, ServiceUnknown, Serving};
        assert_eq!(heard, [Serving, NotServing, ServiceUnknown, Serving]);
        assert_eq!(unknown.next().await.map(|response| response.status()), Some(Serving), "only the latest counts");
        drop(sender);
        assert_eq!(watched.next().await, None);
    }
}
