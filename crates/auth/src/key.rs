//! Keys, and what is kept of them.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// How a key's text begins, so that tools that look for leaked secrets can find it.
const PREFIX: &str = "tm_";
const BYTES: usize = 32;

/// A key: 256 random bits. As text, `tm_` and 64 hexadecimal digits.
pub struct Key([u8; BYTES]);

impl Key {
    /// The key of these bytes, which must be random.
    #[must_use]
    pub const fn from_random(bytes: [u8; BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads a key's text.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        from_hex(text.strip_prefix(PREFIX.as_bytes())?).map(Self)
    }

    /// Its text, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", to_hex(&self.0))
    }

    /// What may be kept of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The SHA-256 of a key's 32 bytes. A key has 256 random bits, so this says nothing about it, and no slow hash is needed.
#[derive(Clone, Copy)]
pub struct Digest([u8; BYTES]);

impl Digest {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        from_hex(text.as_bytes()).map(Self)
    }

    /// Its 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        to_hex(&self.0)
    }

    /// Its beginning, by which it is looked up.
    pub(crate) const fn start(self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }
}

impl PartialEq for Digest {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn from_hex(text: &[u8]) -> Option<[u8; BYTES]> {
    if text.len() != 2 * BYTES {
        return None;
    }
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        b'A'..=b'F' => Some(letter - b'A' + 10),
        _ => None,
    };
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neither_keys_nor_their_digests_are_shown() {
        let key = Key::from_random([7; 32]);
        assert_eq!(format!("{key:?} {:?}", key.digest()), "Key(…) Digest(…)");
    }

    #[test]
    fn the_digest_is_that_of_the_bytes() {
        let digest = Key::from_random([0; 32]).digest();
        assert_eq!(digest.to_hex(), "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925");
    }

    proptest! {
        #[test]
        fn a_key_survives_its_text(bytes: [u8; 32]) {
            let text = Key::from_random(bytes).reveal();
            prop_assert_eq!(text.len(), 67);
            let read = Key::parse(text.as_bytes()).expect("a key");
            prop_assert!(read.digest() == Key::from_random(bytes).digest());
            prop_assert!(Digest::parse(&read.digest().to_hex()) == Some(read.digest()));
        }

        #[test]
        fn nothing_else_is_a_key(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let is_key = text.len() == 67 && text.starts_with(b"tm_") && text[3..].iter().all(u8::is_ascii_hexdigit);
            prop_assert_eq!(Key::parse(&text).is_some(), is_key);
        }
    }
}
