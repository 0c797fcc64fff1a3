//! The settings of the server's addresses, and of the names that it goes by.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{
    address::BindAddress,
    forms::{addresses, bind_address, file_mode},
    hosts::{HostPattern, OriginPattern},
};

/// Where the server listens, and under which names. Port 0 takes any free port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// gRPC for clients.
    #[serde(with = "bind_address")]
    pub grpc_addr: BindAddress,
    /// HTTP for clients.
    #[serde(with = "bind_address")]
    pub http_addr: BindAddress,
    /// Metrics and probes for operators.
    #[serde(with = "bind_address")]
    pub admin_addr: BindAddress,
    /// Permissions of the files of Unix sockets.
    #[serde(with = "file_mode")]
    pub socket_mode: u32,
    /// Names that clients may call the server by, besides `localhost` and addresses.
    pub allowed_hosts: Vec<HostPattern>,
    /// Origins of web pages that may send requests, besides the server's own.
    pub allowed_origins: Vec<OriginPattern>,
    /// Threads for long work; 0 for a quarter as many as there are cores.
    pub side_threads: usize,
    /// Proxies, each with many clients behind it.
    #[serde(with = "addresses")]
    pub proxies: Vec<IpAddr>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let local = |port: u16| BindAddress::from((Ipv4Addr::LOCALHOST, port));
        let (allowed_hosts, allowed_origins) = Default::default();
        Self {
            grpc_addr: local(50051),
            http_addr: local(8080),
            admin_addr: local(9464),
            socket_mode: 0o660,
            allowed_hosts,
            allowed_origins,
            side_threads: 0,
            proxies: Vec::new(),
        }
    }
}
