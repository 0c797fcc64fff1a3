//! Who is at the other end, as far as a connection tells.

use std::net::IpAddr;

/// Where a connection comes from, if that tells clients apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Address {
    /// This machine, where the address says nothing: each connection counts by itself.
    #[default]
    Local,
    /// A proxy that the operator has named: many clients behind one address, and what it says of tenants is believed.
    Proxy,
    /// An address of IPv4.
    V4(u32),
    /// The first half of an address of IPv6: whoever has one address of a network of 64 bits has all of them.
    V6(u64),
}

impl Address {
    /// What `ip` says of who is there; `proxies` are those that the operator has named.
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

/// A client's connection. The default is none: work of the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Peer {
    /// Number of the connection among all since the start; 0 for none.
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
    fn this_machine_and_proxies_are_no_address_and_others_are() {
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
