//! What a handshake asks for.

use axum::{
    extract::Query,
    http::{HeaderMap, Uri},
};

use super::voice::Dialect;
use crate::domain::Fault;

/// The subprotocol of clients in browsers, which fail unless the answer has it.
pub(super) const REALTIME: &str = "realtime";

/// The subprotocol of those that speak the beta.
pub(super) const BETA: &str = "openai-beta.realtime-v1";

/// The header of the same meaning, and its value.
const BETA_HEADER: (&str, &str) = ("openai-beta", "realtime=v1");

/// Longest name of a model.
const MODEL_BYTES_MAX: usize = 256;

/// What is known about a session before its first event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// `None` if the session is to name it, or does with the server's own.
    pub(super) model: Option<String>,
    pub(super) dialect: Dialect,
}

impl Asked {
    /// From a request whose client names the beta's subprotocol, or does not.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if the query cannot be read, or asks for another kind of session.
    pub(super) fn new(uri: &Uri, headers: &HeaderMap, names_beta: bool) -> Result<Self, Fault> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Fault::invalid("query", format!("the query cannot be read: {error}")))?;
        let value = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if let Some(intent) = value("intent").filter(|intent| *intent != "transcription") {
            let shown: String = intent.chars().flat_map(char::escape_debug).take(80).collect();
            let message = format!("this server has sessions for intent=transcription, and not for '{shown}'");
            return Err(Fault::invalid("intent", message));
        }
        let model = value("model").filter(|model| !model.is_empty());
        if let Some(model) = model.filter(|model| model.len() > MODEL_BYTES_MAX) {
            let message = format!("the model's name has {} bytes; at most {MODEL_BYTES_MAX} are allowed", model.len());
            return Err(Fault::invalid("model", message));
        }
        let (name, beta) = BETA_HEADER;
        let says_beta = headers.get_all(name).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(beta.as_bytes()));
        let dialect = if names_beta || says_beta { Dialect::Beta } else { Dialect::General };
        Ok(Self { model: model.map(str::to_owned), dialect })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn asked(query: &str, headers: &HeaderMap, names_beta: bool) -> Result<Asked, Fault> {
        Asked::new(&format!("/v1/realtime{query}").parse().expect("a path"), headers, names_beta)
    }

    #[test]
    fn each_client_is_understood() {
        let none = HeaderMap::new();
        let general = |model: Option<&str>| Ok(Asked { model: model.map(str::to_owned), dialect: Dialect::General });
        assert_eq!(asked("?model=silero-vad", &none, false), general(Some("silero-vad")));
        assert_eq!(asked("?intent=transcription&model=a%2Fb", &none, false), general(Some("a/b")));
        assert_eq!(asked("?intent=transcription", &none, false), general(None));
        assert_eq!(asked("?model=&colour=red", &none, false), general(None));
        let beta = HeaderMap::from_iter([("openai-beta".parse().expect("a name"), HeaderValue::from_static("realtime=v1"))]);
        assert_eq!(asked("", &beta, false).map(|asked| asked.dialect), Ok(Dialect::Beta));
        assert_eq!(asked("", &none, true).map(|asked| asked.dialect), Ok(Dialect::Beta));
    }

    #[test]
    fn other_kinds_of_sessions_are_refused() {
        let none = HeaderMap::new();
        assert_eq!(asked("?intent=conversation", &none, false).expect_err("another").field(), Some("intent"));
        let long = format!("?model={}", "m".repeat(257));
        assert_eq!(asked(&long, &none, false).expect_err("too long").field(), Some("model"));
    }

    proptest! {
        #[test]
        fn no_query_panics(query in "[ -~]{0,60}") {
            if let Ok(uri) = format!("/x?{query}").parse() {
                let _ = Asked::new(&uri, &HeaderMap::new(), false);
            }
        }
    }
}
