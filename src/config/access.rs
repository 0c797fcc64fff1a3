//! What a port lets its clients do, which depends on the address that it is bound to.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{ClientAuth, Config};

/// What clients of one port may do, apart from asking for results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Load and unload models.
    pub repository: bool,
    /// Register shared memory of this machine, and have it read and written.
    pub shared_memory: bool,
    /// Ask for the API itself.
    pub reflection: bool,
}

impl Access {
    /// Everything.
    pub const FULL: Self = Self { repository: true, shared_memory: true, reflection: true };
}

/// A port that other machines reach, and what is open there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// The setting of its address.
    pub key: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// What anyone who reaches it may do.
    pub open: Vec<&'static str>,
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, address, encrypted, open } = self;
        let lacks =
            if *encrypted { "encrypted, but without authentication" } else { "with neither authentication nor encryption" };
        write!(f, "{key} = {address} is open to other machines, {lacks}; ")?;
        write!(f, "anyone who reaches it may {}", open.join(", "))
    }
}

/// Whether only this machine reaches an address.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    // An IPv6 socket has IPv4's addresses in its own form.
    address.to_canonical().is_loopback()
}

impl Config {
    /// What clients of a port at this address may do.
    #[must_use]
    pub fn access(&self, address: IpAddr) -> Access {
        let is_local = is_loopback(address);
        Access {
            repository: self.control.repository.is_on(is_local),
            shared_memory: self.shared_memory.enabled.is_on(is_local),
            reflection: self.control.reflection.is_on(true),
        }
    }

    /// The ports that other machines reach, but for those whose clients must show a certificate.
    #[must_use]
    pub fn exposures(&self) -> Vec<Exposure> {
        let (server, tls) = (&self.server, &self.tls);
        let mut exposures = Vec::new();
        for (key, address, is_grpc, port) in
            [("server.grpc_addr", server.grpc_addr, true, tls.grpc), ("server.http_addr", server.http_addr, false, tls.http)]
        {
            let Access { repository, shared_memory, reflection } = self.access(address.ip());
            let open = [
                (true, "run and list models"),
                (self.control.priority_high.is_on(true), "ask for priority HIGH (control.priority_high)"),
                (is_grpc && reflection, "ask for the API (control.reflection)"),
                (repository, "load and unload models (control.repository)"),
                (shared_memory, "read and write this machine's shared memory (shared_memory.enabled)"),
            ];
            let auth = tls.port(port);
            if auth != Some(ClientAuth::Required) {
                exposures.push(Exposure { key, address, encrypted: auth.is_some(), open: chosen(open) });
            }
        }
        let open = [
            (true, "read the names of models and why some could not be loaded"),
            (self.metrics.enabled, "read metrics (metrics.enabled)"),
        ];
        let auth = tls.port(tls.admin);
        if auth != Some(ClientAuth::Required) {
            let (key, address) = ("server.admin_addr", server.admin_addr);
            exposures.push(Exposure { key, address, encrypted: auth.is_some(), open: chosen(open) });
        }
        exposures.retain(|exposure| !is_loopback(exposure.address.ip()));
        exposures
    }
}

fn chosen<const COUNT: usize>(open: [(bool, &'static str); COUNT]) -> Vec<&'static str> {
    open.into_iter().filter_map(|(is_open, what)| is_open.then_some(what)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Switch;

    fn config(grpc: &str, http: &str, admin: &str) -> Config {
        let mut config = Config::default();
        let address = |text: &str| text.parse().expect("an address");
        (config.server.grpc_addr, config.server.http_addr) = (address(grpc), address(http));
        config.server.admin_addr = address(admin);
        config
    }

    fn access(config: &Config, address: &str) -> Access {
        config.access(address.parse().expect("an address"))
    }

    #[test]
    fn what_changes_the_server_is_open_to_its_own_machine_alone() {
        let config = Config::default();
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(access(&config, local), Access::FULL, "{local}");
        }
        let closed = Access { repository: false, shared_memory: false, reflection: true };
        for other in ["0.0.0.0", "::", "192.168.0.1", "::ffff:10.0.0.1", "fe80::1"] {
            assert_eq!(access(&config, other), closed, "{other}");
        }
    }

    #[test]
    fn a_switch_that_is_set_holds_at_every_address() {
        let mut config = Config::default();
        config.control.repository = Switch::On;
        config.shared_memory.enabled = Switch::Off;
        config.control.reflection = Switch::Off;
        let found = Access { repository: true, shared_memory: false, reflection: false };
        assert_eq!(access(&config, "127.0.0.1"), found);
        assert_eq!(access(&config, "0.0.0.0"), found);
    }

    #[test]
    fn each_port_that_others_reach_is_listed_with_what_is_open_there() {
        assert_eq!(Config::default().exposures(), []);
        let mut config = config("0.0.0.0:50051", "127.0.0.1:8080", "[::]:9464");
        let told = |config: &Config| config.exposures().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            told(&config),
            [
                "server.grpc_addr = 0.0.0.0:50051 is open to other machines, with neither authentication nor encryption; anyone who reaches it may \
                 run and list models, ask for priority HIGH (control.priority_high), ask for the API (control.reflection)",
                "server.admin_addr = [::]:9464 is open to other machines, with neither authentication nor encryption; anyone who reaches it may \
                 read the names of models and why some could not be loaded, read metrics (metrics.enabled)",
            ]
        );
        config.tls.cert = vec!["cert.pem".into()];
        assert!(told(&config).iter().all(|told| told.contains("other machines, encrypted, but without authentication; ")));
        config.tls.client_auth = ClientAuth::Required;
        assert_eq!(config.exposures(), []);
        config.tls.cert.clear();
        config.server.admin_addr.set_ip([127, 0, 0, 1].into());
        (config.control.repository, config.shared_memory.enabled) = (Switch::On, Switch::On);
        (config.control.reflection, config.control.priority_high) = (Switch::Off, Switch::Off);
        assert_eq!(
            told(&config),
            [
                "server.grpc_addr = 0.0.0.0:50051 is open to other machines, with neither authentication nor encryption; anyone who reaches it may \
              run and list models, load and unload models (control.repository), \
              read and write this machine's shared memory (shared_memory.enabled)"
            ]
        );
    }
}
