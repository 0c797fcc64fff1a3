//! All callers, as the keys file lists them, and the quotas of tenants.

use std::{collections::HashMap, sync::Arc};

use tidemill_domain::ClientCertificate;

use crate::{Digest, Entry, Key, KeysFaults, OTHERS, Proof, Quotas, Tenant, file};

/// The callers of a keys file.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    entries: Vec<Arc<Entry>>,
    /// Positions of keys, by how their digests begin.
    by_start: HashMap<[u8; 8], Vec<usize>>,
    tenants: Vec<Tenant>,
    /// Of each of them, by name.
    quotas: HashMap<Box<str>, Quotas>,
    /// Of all other tenants.
    of_others: Quotas,
}

impl Keys {
    /// Reads a keys file.
    ///
    /// # Errors
    /// Everything that is wrong with it; no value that may be a secret is quoted.
    pub fn parse(text: &str) -> Result<Self, KeysFaults> {
        let (entries, tenants) = file::parse(text)?;
        Ok(Self::of(entries, tenants))
    }

    /// These callers and tenants, whose names differ.
    #[must_use]
    pub fn of(entries: Vec<Entry>, tenants: Vec<Tenant>) -> Self {
        let mut by_start = HashMap::<_, Vec<_>>::new();
        for (position, entry) in entries.iter().enumerate() {
            if let Proof::Key(digest) = entry.proof {
                by_start.entry(digest.start()).or_default().push(position);
            }
        }
        let mut quotas: HashMap<_, _> = tenants.iter().map(|tenant| (tenant.name.clone(), tenant.quotas.clone())).collect();
        let of_others = quotas.remove(OTHERS).unwrap_or_default();
        Self { entries: entries.into_iter().map(Arc::new).collect(), by_start, tenants, quotas, of_others }
    }

    /// The file that lists them. Comments of a file that was read do not come back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let entries = self.entries.iter().map(|entry| file::write(entry));
        entries.chain(self.tenants.iter().map(file::write_tenant)).collect::<Vec<_>>().join("\n")
    }

    /// The part of a file that lists one caller.
    #[must_use]
    pub fn block(entry: &Entry) -> String {
        file::write(entry)
    }

    /// All of them, in the file's order.
    #[must_use]
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// The tenants that have quotas, in the file's order.
    #[must_use]
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// How much a tenant may use.
    #[must_use]
    pub fn quotas_of_tenant(&self, name: &str) -> &Quotas {
        self.quotas.get(name).unwrap_or(&self.of_others)
    }

    /// The position of the caller whose key this is.
    ///
    /// How long it takes depends on the digest's first 8 bytes and on nothing else. To learn from that, one would have to find keys
    /// with digests that begin as one likes, which is to invert SHA-256; and what one learned would be a digest, not a key.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<usize> {
        let digest: Digest = key.digest();
        let alike = self.by_start.get(&digest.start())?;
        alike.iter().copied().find(|position| self.entries[*position].proof == Proof::Key(digest))
    }

    /// The position of the first caller whose certificate this is.
    #[must_use]
    pub fn find_certificate(&self, certificate: &ClientCertificate) -> Option<usize> {
        self.entries.iter().position(|entry| entry.proof.fits(certificate))
    }

    /// Whether any caller is recognised by a certificate.
    #[must_use]
    pub fn know_certificates(&self) -> bool {
        self.by_start.values().map(Vec::len).sum::<usize>() < self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::subsequence};
    use tidemill_domain::{AlternativeName, FaultKind, Priority};

    use super::*;
    use crate::{Glob, Scope, WEIGHT_MAX};

    const FILE: &str = r#"
        # Ours.
        [[key]]
        name = "alice"
        sha256 = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        tenant = "acme"
        acts_for = ["acme-*"]
        scopes = ["infer", "models:read"]
        models = ["silero-*", "example_model"]
        expires = 2027-01-31T00:00:00Z
        quotas.streams = 100
        quotas.priority_max = "normal"

        [[key]]
        name = "scraper"
        san = "spiffe://example.org/prometheus/*"
        scopes = ["metrics"]

        [[tenant]]
        name = "acme"
        quotas.items_per_s = 1000
        quotas.weight = 3

        [[tenant]]
        name = "*"
        quotas.streams = 5
    "#;

    #[test]
    fn a_file_lists_who_may_do_what() {
        let keys = Keys::parse(FILE).expect("sound");
        let [alice, scraper] = keys.entries() else { panic!("two callers") };
        assert_eq!((alice.tenant(), scraper.tenant()), ("acme", "scraper"));
        assert_eq!(alice.quotas.streams, Some(100));
        assert_eq!(alice.quotas.priority_max, Some(Priority::Normal));
        assert_eq!(keys.find(&Key::from_random([0; 32])), Some(0));
        assert_eq!(keys.find(&Key::from_random([1; 32])), None);
        assert!(keys.know_certificates());
        assert_eq!(
            (alice.may_act_for("acme"), alice.may_act_for("acme-web"), alice.may_act_for("umbrella")),
            (true, true, false)
        );
        assert!(scraper.may_act_for("scraper") && !scraper.may_act_for("acme"));
        assert_eq!(keys.quotas_of_tenant("acme").items_per_s, Some(1_000));
        assert_eq!(keys.quotas_of_tenant("acme").weight, Some(3));
        assert_eq!(keys.quotas_of_tenant("scraper"), &Quotas { streams: Some(5), ..Quotas::default() });
        assert_eq!(Keys::default().quotas_of_tenant("acme"), &Quotas::default());

        assert_eq!(alice.permit(Scope::Infer, Some("silero-vad")), Ok(()));
        let denied = |scope, model| alice.permit(scope, model).map_err(|fault| (fault.kind(), fault.message().to_owned()));
        let (kind, message) = denied(Scope::ModelsWrite, None).expect_err("no such scope");
        assert!(kind == FaultKind::Denied && message.contains("models:write"), "{message}");
        let (kind, message) = denied(Scope::Infer, Some("other")).expect_err("no such model");
        assert!(kind == FaultKind::Denied && message.contains("model 'other'"), "{message}");

        let last_second = 1_801_353_599;
        assert!(!alice.has_expired(last_second) && alice.has_expired(last_second + 1));
        assert!(!scraper.has_expired(u64::MAX));
    }

    #[test]
    fn certificates_are_recognised_by_their_names() {
        let keys = Keys::parse(
            "[[key]]\nname = 'a'\ncn = 'client-*'\nscopes = ['infer']\n[[key]]\nname = 'b'\nsan = '*.example'\nscopes = ['admin']",
        )
        .expect("sound");
        let found = |names: &[&str], common: Option<&str>| {
            let names = names.iter().map(|name| AlternativeName::Dns((*name).to_owned())).collect();
            let common_name = common.map(str::to_owned);
            let certificate = ClientCertificate { names, common_name, ..ClientCertificate::default() };
            keys.find_certificate(&certificate).map(|position| &*keys.entries()[position].name)
        };
        assert_eq!(found(&[], Some("client-7")), Some("a"));
        assert_eq!(found(&["x.test", "y.example"], Some("server")), Some("b"));
        // A common name is not an alternative name, nor the other way round.
        assert_eq!(found(&["client-7"], Some("y.example")), None);
        assert_eq!(found(&[], None), None);
    }

    #[test]
    fn each_fault_is_named_all_at_once_and_no_value_is_quoted() {
        let secret = Key::from_random([9; 32]).reveal();
        let cases = [
            ("key = 1", "'key' is not a list"),
            ("keys = []", "'keys' is not known here"),
            ("\n\nkey = [", "line 3 is not TOML"),
            ("[[key]]\nname = 'a b'\nsha256 = 'KEY'\nscopes = ['infer']", "key number 1: 'name' must be"),
            ("[[key]]\nname = 'a'\nsha256 = 'KEY'\nscopes = ['infer']", "key 'a': 'sha256' must be the 64 hexadecimal digits"),
            ("[[key]]\nname = 'a'\nsha256 = ['KEY']\nscopes = ['infer']", "'sha256' is not text"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['KEY']", "'scopes' may list only infer, models:read"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = 'KEY'", "'scopes' is not a list of texts"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = []", "'scopes' is missing"),
            ("[[key]]\nname = 'a'\ncn = 'a'", "'scopes' is missing"),
            ("[[key]]\nname = 'a'\nscopes = ['infer']", "one of 'sha256', 'san' and 'cn'"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nsan = 'b'\nscopes = ['infer']", "one of 'sha256', 'san' and 'cn'"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\nexpires = 'KEY'", "'expires' must be a date"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\nmodel = ['KEY']", "'model' is not known"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\nmodels = ['']", "'models' may list up to 64"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\nquotas.streams = 0", "quota 'streams' must be a number"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\nquotas.stream = 1", "quota 'stream' is not known"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\nquotas.priority_max = 'KEY'", "'priority_max' must be"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\nquotas.weight = 101", "'weight' must be a number from 1 to 100"),
            ("[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\nacts_for = ['']", "'acts_for' may list up to 64"),
            ("tenant = 'KEY'", "'tenant' is not a list"),
            ("[[tenant]]\nname = 'KEY*'", "tenant number 1: 'name' must be"),
            ("[[tenant]]\nname = 'a'\nscopes = ['KEY']", "tenant 'a': 'scopes' is not known"),
            ("[[tenant]]\nname = '*'\nquotas.streams = 'KEY'", "tenant '*': quota 'streams' must be a number"),
            ("[[tenant]]\nname = 'a'\n[[tenant]]\nname = 'a'", "tenant 'a': another one has this name"),
        ];
        for (text, expected) in cases {
            let faults = Keys::parse(&text.replace("KEY", &secret)).expect_err(text).to_string();
            assert!(faults.contains(expected), "{faults} lacks {expected}");
            assert!(!faults.contains(&secret), "{faults}");
        }
        let twice = "[[key]]\nname = 'a'\ncn = 'a'\nscopes = ['infer']\n".repeat(2);
        assert_eq!(Keys::parse(&twice).expect_err("twice").to_string(), "key 'a': another one has this name");
        let both = Keys::parse("[[key]]\nname = 1\nscopes = ['x']\ncn = 'a'").expect_err("two faults").to_string();
        assert!(both.contains("'name' is not text") && both.contains("'scopes' may list"), "{both}");
    }

    fn quotas() -> impl Strategy<Value = Quotas> {
        let number = || option::of(1_u64..1 << 46);
        let priority = option::of(prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)]);
        (number(), number(), number(), number(), option::of(1..=WEIGHT_MAX), priority).prop_map(
            |(streams, connections, items_per_s, bytes_per_s, weight, priority_max)| Quotas {
                streams,
                connections,
                items_per_s,
                bytes_per_s,
                weight,
                priority_max,
            },
        )
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let pattern = || "[a-z*\"\\\\é]{1,8}".prop_map(Glob::new);
        let proof = prop_oneof![
            any::<[u8; 32]>().prop_map(|bytes| Proof::Key(Key::from_random(bytes).digest())),
            pattern().prop_map(Proof::AlternativeName),
            pattern().prop_map(Proof::CommonName),
        ];
        let scopes = subsequence(Scope::ALL.to_vec(), 1..=6).prop_map(|scopes| scopes.into_iter().collect());
        let tenant = option::of("[a-z@.]{1,5}".prop_map(Into::into));
        let patterns = (vec(pattern(), 0..4), vec(pattern(), 0..4));
        let expires = option::of(0_u64..253_402_300_799);
        ("[a-zA-Z0-9_.@-]{1,9}", proof, tenant, scopes, patterns, expires, quotas()).prop_map(
            |(name, proof, tenant, scopes, (acts_for, models), expires, quotas)| Entry {
                name: name.into(),
                proof,
                tenant,
                acts_for,
                scopes,
                models,
                expires,
                quotas,
            },
        )
    }

    proptest! {
        #[test]
        fn a_file_that_was_written_is_read_the_same(entry in entry(), quotas in quotas(), of_others in quotas()) {
            let keys = Keys::parse(&Keys::block(&entry)).expect("sound");
            prop_assert_eq!(&*keys.entries()[0], &entry);
            let tenants = vec![
                Tenant { name: "a".into(), quotas },
                Tenant { name: OTHERS.into(), quotas: of_others },
            ];
            let keys = Keys::of(vec![entry], tenants);
            let again = Keys::parse(&keys.to_toml()).expect("sound");
            prop_assert_eq!(again.entries(), keys.entries());
            prop_assert_eq!(again.tenants(), keys.tenants());
            prop_assert_eq!(again.quotas_of_tenant("b"), keys.quotas_of_tenant("b"));
        }

        #[test]
        fn no_text_is_too_odd(text in "(\\[\\[key\\]\\]\n)?(name|scopes|sha256|expires|quotas|acts_for)? ?=? ?\\PC{0,60}") {
            let _ = Keys::parse(&text);
        }
    }
}
