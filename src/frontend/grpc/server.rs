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
use tonic::{codec::CompressionEncoding, service::Routes};
use tower::{Layer as _, ServiceExt as _};

use super::{
    arrival::{ArrivalService, Arrivals},
    entrance::{Entered, Entrance, transport_header_bytes},
    example::Example,
    greeting::{HTTP1_ANSWER, greeting, is_http1},
    health::HealthKeeper,
    leaving::{has_left, told_to_leave},
    models::Models,
    native::NativeGrpc,
    open_inference::OpenInferenceGrpc,
    reader::WatchedBody,
    together::{StreamExecutor, Together},
    wire::{
        inference_service_server::InferenceServiceServer,
        open_inference::grpc_inference_service_server::GrpcInferenceServiceServer,
        plain::model_inference_server::ModelInferenceServer,
    },
};
use crate::{
    config::GrpcConfig,
    connections::Connection,
    frontend::{
        Bounds,
        linger::Lingering,
        listener::{Listener, Shutdown, Surroundings},
        web::WebRules,
    },
    open_inference::OpenInference,
    proto::{DESCRIPTORS, health::health_server::HealthServer, v1::model_service_server::ModelServiceServer},
    vitals::Part,
};

/// Time to send a refusal and see the client close.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The services, as a connection's requests come to them.
type Services = Entered<ArrivalService<Routes>>;

/// A gRPC server on a listener that is bound already.
pub struct GrpcServer {
    listener: Listener,
    routes: Routes,
    arrivals: Arrivals,
    config: GrpcConfig,
    unread_timeout: Duration,
    web: WebRules,
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
        bounds: Bounds,
        shutdown: Shutdown,
    ) -> Result<(Self, HealthKeeper), tonic_reflection::server::Error> {
        let (service, reflection) = (open_inference.service().clone(), open_inference.access().reflection);
        let limit = config.max_message_bytes;
        let unread_timeout = service.config().unread_timeout();
        let inference = InferenceServiceServer::new(NativeGrpc::new(service.clone(), limit, bounds.clone()))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let models = ModelServiceServer::new(Models::new(open_inference.clone(), limit))
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let open_inference = GrpcInferenceServiceServer::new(OpenInferenceGrpc::new(open_inference, limit, bounds.clone()))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .accept_compressed(CompressionEncoding::Deflate);
        let example = ModelInferenceServer::new(Example::new(service.clone(), bounds.side.clone()))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let keeper = HealthKeeper::new(service.clone());
        let health = HealthServer::new(keeper.board());
        let mut routes =
            Routes::new(inference).add_service(models).add_service(open_inference).add_service(example).add_service(health);
        if reflection {
            let reflection = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
            routes = routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
        }
        let routes = routes.prepare();
        let listener = Listener {
            listener,
            part: Part::GrpcPort,
            port: service.connections().port(config.max_connections, bounds.metrics.clone()),
            metrics: bounds.metrics.clone(),
            shutdown: shutdown.clone(),
            surroundings: Surroundings::unlimited(),
        };
        let arrivals = Arrivals::new(&config, bounds)?;
        Ok((Self { listener, routes, arrivals, config, unread_timeout, web: WebRules::default(), shutdown }, keeper))
    }

    /// The same with rules for web pages that settings have made; without, only the server's own pages and names are answered.
    #[must_use]
    pub fn with_web_rules(self, web: WebRules) -> Self {
        Self { web, ..self }
    }

    /// The same server, in a process with these surroundings.
    #[must_use]
    pub fn within(mut self, surroundings: Surroundings) -> Self {
        self.listener.surroundings = surroundings;
        self
    }

    /// Serves until all connections have ended after [`Shutdown::close`], or at once after [`Shutdown::abort`].
    pub async fn serve(self) {
        let Self { listener, routes, arrivals, config, unread_timeout, web, shutdown } = self;
        listener
            .serve(|stream, place| {
                let entrance = Entrance { header_bytes_max: config.max_header_bytes, web: web.on(&stream) };
                let services = entrance.layer(arrivals.connection(place.peer()).layer(routes.clone()));
                connection(stream, place, services, &config, unread_timeout, shutdown.clone())
            })
            .await;
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
    services: Services,
    config: &GrpcConfig,
    unread_timeout: Duration,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send + use<> {
    let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    let streams = StreamExecutor::new(unread_timeout, place.calls());
    let [idle_timeout, greeting_timeout] = [config.idle_timeout_s, config.greeting_timeout_s].map(Duration::from_secs);
    let mut http2 = hyper::server::conn::http2::Builder::new(streams.clone());
    http2
        .timer(TokioTimer::new())
        .initial_stream_window_size(config.stream_window_bytes)
        .initial_connection_window_size(config.connection_window_bytes)
        .max_send_buf_size(config.max_send_buffer_bytes)
        .max_concurrent_streams(config.max_streams_per_connection)
        .max_header_list_size(transport_header_bytes(config.max_header_bytes))
        .keep_alive_interval(seconds(config.keepalive_interval_s))
        .keep_alive_timeout(Duration::from_secs(config.keepalive_timeout_s));
    let services = services.map_response(|response: http::Response<_>| response.map(WatchedBody::new));
    async move {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it began");
            return;
        }
        let read = tokio::select! {
            read = greeting(&mut stream, greeting_timeout) => read,
            _ = place.asked_to_leave(None) => return,
        };
        let Some(read) = read else { return };
        if is_http1(&read) {
            refuse_http1(stream).await;
            return;
        }
        let go_away = shutdown.go_away();
        let connection = http2.serve_connection(TokioIo::new(Lingering::after(read, stream)), TowerToHyperService::new(services));
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
