//! Callers that are known by tokens: those of an issuer, and those that the server lends to callers that it knows anyway.
//!
//! A token's signature is checked once; after that it is known by its digest, for as long as it is in use.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::holder::Holder;
use crate::{
    accounts::Allowance,
    auth::{Entry, Glob, Grant, IssuerKeys, KeyMark, Mint, Refused, Scope, Scopes, TOKEN_LIFE_S, TokenFault, TokenRules},
    domain::{Fault, FaultKind},
};

/// Tokens that are remembered. More than that at once cost a check of the signature now and then.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// How long a token lasts if its caller does not say.
const LIFE_DEFAULT_S: u64 = 600;

/// What a caller asks of a token that it is to be lent.
#[derive(Debug, Clone, Default)]
pub struct TokenRequest {
    /// What it should grant; all that the caller may do if absent.
    pub scopes: Option<Vec<String>>,
    /// With which models; with all of the caller's if absent.
    pub models: Option<Vec<String>>,
    /// How long it should last.
    pub expires_in_s: Option<u64>,
}

/// A token that has been lent.
#[derive(Debug, Clone)]
pub struct LentToken {
    /// The token.
    pub token: String,
    /// How long it lasts.
    pub expires_in_s: u64,
    /// The names of the scopes that it grants.
    pub scopes: Vec<&'static str>,
}

/// What is known about tokens.
#[derive(Debug)]
pub struct Tokens {
    rules: Option<TokenRules>,
    issuer: RwLock<Issuer>,
    mint: Option<Mutex<Mint>>,
    seen: Mutex<LruCache<[u8; 32], Arc<Holder>>>,
    /// Told when a token names a key that is not known.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Issuer {
    keys: IssuerKeys,
    /// Cancelled when a key is no longer among them, which ends what its tokens have open.
    gone: HashMap<KeyMark, CancellationToken>,
}

impl Tokens {
    /// Tokens of an issuer by these rules, if there is one; with `lends`, the server lends its own.
    #[must_use]
    pub fn new(rules: Option<TokenRules>, lends: bool) -> Self {
        Self {
            rules,
            issuer: RwLock::default(),
            mint: lends.then(Mutex::default),
            seen: Mutex::new(LruCache::new(REMEMBERED)),
            wanted: Notify::new(),
        }
    }

    /// Puts these keys in place of those known so far, and ends what tokens of keys that are no longer among them have open.
    /// Returns how many such keys there are.
    pub(super) fn replace(&self, keys: IssuerKeys) -> usize {
        let mut issuer = self.issuer.write();
        let mut known = std::mem::take(&mut issuer.gone);
        issuer.gone = keys.marks().map(|mark| (mark, known.remove(&mark).unwrap_or_default())).collect();
        issuer.keys = keys;
        // From here on, nobody is recognised by one of the others.
        drop(issuer);
        known.values().for_each(CancellationToken::cancel);
        known.len()
    }

    /// Waits until a token names a key that is not known.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The caller that a token speaks of; `lender` finds the caller of a name, for tokens that were lent, and `used` what a caller of
    /// the issuer may use.
    pub(super) fn recognise(
        &self,
        token: &[u8],
        now_s: u64,
        lender: impl FnOnce(&str) -> Option<Arc<Holder>>,
        used: impl FnOnce(&Entry) -> Allowance,
    ) -> Result<Arc<Holder>, Refused> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(holder) = self.remembered(&digest, now_s) {
            return Ok(holder);
        }
        let holder = match &self.mint {
            Some(mint) if Mint::says_so(token) => {
                let grant = mint.lock().check(token, now_s)?;
                // Its caller is no longer known, or no longer may call.
                let lender = lender(&grant.caller).filter(|lender| !lender.entry().has_expired(now_s));
                let lender = lender.ok_or(Refused::Token(TokenFault::LenderGone))?;
                let entry = lent(lender.entry(), grant);
                lender.lend(entry)
            }
            _ => self.of_issuer(token, now_s, used)?,
        };
        self.seen.lock().put(digest, Arc::clone(&holder));
        Ok(holder)
    }

    fn remembered(&self, digest: &[u8; 32], now_s: u64) -> Option<Arc<Holder>> {
        let mut seen = self.seen.lock();
        let holder = seen.get(digest)?;
        if holder.may_call(now_s) {
            return Some(Arc::clone(holder));
        }
        seen.pop(digest);
        None
    }

    fn of_issuer(&self, token: &[u8], now_s: u64, used: impl FnOnce(&Entry) -> Allowance) -> Result<Arc<Holder>, Refused> {
        let Some(rules) = &self.rules else { return Err(Refused::Malformed) };
        let issuer = self.issuer.read();
        let (entry, mark) = issuer.keys.check(token, rules, now_s).inspect_err(|refused| {
            if *refused == Refused::Token(TokenFault::UnknownKey) {
                self.wanted.notify_one();
            }
        })?;
        let gone = issuer.gone.get(&mark).map(CancellationToken::child_token).unwrap_or_default();
        drop(issuer);
        let allowance = used(&entry);
        Ok(Holder::until(entry, allowance, gone))
    }

    /// Lends a token to a caller, which may do no more with it than without.
    ///
    /// # Errors
    /// [`FaultKind::Unsupported`] if the server lends none, [`FaultKind::Denied`] for a caller that may not have one or asks for more than
    /// it may do, [`FaultKind::Invalid`] for what is not known.
    pub(super) fn lend(&self, holder: &Holder, request: TokenRequest, now_s: u64) -> Result<LentToken, Fault> {
        let off = || Fault::new(FaultKind::Unsupported, "this server lends no tokens (security.tokens)");
        let mint = self.mint.as_ref().ok_or_else(off)?;
        if !holder.is_listed() {
            let message =
                "a token is lent only to callers with a key or certificate that the keys file lists, not for another token";
            return Err(Fault::new(FaultKind::Denied, message));
        }
        let entry = holder.entry();
        let scopes = scopes(entry, request.scopes)?;
        let models = request.models.map(|models| globs(entry, models)).transpose()?;
        let wanted = request.expires_in_s.unwrap_or(LIFE_DEFAULT_S);
        if !TOKEN_LIFE_S.contains(&wanted) {
            let (least, most) = (TOKEN_LIFE_S.start(), TOKEN_LIFE_S.end());
            let message = format!("a token cannot last {wanted} s; it lasts {least} to {most} s");
            return Err(Fault::invalid("expires_in_s", message));
        }
        let expires = (now_s + wanted).min(entry.expires.unwrap_or(u64::MAX));
        let grant = Grant { caller: entry.name.to_string(), scopes, models, expires };
        let token = mint
            .lock()
            .sign(&grant, now_s, random)
            .map_err(|error| Fault::new(FaultKind::Failed, format!("the system gives no random numbers: {error}")))?;
        let scopes = scopes.iter().map(Scope::name).collect();
        Ok(LentToken { token, expires_in_s: expires.saturating_sub(now_s), scopes })
    }
}

fn random() -> Result<[u8; 32], getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map(|()| bytes)
}

/// The caller that a grant makes of the one that asked for it, whose rights may have changed since.
fn lent(lender: &Entry, grant: Grant) -> Entry {
    let Grant { scopes, models, expires, .. } = grant;
    let models = match models {
        None => lender.models.clone(),
        Some(models) => models.into_iter().filter(|glob| lender.may_lend(glob)).collect(),
    };
    let expires = Some(lender.expires.map_or(expires, |end| end.min(expires)));
    let tenant = Some(lender.tenant().into());
    Entry { tenant, scopes: scopes.and(lender.scopes), models, expires, ..lender.clone() }
}

fn scopes(entry: &Entry, asked: Option<Vec<String>>) -> Result<Scopes, Fault> {
    let Some(asked) = asked else { return Ok(entry.scopes) };
    let mut scopes = Vec::with_capacity(asked.len().min(Scope::ALL.len()));
    for name in &asked {
        let known = || {
            let known = Scope::ALL.map(Scope::name).join(", ");
            Fault::invalid("scopes", format!("there is no scope '{}'; there are {known}", name.escape_debug()))
        };
        let scope = Scope::named(name).ok_or_else(known)?;
        entry.permit(scope, None)?;
        scopes.push(scope);
    }
    Ok(scopes.into_iter().collect())
}

fn globs(entry: &Entry, asked: Vec<String>) -> Result<Vec<Glob>, Fault> {
    let globs: Vec<_> = asked.into_iter().map(Glob::new).collect();
    match globs.iter().find(|glob| !entry.may_lend(glob)) {
        None => Ok(globs),
        Some(glob) => {
            let message = format!(
                "'{}' may not lend model '{}': name one of its own patterns, or a model that fits one",
                entry.name,
                glob.as_str().escape_debug()
            );
            Err(Fault::new(FaultKind::Denied, message).with_field("models"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounts::Tenants,
        auth::{Keys, Quotas},
    };

    const NOW: u64 = 1_000;

    fn listed(rest: &str) -> Arc<Holder> {
        let text = format!("[[key]]\nname = 'alice'\ncn = 'alice'\nscopes = ['infer', 'models:read']\n{rest}");
        let keys = Keys::parse(&text).expect("sound");
        Holder::of(&keys.entries()[0], used(&keys.entries()[0]))
    }

    fn used(entry: &Entry) -> Allowance {
        Allowance::of(entry, Tenants::default().account(entry.tenant(), &Quotas::default()))
    }

    fn lend(tokens: &Tokens, holder: &Holder, scopes: &[&str], models: &[&str]) -> Result<LentToken, Fault> {
        let texts = |texts: &[&str]| (!texts.is_empty()).then(|| texts.iter().map(|text| (*text).to_owned()).collect());
        let request = TokenRequest { scopes: texts(scopes), models: texts(models), expires_in_s: Some(60) };
        tokens.lend(holder, request, NOW)
    }

    #[test]
    fn a_token_does_what_was_asked_for_and_no_more() {
        let (tokens, alice) = (Tokens::new(None, true), listed("models = ['silero-*', 'example']"));
        let token = lend(&tokens, &alice, &["infer"], &["silero-5"]).expect("it may").token;
        let holder = tokens
            .recognise(token.as_bytes(), NOW, |name| (name == "alice").then(|| Arc::clone(&alice)), used)
            .expect("it is good");
        assert!(holder.entry().permit(Scope::Infer, Some("silero-5")).is_ok());
        assert!(holder.entry().permit(Scope::Infer, Some("silero-6")).is_err());
        assert!(holder.entry().permit(Scope::ModelsRead, None).is_err());
        assert_eq!(holder.entry().tenant(), "alice");
        assert_eq!(holder.entry().expires, Some(NOW + 60));
        let again = tokens.recognise(token.as_bytes(), NOW, |_| None, used).expect("it is remembered");
        assert!(Arc::ptr_eq(&holder, &again));
        assert_eq!(tokens.recognise(token.as_bytes(), NOW + 60, |_| None, used).err(), Some(Refused::Token(TokenFault::Expired)));
    }

    #[test]
    fn nobody_is_lent_more_than_they_have() {
        let (tokens, alice) = (Tokens::new(None, true), listed("models = ['silero-*']"));
        let refused = |scopes: &[&str], models: &[&str]| lend(&tokens, &alice, scopes, models).expect_err("more").kind();
        assert_eq!(refused(&["admin"], &[]), FaultKind::Denied);
        assert_eq!(refused(&["everything"], &[]), FaultKind::Invalid);
        assert_eq!(refused(&[], &["*"]), FaultKind::Denied);
        assert_eq!(refused(&[], &["other"]), FaultKind::Denied);
        assert!(lend(&tokens, &alice, &[], &["silero-*"]).is_ok());
        let late = TokenRequest { expires_in_s: Some(7_201), ..TokenRequest::default() };
        assert_eq!(tokens.lend(&alice, late, NOW).expect_err("too long").kind(), FaultKind::Invalid);
        let token = lend(&tokens, &alice, &[], &[]).expect("it may").token;
        let holder = tokens.recognise(token.as_bytes(), NOW, |_| Some(Arc::clone(&alice)), used).expect("it is good");
        assert_eq!(lend(&tokens, &holder, &[], &[]).expect_err("a token for a token").kind(), FaultKind::Denied);
        let off = Tokens::new(None, false);
        assert_eq!(lend(&off, &alice, &[], &[]).expect_err("off").kind(), FaultKind::Unsupported);
    }

    #[test]
    fn a_lent_token_ends_with_its_lender() {
        let (tokens, alice) = (Tokens::new(None, true), listed(""));
        let token = lend(&tokens, &alice, &[], &[]).expect("it may").token;
        let holder = tokens.recognise(token.as_bytes(), NOW, |_| Some(Arc::clone(&alice)), used).expect("it is good");
        assert!(holder.may_call(NOW));
        alice.revoke();
        assert!(!holder.may_call(NOW));
        assert_eq!(tokens.recognise(token.as_bytes(), NOW, |_| None, used).err(), Some(Refused::Token(TokenFault::LenderGone)));
        // What has begun may go on after the token has ended, and not after its lender.
        let ended = Arc::clone(&holder).outliving_token();
        assert_eq!((holder.entry().expires, ended.entry().expires), (Some(NOW + 60), None));
        assert!(!ended.may_call(NOW) && ended.entry().permit(Scope::Infer, None).is_ok());
        let poorer = listed("models = ['a']");
        let now = tokens.recognise(token.as_bytes(), NOW, |_| Some(Arc::clone(&poorer)), used).expect("its caller is back");
        assert!(now.entry().includes("a") && !now.entry().includes("b"));
    }
}
