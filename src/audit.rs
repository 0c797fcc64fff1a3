//! Callers that were refused, and what was changed by whom: one event for each, for the log's target [`AUDIT`].
//!
//! Knows no credential, no payload and no file: names, addresses and reasons come in, and [`log`](crate::log) writes them where
//! `log.audit` says, or nowhere.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use parking_lot::Mutex;

use crate::{
    clock, connections,
    domain::{Address, Fault, Peer},
    log::AUDIT,
    telemetry::Seldom,
};

/// Reasons of refusals that are counted separately. There are fewer, unless one quotes what a client sends.
const REASONS_MAX: usize = 64;
/// The reason that stands for the rest.
const OTHER: &str = "other reasons";

/// The caller, where nobody is known.
const ANONYMOUS: &str = "anonymous";

/// Names in the lines about one change of the keys file.
const NAMES_MAX: usize = 1_000;

/// When each reason was written last.
static REFUSALS: Mutex<BTreeMap<String, Seldom>> = Mutex::new(BTreeMap::new());

/// A credential on this task's connection was refused. One line a second for each reason; it counts those that were left out.
#[cold]
pub fn refused(fault: &Fault) {
    if !is_on() {
        return;
    }
    let due = due(&mut REFUSALS.lock(), fault.message());
    if let Some(left_out) = due {
        let peer = address(connections::peer());
        tracing::warn!(target: AUDIT, event = "refused", %peer, reason = fault.message(), left_out, "a caller was refused");
    }
}

/// How many were left out since the last line with this reason; `None` if this one is left out too.
fn due(refusals: &mut BTreeMap<String, Seldom>, reason: &str) -> Option<u64> {
    let reason = if refusals.contains_key(reason) || refusals.len() < REASONS_MAX { reason } else { OTHER };
    refusals.entry(reason.to_owned()).or_default().due(clock::now())
}

/// A call that changes something, from its beginning; its line is written when it ends.
#[derive(Debug)]
#[must_use = "the call ends when this is dropped"]
pub struct Change {
    call: &'static str,
    /// The caller and what it changes; `None` if nobody wants to know.
    about: Option<(String, String)>,
    peer: Peer,
}

impl Change {
    /// The call, its caller if one is known, and the name of what it changes.
    pub fn begin(call: &'static str, caller: Option<&str>, object: &str) -> Self {
        let about = is_on().then(|| (caller.unwrap_or(ANONYMOUS).to_owned(), object.to_owned()));
        Self { call, about, peer: connections::peer() }
    }

    /// How it has ended; hands that on.
    ///
    /// # Errors
    /// That of the outcome.
    pub fn ended<T>(mut self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        match &outcome {
            Ok(_) => self.write("done", ""),
            Err(fault) => self.write("failed", fault.message()),
        }
        outcome
    }

    fn write(&mut self, outcome: &'static str, reason: &str) {
        let Some((caller, object)) = self.about.take() else { return };
        let (call, peer) = (self.call, address(self.peer));
        tracing::info!(target: AUDIT, event = "call", call, caller, %peer, object, outcome, reason, "a call that changes something");
    }
}

impl Drop for Change {
    /// A client that has gone away, unless it has ended before.
    fn drop(&mut self) {
        self.write("abandoned", "");
    }
}

/// What has changed in the keys file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeysChange {
    /// Names that were not there before.
    pub added: Vec<String>,
    /// Names about which it says something else.
    pub changed: Vec<String>,
    /// Names that are no longer there.
    pub revoked: Vec<String>,
}

/// The keys file has changed.
pub fn keys_changed(change: &KeysChange) {
    let KeysChange { added, changed, revoked } = change;
    let all = [("added", added), ("changed", changed), ("revoked", revoked)];
    let names = all.into_iter().flat_map(|(what, names)| names.iter().map(move |name| (what, name)));
    for (what, name) in names.take(NAMES_MAX) {
        tracing::info!(target: AUDIT, event = "keys", what, name, "a caller of the keys file");
    }
    let (added, changed, revoked) = (added.len(), changed.len(), revoked.len());
    tracing::info!(target: AUDIT, event = "keys", what = "read", added, changed, revoked, "the keys file has changed");
}

/// The keys file has changed, and cannot be used.
pub fn keys_unusable(reason: &str) {
    tracing::warn!(target: AUDIT, event = "keys", what = "unusable", reason, "the keys file cannot be used");
}

/// Certificates were read again; `reason` says why those from before stay, if they do.
pub fn certificates_read(reason: Option<&str>) {
    match reason {
        None => tracing::info!(target: AUDIT, event = "certificates", outcome = "done", "certificates were read again"),
        Some(reason) => {
            tracing::warn!(target: AUDIT, event = "certificates", outcome = "failed", reason, "certificates were read again");
        }
    }
}

/// Whether anybody wants to know.
fn is_on() -> bool {
    tracing::enabled!(target: AUDIT, tracing::Level::INFO)
}

/// Where a connection comes from, as far as it is known: of an IPv6 address, the network.
fn address(peer: Peer) -> String {
    match peer.address {
        Address::Local => "this machine".to_owned(),
        Address::Proxy => "a proxy".to_owned(),
        Address::V4(bits) => Ipv4Addr::from_bits(bits).to_string(),
        Address::V6(network) => format!("{}/64", Ipv6Addr::from_bits(u128::from(network) << 64)),
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Debug, sync::Arc};

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
        subscriber::with_default,
    };

    use super::*;
    use crate::domain::FaultKind;

    /// Collects the fields of events, as `name=value`.
    #[derive(Clone, Default)]
    struct Collector(Arc<Mutex<Vec<String>>>);

    struct Fields(String);

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() != "message" {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
    }

    impl Subscriber for Collector {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == AUDIT
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut fields = Fields(String::new());
            event.record(&mut fields);
            self.0.lock().push(fields.0.trim_end().to_owned());
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    fn collected(work: impl FnOnce()) -> Vec<String> {
        let collector = Collector::default();
        with_default(collector.clone(), work);
        collector.0.lock().clone()
    }

    #[test]
    fn a_change_is_written_once_however_it_ends() {
        let lines = collected(|| {
            assert!(Change::begin("load", Some("alice"), "m").ended(Ok(())).is_ok());
            let fault = Fault::new(FaultKind::Denied, "it may not");
            assert!(Change::begin("unload", None, "n\n").ended::<()>(Err(fault)).is_err());
            drop(Change::begin("prove", Some("bob"), "p"));
        });
        assert_eq!(
            lines,
            [
                r#"event="call" call="load" caller="alice" peer=this machine object="m" outcome="done" reason="""#,
                r#"event="call" call="unload" caller="anonymous" peer=this machine object="n\n" outcome="failed" reason="it may not""#,
                r#"event="call" call="prove" caller="bob" peer=this machine object="p" outcome="abandoned" reason="""#,
            ]
        );
    }

    #[test]
    fn refusals_are_written_once_a_second_for_each_reason() {
        let (mut refusals, reason) = (BTreeMap::new(), |number: usize| format!("reason {number}"));
        for number in 0..REASONS_MAX {
            assert_eq!(due(&mut refusals, &reason(number)), Some(0));
        }
        assert_eq!(due(&mut refusals, &reason(REASONS_MAX)), Some(0), "the first of the rest");
        for number in REASONS_MAX..REASONS_MAX + 1_000 {
            let _left_out = due(&mut refusals, &reason(number));
        }
        assert_eq!(refusals.len(), REASONS_MAX + 1, "they take no more room, however many there are");
    }

    #[test]
    fn a_refusal_has_its_reason_and_where_it_came_from() {
        let fault = Fault::new(FaultKind::Unauthenticated, "a reason of this test alone");
        let lines = collected(|| refused(&fault));
        assert_eq!(lines, [r#"event="refused" peer=this machine reason="a reason of this test alone" left_out=0"#]);
    }

    #[test]
    fn a_change_of_many_keys_is_a_bounded_number_of_lines() {
        let names = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        let change = KeysChange { added: names(2), changed: names(1), revoked: names(5_000) };
        let lines = collected(|| keys_changed(&change));
        assert_eq!(lines.len(), NAMES_MAX + 1);
        assert_eq!(lines[0], r#"event="keys" what="added" name="0""#);
        assert_eq!(lines[NAMES_MAX], r#"event="keys" what="read" added=2 changed=1 revoked=5000"#);
    }

    #[test]
    fn addresses_are_those_that_are_known() {
        let peer = |address| Peer { connection: 1, address };
        assert_eq!(address(peer(Address::V4(0x0a00_0001))), "10.0.0.1");
        assert_eq!(address(peer(Address::V6(0x2001_0db8_0000_0001))), "2001:db8:0:1::/64");
        assert_eq!(address(Peer::default()), "this machine");
    }
}
