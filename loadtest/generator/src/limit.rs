//! The limit of what a server on this stack can do: a bare tonic service that returns each item at once, or after a model call.
//!
//! It speaks the messages of the real API over the same codec and the same flow-control windows, and has no queue and no session.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, stream};
use tidemill::{config::GrpcConfig, engine::StreamState};
use tidemill_client::wire::v1::{
    self, feed_request, feed_response,
    inference_service_server::{InferenceService, InferenceServiceServer},
    item_result,
};
use tokio::{net::TcpListener, task::AbortHandle};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    encryption::{Encryption, encrypted},
    engine::BareEngine,
};

/// The answer to each item.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Its own tensors.
    Item,
    /// As many bytes as the model's answer has.
    Bytes(usize),
    /// The same, after a call of the model right where the item was read; only for one stream at a time.
    Model(Arc<BareEngine>),
}

/// A running echo; it ends with this value.
#[derive(Debug)]
pub(crate) struct EchoServer {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl EchoServer {
    pub(crate) async fn start(reply: Reply, encryption: Option<&Encryption>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let config = GrpcConfig::default();
        let server = Server::builder()
            .initial_stream_window_size(config.stream_window_bytes)
            .initial_connection_window_size(config.connection_window_bytes)
            .max_concurrent_streams(config.max_streams_per_connection)
            .add_service(InferenceServiceServer::new(Echo { reply }));
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let task = match encryption {
            None => tokio::spawn(server.serve_with_incoming(incoming)),
            Some(encryption) => tokio::spawn(server.serve_with_incoming(encrypted(incoming, encryption.acceptor()?))),
        };
        let task = task.abort_handle();
        Ok(Self { address, task })
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Echo {
    reply: Reply,
}

#[tonic::async_trait]
impl InferenceService for Echo {
    async fn predict(&self, _: Request<v1::PredictRequest>) -> Result<Response<v1::PredictResponse>, Status> {
        Err(Status::unimplemented("only Feed is echoed"))
    }

    type ScanStream = stream::Empty<Result<v1::ScanResponse, Status>>;

    async fn scan(&self, _: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        Err(Status::unimplemented("only Feed is echoed"))
    }

    async fn upload(&self, _: Request<Streaming<v1::UploadRequest>>) -> Result<Response<v1::UploadResponse>, Status> {
        Err(Status::unimplemented("only Feed is echoed"))
    }

    type FeedStream = Echoes;

    async fn feed(&self, request: Request<Streaming<v1::FeedRequest>>) -> Result<Response<Echoes>, Status> {
        Ok(Response::new(Echoes {
            messages: request.into_inner(),
            items: 0,
            reply: self.reply.clone(),
            state: StreamState::default(),
        }))
    }
}

struct Echoes {
    messages: Streaming<v1::FeedRequest>,
    items: u64,
    reply: Reply,
    state: StreamState,
}

impl Echoes {
    fn event(&mut self, request: v1::FeedRequest) -> Result<Option<feed_response::Event>, Status> {
        Ok(match request.message {
            Some(feed_request::Message::Open(_)) => Some(feed_response::Event::Opened(v1::Opened::default())),
            Some(feed_request::Message::Item(item)) => {
                let seq = self.items;
                self.items += 1;
                Some(feed_response::Event::Result(v1::ItemResult {
                    seq,
                    outcome: Some(item_result::Outcome::Outputs(v1::Outputs { tensors: self.tensors(item)? })),
                    timing: Some(TIMING),
                    ..v1::ItemResult::default()
                }))
            }
            _ => None,
        })
    }

    fn tensors(&self, item: v1::Item) -> Result<Vec<v1::Tensor>, Status> {
        let bytes = match &self.reply {
            Reply::Item => return Ok(item.inputs),
            Reply::Bytes(bytes) => *bytes,
            Reply::Model(engine) => {
                engine.call(&self.state).map_err(|error| Status::internal(error.to_string()))?;
                engine.workload().output_bytes
            }
        };
        Ok(vec![v1::Tensor {
            name: "output".to_owned(),
            datatype: v1::Datatype::Fp32.into(),
            shape: vec![bytes as i64 / 4],
            data: vec![0; bytes].into(),
        }])
    }
}

/// As large as real timings are on the wire.
const TIMING: v1::Timing = v1::Timing { queue_ns: 200_000, compute_ns: 1_000_000, age_ns: 1_500_000, batch_size: 16 };

impl Stream for Echoes {
    type Item = Result<v1::FeedResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match std::task::ready!(Pin::new(&mut this.messages).poll_next(cx)) {
                Some(Ok(request)) => {
                    if let Some(event) = this.event(request).transpose() {
                        return Poll::Ready(Some(event.map(|event| v1::FeedResponse { event: Some(event) })));
                    }
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}
