//! Sessions with a model whose results the test makes up: windows of 100 ms.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::frontend::websocket::realtime::settings::Format;

const RATE_HZ: u32 = 16_000;
const WINDOW: u64 = 1_600;
const APPEND_MAX: usize = 15 << 20;
/// Samples with at least this value are speech to the model of these tests.
const LOUD: i16 = 1_000;
const SILENT_MULAW: u8 = 0xff;
const SILENT_ALAW: u8 = 0xd5;

fn facts(name: &str) -> Facts {
    Facts { name: name.to_owned(), rate_hz: RATE_HZ, gives_probability: true, gives_text: false }
}

fn identity() -> Identity {
    Identity { seed: "1".to_owned(), created_s: 1_000, expires_s: 4_600 }
}

/// A client, its session, and a model that answers at once.
struct Talk {
    conversation: Conversation,
    /// What the model has not been given a whole window of.
    samples: Vec<i16>,
    format: Option<Format>,
    /// Samples read in this format, and the bytes of the next.
    read: u64,
    rest: Vec<u8>,
    windows: u64,
    /// What the model says, window by window.
    texts: Vec<&'static str>,
    said: Vec<Value>,
}

impl Talk {
    fn new(dialect: Dialect, facts: Option<Facts>) -> Self {
        let conversation = Conversation::new(identity(), dialect, facts, APPEND_MAX);
        let mut talk =
            Self { conversation, samples: vec![], format: None, read: 0, rest: vec![], windows: 0, texts: vec![], said: vec![] };
        talk.listen();
        talk
    }

    fn listen(&mut self) {
        while let Some(event) = self.conversation.next() {
            self.said.push(serde_json::from_str(&event).expect("JSON"));
        }
    }

    fn say(&mut self, event: &Value) {
        self.say_text(&event.to_string());
    }

    fn say_text(&mut self, text: &str) {
        match self.conversation.hear(text) {
            Heard::Nothing => {}
            Heard::Audio { bytes, .. } => self.run(&bytes),
            Heard::Change(change) => self.conversation.apply(change, |name| match name {
                "unknown" => Err(Fault::new(FaultKind::NotFound, "there is no model 'unknown'")),
                name => Ok(facts(name)),
            }),
        }
        self.listen();
    }

    /// What the driver does, with a model that looks at the loudest sample. The sound is converted to the sample, without a filter's delay.
    fn run(&mut self, bytes: &[u8]) {
        let format = self.conversation.format();
        if self.format != Some(format) {
            (self.format, self.read) = (Some(format), 0);
            self.rest.clear();
        }
        self.rest.extend(bytes);
        let (rate_hz, width) = match format {
            Format::Pcm(rate_hz) => (u64::from(rate_hz), 2),
            Format::Pcmu | Format::Pcma => (8_000, 1),
        };
        let whole = self.rest.len() / width * width;
        for sample in self.rest.drain(..whole).collect::<Vec<_>>().chunks(width) {
            let value = match *sample {
                [low, high] => i16::from_le_bytes([low, high]),
                [SILENT_MULAW | SILENT_ALAW] => 0,
                _ => LOUD,
            };
            let at = |samples: u64| (samples * u64::from(RATE_HZ)).div_ceil(rate_hz);
            self.samples.extend((at(self.read)..at(self.read + 1)).map(|_| value));
            self.read += 1;
        }
        while self.samples.len() as u64 >= WINDOW {
            let window: Vec<i16> = self.samples.drain(..WINDOW as usize).collect();
            let is_loud = window.iter().any(|sample| sample.abs() >= LOUD);
            let start_sample = self.windows * WINDOW;
            let position = WindowPosition { index: self.windows, start_sample, end_sample: start_sample + WINDOW };
            let text = self.texts.get(self.windows as usize).map(|text| (*text).to_owned());
            let window = Window { position, probability: Some(if is_loud { 0.9 } else { 0.1 }), text };
            self.windows += 1;
            self.conversation.window(Ok(window), Some(position));
        }
        self.listen();
    }

    fn append(&mut self, audio: &[u8]) {
        self.say(&append(audio));
    }

    /// What has been said since it was asked for last, ids of events aside.
    fn heard(&mut self) -> Vec<Value> {
        let mut said = std::mem::take(&mut self.said);
        for event in &mut said {
            let id = event.as_object_mut().and_then(|event| event.remove("event_id"));
            assert!(id.is_some_and(|id| id.is_string()), "an event has an id");
        }
        said
    }

    fn kinds(&mut self) -> Vec<String> {
        self.heard().iter().map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
    }

    fn code(&self) -> Option<u16> {
        self.conversation.ending().map(|ending| ending.code)
    }
}

fn append(audio: &[u8]) -> Value {
    // As LiveKit orders its keys.
    json!({ "audio": STANDARD.encode(audio), "type": "input_audio_buffer.append" })
}

fn update(input: &Value) -> Value {
    json!({ "session": { "type": "transcription", "audio": { "input": input } }, "type": "session.update" })
}

/// Tenths of a second at this rate: `#` is loud, anything else is quiet.
fn sound(rate_hz: u32, score: &str) -> Vec<u8> {
    let samples = score.chars().flat_map(|mark| {
        let value: i16 = if mark == '#' { 8_000 } else { 0 };
        std::iter::repeat_n(value, rate_hz as usize / 10)
    });
    samples.flat_map(i16::to_le_bytes).collect()
}

fn commit() -> Value {
    json!({ "type": "input_audio_buffer.commit" })
}

const MINIMAL: [&str; 7] = [
    "session.created",
    "session.updated",
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
];

#[test]
fn the_smallest_session_says_exactly_this() {
    let mut talk = Talk::new(Dialect::General, None);
    talk.say(&update(&json!({
        "format": { "type": "audio/pcm", "rate": 24_000 },
        "transcription": { "model": "silero-vad", "language": "en" },
        "turn_detection": { "type": "server_vad" },
    })));
    talk.append(&sound(24_000, "#######......"));
    let input = |transcription: Value| {
        json!({ "input": {
            "format": { "type": "audio/pcm", "rate": 24_000 },
            "transcription": transcription,
            "noise_reduction": null,
            "turn_detection": {
                "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500, "idle_timeout_ms": null,
            },
        } })
    };
    let session = |transcription: Value| {
        json!({
            "id": "sess_1", "object": "realtime.transcription_session", "type": "transcription", "expires_at": 4_600,
            "audio": input(transcription), "include": [],
        })
    };
    let item = json!({
        "id": "item_1_1", "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
        "content": [{ "type": "input_audio", "transcript": null }],
    });
    let expected = [
        json!({ "type": MINIMAL[0], "id": "sess_1", "created": 1_000, "session": session(json!({ "model": null })) }),
        json!({ "type": MINIMAL[1], "session": session(json!({ "model": "silero-vad", "language": "en" })) }),
        json!({ "type": MINIMAL[2], "item_id": "item_1_1", "audio_start_ms": 0 }),
        json!({ "type": MINIMAL[3], "item_id": "item_1_1", "audio_end_ms": 1_300 }),
        json!({ "type": MINIMAL[4], "item_id": "item_1_1", "previous_item_id": null }),
        json!({ "type": MINIMAL[5], "previous_item_id": null, "item": item.clone() }),
        json!({ "type": MINIMAL[6], "previous_item_id": null, "item": item }),
    ];
    assert_eq!(talk.heard(), expected);
    talk.append(&sound(24_000, "...##......"));
    let next = talk.heard();
    assert_eq!(
        next[0],
        json!({ "type": MINIMAL[2], "item_id": "item_1_2", "audio_start_ms": 1_300 }),
        "no padding into the last item"
    );
    assert_eq!((&next[2]["previous_item_id"], &next[2]["item_id"]), (&json!("item_1_1"), &json!("item_1_2")));
}

#[test]
fn livekit_says_session_before_type_and_before_the_server_has_said_anything() {
    let mut talk = Talk::new(Dialect::General, Some(facts("silero-vad")));
    talk.say_text(
        r#"{"session":{"type":"transcription","audio":{"input":{"format":{"type":"audio/pcm","rate":24000},"noise_reduction":null,
           "transcription":{"model":"silero-vad","prompt":"","language":"en"},
           "turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":600,"silence_duration_ms":350}}}},"type":"session.update"}"#,
    );
    for piece in sound(24_000, "....####......").chunks(2_400) {
        talk.append(piece);
    }
    assert_eq!(talk.said[2]["audio_start_ms"], 0, "600 ms of padding");
    assert_eq!(talk.kinds(), MINIMAL);
}

#[test]
fn pipecat_appends_before_its_update_and_commits_on_its_own() {
    let mut talk = Talk::new(Dialect::General, Some(facts("silero-vad")));
    let audio = sound(24_000, "####......");
    talk.append(&audio[..3_300]);
    talk.say(&update(&json!({
        "format": { "type": "audio/pcm", "rate": 24_000 },
        "transcription": { "model": "silero-vad" },
        "turn_detection": null,
    })));
    for piece in audio[3_300..].chunks(960) {
        talk.append(piece);
    }
    assert_eq!(talk.kinds(), MINIMAL[..2], "no turns are found");
    talk.say(&commit());
    assert_eq!(talk.kinds(), MINIMAL[4..]);
    talk.say(&commit());
    let error = &talk.heard()[0];
    assert_eq!(error["error"]["code"], "input_audio_buffer_commit_empty", "{error}");
    assert_eq!(talk.code(), None, "the session goes on");
}

#[test]
fn a_commit_takes_100_ms_of_audio() {
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    talk.append(&sound(24_000, ".")[2..]);
    talk.say(&json!({ "type": "input_audio_buffer.commit", "event_id": "mine" }));
    let heard = talk.heard();
    assert_eq!(heard[1]["error"]["event_id"], "mine", "{heard:?}");
    assert!(heard[1]["error"]["message"].as_str().is_some_and(|message| message.contains("99.96 ms")), "{heard:?}");
    talk.append(&[0, 0]);
    talk.say(&commit());
    assert_eq!(talk.kinds(), MINIMAL[4..]);
}

#[test]
fn a_commit_in_a_turn_ends_it_and_what_goes_on_is_another() {
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    talk.say(&json!({ "type": "session.update", "session": { "include": ["tidemill.turns"] } }));
    talk.append(&sound(24_000, ".####"));
    talk.say(&commit());
    talk.append(&sound(24_000, "###......"));
    let mut heard = talk.heard();
    let ended = heard.remove(4);
    assert_eq!(
        ended,
        json!({ "type": "turn.end", "turn_index": 0, "item_id": "item_1_1", "audio_end_ms": 500, "reason": "commit" })
    );
    let kinds: Vec<_> = heard.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    let turn = ["turn.start", "turn.eager_end", "turn.end"];
    let expected =
        [&MINIMAL[..3], &turn[..1], &MINIMAL[4..], &MINIMAL[2..3], &turn[..2], &MINIMAL[3..4], &turn[2..], &MINIMAL[4..]];
    assert_eq!(kinds, expected.concat());
    assert_eq!(heard[7]["audio_start_ms"], 500);
}

#[test]
fn settings_change_in_the_middle_of_a_turn() {
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    talk.append(&sound(24_000, "####.."));
    talk.say(&update(&json!({ "turn_detection": { "silence_duration_ms": 200 } })));
    assert_eq!(talk.heard().len(), 3);
    talk.append(&sound(24_000, "."));
    let heard = talk.heard();
    assert_eq!(heard[0], json!({ "type": MINIMAL[3], "item_id": "item_1_1", "audio_end_ms": 700 }));
    // Switched off, a turn that has begun ends without a word, and its item goes on until it is committed.
    talk.append(&sound(24_000, "####"));
    talk.say(&update(&json!({ "turn_detection": null })));
    talk.append(&sound(24_000, "#......."));
    talk.say(&commit());
    let heard = talk.heard();
    let items: Vec<_> = heard.iter().map(|event| (event["type"].as_str().expect("a type"), &event["item_id"])).collect();
    let (id, none) = (json!("item_1_2"), Value::Null);
    let expected = [(MINIMAL[2], &id), (MINIMAL[1], &none), (MINIMAL[4], &id), (MINIMAL[5], &none), (MINIMAL[6], &none)];
    assert_eq!(items, expected);
}

#[test]
fn a_clear_forgets_the_turn_and_its_item() {
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    talk.append(&sound(24_000, "####"));
    talk.say(&json!({ "type": "input_audio_buffer.clear" }));
    talk.append(&sound(24_000, "......"));
    assert_eq!(talk.kinds(), [MINIMAL[0], MINIMAL[2], "input_audio_buffer.cleared"]);
    talk.say(&json!({ "type": "input_audio_buffer.clear" }));
    talk.say(&commit());
    assert_eq!(talk.kinds(), ["input_audio_buffer.cleared", "error"], "nothing is left to commit");
}

#[test]
fn silence_for_too_long_is_an_item_of_its_own() {
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    talk.say(&update(&json!({ "turn_detection": { "type": "server_vad", "idle_timeout_ms": 1_000 } })));
    talk.append(&sound(24_000, "##......"));
    talk.heard();
    talk.append(&sound(24_000, "........."));
    assert!(talk.said.is_empty(), "900 ms");
    talk.append(&sound(24_000, "."));
    let heard = talk.heard();
    let triggered = json!({
        "type": "input_audio_buffer.timeout_triggered", "item_id": "item_1_2", "audio_start_ms": 800, "audio_end_ms": 1_800,
    });
    assert_eq!(heard[0], triggered);
    assert_eq!((&heard[1]["type"], heard.len()), (&json!(MINIMAL[4]), 4));
    talk.append(&sound(24_000, ".........."));
    assert_eq!(talk.heard()[0]["audio_start_ms"], 1_800, "and again");
}

#[test]
fn probabilities_and_turns_are_said_if_they_are_asked_for() {
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    let include = json!(["tidemill.turns", "tidemill.probabilities", "item.input_audio_transcription.logprobs"]);
    talk.say(&json!({ "type": "session.update", "session": { "include": include } }));
    assert_eq!(talk.said[1]["session"]["include"], json!(["tidemill.probabilities", "tidemill.turns"]));
    talk.heard();
    talk.append(&sound(24_000, "##....##......"));
    let heard = talk.heard();
    assert_eq!(heard[0], json!({ "type": "tidemill.probability", "start_ms": 0, "end_ms": 100, "probability": 0.9 }));
    let turns: Vec<_> = heard
        .iter()
        .filter(|event| event["type"].as_str().is_some_and(|kind| kind.starts_with("turn.")))
        .map(|event| (event["type"].as_str().expect("a type"), &event["audio_start_ms"], &event["audio_end_ms"]))
        .collect();
    let (none, at) = (Value::Null, |ms: u64| json!(ms));
    let expected = [
        ("turn.start", &at(0), &none),
        ("turn.eager_end", &none, &at(600)),
        ("turn.resume", &none, &at(700)),
        ("turn.eager_end", &none, &at(1_200)),
        ("turn.end", &none, &at(1_400)),
    ];
    assert_eq!(turns, expected);
}

#[test]
fn another_format_applies_from_where_it_is_asked_for() {
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    talk.append(&sound(24_000, ".."));
    talk.say(&update(&json!({ "format": { "type": "audio/pcmu" } })));
    let speech: Vec<u8> = [vec![0x00; 4 * 800], vec![SILENT_MULAW; 6 * 800]].concat();
    talk.append(&speech);
    let heard = talk.heard();
    assert_eq!(heard[1]["session"]["audio"]["input"]["format"], json!({ "type": "audio/pcmu" }));
    assert_eq!((&heard[2]["type"], &heard[2]["audio_start_ms"]), (&json!(MINIMAL[2]), &json!(0)), "200 ms, less padding");
    assert_eq!((&heard[3]["type"], &heard[3]["audio_end_ms"]), (&json!(MINIMAL[3]), &json!(1_200)));
    talk.say(&update(&json!({ "format": { "type": "audio/pcm", "rate": 48_000 } })));
    talk.append(&sound(48_000, "####......"));
    let heard = talk.heard();
    assert_eq!(heard[2]["audio_end_ms"], 2_200);
}

#[test]
fn conversations_are_not_served_and_the_session_goes_on() {
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    for kind in ["conversation.item.create", "response.create", "output_audio_buffer.clear", "what.is.this"] {
        talk.heard();
        talk.say(&json!({ "type": kind, "event_id": kind }));
        let heard = talk.heard();
        assert_eq!((heard.len(), &heard[0]["error"]["event_id"]), (1, &json!(kind)));
        assert_eq!(heard[0]["error"]["type"], "invalid_request_error");
    }
    assert_eq!(talk.code(), None);
}

#[test]
fn a_model_that_is_not_there_ends_the_session_for_good() {
    let mut talk = Talk::new(Dialect::General, None);
    talk.say(&update(&json!({ "transcription": { "model": "unknown" } })));
    let heard = talk.heard();
    assert_eq!((&heard[1]["error"]["code"], talk.code()), (&json!("model_not_found"), Some(1008)), "{heard:?}");
}

#[test]
fn faults_end_a_session_with_an_event_only_where_the_client_can_do_something() {
    for (kind, events, code) in [
        (FaultKind::Invalid, 2, 1008),
        (FaultKind::Denied, 2, 1008),
        (FaultKind::Unavailable, 1, 1001),
        (FaultKind::Overloaded, 1, 1013),
        (FaultKind::Failed, 1, 1011),
    ] {
        let mut talk = Talk::new(Dialect::General, Some(facts("m")));
        talk.conversation.end_with(&Fault::new(kind, "why"));
        talk.listen();
        assert_eq!((talk.heard().len(), talk.code()), (events, Some(code)), "{kind:?}");
    }
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    talk.conversation.expire(3_600);
    talk.listen();
    let heard = talk.heard();
    assert_eq!((&heard[1]["error"]["code"], talk.code()), (&json!("session_expired"), Some(1001)));
}

#[test]
fn a_window_that_fails_changes_nothing_and_many_in_a_row_end_the_session() {
    let mut talk = Talk::new(Dialect::General, Some(facts("m")));
    let position = |index: u64| WindowPosition { index, start_sample: index * WINDOW, end_sample: (index + 1) * WINDOW };
    for index in 0..u64::from(FAILURES_MAX) {
        assert_eq!(talk.code(), None);
        talk.conversation.window(Err(Fault::new(FaultKind::Failed, "the call failed")), Some(position(index)));
    }
    assert_eq!(talk.code(), Some(1011));
}

#[test]
fn text_belongs_to_the_item_that_it_was_spoken_in() {
    let mut talk = Talk::new(Dialect::General, Some(Facts { gives_text: true, ..facts("m") }));
    talk.texts = vec!["", "good", " day", "", "", "", "", "", "", "and"];
    talk.append(&sound(24_000, "###......#"));
    let heard = talk.heard();
    let texts: Vec<_> =
        heard.iter().filter(|event| event["type"].as_str().is_some_and(|kind| kind.contains("transcription"))).collect();
    let completed = json!({
        "type": "conversation.item.input_audio_transcription.completed", "item_id": "item_1_1", "content_index": 0,
        "transcript": "good day", "usage": { "type": "duration", "seconds": 0.9 },
    });
    assert_eq!(texts[0]["delta"], "good");
    assert_eq!(texts[2], &completed);
    assert_eq!((&texts[3]["item_id"], &texts[3]["delta"]), (&json!("item_1_2"), &json!("and")));
    talk.say(&update(&json!({ "transcription": null })));
    talk.say(&commit());
    assert!(!talk.kinds().iter().any(|kind| kind.contains("completed")), "it is switched off");
}

#[test]
fn without_probabilities_the_session_says_that_it_finds_no_turns() {
    let mut talk = Talk::new(Dialect::General, Some(Facts { gives_probability: false, gives_text: true, ..facts("m") }));
    assert_eq!(talk.said[0]["session"]["audio"]["input"]["turn_detection"], Value::Null);
    talk.append(&sound(24_000, "####......"));
    assert_eq!(talk.kinds(), ["session.created"]);
}

#[test]
fn the_beta_is_flat_and_has_one_event_for_an_item() {
    for says_so in [true, false] {
        let dialect = if says_so { Dialect::Beta } else { Dialect::General };
        let mut talk = Talk::new(dialect, Some(facts("m")));
        talk.say(&json!({
            "type": "transcription_session.update",
            "session": { "input_audio_format": "pcm16", "input_audio_transcription": { "model": "m" }, "turn_detection": { "type": "server_vad" } },
        }));
        talk.append(&sound(24_000, "####......"));
        let heard = talk.heard();
        assert_eq!(heard[0]["session"]["input_audio_format"].is_string(), says_so);
        assert_eq!(heard[1]["session"]["input_audio_format"], "pcm16");
        let kinds: Vec<_> = heard.iter().map(|event| event["type"].as_str().expect("a type")).collect();
        let expected =
            [&["session.created", "transcription_session.updated"], &MINIMAL[2..5], &["conversation.item.created"]].concat();
        assert_eq!(kinds, expected);
    }
}

#[test]
fn vllms_clients_get_text_alone() {
    let mut talk = Talk::new(Dialect::General, None);
    assert_eq!((&talk.said[0]["id"], &talk.said[0]["created"]), (&json!("sess_1"), &json!(1_000)));
    talk.say(&json!({ "type": "input_audio_buffer.commit", "final": false }));
    let heard = talk.heard();
    assert_eq!((heard[1]["error"].is_string(), &heard[1]["code"]), (true, &json!("model_not_validated")));
    talk.say(&json!({ "type": "session.update", "model": "m" }));
    talk.conversation.facts = Some(Facts { gives_text: true, ..facts("m") });
    talk.say(&json!({ "type": "input_audio_buffer.commit", "final": false }));
    talk.texts = vec!["one", "", " two"];
    talk.append(&sound(16_000, "####......"));
    talk.say(&json!({ "type": "input_audio_buffer.commit", "final": true }));
    talk.say(&json!({ "type": "nothing" }));
    let expected = [
        json!({ "type": "transcription.delta", "delta": "one" }),
        json!({ "type": "transcription.delta", "delta": " two" }),
        json!({ "type": "transcription.done", "text": "one two", "usage": { "type": "duration", "seconds": 1.0 } }),
        json!({ "type": "error", "code": "unknown_event", "error": "there is no event of the type 'nothing'" }),
    ];
    assert_eq!(talk.heard(), expected);
}

/// JSON of any shape, in which words of the protocol are likely.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("session.update".to_owned()),
        Just("input_audio_buffer.append".to_owned()),
        Just("input_audio_buffer.commit".to_owned()),
        Just("input_audio_buffer.clear".to_owned()),
        Just("transcription_session.update".to_owned()),
        Just("server_vad".to_owned()),
        Just("semantic_vad".to_owned()),
        Just("audio/pcm".to_owned()),
        Just("AAAA".to_owned()),
        "\\PC{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("type".to_owned()),
        Just("session".to_owned()),
        Just("audio".to_owned()),
        Just("input".to_owned()),
        Just("format".to_owned()),
        Just("rate".to_owned()),
        Just("transcription".to_owned()),
        Just("model".to_owned()),
        Just("turn_detection".to_owned()),
        Just("threshold".to_owned()),
        Just("silence_duration_ms".to_owned()),
        Just("idle_timeout_ms".to_owned()),
        Just("include".to_owned()),
        Just("final".to_owned()),
        Just("event_id".to_owned()),
        "\\PC{0,4}",
    ];
    leaf.prop_recursive(6, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_events_panic(events in proptest::collection::vec(any_json(), 1..8), texts in proptest::collection::vec("\\PC{0,40}", 0..4)) {
        let mut talk = Talk::new(Dialect::General, Some(facts("m")));
        for event in &events {
            talk.say(event);
            talk.append(&sound(24_000, "##......"));
        }
        for text in &texts {
            talk.say_text(text);
        }
    }

    #[test]
    fn the_same_audio_gives_the_same_events_however_it_is_cut(
        score in "[#.]{10,60}",
        sizes in proptest::collection::vec(1_usize..9_000, 1..20),
        format in prop_oneof![Just(Format::Pcm(24_000)), Just(Format::Pcm(48_000)), Just(Format::Pcma)],
    ) {
        let (audio, wanted) = match format {
            Format::Pcm(rate_hz) => (sound(rate_hz, &score), json!({ "type": "audio/pcm", "rate": rate_hz })),
            _ => {
                let loud = 0x2a;
                let audio = score.chars().flat_map(|mark| std::iter::repeat_n(if mark == '#' { loud } else { SILENT_ALAW }, 800));
                (audio.collect(), json!({ "type": "audio/pcma" }))
            }
        };
        let heard = |sizes: &[usize]| {
            let mut talk = Talk::new(Dialect::General, Some(facts("m")));
            talk.say(&update(&json!({ "format": wanted })));
            let (mut rest, mut sizes) = (&audio[..], sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*sizes.next().expect("it goes round")));
                talk.append(piece);
                rest = after;
            }
            talk.say(&commit());
            talk.heard()
        };
        prop_assert_eq!(heard(&sizes), heard(&[audio.len()]));
    }
}
