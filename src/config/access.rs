//! What a port lets its clients do, which depends on the address that it is bound to.

use std::fmt;

use super::{BindAddress, ClientAuth, Config, PortTls};
use crate::auth::{Scope, Scopes};

/// One of the server's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// The gRPC port.
    Grpc,
    /// The HTTP port.
    Http,
    /// The admin port.
    Admin,
}

impl Port {
    const ALL: [Self; 3] = [Self::Grpc, Self::Http, Self::Admin];

    /// The setting of its address.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Grpc => "server.grpc_addr",
            Self::Http => "server.http_addr",
            Self::Admin => "server.admin_addr",
        }
    }

    /// The setting of its encryption.
    const fn tls_key(self) -> &'static str {
        match self {
            Self::Grpc => "tls.grpc",
            Self::Http => "tls.http",
            Self::Admin => "tls.admin",
        }
    }
}

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
    pub address: BindAddress,
    /// What anyone who reaches it may do.
    pub open: Vec<&'static str>,
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, address, open } = self;
        write!(f, "{key} = {address} is open to other machines, and anyone who reaches it may {}", open.join(", "))
    }
}

impl Config {
    /// Where a port is.
    #[must_use]
    pub const fn address(&self, port: Port) -> &BindAddress {
        match port {
            Port::Grpc => &self.server.grpc_addr,
            Port::Http => &self.server.http_addr,
            Port::Admin => &self.server.admin_addr,
        }
    }

    /// How a port is encrypted. A Unix socket never is: nobody can listen in on it.
    #[must_use]
    pub const fn encryption(&self, port: Port) -> PortTls {
        if let BindAddress::Unix(_) = self.address(port) {
            return PortTls::Plain;
        }
        self.wanted_encryption(port)
    }

    /// What the settings say about that, wherever the port is.
    const fn wanted_encryption(&self, port: Port) -> PortTls {
        match port {
            Port::Grpc => self.tls.grpc,
            Port::Http => self.tls.http,
            Port::Admin => self.tls.admin,
        }
    }

    /// The first setting that asks for an encrypted Unix socket, its value, and what is wrong with it.
    pub(super) fn encrypted_socket(&self) -> Option<(&'static str, String, String)> {
        let port = Port::ALL.into_iter().find(|port| {
            let is_wanted = !matches!(self.wanted_encryption(*port), PortTls::Auto | PortTls::Plain);
            is_wanted && matches!(self.address(*port), BindAddress::Unix(_))
        })?;
        let (key, address, setting) = (port.key(), self.address(port), port.tls_key());
        let reason = format!(
            "asks for an encrypted port, but {key} = {address} is a Unix socket, which is never encrypted; set {setting} to auto or \
             plain"
        );
        Some((setting, String::new(), reason))
    }

    /// Whether only this machine reaches a port.
    fn is_local(&self, port: Port) -> bool {
        self.address(port).is_local()
    }

    /// Whether all clients of a port have shown a certificate.
    fn asks_for_certificates(&self, port: Port) -> bool {
        self.tls.port(self.encryption(port)) == Some(ClientAuth::Required)
    }

    /// What clients of a port may do.
    #[must_use]
    pub fn access(&self, port: Port) -> Access {
        // Where everybody is anonymous, nobody may do any of this from another machine, whatever a switch says.
        let may_be_on = self.is_local(port) || self.knows_callers();
        Access {
            repository: may_be_on && self.control.repository.is_on(true),
            shared_memory: may_be_on && self.shared_memory.enabled.is_on(true),
            reflection: may_be_on && self.control.reflection.is_on(true),
        }
    }

    /// Whether browsers are shown the console on a port. It can do no more than anyone who reaches the port, but makes it easy.
    #[must_use]
    pub fn shows_console(&self, port: Port) -> bool {
        self.http.console.is_on(self.is_local(port) || self.knows_callers() || self.asks_for_certificates(port))
    }

    /// Whether callers have credentials.
    #[must_use]
    pub const fn knows_callers(&self) -> bool {
        self.security.knows_callers()
    }

    /// What callers of a port may do whom no credential tells apart.
    #[must_use]
    pub fn anonymous(&self, port: Port) -> Scopes {
        let is_local = self.is_local(port);
        let vouched_for = is_local || self.asks_for_certificates(port);
        match self.security.allow_anonymous.is_on(vouched_for && !self.knows_callers()) {
            true if is_local => Scopes::ALL,
            true => Scopes::of(&[Scope::Infer, Scope::ModelsRead, Scope::Metrics]),
            false => Scopes::NONE,
        }
    }

    /// The ports that other machines reach although nobody has said who may call.
    #[must_use]
    pub fn unguarded(&self) -> Vec<Exposure> {
        if self.knows_callers() || self.security.allow_anonymous.is_on(false) {
            return Vec::new();
        }
        let is_open = |port: &Port| !self.is_local(*port) && !self.asks_for_certificates(*port);
        Port::ALL.into_iter().filter(is_open).map(|port| self.exposure(port)).collect()
    }

    /// What is open on a port.
    fn exposure(&self, port: Port) -> Exposure {
        let open = match port {
            Port::Grpc | Port::Http => chosen([
                (true, "run and list models"),
                (self.control.priority_high.is_on(true), "ask for priority HIGH (control.priority_high)"),
            ]),
            Port::Admin => chosen([
                (true, "read the names of models and why some could not be loaded"),
                (self.metrics.enabled, "read metrics (metrics.enabled)"),
            ]),
        };
        Exposure { key: port.key(), address: self.address(port).clone(), open }
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
        at(config, address).access(Port::Grpc)
    }

    /// The same with its gRPC port elsewhere.
    fn at(config: &Config, address: &str) -> Config {
        let mut config = config.clone();
        config.server.grpc_addr.set_ip(address.parse().expect("an address"));
        config
    }

    #[test]
    fn a_unix_socket_is_of_this_machine_alone_and_is_not_encrypted() {
        let mut config = config("unix:/a", "0.0.0.0:1", "unix:/b");
        (config.tls.cert, config.tls.client_auth) = (vec!["cert.pem".into()], ClientAuth::Required);
        assert_eq!((config.encryption(Port::Grpc), config.encryption(Port::Http)), (PortTls::Plain, PortTls::Auto));
        assert_eq!((config.anonymous(Port::Grpc), config.access(Port::Grpc)), (Scopes::ALL, Access::FULL));
        config.tls.client_auth = ClientAuth::Off;
        let exposed = config.unguarded();
        assert!(exposed.len() == 1 && exposed[0].key == "server.http_addr", "{exposed:?}");
        assert_eq!(config.encrypted_socket(), None);
        config.tls.admin = PortTls::Optional;
        let (setting, _, reason) = config.encrypted_socket().expect("a contradiction");
        assert!(setting == "tls.admin" && reason.contains("server.admin_addr = unix:/b is a Unix socket"), "{reason}");
    }

    #[test]
    fn what_changes_the_server_is_open_to_its_own_machine_alone() {
        let config = Config::default();
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(access(&config, local), Access::FULL, "{local}");
        }
        let closed = Access { repository: false, shared_memory: false, reflection: false };
        for other in ["0.0.0.0", "::", "192.168.0.1", "::ffff:10.0.0.1", "fe80::1"] {
            assert_eq!(access(&config, other), closed, "{other}");
        }
    }

    #[test]
    fn a_switch_that_is_set_holds_wherever_callers_are_known_and_only_turns_off_where_they_are_not() {
        let mut config = Config::default();
        config.control.repository = Switch::On;
        config.shared_memory.enabled = Switch::Off;
        let found = Access { repository: true, shared_memory: false, reflection: true };
        assert_eq!(access(&config, "127.0.0.1"), found);
        config.security.allow_anonymous = Switch::On;
        assert_eq!(access(&config, "0.0.0.0"), Access { repository: false, shared_memory: false, reflection: false });
        config.security.keys = Some("keys.toml".into());
        assert_eq!(access(&config, "0.0.0.0"), found);
    }

    #[test]
    fn the_console_is_for_this_machine_unless_callers_are_known() {
        let mut config = Config::default();
        let shown = |config: &Config| ["127.0.0.1", "0.0.0.0"].map(|ip| at(config, ip).shows_console(Port::Grpc));
        assert_eq!(shown(&config), [true, false]);
        config.http.console = Switch::On;
        assert_eq!(shown(&config), [true, true]);
        config.http.console = Switch::Off;
        assert_eq!(shown(&config), [false, false]);
        (config.http.console, config.security.keys) = (Switch::Auto, Some("keys.toml".into()));
        assert_eq!(shown(&config), [true, true]);
        config.security.keys = None;
        (config.tls.cert, config.tls.client_auth) = (vec!["cert.pem".into()], ClientAuth::Required);
        assert_eq!(shown(&config), [true, true]);
    }

    #[test]
    fn what_anonymous_callers_may_do_depends_on_the_address_and_on_whether_others_are_known() {
        let mut config = Config::default();
        let anonymous = |config: &Config| ["127.0.0.1", "0.0.0.0"].map(|ip| at(config, ip).anonymous(Port::Grpc));
        let asking = Scopes::of(&[Scope::Infer, Scope::ModelsRead, Scope::Metrics]);
        assert_eq!(anonymous(&config), [Scopes::ALL, Scopes::NONE]);
        config.security.allow_anonymous = Switch::On;
        assert_eq!(anonymous(&config), [Scopes::ALL, asking]);
        config.security.keys = Some("keys.toml".into());
        assert_eq!(anonymous(&config), [Scopes::ALL, asking]);
        config.security.allow_anonymous = Switch::Auto;
        assert_eq!(anonymous(&config), [Scopes::NONE, Scopes::NONE]);
        config.security.keys = None;
        (config.tls.cert, config.tls.client_auth) = (vec!["cert.pem".into()], ClientAuth::Required);
        assert_eq!(anonymous(&config), [Scopes::ALL, asking], "their certificates vouch for them");
    }

    #[test]
    fn each_port_that_others_reach_is_listed_until_somebody_says_who_may_call() {
        assert_eq!(Config::default().unguarded(), []);
        let mut config = config("0.0.0.0:50051", "127.0.0.1:8080", "[::]:9464");
        let told = |config: &Config| config.unguarded().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            told(&config),
            [
                "server.grpc_addr = 0.0.0.0:50051 is open to other machines, and anyone who reaches it may run and list models, \
                 ask for priority HIGH (control.priority_high)",
                "server.admin_addr = [::]:9464 is open to other machines, and anyone who reaches it may read the names of models and why \
                 some could not be loaded, read metrics (metrics.enabled)",
            ]
        );
        config.security.allow_anonymous = Switch::Off;
        assert_eq!(told(&config).len(), 2);
        config.security.allow_anonymous = Switch::On;
        assert!(told(&config).is_empty());
        (config.security.allow_anonymous, config.security.keys) = (Switch::Auto, Some("keys.toml".into()));
        assert!(told(&config).is_empty());
        config.security.keys = None;
        config.tls.cert = vec!["cert.pem".into()];
        assert_eq!(told(&config).len(), 2, "encryption alone does not say who may call");
        (config.tls.client_auth, config.tls.admin) = (ClientAuth::Required, PortTls::Off);
        let told = told(&config);
        assert!(told.len() == 1 && told[0].starts_with("server.admin_addr"), "{told:?}");
    }
}
