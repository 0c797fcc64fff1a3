//! Credentials: the keys file, tokens of an issuer, and the server's own.

use std::{convert::Infallible, sync::OnceLock};

use tidemill::auth::{Grant, IssuerKeys, Keys, Mint, Scope, Scopes, TokenRules};

/// In 2033.
const NOW_S: u64 = 2_000_000_000;

/// A set of one public key; nobody here has the private one.
const ISSUER: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// A keys file: what is read is written, and read the same.
pub(crate) fn keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Keys::parse(text) {
        Ok(keys) => {
            let again = Keys::parse(&keys.to_toml()).expect("what is written can be read");
            assert!(keys.entries() == again.entries(), "{} callers are not the same when read again", keys.entries().len());
        }
        Err(faults) => {
            let said = faults.to_string();
            assert!(!said.is_empty() && said.len() < 64 * text.len() + 10_000, "{} bytes of faults", said.len());
        }
    }
}

/// First byte: whether the rest is a set of keys, a token, or changes to a good token: pairs of a place and what is added to the byte there.
pub(crate) fn tokens(data: &[u8]) {
    let [form, rest @ ..] = data else { return };
    let (mint, good) = minted();
    match form % 3 {
        0 => {
            if let Ok(keys) = IssuerKeys::parse(rest) {
                assert!(!keys.is_empty());
                assert!(
                    keys.check(good.as_bytes(), &rules(), NOW_S).is_err(),
                    "a token that is signed with a secret of the server"
                );
            }
        }
        1 => {
            let is_good = rest == good.as_bytes();
            let keys = issuer();
            assert!(keys.check(rest, &rules(), NOW_S).is_err(), "a token that nobody can sign");
            assert_eq!(mint.check(rest, NOW_S).is_ok(), is_good);
            let _ = Mint::says_so(rest);
        }
        _ => {
            let mut token = good.clone().into_bytes();
            for change in rest.chunks_exact(2) {
                let place = usize::from(change[0]) % token.len();
                token[place] = token[place].wrapping_add(change[1]);
            }
            assert_eq!(mint.check(&token, NOW_S).is_ok(), token == good.as_bytes(), "a token that was changed");
        }
    }
}

fn issuer() -> &'static IssuerKeys {
    static ISSUERS: OnceLock<IssuerKeys> = OnceLock::new();
    ISSUERS.get_or_init(|| IssuerKeys::parse(ISSUER.as_bytes()).expect("a key"))
}

/// The secrets, and a token that is signed with one.
fn minted() -> &'static (Mint, String) {
    static MINTED: OnceLock<(Mint, String)> = OnceLock::new();
    MINTED.get_or_init(|| {
        let mut mint = Mint::default();
        let grant = Grant { caller: "alice".to_owned(), scopes: Scopes::of(&[Scope::Infer]), models: None, expires: NOW_S + 60 };
        let signed = mint.sign(&grant, NOW_S, || Ok::<_, Infallible>([7; 32]));
        let token = signed.expect("there are bytes for it");
        assert!(mint.check(token.as_bytes(), NOW_S).is_ok(), "it begins with a good one");
        (mint, token)
    })
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
