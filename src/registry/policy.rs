//! Which of a model's versions are served.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Unexpected, Visitor},
};

/// Most versions of a model that are served, and so the most that a policy can name. It may leave out any number.
pub(super) const VERSIONS_MAX: usize = 64;

const LATEST: &str = "latest";

/// The manifest's `versions`: `"all"`, `"latest"`, `{ latest = 2 }` or `[1, 3]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum VersionPolicy {
    /// All of them.
    #[default]
    All,
    /// This many of the highest numbers.
    Latest(usize),
    /// These.
    Listed(BTreeSet<u64>),
}

impl VersionPolicy {
    /// Whether a version is served, where `found` are there, in rising order.
    #[must_use]
    pub fn takes(&self, number: u64, found: &[u64]) -> bool {
        match self {
            Self::All => true,
            Self::Latest(count) => found.iter().rev().take(*count).any(|latest| *latest == number),
            Self::Listed(listed) => listed.contains(&number),
        }
    }

    /// Versions that are listed but not there.
    pub fn missing<'a>(&'a self, found: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
        let listed = if let Self::Listed(listed) = self { Some(listed) } else { None };
        listed.into_iter().flatten().copied().filter(|number| !found.contains(number))
    }
}

impl<'de> Deserialize<'de> for VersionPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PolicyVisitor)
    }
}

struct PolicyVisitor;

impl<'de> Visitor<'de> for PolicyVisitor {
    type Value = VersionPolicy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"all\", \"latest\", { latest = 2 } or a list of versions such as [1, 3]")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<VersionPolicy, E> {
        match word {
            "all" => Ok(VersionPolicy::All),
            LATEST => Ok(VersionPolicy::Latest(1)),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VersionPolicy, A::Error> {
        let mut latest = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != LATEST {
                return Err(de::Error::unknown_field(&key, &[LATEST]));
            }
            latest = Some(map.next_value::<usize>()?);
        }
        match latest {
            Some(count) if (1..=VERSIONS_MAX).contains(&count) => Ok(VersionPolicy::Latest(count)),
            Some(count) => Err(de::Error::custom(format!("is {count}; accepted are 1 to {VERSIONS_MAX} versions"))),
            // The manifest's reader takes faulty keys out, and recognises them by itself.
            None => Ok(VersionPolicy::All),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<VersionPolicy, A::Error> {
        let mut listed = BTreeSet::new();
        while let Some(number) = list.next_element::<u64>()? {
            if number == 0 {
                return Err(de::Error::custom("lists version 0; versions are numbers from 1"));
            }
            if !listed.insert(number) {
                return Err(de::Error::custom(format!("lists version {number} twice")));
            }
            if listed.len() > VERSIONS_MAX {
                return Err(de::Error::custom(format!("lists more than {VERSIONS_MAX} versions")));
            }
        }
        if listed.is_empty() {
            return Err(de::Error::custom("lists no version"));
        }
        Ok(VersionPolicy::Listed(listed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Manifest;

    fn chosen(versions: &str, found: &[u64]) -> Vec<u64> {
        let manifest = Manifest::parse(&format!("versions = {versions}")).expect("a sound policy");
        found.iter().copied().filter(|number| manifest.versions.takes(*number, found)).collect()
    }

    #[test]
    fn a_policy_chooses_among_the_versions_that_are_there() {
        assert_eq!(Manifest::parse("").expect("nothing is needed").versions, VersionPolicy::All);
        assert_eq!(chosen("'all'", &[1, 2, 10]), [1, 2, 10]);
        assert_eq!(chosen("'latest'", &[1, 2, 10]), [10]);
        assert_eq!(chosen("{ latest = 2 }", &[1, 2, 10]), [2, 10]);
        assert_eq!(chosen("{ latest = 9 }", &[1, 2, 10]), [1, 2, 10]);
        assert_eq!(chosen("[1, 10]", &[1, 2, 10]), [1, 10]);
        assert!(chosen("'latest'", &[]).is_empty());
    }

    #[test]
    fn listed_versions_that_are_not_there_are_told() {
        let policy = VersionPolicy::Listed(BTreeSet::from([1, 3, 4]));
        assert_eq!(policy.missing(&[1, 2]).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(VersionPolicy::Latest(3).missing(&[]).count(), 0);
    }

    #[test]
    fn each_fault_of_a_policy_is_named() {
        let cases = [
            ("'newest'", "versions: invalid value: string \"newest\", expected \"all\", \"latest\", "),
            ("7", "versions: invalid type: integer `7`, expected \"all\""),
            ("[]", "versions: lists no version"),
            ("[0]", "versions: lists version 0; versions are numbers from 1"),
            ("[2, 2]", "versions: lists version 2 twice"),
            ("['1']", "versions: invalid type: string \"1\", expected u64"),
            ("[-1]", "versions: invalid value: integer `-1`, expected u64"),
            ("{ latest = 0 }", "versions.latest: is 0; accepted are 1 to 64 versions"),
            ("{ newest = 2 }", "versions.newest: unknown field `newest`, expected `latest`"),
        ];
        for (text, expected) in cases {
            let faults = Manifest::parse(&format!("versions = {text}")).expect_err("must be refused");
            let found: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.key, fault.reason)).collect();
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with(expected), "{text}: {found:?} is not {expected}");
        }
    }
}
