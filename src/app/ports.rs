//! The ports of a server: bound, and limited to what the process may have open.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use super::StartError;
use crate::{
    config::{Config, GrpcConfig, HttpConfig},
    descriptors::Descriptors,
};

/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`). The usual 128 are too few when
/// all clients come back at once: one that finds no room tries again after a second.
const BACKLOG: i32 = 4_096;

pub(super) fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        // It is already listening; this changes how many may wait.
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(listener)
    });
    bound.map_err(|error| StartError::Bind { key, address, error })
}

/// The same listener for the runtime, and the address it listens on.
pub(super) fn nonblocking(listener: TcpListener) -> io::Result<(tokio::net::TcpListener, SocketAddr)> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The ports' settings, with no more connections than the process may have open files.
pub(super) fn settings(config: &Config, descriptors: &Descriptors) -> (GrpcConfig, HttpConfig) {
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
