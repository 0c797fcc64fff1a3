//! The settings of the server's addresses and of the connections to them.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

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
    /// Whether their connections begin by saying whose they are.
    pub proxy_protocol: ProxyProtocol,
    /// Seconds after which a connection is asked to leave; 0 for never.
    pub connection_max_age_s: u64,
    /// Seconds that its calls have then.
    pub connection_grace_s: u64,
    /// Connections of one address; 0 for as many as its share allows.
    pub max_connections_per_peer: usize,
    /// New connections a second of one address; 0 for any number.
    pub new_connections_per_peer_per_s: u32,
}

/// Whether connections from proxies begin with the header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// They do not.
    #[default]
    Off,
    /// They must.
    On,
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
            proxy_protocol: ProxyProtocol::Off,
            connection_max_age_s: 0,
            connection_grace_s: 60,
            max_connections_per_peer: 0,
            new_connections_per_peer_per_s: 0,
        }
    }
}

impl ServerConfig {
    /// Age at which a connection is asked to leave; `None` for never.
    #[must_use]
    pub fn connection_max_age(&self) -> Option<Duration> {
        (self.connection_max_age_s > 0).then(|| Duration::from_secs(self.connection_max_age_s))
    }

    /// What its calls have then.
    #[must_use]
    pub const fn connection_grace(&self) -> Duration {
        Duration::from_secs(self.connection_grace_s)
    }

    /// The first setting that contradicts another, its value, and what is wrong with it.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String, String)> {
        (self.proxy_protocol == ProxyProtocol::On && self.proxies.is_empty()).then(|| {
            let reason = "is about the connections of proxies; server.proxies must name them".to_owned();
            ("server.proxy_protocol", "on".to_owned(), reason)
        })
    }
}
