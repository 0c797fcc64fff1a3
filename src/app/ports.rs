//! The ports of a server: bound, and limited to what the process may have open.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
};

use super::StartError;
use crate::{
    certificates::Certificates,
    config::{BindAddress, Config, GrpcConfig, HttpConfig, Port, ProxyProtocol},
    connections::ConnectionRules,
    descriptors::Descriptors,
    frontend::{
        Bounds, WebRules,
        grpc::{GrpcDoor, GrpcServer, HealthKeeper},
        http::{HttpDoor, HttpServer},
        transcode, websocket,
    },
    open_inference::{AnswerCache, OpenInference},
    service::Service,
    transport::{BoundSocket, LocalListener, Shutdown, Socket, Surroundings},
};

/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`). The usual 128 are too few when
/// all clients come back at once: one that finds no room tries again after a second.
const BACKLOG: i32 = 4_096;

/// The ports, bound; nothing is accepted yet.
pub(super) struct Bound {
    pub(super) grpc: BoundSocket,
    pub(super) http: BoundSocket,
    pub(super) admin: BoundSocket,
    pub(super) addresses: Addresses,
}

/// Where the ports listen; free ports have been found.
pub(super) struct Addresses {
    pub(super) grpc: BindAddress,
    pub(super) http: BindAddress,
    pub(super) admin: BindAddress,
}

impl Bound {
    /// # Errors
    /// [`StartError::Bind`] or [`StartError::Socket`] with the key of the port that cannot be bound.
    pub(super) fn as_configured(config: &Config) -> Result<Self, StartError> {
        let (grpc, grpc_addr) = bind(config, Port::Grpc)?;
        let (http, http_addr) = bind(config, Port::Http)?;
        let (admin, admin_addr) = bind(config, Port::Admin)?;
        let addresses = Addresses { grpc: grpc_addr, http: http_addr, admin: admin_addr };
        Ok(Self { grpc, http, admin, addresses })
    }
}

/// The Open Inference Protocol, as configured.
pub(super) fn open_inference(
    config: &Config,
    service: Service,
    cache: &AnswerCache,
    descriptors: &Descriptors,
    bounds: &Bounds,
) -> OpenInference {
    OpenInference::new(service, config.sequence.clone(), config.shared_memory.clone())
        .with_cache(cache.clone())
        .with_load_calls(config.models.max_load_calls)
        .within(descriptors.clone())
        .with_side_threads(bounds.side().clone())
}

/// What the gRPC and HTTP ports serve.
pub(super) struct ClientPorts {
    pub(super) open_inference: OpenInference,
    pub(super) bounds: Bounds,
    pub(super) web: WebRules,
    pub(super) surroundings: Surroundings,
    /// What encrypted ports show their clients.
    pub(super) shown: Option<Certificates>,
    pub(super) shutdown: Shutdown,
}

/// The servers of the client ports, ready to serve, each with what serves the other protocol on its port.
pub(super) struct Servers {
    grpc: (GrpcServer<Socket>, HttpDoor),
    http: (HttpServer<Socket>, GrpcDoor),
}

impl Servers {
    /// Serves until the ports are told to stop, and their connections have ended.
    pub(super) async fn serve(self) {
        let Self { grpc: (grpc, http_door), http: (http, grpc_door) } = self;
        tokio::join!(grpc.serve_with(http_door), http.serve_with(grpc_door));
    }
}

impl ClientPorts {
    /// Puts the servers on their sockets. The keeper is to be run as well.
    ///
    /// # Errors
    /// The system's, broken descriptors for reflection, and certificates that cannot be used.
    pub(super) fn open(
        self,
        config: &Config,
        grpc: BoundSocket,
        http: BoundSocket,
    ) -> Result<(Servers, HealthKeeper), StartError> {
        let Self { open_inference, bounds, web, surroundings, shown, shutdown } = self;
        let door = |port| open_inference.for_clients(config.access(port), config.anonymous(port));
        let (grpc_config, http_config) = settings(config, &surroundings.descriptors);
        // Routes of other front ends that speak HTTP, on each port.
        let others = |port| {
            let service = door(port).service().clone();
            websocket::router(service, config, &http_config, bounds.clone())
        };
        let http_settings = |port| HttpConfig { console: config.shows_console(port).into(), ..http_config.clone() };
        let memory = open_inference.service().memory().clone();
        let front = |grpc: &GrpcDoor| transcode::front(grpc.calls(), config.grpc.clone(), bounds.clone(), memory.clone());
        let gate = |port| shown.as_ref().map(|all| all.gate(port)).transpose().map(Option::flatten);
        let grpc = grpc.into_socket(gate(config.encryption(Port::Grpc))?)?;
        let http = http.into_socket(gate(config.encryption(Port::Http))?)?;
        // Both protocols on each port, with what that port lets its clients do.
        let (grpc, health) = GrpcServer::new(grpc, door(Port::Grpc), grpc_config, bounds.clone(), shutdown.clone())?;
        let grpc_door = grpc.door().for_port(door(Port::Http), &bounds, &health)?.with_web_rules(web.clone());
        let http_door = HttpDoor::new(door(Port::Grpc), http_settings(Port::Grpc), bounds.clone(), others(Port::Grpc));
        let http_door = http_door.behind(front(grpc.door())?).with_web_rules(web.clone());
        let http_others = others(Port::Http);
        let http = HttpServer::new(http, door(Port::Http), http_settings(Port::Http), bounds.clone(), http_others, shutdown);
        let http = http.behind(front(&grpc_door)?).within(surroundings.clone()).with_web_rules(web.clone());
        let grpc = grpc.within(surroundings).with_web_rules(web).with_rest(http_door.rest().clone());
        let grpc_door = grpc_door.with_rest(http.door().rest().clone());
        Ok((Servers { grpc: (grpc, http_door), http: (http, grpc_door) }, health))
    }
}

/// What applies to the connections of the client ports.
pub(super) fn rules(config: &Config) -> ConnectionRules {
    let server = &config.server;
    ConnectionRules {
        proxies: server.proxies.clone(),
        header_timeout: (server.proxy_protocol == ProxyProtocol::On).then(|| config.tls.handshake_timeout()),
        age_max: server.connection_max_age(),
        grace: server.connection_grace(),
        per_peer_max: server.max_connections_per_peer,
        new_per_peer_per_s: server.new_connections_per_peer_per_s,
    }
}

/// A port's socket, and where it listens.
fn bind(config: &Config, port: Port) -> Result<(BoundSocket, BindAddress), StartError> {
    let address = config.address(port);
    match address {
        BindAddress::Ip(ip_and_port) => {
            let cannot = |error| StartError::Bind { key: port.key(), address: *ip_and_port, error };
            let (listener, bound) = bind_tcp(*ip_and_port).map_err(cannot)?;
            Ok((listener.into(), bound.into()))
        }
        BindAddress::Unix(path) => Ok((bind_local(config, port, path)?, address.clone())),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    // It is already listening; this changes how many may wait.
    rustix::net::listen(&listener, BACKLOG)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

fn bind_local(config: &Config, port: Port, path: &Path) -> Result<BoundSocket, StartError> {
    let bound = LocalListener::bind(path, config.server.socket_mode, BACKLOG);
    bound.map(BoundSocket::Local).map_err(|error| StartError::Socket { key: port.key(), path: path.to_owned(), error })
}

/// The ports' settings, with no more connections than the process may have open files.
fn settings(config: &Config, descriptors: &Descriptors) -> (GrpcConfig, HttpConfig) {
    let fit = |key, wanted: usize| {
        let places = descriptors.connections(wanted);
        if places < wanted {
            let limit = descriptors.limit();
            tracing::info!(limit, "{key} = {wanted} is more than ulimit -n leaves room for: the port takes {places} connections");
        }
        places
    };
    let (mut grpc, mut http) = (config.grpc.clone(), config.http.clone());
    grpc.max_connections = fit("grpc.max_connections", grpc.max_connections);
    http.max_connections = fit("http.max_connections", http.max_connections);
    (grpc, http)
}
