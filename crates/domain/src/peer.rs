//! The peer of a connection, as far as the connection shows.

use std::net::IpAddr;

/// Where a connection comes from, if this distinguishes clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Address {
    /// This machine, where the address says nothing: each connection counts separately.
    #[default]
    Local,
    /// A proxy named by the operator: many clients share its address, and it is trusted on tenants. The shares of a caller
    /// whose tenant is proven are counted in the same way.
    Proxy,
    /// An address of IPv4.
    V4(u32),
    /// The first half of an IPv6 address: whoever has one address in a 64-bit network has all of them.
    V6(u64),
}

impl Address {
    /// What `ip` says about the client; `proxies` are those named by the operator.
    #[must_use]
    pub fn of(ip: IpAddr, proxies: &[IpAddr]) -> Self {
        let ip = ip.to_canonical();
        if proxies.contains(&ip) {
            return Self::Proxy;
        }
        match ip {
            IpAddr::V4(ip) if ip.octets() == [127, 0, 0, 1] => Self::Local,
            IpAddr::V6(ip) if ip.is_loopback() => Self::Local,
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// A client's connection. The default is none: the server's own work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Peer {
    /// Number of the connection, counted from the start of the server; 0 for none.
    pub connection: u64,
    /// Where it comes from.
    pub address: Address,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str) -> Address {
        Address::of(ip.parse().expect("an address"), &["10.0.0.9".parse().expect("an address")])
    }

    #[test]
    fn this_machine_and_proxies_do_not_count_as_addresses_and_others_do() {
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(address(local), Address::Local, "{local}");
        }
        for proxy in ["10.0.0.9", "::ffff:10.0.0.9"] {
            assert_eq!(address(proxy), Address::Proxy, "{proxy}");
        }
        assert_eq!(address("127.0.0.2"), Address::V4(0x7f00_0002));
        assert_eq!(address("::ffff:10.1.2.3"), address("10.1.2.3"));
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        assert_eq!(address("2001:db8:1:2::7"), address("2001:db8:1:2:ffff::"));
        assert_ne!(address("2001:db8:1:2::7"), address("2001:db8:1:3::7"));
    }
}
