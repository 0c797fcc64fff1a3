//! What a client says: its events, read leniently.
//!
//! Keys may come in any order, and those that are not known here are passed over. What cannot be read is an error with the event's own id,
//! if that much can be read.

use std::borrow::Cow;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_PAD_INDIFFERENT, URL_SAFE_PAD_INDIFFERENT},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::wrong::Wrong;

/// Longest id of an event that is sent back.
const ID_BYTES_MAX: usize = 512;

/// Largest object `session`. Everything in it has limits of its own; this one is for what is passed over.
const SESSION_BYTES_MAX: usize = 64 << 10;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Append(Bytes),
    Commit {
        /// Only vLLM's clients say whether it is the last.
        is_final: Option<bool>,
    },
    Clear,
    Update(Update),
    /// Something about conversations, which this server has none of.
    Unserved(String),
}

/// An update of the session, in one of its shapes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Update {
    Session(Value),
    /// The flat shape of the beta.
    Beta(Value),
    /// vLLM's, which has nothing but a model.
    Model(Option<String>),
}

/// An event of a client.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClientEvent {
    pub(super) id: Option<String>,
    pub(super) said: Result<Said, Wrong>,
}

/// The members that are looked at. Their values are read once it is known which are needed.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    event_id: Option<&'a RawValue>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow, rename = "final")]
    is_final: Option<&'a RawValue>,
}

/// Reads an event. `append_bytes_max` is the most audio that one may bring.
pub(super) fn read(text: &str, append_bytes_max: usize) -> ClientEvent {
    match serde_json::from_str::<Members<'_>>(text) {
        Ok(members) => ClientEvent { id: id(members.event_id), said: said(&members, append_bytes_max) },
        Err(error) => {
            let (code, what) = if error.is_data() { ("invalid_event", "an event") } else { ("invalid_json", "JSON") };
            ClientEvent { id: None, said: Err(Wrong::new(code, format!("the message is not {what}: {error}"))) }
        }
    }
}

fn id(raw: Option<&RawValue>) -> Option<String> {
    string(raw?).filter(|id| id.len() <= ID_BYTES_MAX).map(Cow::into_owned)
}

/// The text that a value is; not copied unless it has escapes.
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|Text(text)| text)
}

fn said(members: &Members<'_>, append_bytes_max: usize) -> Result<Said, Wrong> {
    let Some(kind) = members.kind.and_then(string) else {
        return Err(Wrong::new("invalid_event", "the event has no type, which is a text").at("type"));
    };
    match &*kind {
        "input_audio_buffer.append" => audio(members.audio, append_bytes_max).map(Said::Append),
        "input_audio_buffer.commit" => {
            let is_final = members.is_final.map(|raw| serde_json::from_str(raw.get()));
            let is_final = is_final.transpose();
            let is_final = is_final.map_err(|_| Wrong::new("invalid_event", "'final' is not true or false").at("final"))?;
            Ok(Said::Commit { is_final })
        }
        "input_audio_buffer.clear" => Ok(Said::Clear),
        "session.update" => match members.session {
            Some(session) => session_of(session).map(|session| Said::Update(Update::Session(session))),
            None => {
                let model = members.model.map(|raw| {
                    string(raw)
                        .map(Cow::into_owned)
                        .ok_or_else(|| Wrong::new("invalid_event", "'model' is not a text").at("model"))
                });
                model.transpose().map(|model| Said::Update(Update::Model(model)))
            }
        },
        "transcription_session.update" => {
            let missing = || Wrong::new("invalid_event", "the event has no 'session'").at("session");
            let session = session_of(members.session.ok_or_else(missing)?)?;
            Ok(Said::Update(Update::Beta(session)))
        }
        kind if kind.starts_with("conversation.") || kind.starts_with("response.") || kind == "output_audio_buffer.clear" => {
            Ok(Said::Unserved(kind.to_owned()))
        }
        kind => {
            let shown: String = kind.chars().flat_map(char::escape_debug).take(80).collect();
            Err(Wrong::new("unknown_event", format!("there is no event of the type '{shown}'")).at("type"))
        }
    }
}

fn session_of(raw: &RawValue) -> Result<Value, Wrong> {
    let bytes = raw.get().len();
    if bytes > SESSION_BYTES_MAX {
        let message = format!("'session' has {bytes} bytes; at most {SESSION_BYTES_MAX} are taken");
        return Err(Wrong::new("too_large", message).at("session"));
    }
    serde_json::from_str(raw.get()).map_err(|error| Wrong::new("invalid_json", format!("'session' cannot be read: {error}")))
}

/// Audio in base64, in either alphabet, padded or not.
fn audio(raw: Option<&RawValue>, bytes_max: usize) -> Result<Bytes, Wrong> {
    let Some(text) = raw.and_then(string) else {
        return Err(Wrong::new("invalid_event", "the event has no 'audio', which is a text in base64").at("audio"));
    };
    let digits = text.trim_end_matches('=').len();
    let bytes = digits / 4 * 3 + digits % 4 * 3 / 4;
    if bytes > bytes_max {
        let message = format!(
            "'audio' has {bytes} bytes, more than the {bytes_max} that realtime.max_append_bytes allows in one event; send shorter pieces"
        );
        return Err(Wrong::new("too_large", message).at("audio"));
    }
    let is_url_safe = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let engine = if is_url_safe { URL_SAFE_PAD_INDIFFERENT } else { STANDARD_PAD_INDIFFERENT };
    let decoded = engine.decode(text.as_bytes());
    decoded.map(Bytes::from).map_err(|error| Wrong::new("invalid_audio", format!("'audio' is not base64: {error}")).at("audio"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const MAX: usize = 1 << 20;

    fn said_of(text: &str) -> Result<Said, Wrong> {
        read(text, MAX).said
    }

    #[test]
    fn keys_come_in_any_order_and_with_others() {
        let text = r#"{"session":{"a":{"b":[1,null]}},"colour":{"deep":[]},"type":"session.update","event_id":"e"}"#;
        let event = read(text, MAX);
        assert_eq!(event.id.as_deref(), Some("e"));
        assert_eq!(event.said, Ok(Said::Update(Update::Session(json!({ "a": { "b": [1, null] } })))));
        assert_eq!(said_of(r#"{"type":"session.update","model":"m"}"#), Ok(Said::Update(Update::Model(Some("m".to_owned())))));
        assert_eq!(said_of(r#"{"session":{},"type":"transcription_session.update"}"#), Ok(Said::Update(Update::Beta(json!({})))));
        assert_eq!(said_of(r#"{"type":"input_audio_buffer.commit"}"#), Ok(Said::Commit { is_final: None }));
        assert_eq!(said_of(r#"{"type":"input_audio_buffer.commit","final":true}"#), Ok(Said::Commit { is_final: Some(true) }));
        assert_eq!(said_of(r#"{"type":"input_audio_buffer.clear"}"#), Ok(Said::Clear));
    }

    #[test]
    fn audio_is_read_in_both_alphabets_with_padding_or_without() {
        for audio in ["-_8=", "-_8", "+/8=", "+/8", r"+\/8="] {
            let text = format!(r#"{{"audio":"{audio}","type":"input_audio_buffer.append"}}"#);
            assert_eq!(said_of(&text), Ok(Said::Append(Bytes::from_static(&[0xfb, 0xff]))), "{audio}");
        }
        assert_eq!(said_of(r#"{"type":"input_audio_buffer.append","audio":""}"#), Ok(Said::Append(Bytes::new())));
    }

    #[test]
    fn what_is_wrong_has_a_code_and_the_events_own_id() {
        for (text, code) in [
            ("", "invalid_json"),
            ("{", "invalid_json"),
            ("[]", "invalid_event"),
            ("7", "invalid_event"),
            (r#"{"event_id":"e"}"#, "invalid_event"),
            (r#"{"event_id":"e","type":7}"#, "invalid_event"),
            (r#"{"event_id":"e","type":"input_audio_buffer.append"}"#, "invalid_event"),
            (r#"{"event_id":"e","type":"input_audio_buffer.append","audio":7}"#, "invalid_event"),
            (r#"{"event_id":"e","type":"input_audio_buffer.append","audio":"a b"}"#, "invalid_audio"),
            (r#"{"event_id":"e","type":"input_audio_buffer.commit","final":1}"#, "invalid_event"),
            (r#"{"event_id":"e","type":"transcription_session.update"}"#, "invalid_event"),
            (r#"{"event_id":"e","type":"session.updated"}"#, "unknown_event"),
        ] {
            let event = read(text, MAX);
            assert_eq!(event.said.expect_err(text).code, code, "{text}");
            assert_eq!(event.id.is_some(), text.contains("event_id"), "{text}");
        }
        let long = format!(r#"{{"type":"input_audio_buffer.append","audio":"{}"}}"#, "A".repeat(MAX * 4 / 3 + 2));
        let wrong = said_of(&long).expect_err("too long");
        assert!(wrong.code == "too_large" && wrong.message.contains("realtime.max_append_bytes"), "{wrong:?}");
        let wide = format!(r#"{{"type":"session.update","session":{{"a":"{}"}}}}"#, "a".repeat(SESSION_BYTES_MAX));
        assert_eq!(said_of(&wide).expect_err("too large").code, "too_large");
    }

    #[test]
    fn what_is_for_conversations_is_told_from_what_nobody_knows() {
        for kind in ["conversation.item.create", "conversation.item.delete", "response.create", "output_audio_buffer.clear"] {
            assert_eq!(said_of(&format!(r#"{{"type":"{kind}"}}"#)), Ok(Said::Unserved(kind.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,120}", audio in "[ -~]{0,20}") {
            let _ = read(&text, MAX);
            let _ = read(&format!(r#"{{"type":"input_audio_buffer.append","audio":"{audio}"}}"#), MAX);
        }
    }
}
