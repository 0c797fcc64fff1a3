//! What a call shows of its caller, and who that is.

use std::sync::Arc;

use tidemill_domain::ClientCertificate;

use crate::{Key, Keys, Refused};

/// What a call and its connection show.
#[derive(Debug, Clone, Default)]
pub struct Presented<'a> {
    /// The header `authorization`.
    pub authorization: Secret<'a>,
    /// The header `x-api-key`.
    pub api_key: Secret<'a>,
    /// The header `sec-websocket-protocol`: pages in browsers can set no other on a WebSocket.
    pub subprotocols: Secret<'a>,
    /// The certificate with which the connection was made.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Whether nobody else can read what the connection carries: it is encrypted, or does not leave the machine.
    pub is_private: bool,
}

/// The value of a header that may hold a secret; its `Debug` form says only whether there is one.
#[derive(Clone, Copy, Default)]
pub struct Secret<'a>(pub Option<&'a [u8]>);

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "…" } else { "none" })
    }
}

/// How a subprotocol begins whose rest is a key or a token: our own, and that of OpenAI's clients.
const SUBPROTOCOLS: [&str; 2] = ["tidemill.v1.key.", "openai-insecure-api-key."];

/// The first credential that a call shows.
pub enum Credential<'a> {
    /// A key.
    Key(Key),
    /// A token, not looked at yet.
    Token(&'a [u8]),
    /// The certificate of the connection.
    Certificate(&'a ClientCertificate),
}

impl Presented<'_> {
    /// The first credential that is shown: `authorization`, then `x-api-key`, then a subprotocol, then the certificate; `None` if there is
    /// none.
    ///
    /// # Errors
    /// [`Refused::Malformed`], and [`Refused::InTheOpen`] unless `takes_plain_keys`.
    pub fn credential(&self, takes_plain_keys: bool) -> Result<Option<Credential<'_>>, Refused> {
        let subprotocol = self.subprotocol()?;
        let shows_secret = self.authorization.0.or(self.api_key.0).or(subprotocol).is_some();
        if shows_secret && !self.is_private && !takes_plain_keys {
            return Err(Refused::InTheOpen);
        }
        let key = |text: &[u8]| Key::parse(text).map(Credential::Key).ok_or(Refused::Malformed);
        let key_or_token = |text| match token(text) {
            Some(token) => Ok(Some(Credential::Token(token))),
            None => key(text).map(Some),
        };
        match (self.authorization.0, self.api_key.0, subprotocol) {
            (Some(value), ..) => match scheme(value).ok_or(Refused::Malformed)? {
                (Scheme::Bearer, text) => key_or_token(text),
                (Scheme::Key, text) => key(text).map(Some),
            },
            (None, Some(value), _) => key(value.trim_ascii()).map(Some),
            (None, None, Some(text)) => key_or_token(text),
            (None, None, None) => Ok(self.certificate.as_deref().map(Credential::Certificate)),
        }
    }

    /// What stands behind the prefix of a subprotocol, if one has such a prefix.
    fn subprotocol(&self) -> Result<Option<&[u8]>, Refused> {
        let Some(list) = self.subprotocols.0 else { return Ok(None) };
        let offered = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let mut found = offered.filter_map(|name| SUBPROTOCOLS.iter().find_map(|prefix| name.strip_prefix(prefix.as_bytes())));
        let first = found.next();
        if found.next().is_some() { Err(Refused::Malformed) } else { Ok(first) }
    }
}

impl Keys {
    /// The position of the caller that is known by a credential; `None` for a certificate if nobody is known by any, and for a token.
    ///
    /// # Errors
    /// Why the credential is refused.
    pub fn recognise(&self, credential: &Credential<'_>, now_s: u64) -> Result<Option<usize>, Refused> {
        let found = match credential {
            Credential::Key(key) => self.find(key).ok_or(Refused::UnknownKey)?,
            Credential::Certificate(certificate) if self.know_certificates() => {
                self.find_certificate(certificate).ok_or(Refused::UnknownCertificate)?
            }
            Credential::Certificate(_) | Credential::Token(_) => return Ok(None),
        };
        if self.entries()[found].has_expired(now_s) { Err(Refused::Expired) } else { Ok(Some(found)) }
    }
}

/// How a value of `authorization` begins.
enum Scheme {
    Bearer,
    Key,
}

/// The scheme of a value of `authorization`, and what follows it.
fn scheme(value: &[u8]) -> Option<(Scheme, &[u8])> {
    let (scheme, rest) = value.split_at_checked(value.iter().position(|byte| *byte == b' ')?)?;
    let scheme = if scheme.eq_ignore_ascii_case(b"bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case(b"key") {
        Scheme::Key
    } else {
        return None;
    };
    Some((scheme, rest.trim_ascii()))
}

/// What the tokens begin with that clients of OpenAI's Realtime API get for a browser.
const EPHEMERAL: &[u8] = b"ek_";

/// The token that a text is: it has three parts, and keys have no dots.
fn token(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(EPHEMERAL).unwrap_or(text);
    (text.iter().filter(|byte| **byte == b'.').count() == 2).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> Keys {
        let digest = |byte| Key::from_random([byte; 32]).digest().to_hex();
        let text = format!(
            "[[key]]\nname = 'one'\nsha256 = '{}'\nscopes = ['infer']\nexpires = 1970-01-01T00:01:40Z\n\
             [[key]]\nname = 'two'\nsha256 = '{}'\nscopes = ['infer']\n[[key]]\nname = 'three'\ncn = 'c'\nscopes = ['infer']",
            digest(1),
            digest(2)
        );
        Keys::parse(&text).expect("sound")
    }

    fn text(byte: u8) -> String {
        Key::from_random([byte; 32]).reveal()
    }

    fn certificate(common_name: &str) -> Arc<ClientCertificate> {
        Arc::new(ClientCertificate { common_name: Some(common_name.to_owned()), ..ClientCertificate::default() })
    }

    fn find(
        authorization: Option<&str>,
        api_key: Option<&str>,
        certificate: Option<Arc<ClientCertificate>>,
    ) -> Result<Option<usize>, Refused> {
        let secret = |value: Option<&'_ str>| value.map(str::to_owned);
        let (authorization, api_key) = (secret(authorization), secret(api_key));
        let presented = Presented {
            authorization: Secret(authorization.as_deref().map(str::as_bytes)),
            api_key: Secret(api_key.as_deref().map(str::as_bytes)),
            certificate,
            is_private: true,
            ..Presented::default()
        };
        find_in(&presented, &keys(), false, 99)
    }

    fn find_in(presented: &Presented<'_>, keys: &Keys, takes_plain_keys: bool, now_s: u64) -> Result<Option<usize>, Refused> {
        let credential = presented.credential(takes_plain_keys)?;
        credential.map_or(Ok(None), |credential| keys.recognise(&credential, now_s))
    }

    #[test]
    fn a_key_is_taken_in_three_forms() {
        for scheme in ["Bearer", "bearer", "Key", "KEY", "Bearer "] {
            assert_eq!(find(Some(&format!("{scheme} {}", text(2))), None, None), Ok(Some(1)), "{scheme}");
        }
        assert_eq!(find(None, Some(&text(1)), None), Ok(Some(0)));
        assert_eq!(find(None, None, None), Ok(None));
    }

    #[test]
    fn the_first_credential_counts_and_must_be_good() {
        let (one, two) = (text(1), text(2));
        assert_eq!(find(Some(&format!("Bearer {two}")), Some(&one), Some(certificate("c"))), Ok(Some(1)));
        assert_eq!(find(None, Some(&one), Some(certificate("c"))), Ok(Some(0)));
        assert_eq!(find(None, None, Some(certificate("c"))), Ok(Some(2)));
        assert_eq!(find(None, None, Some(certificate("d"))), Err(Refused::UnknownCertificate));
        assert_eq!(find(Some(&format!("Bearer {}", text(3))), Some(&one), None), Err(Refused::UnknownKey));
        assert_eq!(find(None, Some(&text(3)), Some(certificate("c"))), Err(Refused::UnknownKey));
        for malformed in ["", "Bearer", "Bearer x", "Basic dTpw", &two, &format!("Bearer {two} {two}"), &format!("Bearer\t{two}")]
        {
            assert_eq!(find(Some(malformed), Some(&one), None), Err(Refused::Malformed), "{malformed:?}");
        }
    }

    #[test]
    fn what_has_three_parts_is_a_token_and_only_bearers_have_one() {
        let shown = |authorization: &str| {
            let authorization = Secret(Some(authorization.as_bytes()));
            let presented = Presented { authorization, is_private: true, ..Presented::default() };
            presented.credential(false).map(|credential| matches!(credential, Some(Credential::Token(b"a.b.c"))))
        };
        assert_eq!(shown("Bearer a.b.c"), Ok(true));
        assert_eq!(shown("Bearer ek_a.b.c"), Ok(true), "an ephemeral key");
        assert_eq!(shown("Bearer ek_a"), Err(Refused::Malformed));
        assert_eq!(shown("Key a.b.c"), Err(Refused::Malformed));
        assert_eq!(shown("Bearer a.b"), Err(Refused::Malformed));
        let presented = Presented { authorization: Secret(Some(b"Bearer a.b.c")), ..Presented::default() };
        assert_eq!(presented.credential(false).err(), Some(Refused::InTheOpen));
    }

    fn by_subprotocols(list: &str, is_private: bool) -> Result<Option<usize>, Refused> {
        let presented = Presented { subprotocols: Secret(Some(list.as_bytes())), is_private, ..Presented::default() };
        find_in(&presented, &keys(), false, 99)
    }

    #[test]
    fn a_subprotocol_may_hold_a_key_or_a_token() {
        let two = text(2);
        for prefix in SUBPROTOCOLS {
            assert_eq!(by_subprotocols(&format!("tidemill.v1.json, {prefix}{two}"), true), Ok(Some(1)));
            assert_eq!(by_subprotocols(&format!("{prefix}{two} ,realtime"), true), Ok(Some(1)));
            assert_eq!(by_subprotocols(&format!("{prefix}{two}"), false), Err(Refused::InTheOpen));
            assert_eq!(by_subprotocols(&format!("{prefix}{}", text(3)), true), Err(Refused::UnknownKey));
            assert_eq!(by_subprotocols(&format!("{prefix}{two}, {prefix}{two}"), true), Err(Refused::Malformed));
            assert_eq!(by_subprotocols(prefix, true), Err(Refused::Malformed));
            for list in [format!("{prefix}a.b.c"), format!("{prefix}ek_a.b.c")] {
                let presented =
                    Presented { subprotocols: Secret(Some(list.as_bytes())), is_private: true, ..Presented::default() };
                assert!(matches!(presented.credential(false), Ok(Some(Credential::Token(b"a.b.c")))), "{list}");
            }
        }
        for none in ["", "tidemill.v1.json", "realtime, ,", "xtidemill.v1.key.x"] {
            assert_eq!(by_subprotocols(none, false), Ok(None), "{none}");
        }
    }

    #[test]
    fn a_header_for_credentials_goes_before_a_subprotocol() {
        let (one, two) = (format!("Key {}", text(1)), format!("tidemill.v1.key.{}", text(2)));
        let presented = Presented {
            authorization: Secret(Some(one.as_bytes())),
            subprotocols: Secret(Some(two.as_bytes())),
            is_private: true,
            ..Presented::default()
        };
        assert_eq!(find_in(&presented, &keys(), false, 99), Ok(Some(0)));
    }

    #[test]
    fn a_certificate_that_nobody_is_recognised_by_says_nothing() {
        let presented = Presented { certificate: Some(certificate("c")), is_private: true, ..Presented::default() };
        assert_eq!(find_in(&presented, &Keys::default(), false, 0), Ok(None));
    }

    #[test]
    fn a_key_ends_at_its_time_and_never_travels_in_the_open_unless_that_is_wanted() {
        let key = text(1);
        let mut presented = Presented { api_key: Secret(Some(key.as_bytes())), is_private: true, ..Presented::default() };
        assert_eq!(find_in(&presented, &keys(), false, 99), Ok(Some(0)));
        assert_eq!(find_in(&presented, &keys(), false, 100), Err(Refused::Expired));
        presented.is_private = false;
        assert_eq!(find_in(&presented, &keys(), false, 99), Err(Refused::InTheOpen));
        assert_eq!(find_in(&presented, &keys(), true, 99), Ok(Some(0)));
    }

    #[test]
    fn no_secret_is_shown() {
        let key = text(1);
        let presented = Presented { api_key: Secret(Some(key.as_bytes())), ..Presented::default() };
        assert!(!format!("{presented:?}").contains(&key[3..10]));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_only_a_known_key_is_taken(value in proptest::collection::vec(any::<u8>(), 0..100), known: bool) {
            let good = format!("Bearer {}", text(2)).into_bytes();
            let value = if known { good } else { value };
            let presented = Presented { authorization: Secret(Some(&value)), is_private: true, ..Presented::default() };
            prop_assert_eq!(find_in(&presented, &keys(), false, 0).is_ok(), known);
            let presented = Presented { subprotocols: Secret(Some(&value)), is_private: true, ..Presented::default() };
            prop_assert!(!matches!(find_in(&presented, &keys(), false, 0), Ok(Some(_))));
        }
    }
}
