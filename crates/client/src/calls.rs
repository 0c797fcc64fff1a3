//! The calls: the four modes, models, health and the repository.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::Stream;
use tidemill_wire::{
    health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
    inference::{
        RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest, repository_index_response::ModelIndex,
    },
    v1::{
        FeedRequest, GetModelRequest, ListModelsRequest, ModelDetail, ModelSummary, Opened, PayloadKind, PredictRequest,
        PredictResponse, ProveModelRequest, ScanRequest, StreamConfig, UploadRequest, UploadResponse, feed_request::Message,
    },
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{IntoStreamingRequest, Request, Streaming};

use crate::{
    connection::Client,
    error::Error,
    events::Events,
    feed::{Feed, FeedSender},
};

/// How long questions about models and health may take: a server answers them from memory, and if it does not, something is wrong with it.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages between a sender and its connection: enough to keep the connection busy, too few to hide its pace.
const QUEUED_REQUESTS: usize = 4;

/// The four modes.
impl Client {
    /// Runs a model once, and waits at most for `patience`.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server refuses it or the time is over, or [`Error::ConnectionLost`].
    pub async fn predict(&self, request: PredictRequest, patience: Duration) -> Result<PredictResponse, Error> {
        let mut request = Request::new(request);
        request.set_timeout(patience);
        Ok(self.inference().predict(request).await?.into_inner())
    }

    /// Sends a whole payload in one request, and gives each result as it is computed.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server does not open the stream, [`Error::UnexpectedAnswer`] if it says something else first, or
    /// [`Error::ConnectionLost`].
    pub async fn scan(&self, request: ScanRequest) -> Result<(Opened, Events), Error> {
        Events::of_scan(self.inference().scan(request).await?.into_inner()).await
    }

    /// Sends a payload in parts, and gives one answer for the whole. The stream says [`open`](tidemill_wire::v1::upload_request::Part::Open)
    /// first and [`finish`](tidemill_wire::v1::upload_request::Part::Finish) last. Dropping the future abandons the upload.
    ///
    /// # Errors
    /// [`Error::Refused`], possibly before all parts are sent, or [`Error::ConnectionLost`].
    pub async fn upload(&self, parts: impl Stream<Item = UploadRequest> + Send + 'static) -> Result<UploadResponse, Error> {
        Ok(self.inference().upload(parts).await?.into_inner())
    }

    /// Opens a stream in both directions.
    ///
    /// # Errors
    /// As for [`scan`](Self::scan).
    pub async fn feed(&self, config: StreamConfig) -> Result<Feed, Error> {
        let is_items = config.payload() != PayloadKind::PcmS16le;
        let (requests, receiver) = mpsc::channel(QUEUED_REQUESTS);
        // There is room, and the other end is here.
        let _ = requests.try_send(FeedRequest { message: Some(Message::Open(config)) });
        let (opened, events) = self.feed_from(ReceiverStream::new(receiver)).await?;
        let window_items = opened.limits.map_or(0, |limits| limits.window_items as usize);
        let window = (is_items && window_items > 0).then(|| Arc::new(Semaphore::new(window_items)));
        let sender = FeedSender::new(requests).with_window(window.clone());
        Ok(Feed { opened, sender, events: events.with_window(window) })
    }

    /// The same for messages of the caller's own making, the first of which is [`open`](Message::Open); a [`Request`] of them has metadata,
    /// too. Nothing here holds them back but the connection.
    ///
    /// # Errors
    /// As for [`scan`](Self::scan).
    pub async fn feed_from(&self, requests: impl IntoStreamingRequest<Message = FeedRequest>) -> Result<(Opened, Events), Error> {
        Events::of_feed(self.inference().feed(requests).await?.into_inner()).await
    }
}

/// Models.
impl Client {
    /// All models, ready or not.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::ConnectionLost`].
    pub async fn list_models(&self) -> Result<Vec<ModelSummary>, Error> {
        Ok(self.models().list_models(question(ListModelsRequest {})).await?.into_inner().models)
    }

    /// One model in full; without a version, the newest that is ready.
    ///
    /// # Errors
    /// [`Error::Refused`] with NOT_FOUND if there is none of this name and version, or [`Error::ConnectionLost`].
    pub async fn model(&self, name: &str, version: &str) -> Result<ModelDetail, Error> {
        let request = question(GetModelRequest { name: name.to_owned(), version: version.to_owned() });
        let response = self.models().get_model(request).await?.into_inner();
        response.model.ok_or_else(|| Error::UnexpectedAnswer("GetModel was answered without a model".to_owned()))
    }

    /// Has a model loaded again and its trial calls repeated. This takes as long as they do.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::ConnectionLost`].
    pub async fn prove_model(&self, name: &str, seed: u64) -> Result<Vec<ModelSummary>, Error> {
        let request = ProveModelRequest { name: name.to_owned(), seed };
        Ok(self.models().prove_model(request).await?.into_inner().models)
    }

    /// What is in the server's model folder, loaded or not.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::ConnectionLost`].
    pub async fn repository(&self) -> Result<Vec<ModelIndex>, Error> {
        let request = question(RepositoryIndexRequest::default());
        Ok(self.open_inference().repository_index(request).await?.into_inner().models)
    }

    /// Has a model loaded, or loaded again. This takes as long as its trial calls do.
    ///
    /// # Errors
    /// [`Error::Refused`] if it cannot be loaded, with the reason, or [`Error::ConnectionLost`].
    pub async fn load_model(&self, name: &str) -> Result<(), Error> {
        let request =
            RepositoryModelLoadRequest { model_name: name.to_owned(), parameters: BTreeMap::new(), ..Default::default() };
        self.open_inference().repository_model_load(request).await?;
        Ok(())
    }

    /// Has a model unloaded; streams that are open on it stay until they end.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::ConnectionLost`].
    pub async fn unload_model(&self, name: &str) -> Result<(), Error> {
        let request = RepositoryModelUnloadRequest { model_name: name.to_owned(), ..Default::default() };
        self.open_inference().repository_model_unload(request).await?;
        Ok(())
    }
}

/// Health.
impl Client {
    /// Whether a model is serving; without a name, the server as a whole.
    ///
    /// # Errors
    /// [`Error::Refused`] with NOT_FOUND if there is no such model, or [`Error::ConnectionLost`].
    pub async fn health(&self, model: &str) -> Result<ServingStatus, Error> {
        let request = question(HealthCheckRequest { service: model.to_owned() });
        Ok(self.probes().check(request).await?.into_inner().status())
    }

    /// The same, and every change from now on.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::ConnectionLost`].
    pub async fn watch_health(&self, model: &str) -> Result<HealthChanges, Error> {
        let request = HealthCheckRequest { service: model.to_owned() };
        Ok(HealthChanges(self.probes().watch(request).await?.into_inner()))
    }
}

/// The states of a server, or of a model, as they change.
#[derive(Debug)]
pub struct HealthChanges(Streaming<HealthCheckResponse>);

impl HealthChanges {
    /// The state now, at first, and then the next one; `None` if the server ends the watch.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::ConnectionLost`].
    pub async fn next(&mut self) -> Result<Option<ServingStatus>, Error> {
        Ok(self.0.message().await?.map(|response| response.status()))
    }
}

/// A request that a server answers from memory.
fn question<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(QUESTION_TIMEOUT);
    request
}
