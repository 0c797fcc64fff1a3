//! The limit of what a server on this stack can do: a bare tonic service that gives each item back at once.
//!
//! It speaks the messages of the real API over the same codec and the same flow-control windows, and has no queue, no session and
//! no engine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, stream};
use tidemill::{
    config::GrpcConfig,
    proto::v1::{
        self, feed_request, feed_response,
        inference_service_server::{InferenceService, InferenceServiceServer},
        item_result,
    },
};
use tokio::{net::TcpListener, task::AbortHandle};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

/// What each item is answered with.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Its own tensors.
    Item,
    /// As many bytes as the model's answer has.
    Bytes(usize),
}

/// A running echo; it ends with this value.
#[derive(Debug)]
pub(crate) struct EchoServer {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl EchoServer {
    pub(crate) async fn start(reply: Reply) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let config = GrpcConfig::default();
        let server = Server::builder()
            .initial_stream_window_size(config.stream_window_bytes)
            .initial_connection_window_size(config.connection_window_bytes)
            .max_concurrent_streams(config.max_streams_per_connection)
            .add_service(InferenceServiceServer::new(Echo { reply }));
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let task = tokio::spawn(server.serve_with_incoming(incoming)).abort_handle();
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
        Ok(Response::new(Echoes { messages: request.into_inner(), items: 0, reply: self.reply.clone() }))
    }
}

struct Echoes {
    messages: Streaming<v1::FeedRequest>,
    items: u64,
    reply: Reply,
}

impl Echoes {
    fn event(&mut self, request: v1::FeedRequest) -> Option<feed_response::Event> {
        match request.message? {
            feed_request::Message::Open(_) => Some(feed_response::Event::Opened(v1::Opened::default())),
            feed_request::Message::Item(item) => {
                let seq = self.items;
                self.items += 1;
                Some(feed_response::Event::Result(v1::ItemResult {
                    seq,
                    outcome: Some(item_result::Outcome::Outputs(self.outputs(item))),
                    timing: Some(TIMING),
                    ..v1::ItemResult::default()
                }))
            }
            _ => None,
        }
    }

    fn outputs(&self, item: v1::Item) -> v1::Outputs {
        let tensors = match self.reply {
            Reply::Item => item.inputs,
            Reply::Bytes(bytes) => vec![v1::Tensor {
                name: "output".to_owned(),
                datatype: v1::Datatype::Fp32.into(),
                shape: vec![bytes as i64 / 4],
                data: vec![0; bytes].into(),
            }],
        };
        v1::Outputs { tensors }
    }
}

/// Of the size that real timings have on the wire.
const TIMING: v1::Timing = v1::Timing { queue_ns: 200_000, compute_ns: 1_000_000, age_ns: 1_500_000, batch_size: 16 };

impl Stream for Echoes {
    type Item = Result<v1::FeedResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match std::task::ready!(Pin::new(&mut this.messages).poll_next(cx)) {
                Some(Ok(request)) => {
                    if let Some(event) = this.event(request) {
                        return Poll::Ready(Some(Ok(v1::FeedResponse { event: Some(event) })));
                    }
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}
