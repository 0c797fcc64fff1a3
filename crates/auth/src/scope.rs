//! What a caller may do.

use std::fmt;

/// One kind of thing that callers may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Run models.
    Infer,
    /// List and describe models, with their statistics.
    ModelsRead,
    /// Load, prove and unload models.
    ModelsWrite,
    /// Have shared memory of the server's machine read and written.
    Memory,
    /// Read metrics.
    Metrics,
    /// Everything.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 6] = [Self::Infer, Self::ModelsRead, Self::ModelsWrite, Self::Memory, Self::Metrics, Self::Admin];

    /// Its name in the keys file and in errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::ModelsRead => "models:read",
            Self::ModelsWrite => "models:write",
            Self::Memory => "memory",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }

    /// The scope of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self(Scope::Admin.bit());

    /// These scopes.
    #[must_use]
    pub const fn of(scopes: &[Scope]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < scopes.len() {
            bits |= scopes[index].bit();
            index += 1;
        }
        Self(bits)
    }

    /// Whether it allows this; [`Scope::Admin`] allows everything.
    #[must_use]
    #[inline]
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Scope::ALL.into_iter().filter(|scope| self.allow(*scope) && other.allow(*scope)).collect()
    }

    /// Whether it allows nothing.
    #[must_use]
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes that it names, without those that `admin` stands for.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Scope::name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_allows_what_it_names_and_admin_allows_everything() {
        let some = Scopes::of(&[Scope::Infer, Scope::Memory]);
        let allowed = |scopes: Scopes| Scope::ALL.map(|scope| scopes.allow(scope));
        assert_eq!(allowed(some), [true, false, false, true, false, false]);
        assert_eq!(allowed(Scopes::ALL), [true; 6]);
        assert_eq!(allowed(Scopes::NONE), [false; 6]);
        assert!(Scopes::NONE.is_empty() && !some.is_empty());
        assert_eq!(some.and(Scopes::of(&[Scope::Memory, Scope::Metrics])), Scopes::of(&[Scope::Memory]));
        assert_eq!(some.and(Scopes::ALL), some);
    }

    #[test]
    fn each_scope_is_found_by_its_name() {
        for scope in Scope::ALL {
            assert_eq!(Scope::named(scope.name()), Some(scope));
        }
        assert_eq!(Scope::named("Infer"), None);
        let some: Scopes = [Scope::ModelsRead, Scope::Infer].into_iter().collect();
        assert_eq!(format!("{some:?}"), r#"{"infer", "models:read"}"#);
    }
}
