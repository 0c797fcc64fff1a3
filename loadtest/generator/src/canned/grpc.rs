//! The service: inferences, and how many there were, are answered here, and every other method by the real server.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use prost::Message;
use tidemill::config::GrpcConfig;
use tidemill_client::wire::{
    codec::SmallBufferCodec,
    inference::{
        ModelInferRequest, ModelInferResponse, ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse,
    },
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::Service,
    server::{Grpc, NamedService, StreamingService, UnaryService},
    transport::{Channel, Server, server::TcpIncoming},
};

use super::answer::Answer;
use crate::target::ANSWER_BYTES_MAX;

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, answer: Arc<Answer>, original: Channel) {
    let config = GrpcConfig::default();
    let server = Server::builder()
        .initial_stream_window_size(config.stream_window_bytes)
        .initial_connection_window_size(config.connection_window_bytes)
        .max_concurrent_streams(config.max_streams_per_connection)
        .add_service(Methods { answer, original });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    if let Err(error) = server.serve_with_incoming(incoming).await {
        eprintln!("error: gRPC ended: {error}");
    }
}

#[derive(Clone)]
struct Methods {
    answer: Arc<Answer>,
    original: Channel,
}

impl NamedService for Methods {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl Service<http::Request<Body>> for Methods {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next();
        let (answer, mut original) = (Arc::clone(&self.answer), self.original.clone());
        match method {
            Some("ModelInfer") => async move { Ok(codec().unary(Unary(answer), request).await) }.boxed(),
            Some("ModelStreamInfer") => async move { Ok(codec().streaming(InStream(answer), request).await) }.boxed(),
            Some("ModelStatistics") => async move { Ok(codec().unary(Statistics(answer), request).await) }.boxed(),
            _ => async move {
                let passed_on = async {
                    std::future::poll_fn(|cx| original.poll_ready(cx)).await?;
                    original.call(request).await
                };
                Ok(passed_on.await.unwrap_or_else(|error| Status::unavailable(error.to_string()).into_http()))
            }
            .boxed(),
        }
    }
}

fn codec<M, Q>() -> Grpc<SmallBufferCodec<M, Q>>
where
    M: Message + 'static,
    Q: Message + Default + 'static,
{
    Grpc::new(SmallBufferCodec::default()).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// `ModelInfer`
struct Unary(Arc<Answer>);

impl UnaryService<ModelInferRequest> for Unary {
    type Response = ModelInferResponse;
    type Future = Ready<Result<Response<ModelInferResponse>, Status>>;

    fn call(&mut self, request: Request<ModelInferRequest>) -> Self::Future {
        ready(self.0.to(request.into_inner()).map(Response::new))
    }
}

/// `ModelStatistics`
struct Statistics(Arc<Answer>);

impl UnaryService<ModelStatisticsRequest> for Statistics {
    type Response = ModelStatisticsResponse;
    type Future = Ready<Result<Response<ModelStatisticsResponse>, Status>>;

    fn call(&mut self, _request: Request<ModelStatisticsRequest>) -> Self::Future {
        ready(Ok(Response::new(ModelStatisticsResponse { model_stats: vec![self.0.statistics()] })))
    }
}

/// `ModelStreamInfer`
struct InStream(Arc<Answer>);

impl StreamingService<ModelInferRequest> for InStream {
    type Response = ModelStreamInferResponse;
    type ResponseStream = Replies;
    type Future = Ready<Result<Response<Replies>, Status>>;

    fn call(&mut self, request: Request<Streaming<ModelInferRequest>>) -> Self::Future {
        ready(Ok(Response::new(Replies { requests: request.into_inner(), answer: Arc::clone(&self.0) })))
    }
}

struct Replies {
    requests: Streaming<ModelInferRequest>,
    answer: Arc<Answer>,
}

impl Stream for Replies {
    type Item = Result<ModelStreamInferResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let reply = |request: Result<ModelInferRequest, Status>| {
            let response = this.answer.to(request?)?;
            Ok(ModelStreamInferResponse { infer_response: Some(response), ..ModelStreamInferResponse::default() })
        };
        this.requests.poll_next_unpin(cx).map(|request| request.map(reply))
    }
}
