//! Tokens that an issuer signs (JWT, RFC 7519), checked with the public keys that it publishes (JWKS, RFC 7517).
//!
//! Only signatures by keys that the issuer alone has are taken: RSA, ECDSA and EdDSA. A token names its key, and the key says by which
//! algorithms it signs; what the token says about that must agree, so that neither `none` nor a public key taken for a shared
//! secret gets anybody in.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, decode_header,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::{Entry, Glob, Proof, Quotas, Refused, Scope, Scopes, TOKEN_BYTES_MAX, TokenFault, entry::is_name};

/// Longest set of an issuer's keys.
pub const ISSUER_KEYS_BYTES_MAX: u64 = 1 << 20;
/// Most keys of an issuer.
const KEYS_MAX: usize = 64;
/// Letters of a subject that are kept for the log.
const SUBJECT_SHOWN: usize = 96;

/// What is asked of a token, apart from its signature.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenRules {
    /// Its claim `iss`.
    pub issuer: String,
    /// What its claim `aud` must include.
    pub audience: String,
    /// Seconds by which the clocks of issuer and server may differ.
    pub leeway_s: u64,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// The claim that lists scopes: text with blanks between them, or a list of texts. Those not known here are left out.
    pub scopes_claim: String,
}

/// The keys of an issuer.
#[derive(Debug, Clone, Default)]
pub struct IssuerKeys(Vec<IssuerKey>);

/// Tells one key of an issuer from any other, of any set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyMark([u8; 32]);

#[derive(Debug, Clone)]
struct IssuerKey {
    id: Option<String>,
    mark: KeyMark,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl IssuerKeys {
    /// Reads a set of keys. Keys for other uses, and of kinds not known here, are left out.
    ///
    /// # Errors
    /// What is wrong with it, or that no key is left.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let set: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| format!("it is no object of JSON: {error}"))?;
        let Some(Value::Array(listed)) = set.get("keys") else { return Err("it has no list 'keys'".to_owned()) };
        if listed.len() > KEYS_MAX {
            return Err(format!("{} keys are more than the {KEYS_MAX} that an issuer may have", listed.len()));
        }
        let keys: Vec<_> = listed.iter().filter_map(IssuerKey::of).collect();
        if keys.is_empty() {
            return Err("it lists no public key for signatures by RS, PS, ES256, ES384 or EdDSA".to_owned());
        }
        Ok(Self(keys))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The marks of all of them.
    pub fn marks(&self) -> impl Iterator<Item = KeyMark> + '_ {
        self.0.iter().map(|key| key.mark)
    }

    /// The caller that a token speaks of, and the mark of the key that vouches for it.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, token: &[u8], rules: &TokenRules, now_s: u64) -> Result<(Entry, KeyMark), Refused> {
        let (claims, mark) = self.claims(token, rules).map_err(Refused::Token)?;
        let entry = entry(&claims, rules).map_err(Refused::Token)?;
        let from = number(&claims, "nbf").map_err(Refused::Token)?;
        if from.is_some_and(|from| from > now_s.saturating_add(rules.leeway_s)) {
            return Err(Refused::Token(TokenFault::NotYet));
        }
        if entry.has_expired(now_s) { Err(Refused::Token(TokenFault::Expired)) } else { Ok((entry, mark)) }
    }

    /// What a token claims, which its signature vouches for.
    fn claims(&self, token: &[u8], rules: &TokenRules) -> Result<(Map<String, Value>, KeyMark), TokenFault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::TooLong);
        }
        let header = decode_header(token).map_err(|_| TokenFault::Malformed)?;
        let mut known = self.0.iter().filter(|key| match &header.kid {
            Some(id) => key.id.as_ref() == Some(id),
            None => key.algorithms.contains(&header.alg),
        });
        let (Some(key), None) = (known.next(), known.next()) else { return Err(TokenFault::UnknownKey) };
        if !key.algorithms.contains(&header.alg) {
            return Err(TokenFault::Algorithm);
        }
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["iss", "aud"]);
        validation.set_issuer(&[&rules.issuer]);
        validation.set_audience(&[&rules.audience]);
        // Times are looked at by whoever knows what time it is.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        let decoded = decode(token, &key.key, &validation).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => TokenFault::Signature,
            ErrorKind::InvalidIssuer => TokenFault::Issuer,
            ErrorKind::InvalidAudience => TokenFault::Audience,
            ErrorKind::InvalidAlgorithm => TokenFault::Algorithm,
            ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => TokenFault::Issuer,
            ErrorKind::MissingRequiredClaim(_) => TokenFault::Audience,
            _ => TokenFault::Malformed,
        })?;
        Ok((decoded.claims, key.mark))
    }
}

impl IssuerKey {
    /// Reads a key of a set, if it can be used.
    fn of(listed: &Value) -> Option<Self> {
        let key: Jwk = serde_json::from_value(listed.clone()).ok()?;
        if key.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return None;
        }
        let able: &[Algorithm] = match &key.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            _ => return None,
        };
        let algorithms = match key.common.key_algorithm {
            None => able.to_vec(),
            Some(only) => vec![Algorithm::try_from(only).ok().filter(|only| able.contains(only))?],
        };
        let mark = KeyMark(Sha256::digest(listed.to_string()).into());
        Some(Self { id: key.common.key_id.clone(), mark, algorithms, key: DecodingKey::from_jwk(&key).ok()? })
    }
}

/// The caller, from claims that are vouched for.
fn entry(claims: &Map<String, Value>, rules: &TokenRules) -> Result<Entry, TokenFault> {
    let Some(Value::String(subject)) = claims.get("sub") else { return Err(TokenFault::Claims) };
    let tenant = match claims.get(&rules.tenant_claim) {
        None => None,
        Some(Value::String(tenant)) if is_name(tenant) => Some(tenant.as_str().into()),
        Some(_) => return Err(TokenFault::Claims),
    };
    let scopes: Scopes = match claims.get(&rules.scopes_claim) {
        None => Scopes::NONE,
        Some(Value::String(listed)) => listed.split_whitespace().filter_map(Scope::named).collect(),
        Some(Value::Array(listed)) => listed.iter().filter_map(Value::as_str).filter_map(Scope::named).collect(),
        Some(_) => return Err(TokenFault::Claims),
    };
    let expires = number(claims, "exp")?.ok_or(TokenFault::Expired)?.saturating_add(rules.leeway_s);
    let shown: String = subject.chars().flat_map(char::escape_default).take(SUBJECT_SHOWN).collect();
    Ok(Entry {
        name: format!("token:{shown}").into(),
        proof: Proof::Token,
        tenant,
        acts_for: Vec::new(),
        scopes,
        models: vec![Glob::new("*")],
        expires: Some(expires),
        quotas: Quotas::default(),
    })
}

/// A time, in seconds since 1970; RFC 7519 allows fractions.
fn number(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, TokenFault> {
    let Some(found) = claims.get(name) else { return Ok(None) };
    let whole = found.as_u64().or_else(|| found.as_f64().filter(|found| *found >= 0.0).map(|found| found as u64));
    whole.map(Some).ok_or(TokenFault::Claims)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_000_000;

    /// The keys of an issuer with one key of Ed25519 (RFC 8037, appendix A), which is called `a`, and its private half in DER.
    fn issuer() -> (IssuerKeys, EncodingKey) {
        let set = json!({"keys": [
            {"kty": "oct", "k": "AAAA", "kid": "secret"},
            {"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "agreement"},
            {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "a", "use": "sig"},
            {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "sealing", "use": "enc"},
        ]});
        let keys = IssuerKeys::parse(set.to_string().as_bytes()).expect("one key is left");
        assert_eq!(keys.len(), 1);
        (keys, EncodingKey::from_ed_der(&private_key()))
    }

    /// PKCS#8 around the key's 32 bytes.
    fn private_key() -> Vec<u8> {
        let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        der.extend([
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49, 0xc5,
            0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ]);
        der
    }

    fn rules() -> TokenRules {
        TokenRules {
            issuer: "https://issuer.example".to_owned(),
            audience: "tidemill".to_owned(),
            leeway_s: 30,
            tenant_claim: "tenant".to_owned(),
            scopes_claim: "scope".to_owned(),
        }
    }

    fn claims() -> Value {
        json!({"iss": "https://issuer.example", "aud": ["other", "tidemill"], "sub": "ann|7\n", "exp": NOW + 60, "tenant": "acme",
               "scope": "openid infer models:read"})
    }

    /// The same claims with one changed, or left out if the value is null.
    fn with(name: &str, value: Value) -> Value {
        let mut changed = claims();
        let all = changed.as_object_mut().expect("an object");
        if value.is_null() {
            all.remove(name)
        } else {
            all.insert(name.to_owned(), value)
        };
        changed
    }

    fn signed(claims: &Value) -> String {
        let header = Header { kid: Some("a".to_owned()), ..Header::new(Algorithm::EdDSA) };
        encode(&header, claims, &issuer().1).expect("it can be signed")
    }

    fn check(token: &str) -> Result<Entry, TokenFault> {
        let checked = issuer().0.check(token.as_bytes(), &rules(), NOW);
        checked.map(|(entry, _)| entry).map_err(|refused| match refused {
            Refused::Token(fault) => fault,
            other => unreachable!("{other:?} is not about tokens"),
        })
    }

    #[test]
    fn a_token_names_its_caller() {
        let entry = check(&signed(&claims())).expect("a good token");
        assert_eq!((&*entry.name, entry.tenant()), ("token:ann|7\\n", "acme"));
        assert_eq!(entry.scopes, Scopes::of(&[Scope::Infer, Scope::ModelsRead]));
        assert_eq!(entry.expires, Some(NOW + 90));
        let listed = check(&signed(&with("scope", json!(["admin", 7, "email"])))).expect("a good token");
        assert_eq!(listed.scopes, Scopes::ALL);
        let alone = check(&signed(&with("tenant", Value::Null))).expect("a good token");
        assert_eq!(alone.tenant(), "token:ann|7\\n");
    }

    #[test]
    fn each_claim_is_looked_at() {
        let cases = [
            ("iss", json!("https://other.example"), TokenFault::Issuer),
            ("iss", Value::Null, TokenFault::Issuer),
            ("aud", json!("other"), TokenFault::Audience),
            ("aud", Value::Null, TokenFault::Audience),
            ("exp", json!(NOW - 31), TokenFault::Expired),
            ("exp", Value::Null, TokenFault::Expired),
            ("exp", json!("tomorrow"), TokenFault::Claims),
            ("nbf", json!(NOW + 31), TokenFault::NotYet),
            ("sub", json!(7), TokenFault::Claims),
            ("tenant", json!("a b"), TokenFault::Claims),
            ("scope", json!(7), TokenFault::Claims),
        ];
        for (name, value, fault) in cases {
            assert_eq!(check(&signed(&with(name, value.clone()))).expect_err("refused"), fault, "{name} = {value}");
        }
        for (name, value) in [("exp", json!(NOW - 29)), ("nbf", json!(NOW + 29)), ("exp", json!(NOW as f64 + 0.5))] {
            assert!(check(&signed(&with(name, value.clone()))).is_ok(), "{name} = {value}: clocks may differ");
        }
    }

    #[test]
    fn neither_no_signature_nor_one_by_a_secret_gets_anybody_in() {
        let token = signed(&claims());
        let (message, signature) = token.rsplit_once('.').expect("three parts");
        let (_, payload) = message.split_once('.').expect("two parts");
        // {"alg":"none"} and {"alg":"none","kid":"a"}
        for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJub25lIiwia2lkIjoiYSJ9"] {
            assert_eq!(check(&format!("{header}.{payload}.")), Err(TokenFault::Malformed));
        }
        assert_eq!(check(&format!("{message}.")), Err(TokenFault::Signature));
        assert_eq!(check(&format!("{message}.{}", signature.replace(&signature[..4], "AAAA"))), Err(TokenFault::Signature));
        // Signed with the public key as if it were a shared secret.
        let secret = EncodingKey::from_base64_secret("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=").expect("a secret");
        let header = Header { kid: Some("a".to_owned()), ..Header::new(Algorithm::HS256) };
        let confused = encode(&header, &claims(), &secret).expect("it can be signed");
        assert_eq!(check(&confused), Err(TokenFault::Algorithm));
    }

    #[test]
    fn a_token_without_the_name_of_its_key_needs_an_issuer_with_one_that_fits() {
        let token = encode(&Header::new(Algorithm::EdDSA), &claims(), &issuer().1).expect("it can be signed");
        assert!(check(&token).is_ok());
        let unknown = Header { kid: Some("b".to_owned()), ..Header::new(Algorithm::EdDSA) };
        let token = encode(&unknown, &claims(), &issuer().1).expect("it can be signed");
        assert_eq!(check(&token), Err(TokenFault::UnknownKey));
    }

    #[test]
    fn a_set_without_a_key_that_can_be_used_is_none() {
        for text in ["", "[]", "{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#] {
            assert!(IssuerKeys::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_that_is_too_long_is_not_looked_at() {
        assert_eq!(check(&"a.".repeat(TOKEN_BYTES_MAX)), Err(TokenFault::TooLong));
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "[a-zA-Z0-9_.=-]{0,80}") {
            prop_assert!(check(&text).is_err());
        }

        #[test]
        fn a_token_is_good_only_as_it_was_signed(position in any::<prop::sample::Index>(), letter in "[A-Za-z0-9_-]") {
            let token = signed(&claims());
            let position = position.index(token.len());
            prop_assume!(token.as_bytes()[position] != b'.' && !token[position..].starts_with(&letter));
            let mut changed = token.clone();
            changed.replace_range(position..=position, &letter);
            prop_assert!(check(&changed).is_err(), "position {}", position);
        }
    }
}
