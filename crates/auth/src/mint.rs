//! Short-lived tokens that the server signs itself, for clients that should not be given a key: web pages above all.
//!
//! They are JWTs, signed with a secret that the server makes when it starts and again each hour (HS256). A token lasts two hours at
//! most, and a secret is kept for as long as a token that it has signed may last. None of them outlives the server.

use std::{collections::VecDeque, fmt, ops::RangeInclusive};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};

use crate::{Glob, Refused, Scope, Scopes, TOKEN_BYTES_MAX, TokenFault};

/// How long a token may last, in seconds.
pub const TOKEN_LIFE_S: RangeInclusive<u64> = 10..=7_200;
/// How long a secret signs.
const ROTATION_S: u64 = 3_600;
/// The issuer of these tokens, and their audience.
const SELF: &str = "tidemill";
/// How the names of secrets begin.
const KEY_PREFIX: &str = "tm-";

/// What a token grants, and on whose behalf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The name of the caller that asked for it.
    pub caller: String,
    /// What it grants, no more than that caller may do.
    pub scopes: Scopes,
    /// With which models; with all of the caller's if absent.
    pub models: Option<Vec<Glob>>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: u64,
    exp: u64,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<Vec<String>>,
}

/// The secrets, the newest last.
#[derive(Default)]
pub struct Mint {
    made: u64,
    secrets: VecDeque<MintSecret>,
}

struct MintSecret {
    id: String,
    bytes: [u8; 32],
    made_s: u64,
}

impl fmt::Debug for Mint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mint").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

impl Mint {
    /// Signs a token. `random` gives the bytes of the next secret, if it is time for one; an error means that there are none.
    ///
    /// # Errors
    /// That of `random`.
    pub fn sign<E>(&mut self, grant: &Grant, now_s: u64, random: impl FnOnce() -> Result<[u8; 32], E>) -> Result<String, E> {
        self.forget(now_s);
        if self.secrets.back().is_none_or(|newest| now_s >= newest.made_s.saturating_add(ROTATION_S)) {
            self.made += 1;
            self.secrets.push_back(MintSecret { id: format!("{KEY_PREFIX}{}", self.made), bytes: random()?, made_s: now_s });
        }
        let scope = grant.scopes.iter().map(Scope::name).collect::<Vec<_>>().join(" ");
        let models = grant.models.as_ref().map(|globs| globs.iter().map(|glob| glob.as_str().to_owned()).collect());
        let (iss, aud, sub) = (SELF.to_owned(), SELF.to_owned(), grant.caller.clone());
        let claims = Claims { iss, aud, sub, iat: now_s, exp: grant.expires, scope, models };
        let signed = self.secrets.back().and_then(|MintSecret { id, bytes, .. }| {
            let header = Header { kid: Some(id.clone()), ..Header::new(Algorithm::HS256) };
            encode(&header, &claims, &EncodingKey::from_secret(bytes).ok()?).ok()
        });
        // Nothing that is signed here fails: the secret is there, and the claims are texts and numbers.
        Ok(signed.unwrap_or_default())
    }

    /// Whether a token says that it was signed here.
    #[must_use]
    pub fn says_so(token: &[u8]) -> bool {
        let header = (token.len() <= TOKEN_BYTES_MAX).then(|| decode_header(token).ok()).flatten();
        header.is_some_and(|header| header.kid.is_some_and(|id| id.starts_with(KEY_PREFIX)))
    }

    /// What a token grants.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, token: &[u8], now_s: u64) -> Result<Grant, Refused> {
        let refused = |fault| Err(Refused::Token(fault));
        if token.len() > TOKEN_BYTES_MAX {
            return refused(TokenFault::TooLong);
        }
        let Ok(header) = decode_header(token) else { return refused(TokenFault::Malformed) };
        let Some(secret) = self.secrets.iter().find(|secret| Some(&secret.id) == header.kid.as_ref()) else {
            return refused(TokenFault::UnknownKey);
        };
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["iss", "aud"]);
        validation.set_issuer(&[SELF]);
        validation.set_audience(&[SELF]);
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        let Ok(key) = DecodingKey::from_secret(&secret.bytes) else { return refused(TokenFault::UnknownKey) };
        let Ok(decoded) = decode::<Claims>(token, &key, &validation) else { return refused(TokenFault::Signature) };
        let Claims { sub, exp, scope, models, .. } = decoded.claims;
        if exp <= now_s {
            return refused(TokenFault::Expired);
        }
        let models = models.map(|models| models.into_iter().map(Glob::new).collect());
        Ok(Grant { caller: sub, scopes: scope.split(' ').filter_map(Scope::named).collect(), models, expires: exp })
    }

    /// Forgets secrets that no token needs any more.
    fn forget(&mut self, now_s: u64) {
        let needed = |secret: &MintSecret| now_s < secret.made_s.saturating_add(ROTATION_S + TOKEN_LIFE_S.end());
        while self.secrets.front().is_some_and(|oldest| !needed(oldest)) {
            self.secrets.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn grant(expires: u64) -> Grant {
        let scopes = Scopes::of(&[Scope::Infer, Scope::ModelsRead]);
        Grant { caller: "alice".to_owned(), scopes, models: Some(vec![Glob::new("silero-*")]), expires }
    }

    fn sign(mint: &mut Mint, now_s: u64, byte: u8) -> String {
        mint.sign(&grant(now_s + 7_200), now_s, || Ok::<_, Infallible>([byte; 32])).expect("there is a secret")
    }

    #[test]
    fn a_token_grants_what_was_signed_until_its_end() {
        let mut mint = Mint::default();
        let token = sign(&mut mint, 1_000, 1);
        assert!(Mint::says_so(token.as_bytes()));
        assert_eq!(mint.check(token.as_bytes(), 8_199), Ok(grant(8_200)));
        assert_eq!(mint.check(token.as_bytes(), 8_200), Err(Refused::Token(TokenFault::Expired)));
    }

    #[test]
    fn secrets_change_each_hour_and_last_as_long_as_their_tokens() {
        let mut mint = Mint::default();
        let first = sign(&mut mint, 0, 1);
        let second = sign(&mut mint, 3_599, 2);
        assert_eq!(mint.secrets.len(), 1);
        let third = sign(&mut mint, 3_600, 3);
        assert_eq!(mint.secrets.len(), 2);
        for token in [&first, &second, &third] {
            assert!(mint.check(token.as_bytes(), 3_600).is_ok());
        }
        assert!(mint.check(second.as_bytes(), 10_798).is_ok());
        sign(&mut mint, 10_800, 4);
        assert_eq!(mint.check(second.as_bytes(), 10_800), Err(Refused::Token(TokenFault::UnknownKey)));
        assert!(mint.secrets.len() <= 3);
    }

    #[test]
    fn another_servers_token_is_refused() {
        let (mut ours, mut theirs) = (Mint::default(), Mint::default());
        sign(&mut ours, 0, 1);
        let token = sign(&mut theirs, 0, 2);
        assert_eq!(ours.check(token.as_bytes(), 0), Err(Refused::Token(TokenFault::Signature)));
        assert_eq!(ours.check(b"a.b.c", 0), Err(Refused::Token(TokenFault::Malformed)));
        assert!(!Mint::says_so(b"a.b.c"));
    }
}
