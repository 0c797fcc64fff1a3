//! What the server says: events with ids, in the dialect of the client.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::wrong::Wrong;

/// The shape in which a client speaks and wants to be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Dialect {
    /// OpenAI's general API.
    #[default]
    General,
    /// The flat shape that came before it.
    Beta,
    /// vLLM's.
    Vllm,
}

/// Where in the audio something is, in ms from the beginning of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start_ms: u64,
    pub(super) end_ms: u64,
}

/// The events of one session that have not been sent yet.
#[derive(Debug)]
pub(super) struct Voice {
    dialect: Dialect,
    /// A word that is in the ids of this session's items and events, and in those of no other.
    seed: String,
    events: u64,
    items: u64,
    out: VecDeque<String>,
}

impl Voice {
    pub(super) fn new(dialect: Dialect, seed: &str) -> Self {
        Self { dialect, seed: seed.to_owned(), events: 0, items: 0, out: VecDeque::new() }
    }

    pub(super) const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// From now on, speaks like this.
    pub(super) const fn speak(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    /// The next event to be sent.
    pub(super) fn next(&mut self) -> Option<String> {
        self.out.pop_front()
    }

    pub(super) fn has_said_all(&self) -> bool {
        self.out.is_empty()
    }

    /// An id for another item.
    pub(super) fn next_item(&mut self) -> String {
        self.items += 1;
        format!("item_{}_{}", self.seed, self.items)
    }

    /// The first event. Its own `id` and `created` are what a client of vLLM looks for, before it can be known as one.
    pub(super) fn created(&mut self, session: &Value, created_s: u64) {
        let fields = match self.dialect {
            Dialect::Beta => json!({ "session": session }),
            Dialect::General | Dialect::Vllm => json!({ "session": session, "id": session["id"], "created": created_s }),
        };
        self.say("session.created", fields);
    }

    pub(super) fn updated(&mut self, session: &Value) {
        match self.dialect {
            Dialect::General => self.say("session.updated", json!({ "session": session })),
            Dialect::Beta => self.say("transcription_session.updated", json!({ "session": session })),
            Dialect::Vllm => {}
        }
    }

    pub(super) fn speech_started(&mut self, item: &str, start_ms: u64) {
        self.say_to_openai("input_audio_buffer.speech_started", json!({ "item_id": item, "audio_start_ms": start_ms }));
    }

    pub(super) fn speech_stopped(&mut self, item: &str, end_ms: u64) {
        self.say_to_openai("input_audio_buffer.speech_stopped", json!({ "item_id": item, "audio_end_ms": end_ms }));
    }

    pub(super) fn timeout_triggered(&mut self, item: &str, Span { start_ms, end_ms }: Span) {
        let fields = json!({ "item_id": item, "audio_start_ms": start_ms, "audio_end_ms": end_ms });
        self.say_to_openai("input_audio_buffer.timeout_triggered", fields);
    }

    pub(super) fn cleared(&mut self) {
        self.say_to_openai("input_audio_buffer.cleared", json!({}));
    }

    /// An item is complete, and there.
    pub(super) fn committed(&mut self, item: &str, previous: Option<&str>) {
        self.say_to_openai("input_audio_buffer.committed", json!({ "item_id": item, "previous_item_id": previous }));
        let content = json!([{ "type": "input_audio", "transcript": null }]);
        let shown = json!({
            "id": item, "object": "realtime.item", "type": "message", "status": "completed", "role": "user", "content": content,
        });
        let fields = json!({ "previous_item_id": previous, "item": shown });
        match self.dialect {
            Dialect::General => {
                self.say("conversation.item.added", fields.clone());
                self.say("conversation.item.done", fields);
            }
            Dialect::Beta => self.say("conversation.item.created", fields),
            Dialect::Vllm => {}
        }
    }

    /// A part of an item's text.
    pub(super) fn delta(&mut self, item: &str, delta: &str) {
        match self.dialect {
            Dialect::Vllm => self.say("transcription.delta", json!({ "delta": delta })),
            Dialect::General | Dialect::Beta => {
                let fields = json!({ "item_id": item, "content_index": 0, "delta": delta });
                self.say("conversation.item.input_audio_transcription.delta", fields);
            }
        }
    }

    /// All of an item's text.
    pub(super) fn transcript(&mut self, item: &str, text: &str, seconds: f64) {
        let usage = json!({ "type": "duration", "seconds": seconds });
        match self.dialect {
            Dialect::Vllm => self.say("transcription.done", json!({ "text": text, "usage": usage })),
            Dialect::General | Dialect::Beta => {
                let fields = json!({ "item_id": item, "content_index": 0, "transcript": text, "usage": usage });
                self.say("conversation.item.input_audio_transcription.completed", fields);
            }
        }
    }

    /// There is no text of an item.
    pub(super) fn transcript_failed(&mut self, item: &str, wrong: &Wrong) {
        let error = json!({ "type": kind_of(wrong), "code": wrong.code, "message": wrong.message, "param": null });
        let fields = json!({ "item_id": item, "content_index": 0, "error": error });
        match self.dialect {
            Dialect::Vllm => self.error(None, wrong),
            Dialect::General | Dialect::Beta => self.say("conversation.item.input_audio_transcription.failed", fields),
        }
    }

    pub(super) fn probability(&mut self, Span { start_ms, end_ms }: Span, probability: f32) {
        let probability = (f64::from(probability) * 1e6).round() / 1e6;
        let fields = json!({ "start_ms": start_ms, "end_ms": end_ms, "probability": probability });
        self.say("tidemill.probability", fields);
    }

    /// An event about a turn, with fields besides its number and item.
    pub(super) fn turn(&mut self, kind: &str, turn: u64, item: &str, mut fields: Value) {
        fields["turn_index"] = turn.into();
        fields["item_id"] = item.into();
        self.say(kind, fields);
    }

    /// Something that the client has to put right; `event` is the id of what it sent.
    pub(super) fn error(&mut self, event: Option<&str>, wrong: &Wrong) {
        let fields = match self.dialect {
            Dialect::Vllm => json!({ "error": wrong.message, "code": wrong.code }),
            Dialect::General | Dialect::Beta => json!({ "error": {
                "type": kind_of(wrong),
                "code": wrong.code,
                "message": wrong.message,
                "param": wrong.param,
                "event_id": event,
            } }),
        };
        self.say("error", fields);
    }

    /// An event that vLLM's clients do not know.
    fn say_to_openai(&mut self, kind: &str, fields: Value) {
        if self.dialect != Dialect::Vllm {
            self.say(kind, fields);
        }
    }

    fn say(&mut self, kind: &str, fields: Value) {
        self.events += 1;
        let mut event = if let Value::Object(fields) = fields { fields } else { Map::new() };
        event.insert("event_id".to_owned(), format!("event_{}_{}", self.seed, self.events).into());
        event.insert("type".to_owned(), kind.into());
        self.out.push_back(Value::Object(event).to_string());
    }
}

const fn kind_of(wrong: &Wrong) -> &'static str {
    if wrong.is_ours { "server_error" } else { "invalid_request_error" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(dialect: Dialect) -> Vec<String> {
        let mut voice = Voice::new(dialect, "s");
        voice.created(&json!({ "id": "sess_s" }), 7);
        voice.updated(&json!({}));
        voice.speech_started("i", 0);
        voice.committed("i", None);
        voice.delta("i", "a");
        voice.transcript("i", "a", 1.5);
        voice.error(Some("e"), &Wrong::new("code", "why"));
        let events = std::iter::from_fn(|| voice.next()).map(|text| serde_json::from_str::<Value>(&text).expect("JSON"));
        events.map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
    }

    #[test]
    fn each_dialect_has_its_own_names() {
        let general = [
            "session.created",
            "session.updated",
            "input_audio_buffer.speech_started",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed",
            "error",
        ];
        assert_eq!(kinds(Dialect::General), general);
        let beta = [
            "session.created",
            "transcription_session.updated",
            "input_audio_buffer.speech_started",
            "input_audio_buffer.committed",
            "conversation.item.created",
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed",
            "error",
        ];
        assert_eq!(kinds(Dialect::Beta), beta);
        assert_eq!(kinds(Dialect::Vllm), ["session.created", "transcription.delta", "transcription.done", "error"]);
    }

    #[test]
    fn an_error_says_whose_it_is() {
        let error = |dialect, is_ours| {
            let mut voice = Voice::new(dialect, "s");
            voice.error(Some("e"), &Wrong { is_ours, ..Wrong::new("code", "why").at("type") });
            serde_json::from_str::<Value>(&voice.next().expect("an event")).expect("JSON")
        };
        let expected = json!({
            "type": "error", "event_id": "event_s_1",
            "error": { "type": "server_error", "code": "code", "message": "why", "param": "type", "event_id": "e" },
        });
        assert_eq!(error(Dialect::General, true), expected);
        assert_eq!(error(Dialect::Beta, false)["error"]["type"], "invalid_request_error");
        let flat = json!({ "type": "error", "event_id": "event_s_1", "error": "why", "code": "code" });
        assert_eq!(error(Dialect::Vllm, false), flat);
    }
}
