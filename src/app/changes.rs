//! What a new keys file says about callers that the one before did not.

use std::{collections::HashMap, sync::Arc};

use crate::{audit::KeysChange, auth::Entry};

/// The names that are new, about which something else is said, and that are gone.
pub(super) fn between(before: &[Arc<Entry>], after: &[Arc<Entry>]) -> KeysChange {
    let mut known: HashMap<&str, &Arc<Entry>> = before.iter().map(|entry| (&*entry.name, entry)).collect();
    let mut change = KeysChange::default();
    for entry in after {
        match known.remove(&*entry.name) {
            None => change.added.push(entry.name.to_string()),
            Some(earlier) if earlier != entry => change.changed.push(entry.name.to_string()),
            Some(_) => {}
        }
    }
    change.revoked = known.into_keys().map(str::to_owned).collect();
    change.revoked.sort_unstable();
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Key, Keys};

    /// Callers with these names, whose keys are of these bytes.
    fn entries(callers: &[(&str, u8)]) -> Vec<Arc<Entry>> {
        let blocks = callers.iter().map(|(name, byte)| {
            let digest = Key::from_random([*byte; 32]).digest().to_hex();
            format!("[[key]]\nname = '{name}'\nsha256 = '{digest}'\nscopes = ['infer']\n")
        });
        Keys::parse(&blocks.collect::<String>()).expect("sound").entries().to_vec()
    }

    #[test]
    fn names_are_new_different_or_gone() {
        let before = entries(&[("stays", 1), ("turns", 2), ("goes", 3), ("ends", 4)]);
        let after = entries(&[("comes", 5), ("turns", 6), ("stays", 1)]);
        let [added, changed, revoked] = [&["comes"][..], &["turns"], &["ends", "goes"]]
            .map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(between(&before, &after), KeysChange { added, changed, revoked });
        assert_eq!(between(&before, &before), KeysChange::default());
    }
}
