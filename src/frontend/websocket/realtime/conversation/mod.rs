//! One session as a plain value: the client's events and the model's results in, the server's events out.
//!
//! Knows no socket, no model and no clock. Time is that of the audio: all of it that the client has written, in ticks.
//!
//! # ORDER
//! What changes how audio is heard (an update, a commit, a clear) applies to the audio after it. So such an event is a [`Change`], which the
//! caller keeps until the windows of all audio before it have been answered, reading nothing else, and then [applies](Conversation::apply).
//! That way the same audio gives the same events, however it is cut and however fast the model is.
//!
//! # ITEMS
//! Of an item, nothing is kept but the id of the last, and of the one that is being spoken its text. An item has its id from the first event that
//! is about it.

use bytes::Bytes;

use super::{
    said::{self, Said, Update},
    settings::{Format, Identity, Settings, TICKS_PER_S},
    turns::{Turn, Turns},
    update,
    voice::{Dialect, Span, Voice},
    wrong::Wrong,
};
use crate::{
    codec::WindowPosition,
    domain::{Fault, FaultKind},
    frontend::websocket::frame::{AWAY, POLICY, TOO_LARGE, close_code},
};

/// Least audio that can be committed.
const COMMIT_MS_MIN: u64 = 100;

const TICKS_PER_MS: u64 = TICKS_PER_S / 1_000;

/// Longest text of an item.
const TRANSCRIPT_BYTES_MAX: usize = 256 << 10;

/// Windows in a row that may fail before the session does.
const FAILURES_MAX: u32 = 8;

/// What a session has to know about its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) rate_hz: u32,
    /// Whether it says how likely a window is speech. Without that, no turns are found.
    pub(super) gives_probability: bool,
    /// Whether it says what is spoken.
    pub(super) gives_text: bool,
}

/// What an event of the client asks of the caller.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    Nothing,
    Audio {
        bytes: Bytes,
        /// Where it begins.
        at_ticks: u64,
    },
    Change(Change),
}

/// Something that applies once the audio before it has been answered.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    event: Option<String>,
    kind: Kind,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Update(Update),
    Commit(Option<bool>),
    Clear,
}

impl Change {
    /// Whether it asks for the text of all audio so far, however little is left of the last window.
    pub(super) const fn wants_text(&self) -> bool {
        matches!(self.kind, Kind::Commit(is_final) if !matches!(is_final, Some(false)))
    }
}

/// What a model says about a window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) position: WindowPosition,
    pub(super) probability: Option<f32>,
    pub(super) text: Option<String>,
}

/// Why a session is over: the code and reason of its close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) code: u16,
    pub(super) reason: String,
}

/// One session. See the module's text.
pub(super) struct Conversation {
    identity: Identity,
    settings: Settings,
    append_bytes_max: usize,
    voice: Voice,
    facts: Option<Facts>,
    ending: Option<Ending>,
    /// Whether vLLM's client has named a model.
    is_validated: bool,
    /// Where the audio of the current format began, and how many bytes of it there are.
    format_ticks: u64,
    format_bytes: u64,
    /// Where the stream of the current model began.
    stream_ticks: u64,
    /// Where audio begins that is in no item.
    buffer_ticks: u64,
    /// Where the turn that is being spoken began, padding included.
    turn_ticks: u64,
    /// Since when there has been no turn.
    quiet_ticks: u64,
    turns: Option<Turns>,
    turn_index: u64,
    /// The item that comes next, if anything has been said about it.
    item: Option<String>,
    previous: Option<String>,
    text: Result<String, Wrong>,
    failures: u32,
}

impl Conversation {
    /// A session that begins, on this model if it is known already. It says so.
    pub(super) fn new(identity: Identity, dialect: Dialect, facts: Option<Facts>, append_bytes_max: usize) -> Self {
        let voice = Voice::new(dialect, &identity.seed);
        let mut conversation = Self {
            identity,
            settings: Settings::default(),
            append_bytes_max,
            voice,
            facts: None,
            ending: None,
            is_validated: false,
            format_ticks: 0,
            format_bytes: 0,
            stream_ticks: 0,
            buffer_ticks: 0,
            turn_ticks: 0,
            quiet_ticks: 0,
            turns: None,
            turn_index: 0,
            item: None,
            previous: None,
            text: Ok(String::new()),
            failures: 0,
        };
        if let Some(facts) = facts {
            conversation.settings.model = Some(facts.name.clone());
            conversation.run_on(facts);
        }
        let session = conversation.session_json();
        conversation.voice.created(&session, conversation.identity.created_s);
        conversation
    }

    /// The next event to be sent.
    pub(super) fn next(&mut self) -> Option<String> {
        self.voice.next()
    }

    /// Whether all events have been taken.
    pub(super) fn has_said_all(&self) -> bool {
        self.voice.has_said_all()
    }

    /// Why it is over, once it is.
    pub(super) const fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The model that runs, or would.
    pub(super) const fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// How audio from now on is written.
    pub(super) fn format(&self) -> Format {
        self.settings.format.unwrap_or(match self.voice.dialect() {
            Dialect::Vllm => Format::Pcm(16_000),
            Dialect::General | Dialect::Beta => Format::DEFAULT,
        })
    }

    /// Takes in an event of the client.
    pub(super) fn hear(&mut self, text: &str) -> Heard {
        let said::ClientEvent { id, said } = said::read(text, self.append_bytes_max);
        let kind = match said {
            Ok(Said::Append(bytes)) if bytes.is_empty() => return Heard::Nothing,
            Ok(Said::Append(bytes)) => {
                let at_ticks = self.written_ticks();
                self.format_bytes += bytes.len() as u64;
                return Heard::Audio { bytes, at_ticks };
            }
            Ok(Said::Commit { is_final }) => Kind::Commit(is_final),
            Ok(Said::Clear) => Kind::Clear,
            Ok(Said::Update(update)) => Kind::Update(update),
            Ok(Said::Unserved(kind)) => {
                let message =
                    format!("'{kind}' is for conversations; this session transcribes and finds turns, and keeps no items");
                self.voice.error(id.as_deref(), &Wrong::new("unsupported_event", message).at("type"));
                return Heard::Nothing;
            }
            Err(wrong) => {
                self.voice.error(id.as_deref(), &wrong);
                return Heard::Nothing;
            }
        };
        Heard::Change(Change { event: id, kind })
    }

    /// Applies a change. `find` looks up a model by its name.
    pub(super) fn apply(&mut self, change: Change, find: impl FnOnce(&str) -> Result<Facts, Fault>) {
        let Change { event, kind } = change;
        match kind {
            Kind::Update(update) => self.update(event.as_deref(), update, find),
            Kind::Commit(is_final) if self.voice.dialect() == Dialect::Vllm || (is_final.is_some() && !self.is_validated) => {
                self.commit_for_vllm(event.as_deref(), is_final);
            }
            Kind::Commit(_) => self.commit(event.as_deref()),
            Kind::Clear => {
                self.end_turn("cleared");
                self.begin_buffer(self.written_ticks());
                (self.item, self.text) = (None, Ok(String::new()));
                self.voice.cleared();
            }
        }
    }

    /// The stream of the current model begins with the audio at this place.
    pub(super) fn streams_from(&mut self, ticks: u64) {
        self.stream_ticks = ticks;
    }

    /// Takes in what the model says about the next window, in order; `None` if it says nothing, or nothing that came through.
    pub(super) fn window(&mut self, window: Result<Window, Fault>, position: Option<WindowPosition>) {
        let window = match window {
            Ok(window) => {
                self.failures = 0;
                window
            }
            Err(fault) => {
                self.failures += u32::from(fault.kind() == FaultKind::Failed);
                if self.failures >= FAILURES_MAX {
                    return self.end_with(&fault);
                }
                let Some(position) = position else { return };
                Window { position, probability: None, text: None }
            }
        };
        let Window { position, probability, text } = window;
        let span = Ticks { start: self.ticks_of(position.start_sample), end: self.ticks_of(position.end_sample) };
        if let Some(probability) = probability.filter(|_| self.settings.include.probabilities) {
            self.voice.probability(span.ms(), probability);
        }
        if let Some(text) = text {
            self.hear_text(&text);
        }
        let Some(turns) = &mut self.turns else { return };
        for turn in turns.push(probability, &position) {
            self.take_turn(turn, span.end);
        }
        self.watch_silence(span.end);
    }

    /// Ends because of a fault. Only what the client has to put right is said in an event: some clients take none of those lightly.
    pub(super) fn end_with(&mut self, fault: &Fault) {
        let code = close_code(fault);
        if matches!(code, POLICY | TOO_LARGE) {
            self.voice.error(None, &fault.into());
        }
        self.end(code, fault.message());
    }

    /// Ends because its time is up.
    pub(super) fn expire(&mut self, limit_s: u64) {
        let message = format!("the session has lasted for the {limit_s} s that realtime.session_max_s allows; open another");
        self.voice.error(None, &Wrong::new("session_expired", message.as_str()));
        self.end(AWAY, &message);
    }

    /// Ends with this close, unless it has ended already.
    pub(super) fn end(&mut self, code: u16, reason: &str) {
        self.ending.get_or_insert_with(|| Ending { code, reason: reason.to_owned() });
    }

    /// There is audio, and no model to run on it.
    pub(super) fn lacks_model(&mut self, fault: &Fault) {
        let wrong = Wrong { code: "missing_model", ..Wrong::from(fault) };
        self.voice.error(None, &wrong.at("session.audio.input.transcription.model"));
        self.end(POLICY, fault.message());
    }

    fn update(&mut self, event: Option<&str>, update: Update, find: impl FnOnce(&str) -> Result<Facts, Fault>) {
        let (dialect, merged) = match update {
            Update::Session(session) => (self.voice.dialect(), update::merge(&self.settings, &session)),
            Update::Beta(session) => (Dialect::Beta, update::merge_beta(&self.settings, &session)),
            Update::Model(model) => {
                let model = model.ok_or_else(|| Wrong::new("invalid_event", "the event has neither 'session' nor 'model'"));
                let merged = model.map(|model| Settings { model: Some(model), detection: None, ..self.settings.clone() });
                (Dialect::Vllm, merged)
            }
        };
        let merged = match merged {
            Ok(merged) => merged,
            Err(wrong) => return self.voice.error(event, &wrong),
        };
        let (format, written) = (self.format(), self.written_ticks());
        self.voice.speak(dialect);
        let runs = self.facts.as_ref().map(|facts| &facts.name);
        if let Some(model) = merged.model.as_deref().filter(|model| runs.is_none_or(|runs| runs != model)) {
            match find(model) {
                Ok(facts) => self.run_on(facts),
                Err(fault) => {
                    self.voice.error(event, &Wrong::from(&fault).at("session.audio.input.transcription.model"));
                    let code = close_code(&fault);
                    return self.end(code, fault.message());
                }
            }
        }
        self.is_validated = true;
        self.settings = merged;
        if self.format() != format {
            (self.format_ticks, self.format_bytes) = (written, 0);
        }
        self.detect();
        let session = self.session_json();
        self.voice.updated(&session);
    }

    /// Runs on this model from the next audio on.
    fn run_on(&mut self, facts: Facts) {
        self.end_turn("model_changed");
        self.turns = None;
        self.facts = Some(facts);
        self.detect();
    }

    /// Finds turns as the settings say, from the next window on.
    fn detect(&mut self) {
        let facts = self.facts.as_ref().filter(|facts| facts.gives_probability);
        match (self.settings.detection, facts, &mut self.turns) {
            (Some(detection), Some(_), Some(turns)) => turns.set(detection),
            (Some(detection), Some(facts), none) => {
                *none = Some(Turns::new(detection, facts.rate_hz));
                self.quiet_ticks = self.written_ticks();
            }
            _ => {
                self.end_turn("detection_off");
                self.turns = None;
            }
        }
    }

    fn commit(&mut self, event: Option<&str>) {
        let written = self.written_ticks();
        let buffered = written.saturating_sub(self.buffer_ticks);
        if buffered < COMMIT_MS_MIN * TICKS_PER_MS {
            let ms = buffered as f64 / TICKS_PER_MS as f64;
            let message = format!("the buffer holds {ms:.2} ms of audio; at least {COMMIT_MS_MIN} ms can be committed");
            return self.voice.error(event, &Wrong::new("input_audio_buffer_commit_empty", message));
        }
        let start = if self.is_speaking() { self.turn_ticks } else { self.buffer_ticks };
        self.end_turn("commit");
        self.complete(start, written);
    }

    /// Their clients begin with a commit that is not the last, and end with one that is.
    fn commit_for_vllm(&mut self, event: Option<&str>, is_final: Option<bool>) {
        if !self.is_validated {
            self.voice.speak(Dialect::Vllm);
            let message = "the session has no model yet: send 'session.update' with one first";
            return self.voice.error(event, &Wrong::new("model_not_validated", message));
        }
        if is_final == Some(false) {
            return;
        }
        self.complete(self.buffer_ticks, self.written_ticks());
    }

    fn take_turn(&mut self, turn: Turn, now: u64) {
        let wants_turns = self.settings.include.turns;
        let (index, item) = (self.turn_index, self.item_id());
        let now_ms = now / TICKS_PER_MS;
        match turn {
            Turn::Started(sample) => {
                let padding = self.settings.detection.map_or(0, |detection| detection.rules().prefix_padding_ms);
                let padded = self.ticks_of(sample).saturating_sub(u64::from(padding) * TICKS_PER_MS);
                self.turn_ticks = padded.max(self.buffer_ticks);
                let start_ms = self.turn_ticks / TICKS_PER_MS;
                self.voice.speech_started(&item, start_ms);
                if wants_turns {
                    self.voice.turn("turn.start", index, &item, serde_json::json!({ "audio_start_ms": start_ms }));
                }
            }
            Turn::MaybeOver | Turn::GoesOn if wants_turns => {
                let kind = if turn == Turn::GoesOn { "turn.resume" } else { "turn.eager_end" };
                self.voice.turn(kind, index, &item, serde_json::json!({ "audio_end_ms": now_ms }));
            }
            Turn::MaybeOver | Turn::GoesOn => {}
            Turn::Ended => {
                self.voice.speech_stopped(&item, now_ms);
                self.say_turn_end("silence", now);
                self.complete(self.turn_ticks, now);
            }
        }
    }

    /// Ends the turn that is being spoken, if there is one, without `speech_stopped`.
    fn end_turn(&mut self, why: &'static str) {
        let was_speaking = self.is_speaking();
        if let Some(turns) = &mut self.turns {
            turns.cut();
        }
        if was_speaking {
            self.say_turn_end(why, self.written_ticks());
        }
    }

    fn say_turn_end(&mut self, why: &'static str, now: u64) {
        let item = self.item_id();
        if self.settings.include.turns {
            let fields = serde_json::json!({ "audio_end_ms": now / TICKS_PER_MS, "reason": why });
            self.voice.turn("turn.end", self.turn_index, &item, fields);
        }
        self.turn_index += 1;
    }

    /// Says so if there has been no turn for longer than the client wants to wait.
    fn watch_silence(&mut self, now: u64) {
        let timeout = self.settings.detection.and_then(|detection| detection.rules().idle_timeout_ms);
        let Some(timeout) = timeout.filter(|_| !self.is_speaking()) else { return };
        if now.saturating_sub(self.quiet_ticks) < u64::from(timeout) * TICKS_PER_MS {
            return;
        }
        let (item, quiet) = (self.item_id(), Ticks { start: self.quiet_ticks, end: now });
        self.voice.timeout_triggered(&item, quiet.ms());
        self.complete(self.buffer_ticks, now);
    }

    /// The item that comes next is complete, from `start` to `end`.
    fn complete(&mut self, start: u64, end: u64) {
        let item = self.item_id();
        self.voice.committed(&item, self.previous.as_deref());
        self.begin_buffer(end);
        let text = std::mem::replace(&mut self.text, Ok(String::new()));
        let is_vllm = self.voice.dialect() == Dialect::Vllm;
        if is_vllm || self.transcribes() {
            let seconds = end.saturating_sub(start) as f64 / TICKS_PER_S as f64;
            match text {
                Ok(text) => self.voice.transcript(&item, &text, seconds),
                Err(wrong) => self.voice.transcript_failed(&item, &wrong),
            }
        }
        (self.previous, self.item) = (Some(item), None);
    }

    fn hear_text(&mut self, text: &str) {
        if text.is_empty() || !self.transcribes() {
            return;
        }
        let item = self.item_id();
        let Ok(so_far) = &mut self.text else { return };
        if so_far.len() + text.len() > TRANSCRIPT_BYTES_MAX {
            let message = format!("the text of the item is longer than {TRANSCRIPT_BYTES_MAX} bytes; commit more often");
            self.text = Err(Wrong::new("transcript_too_long", message));
            return;
        }
        so_far.push_str(text);
        self.voice.delta(&item, text);
    }

    /// The id of the item that comes next.
    fn item_id(&mut self) -> String {
        let voice = &mut self.voice;
        self.item.get_or_insert_with(|| voice.next_item()).clone()
    }

    fn begin_buffer(&mut self, ticks: u64) {
        (self.buffer_ticks, self.quiet_ticks) = (ticks, ticks);
    }

    fn is_speaking(&self) -> bool {
        self.turns.as_ref().is_some_and(Turns::is_speaking)
    }

    fn transcribes(&self) -> bool {
        self.settings.transcription.is_some() && self.facts.as_ref().is_some_and(|facts| facts.gives_text)
    }

    /// Where the audio that has come so far ends.
    fn written_ticks(&self) -> u64 {
        self.format_ticks + self.format().ticks(self.format_bytes)
    }

    /// Where a sample of the current model's stream is.
    fn ticks_of(&self, sample: u64) -> u64 {
        let rate_hz = self.facts.as_ref().map_or(TICKS_PER_S, |facts| u64::from(facts.rate_hz.max(1)));
        let ticks = u128::from(sample) * u128::from(TICKS_PER_S) / u128::from(rate_hz);
        self.stream_ticks.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    /// The session as the client is shown it: as it is, not as it was asked for.
    fn session_json(&self) -> serde_json::Value {
        let mut shown = Settings { format: Some(self.format()), ..self.settings.clone() };
        if let Some(facts) = &self.facts {
            shown.model = Some(facts.name.clone());
            if !facts.gives_probability {
                shown.detection = None;
            }
        }
        match self.voice.dialect() {
            Dialect::Beta => shown.beta_json(&self.identity),
            Dialect::General | Dialect::Vllm => shown.json(&self.identity),
        }
    }
}

/// A stretch of the audio.
#[derive(Clone, Copy)]
struct Ticks {
    start: u64,
    end: u64,
}

impl Ticks {
    const fn ms(self) -> Span {
        Span { start_ms: self.start / TICKS_PER_MS, end_ms: self.end / TICKS_PER_MS }
    }
}

#[cfg(test)]
mod tests;
