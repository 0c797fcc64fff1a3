//! The gRPC port: accepts connections and serves them until told to stop.
//!
//! An own accept loop on hyper, because tonic's has no deadline for its graceful shutdown, does not set the flow-control windows
//! that many streams on one connection need, and cuts calls at their `grpc-timeout` with CANCELLED.
//!
//! # SHUTDOWN
//! As [`Shutdown`] says; going away is GOAWAY here, and the calls that are open go on.

use std::time::Duration;

use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::{body::Body, codec::CompressionEncoding, service::Routes};
use tower::{Layer as _, ServiceExt as _};

use super::{
    example::Example,
    greeting::{HTTP1_ANSWER, greeting, is_http1},
    health::HealthKeeper,
    leaving::{has_left, told_to_leave},
    limits::NameMessageLimit,
    models::Models,
    native::Native,
    open_inference::OpenInferenceGrpc,
    reader::WatchedBody,
    together::{StreamExecutor, Together},
    wire::inference_service_server::InferenceServiceServer,
};
use crate::{
    config::GrpcConfig,
    connections::Connection,
    frontend::{
        linger::Lingering,
        listener::{Listener, Shutdown},
    },
    open_inference::OpenInference,
    proto::{
        DESCRIPTORS, health::health_server::HealthServer, inference::grpc_inference_service_server::GrpcInferenceServiceServer,
        model::model_inference_server::ModelInferenceServer, v1::model_service_server::ModelServiceServer,
    },
    telemetry::ServerMetrics,
};

/// Time to send a refusal and see the client close.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A gRPC server on a listener that is bound already.
pub struct GrpcServer {
    listener: Listener,
    routes: Routes,
    config: GrpcConfig,
    unread_timeout: Duration,
    shutdown: Shutdown,
}

impl GrpcServer {
    /// Puts the services together. The keeper is to be run beside it.
    ///
    /// # Errors
    /// If the descriptors for reflection are broken, which a build with a sound `proto/` never has.
    pub fn new(
        listener: TcpListener,
        open_inference: OpenInference,
        config: GrpcConfig,
        metrics: ServerMetrics,
        shutdown: Shutdown,
    ) -> Result<(Self, HealthKeeper), tonic_reflection::server::Error> {
        let service = open_inference.service().clone();
        let limit = config.max_message_bytes;
        let unread_timeout = service.config().unread_timeout();
        let inference = InferenceServiceServer::new(Native::new(service.clone(), limit))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let open_inference = GrpcInferenceServiceServer::new(OpenInferenceGrpc::new(open_inference, limit))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .accept_compressed(CompressionEncoding::Deflate);
        let example = ModelInferenceServer::new(Example::new(service.clone()))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let models = ModelServiceServer::new(Models::new(service.clone(), limit))
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let keeper = HealthKeeper::new(service.clone());
        let health = HealthServer::new(keeper.board());
        let reflection = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
        let routes = Routes::new(inference)
            .add_service(models)
            .add_service(open_inference)
            .add_service(example)
            .add_service(health)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .prepare();
        let port = service.connections().port(config.max_connections, metrics.clone());
        let listener = Listener { listener, port, metrics, shutdown: shutdown.clone() };
        Ok((Self { listener, routes, config, unread_timeout, shutdown }, keeper))
    }

    /// Serves until all connections have ended after [`Shutdown::close`], or at once after [`Shutdown::abort`].
    pub async fn serve(self) {
        let Self { listener, routes, config, unread_timeout, shutdown } = self;
        listener.serve(|stream, place| connection(stream, place, &routes, &config, unread_timeout, shutdown.clone())).await;
    }
}

/// Says what this port speaks, and closes once the client has read it.
async fn refuse_http1(stream: TcpStream) {
    let mut stream = Lingering::new(stream);
    let saying = async {
        stream.write_all(HTTP1_ANSWER).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, saying).await {
        tracing::debug!(%error, "a connection broke off");
    }
}

fn connection(
    mut stream: TcpStream,
    place: Connection,
    routes: &Routes,
    config: &GrpcConfig,
    unread_timeout: Duration,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send + use<> {
    let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    let streams = StreamExecutor::new(unread_timeout, place.calls());
    let idle_timeout = Duration::from_secs(config.idle_timeout_s);
    let mut http2 = hyper::server::conn::http2::Builder::new(streams.clone());
    http2
        .timer(TokioTimer::new())
        .initial_stream_window_size(config.stream_window_bytes)
        .initial_connection_window_size(config.connection_window_bytes)
        .max_send_buf_size(config.max_send_buffer_bytes)
        .max_concurrent_streams(config.max_streams_per_connection)
        .max_header_list_size(config.max_header_bytes)
        .keep_alive_interval(seconds(config.keepalive_interval_s))
        .keep_alive_timeout(Duration::from_secs(config.keepalive_timeout_s));
    let limit = NameMessageLimit { max_message_bytes: config.max_message_bytes };
    let routes = limit
        .layer(routes.clone())
        .map_request(|request: http::Request<_>| request.map(Body::new))
        .map_response(|response: http::Response<_>| response.map(WatchedBody::new));
    async move {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it began");
            return;
        }
        let read = tokio::select! {
            read = greeting(&mut stream) => read,
            _ = place.asked_to_leave(None) => return,
        };
        let Some(read) = read else { return };
        if is_http1(&read) {
            refuse_http1(stream).await;
            return;
        }
        let go_away = shutdown.go_away();
        let connection = http2.serve_connection(TokioIo::new(Lingering::after(read, stream)), TowerToHyperService::new(routes));
        let mut connection = std::pin::pin!(Together::new(connection, &streams));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.aborted().cancelled() => return,
            leaves = told_to_leave(&place, idle_timeout, go_away) => {
                connection.as_mut().change(hyper::server::conn::http2::Connection::graceful_shutdown);
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = shutdown.aborted().cancelled() => return,
                    () = has_left(&place, leaves) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke off");
        }
    }
}
