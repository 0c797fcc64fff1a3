//! The gRPC port: accepts connections and serves them until asked to stop.
//!
//! It uses hyper and the transport's own loops, because tonic's server has no deadline for its graceful shutdown, does not
//! set the flow-control windows that many streams on one connection need, and cuts calls off at their `grpc-timeout` with
//! CANCELLED.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body as HttpBody;
use tonic::{body::Body, codec::CompressionEncoding, service::Routes};
use tower::{
    Layer as _, Service, ServiceExt as _,
    util::{BoxCloneSyncService, MapResponse},
};

use super::{
    arrival::Arrivals,
    entrance::{Entrance, gate, transport_header_bytes},
    example::Example,
    health::HealthKeeper,
    models::Models,
    native::NativeGrpc,
    open_inference::OpenInferenceGrpc,
    reader::{Reader, WatchedBody, WithReader},
    services::Services,
    split::Split,
    wire::{
        inference_service_server::InferenceServiceServer,
        open_inference::grpc_inference_service_server::GrpcInferenceServiceServer,
        plain::model_inference_server::ModelInferenceServer,
    },
};
use crate::{
    config::GrpcConfig,
    domain::Peer,
    frontend::{Bounds, Rest, WebRules, acting::Gate, ahead::GrpcCalls, web::WebCheck},
    open_inference::OpenInference,
    proto::{DESCRIPTORS, health::health_server::HealthServer, v1::model_service_server::ModelServiceServer},
    transport::{
        Accept, Client, Clients, Io, Listener, Protocol, Shutdown, Surroundings, Talk,
        http2::{Plug, converse},
    },
    vitals::Part,
};

/// A gRPC server on a socket that is bound already.
pub struct GrpcServer<A> {
    listener: Listener<A, Clients>,
    door: GrpcDoor,
}

/// What serves the connections of HTTP/2, on whichever port. Clones share it.
#[derive(Clone)]
pub struct GrpcDoor {
    services: Services,
    gate: Option<Gate>,
    arrivals: Arrivals,
    config: Arc<GrpcConfig>,
    unread_timeout: Duration,
    web: WebRules,
    /// What answers requests that are no calls, if anything does.
    rest: Option<Rest>,
}

impl GrpcDoor {
    /// Builds the services. The caller runs the keeper too.
    ///
    /// # Errors
    /// If the descriptors for reflection are broken, which a build with a sound `proto/` never has.
    pub fn new(
        open_inference: OpenInference,
        config: GrpcConfig,
        bounds: Bounds,
    ) -> Result<(Self, HealthKeeper), tonic_reflection::server::Error> {
        let keeper = HealthKeeper::new(open_inference.service().clone());
        let unread_timeout = open_inference.service().config().unread_timeout();
        let gate = gate(open_inference.service());
        let services = services(open_inference, &config, &bounds, &keeper)?;
        let arrivals = Arrivals::new(&config, bounds)?;
        let (config, web) = (Arc::new(config), WebRules::default());
        Ok((Self { services, gate, arrivals, config, unread_timeout, web, rest: None }, keeper))
    }

    /// The same services for the clients of another port, which `open_inference` is for. Both share their limits.
    ///
    /// # Errors
    /// As for [`GrpcDoor::new`].
    pub fn for_port(
        &self,
        open_inference: OpenInference,
        bounds: &Bounds,
        keeper: &HealthKeeper,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let gate = gate(open_inference.service());
        Ok(Self { services: services(open_inference, &self.config, bounds, keeper)?, gate, ..self.clone() })
    }

    /// The same with configured rules for web pages.
    #[must_use]
    pub fn with_web_rules(self, web: WebRules) -> Self {
        Self { web, ..self }
    }

    /// The same, with an answer to requests that are no calls.
    #[must_use]
    pub fn with_rest(self, rest: Rest) -> Self {
        Self { rest: Some(rest), ..self }
    }

    /// The same services for calls that come in another form. Limits are shared.
    #[must_use]
    pub fn calls(&self) -> GrpcCalls {
        let door = self.clone();
        GrpcCalls::new(move |peer, web| {
            let services = door.connection(peer, web).map_response(|response: Response<_>| response.map(Body::new));
            BoxCloneSyncService::new(WithReader::new(services))
        })
    }

    /// The services as the client of a connection gets them.
    fn connection<B>(&self, peer: Peer, web: WebCheck) -> impl CallService<B>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let entrance = Entrance { header_bytes_max: self.config.max_header_bytes, web, gate: self.gate.clone() };
        let services = entrance.layer(self.arrivals.connection(peer).layer(self.services.clone()));
        MapResponse::new(services, |response: Response<Body>| response.map(WatchedBody::new))
    }
}

/// What answers calls that come with a body `B`.
trait CallService<B>:
    Service<Request<B>, Response = Response<WatchedBody>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<B, S> CallService<B> for S where
    S: Service<Request<B>, Response = Response<WatchedBody>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
{
}

impl Talk for GrpcDoor {
    const PROTOCOL: Protocol = Protocol::Http2;

    fn first_within(&self) -> Duration {
        Duration::from_secs(self.config.greeting_timeout_s)
    }

    fn talk<I: Io>(&self, io: I, client: Client, shutdown: Shutdown) -> impl Future<Output = ()> + Send + 'static {
        let calls = self.connection(client.peer(), self.web.on(&io));
        let rest = self.rest.as_ref().map(|rest| rest.on(&io, client.peer()));
        let services = Split { calls, rest };
        converse::<Reader, _, _, _>(io, client, services, plug(&self.config, self.unread_timeout), shutdown)
    }
}

impl<A: Accept> GrpcServer<A> {
    /// Builds the services. The caller runs the keeper too.
    ///
    /// # Errors
    /// If the descriptors for reflection are broken, which a build with a sound `proto/` never has.
    pub fn new(
        socket: A,
        open_inference: OpenInference,
        config: GrpcConfig,
        bounds: Bounds,
        shutdown: Shutdown,
    ) -> Result<(Self, HealthKeeper), tonic_reflection::server::Error> {
        let metrics = bounds.metrics.clone();
        let port = open_inference.service().connections().port(config.max_connections, metrics.clone());
        let listener = Listener::for_clients(socket, Part::GrpcPort, port, metrics, shutdown);
        let (door, keeper) = GrpcDoor::new(open_inference, config, bounds)?;
        Ok((Self { listener, door }, keeper))
    }

    /// The same with configured rules for web pages; without them, only the server's own pages and names are answered.
    #[must_use]
    pub fn with_web_rules(self, web: WebRules) -> Self {
        Self { door: self.door.with_web_rules(web), ..self }
    }

    /// The same, with an answer to requests that are no calls.
    #[must_use]
    pub fn with_rest(self, rest: Rest) -> Self {
        Self { door: self.door.with_rest(rest), ..self }
    }

    /// The same server, in a process with these surroundings.
    #[must_use]
    pub fn within(mut self, surroundings: Surroundings) -> Self {
        self.listener = self.listener.within(surroundings);
        self
    }

    /// What serves its connections.
    #[must_use]
    pub const fn door(&self) -> &GrpcDoor {
        &self.door
    }

    /// Serves until all connections have ended after [`Shutdown::close`], or at once after [`Shutdown::abort`].
    pub async fn serve(self) {
        self.listener.talk(self.door, None::<GrpcDoor>).await;
    }

    /// The same, with another front end for connections that speak its protocol.
    pub(crate) async fn serve_with(self, other: impl Talk) {
        self.listener.talk(self.door, Some(other)).await;
    }
}

fn services(
    open_inference: OpenInference,
    config: &GrpcConfig,
    bounds: &Bounds,
    keeper: &HealthKeeper,
) -> Result<Services, tonic_reflection::server::Error> {
    let (service, reflection) = (open_inference.service().clone(), open_inference.access().reflection);
    let limit = config.max_message_bytes;
    let native = InferenceServiceServer::new(NativeGrpc::new(service.clone(), limit, bounds.clone()))
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
    let example = ModelInferenceServer::new(Example::new(service, bounds.side.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd);
    let health = HealthServer::new(keeper.board());
    let mut others = Routes::new(models).add_service(example).add_service(health);
    if reflection {
        let reflection = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
        others = others.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
    }
    Ok(Services { native, open_inference, others: others.prepare() })
}

fn plug(config: &GrpcConfig, unread_timeout: Duration) -> Plug {
    Plug {
        stream_window_bytes: config.stream_window_bytes,
        connection_window_bytes: config.connection_window_bytes,
        send_buffer_bytes: config.max_send_buffer_bytes,
        streams_max: config.max_streams_per_connection,
        header_bytes_max: transport_header_bytes(config.max_header_bytes),
        greeting_timeout: Duration::from_secs(config.greeting_timeout_s),
        idle_timeout: Duration::from_secs(config.idle_timeout_s),
        unread_timeout,
        keepalive_interval: Some(config.keepalive_interval()).filter(|interval| !interval.is_zero()),
        keepalive_timeout: config.keepalive_timeout(),
    }
}
