//! Whose shares something counts towards, from the outside in.

use tidemill_domain::{Address, Peer};

/// The owner of a share, at one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// All connections from that address.
    Address(Address),
    /// One connection, by its number.
    Connection(u64),
    /// Everything done on behalf of one tenant.
    Tenant(u64),
}

/// The owners of a share, outermost first: address, connection, tenant, as far as these distinguish clients. Connections from
/// this machine and from proxies have no address. A proxy is trusted on tenants, so there the tenant is outermost, over all of
/// the proxy's connections, and so it is where the tenant is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Path {
    owners: [Option<Owner>; Self::LEVELS],
}

impl Path {
    /// The most levels.
    pub(super) const LEVELS: usize = 3;

    /// The path of what `peer` does on behalf of `tenant`; 0 where tenants are not distinguished.
    #[must_use]
    pub fn of(peer: Peer, tenant: u64) -> Self {
        let tenant = (tenant != 0).then_some(Owner::Tenant(tenant));
        let connection = (peer.connection != 0).then_some(Owner::Connection(peer.connection));
        let owners = match peer.address {
            Address::Local => [None, connection, tenant],
            Address::Proxy => [tenant, connection, None],
            address @ (Address::V4(_) | Address::V6(_)) => [Some(Owner::Address(address)), connection, tenant],
        };
        Self { owners }
    }

    /// The owners, outermost first.
    pub fn owners(&self) -> impl Iterator<Item = Owner> + use<> {
        self.owners.into_iter().flatten()
    }

    /// The outermost owner.
    #[must_use]
    #[inline]
    pub fn outermost(&self) -> Option<Owner> {
        self.owners().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(address: Address, tenant: u64) -> Vec<Owner> {
        Path::of(Peer { connection: 5, address }, tenant).owners().collect()
    }

    #[test]
    fn only_levels_that_distinguish_clients_count() {
        let (connection, tenant) = (Owner::Connection(5), Owner::Tenant(7));
        let far = Address::V4(9);
        assert_eq!(path(Address::Local, 0), [connection]);
        assert_eq!(path(Address::Local, 7), [connection, tenant]);
        assert_eq!(path(far, 0), [Owner::Address(far), connection]);
        assert_eq!(path(far, 7), [Owner::Address(far), connection, tenant]);
        assert_eq!(path(Address::Proxy, 0), [connection]);
        assert_eq!(path(Address::Proxy, 7), [tenant, connection], "a proxy is trusted");
        assert_eq!(Path::of(Peer::default(), 0).owners().count(), 0);
        assert_eq!(Path::of(Peer::default(), 7).outermost(), Some(tenant));
    }
}
