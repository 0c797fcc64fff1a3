//! The caller, as far as shares and tenants are concerned.

use std::hash::{BuildHasher as _, RandomState};

use crate::{
    domain::{Address, Peer},
    scheduler::TenantKey,
    shares::Path,
};

/// On whose behalf, and over which connection, a call is made. Shares, turns and sequences depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The connection's other end.
    pub peer: Peer,
    /// The tenant.
    pub tenant: TenantKey,
    /// Whether a credential proves the tenant, so that its shares are those of all its addresses and connections.
    pub is_proven: bool,
}

impl Principal {
    /// Whose shares it counts towards.
    #[must_use]
    pub fn path(&self) -> Path {
        Path::of(self.counted_peer(), self.tenant.0)
    }

    /// The connection's other end, as far as it counts: a tenant that is proven counts as one that a proxy names.
    pub(super) const fn counted_peer(&self) -> Peer {
        let Peer { connection, address } = self.peer;
        Peer { connection, address: if self.is_proven { Address::Proxy } else { address } }
    }
}

/// How tenants are recognised.
#[derive(Debug)]
pub(super) struct Tenants {
    /// Name of the request metadata that names them; empty if all streams belong to one tenant.
    metadata: String,
    /// Seeded, so that nobody can choose a name that collides with another's.
    names: RandomState,
}

impl Tenants {
    pub(super) fn named_by(metadata: String) -> Self {
        Self { metadata, names: RandomState::new() }
    }

    /// Name of the metadata; empty if none names a tenant.
    pub(super) fn metadata(&self) -> &str {
        &self.metadata
    }

    /// The tenant of a known caller.
    pub(super) fn of_holder(&self, name: &str) -> TenantKey {
        TenantKey(self.names.hash_one(("holder", name)).max(1))
    }

    /// The tenant named by a call's metadata. Calls that name none form a tenant of their own.
    pub(super) fn find<'a>(&self, metadata: impl FnOnce(&str) -> Option<&'a [u8]>) -> TenantKey {
        if self.metadata.is_empty() {
            return TenantKey::default();
        }
        TenantKey(self.names.hash_one(metadata(&self.metadata)).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proven_tenant_has_its_shares_whatever_its_address() {
        let peer = Peer { connection: 5, address: Address::V4(9) };
        let path = |is_proven| Principal { peer, tenant: TenantKey(7), is_proven }.path();
        assert_eq!(path(false), Path::of(peer, 7));
        assert_eq!(path(true), Path::of(Peer { address: Address::Proxy, ..peer }, 7));
    }

    #[test]
    fn tenants_are_recognised_only_by_the_metadata_named_in_the_settings() {
        let tenants = Tenants::named_by("x-tenant".to_owned());
        let of = |value: Option<&'static str>| {
            tenants.find(|name| {
                assert_eq!(name, "x-tenant");
                value.map(str::as_bytes)
            })
        };
        assert_eq!(of(Some("a")), of(Some("a")));
        assert_ne!(of(Some("a")), of(Some("b")));
        assert_ne!(of(None), of(Some("a")));
        assert_ne!(of(None), TenantKey::default());
        assert_eq!(Tenants::named_by(String::new()).find(|_| Some(b"a")), TenantKey::default());
        assert_eq!(tenants.of_holder("a"), tenants.of_holder("a"));
        assert_ne!(tenants.of_holder("a"), of(Some("a")));
    }
}
