//! Patterns for names.

use std::fmt;

/// A pattern: `*` stands for any run of characters, an empty one too; everything else stands for itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    /// The pattern of this text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` fits. Takes at most the product of both lengths in steps, whatever the pattern.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut in_name) = (0, 0);
        // Where to go on if what follows the last star does not fit: after the star, and with one more byte of the name in it.
        let mut retry = None;
        while in_name < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    retry = Some((at, in_name));
                }
                Some(byte) if *byte == name[in_name] => (at, in_name) = (at + 1, in_name + 1),
                _ => {
                    let Some((after_star, start)) = retry else { return false };
                    retry = Some((after_star, start + 1));
                    (at, in_name) = (after_star, start + 1);
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_any_run_of_characters() {
        for (pattern, name) in [("*", ""), ("*", "a"), ("a*", "a"), ("a*c", "abbc"), ("*-v*", "silero-vad"), ("a", "a")] {
            assert!(Glob::new(pattern).matches(name), "{pattern} {name}");
        }
        for (pattern, name) in [("", "a"), ("a", ""), ("a*c", "abcd"), ("a", "A"), ("a?", "ab"), ("*a*a", "ba")] {
            assert!(!Glob::new(pattern).matches(name), "{pattern} {name}");
        }
    }

    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|taken| naive(rest, &name[taken..])),
            Some((byte, rest)) => name.split_first().is_some_and(|(first, name)| first == byte && naive(rest, name)),
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(pattern in "[ab*]{0,8}", name in "[ab]{0,8}") {
            prop_assert_eq!(Glob::new(pattern.clone()).matches(&name), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
