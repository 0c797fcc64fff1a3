//! What a session goes by, and how it is shown to the client.

use serde_json::{Value, json};

use crate::codec::{SampleFormat, SegmentRules, Sound};

/// Positions in a session's audio are counted in this many a second, so that those of all formats are whole.
pub(super) const TICKS_PER_S: u64 = 48_000;

/// Speech has to be longer than this to be a turn, so that a click is none.
const MIN_SPEECH_MS: u32 = 50;

/// Thresholds outside of this could never be reached, or never missed.
const THRESHOLD_LEAST: f32 = 0.02;
const THRESHOLD_MOST: f32 = 0.99;

/// How the client writes its audio; mono.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Signed 16-bit little-endian, with this many samples a second.
    Pcm(u32),
    /// G.711 µ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
}

impl Format {
    /// What clients that say nothing send.
    pub(super) const DEFAULT: Self = Self::Pcm(24_000);

    /// Rates of PCM that are accepted; each is a part of [`TICKS_PER_S`].
    pub(super) const PCM_RATES_HZ: [u32; 3] = [16_000, 24_000, 48_000];

    pub(super) const fn sound(self) -> Sound {
        match self {
            Self::Pcm(rate_hz) => Sound { format: SampleFormat::S16le, rate_hz },
            Self::Pcmu => Sound { format: SampleFormat::Mulaw, rate_hz: 8_000 },
            Self::Pcma => Sound { format: SampleFormat::Alaw, rate_hz: 8_000 },
        }
    }

    /// How long this many bytes last; a sample that is not complete does not count.
    pub(super) const fn ticks(self, bytes: u64) -> u64 {
        match self {
            Self::Pcm(rate_hz) => bytes / 2 * (TICKS_PER_S / rate_hz as u64),
            Self::Pcmu | Self::Pcma => bytes * (TICKS_PER_S / 8_000),
        }
    }

    fn json(self) -> Value {
        match self {
            Self::Pcm(rate_hz) => json!({ "type": "audio/pcm", "rate": rate_hz }),
            Self::Pcmu => json!({ "type": "audio/pcmu" }),
            Self::Pcma => json!({ "type": "audio/pcma" }),
        }
    }

    const fn beta_name(self) -> &'static str {
        match self {
            Self::Pcm(_) => "pcm16",
            Self::Pcmu => "g711_ulaw",
            Self::Pcma => "g711_alaw",
        }
    }
}

/// How soon a turn is over, in the words of `semantic_vad`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eagerness {
    Low,
    Medium,
    High,
    /// As medium.
    Auto,
}

impl Eagerness {
    pub(super) const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Auto];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Auto => "auto",
        }
    }

    /// The silence that ends a turn.
    const fn silence_ms(self) -> u32 {
        match self {
            Self::Low => 2_000,
            Self::Medium | Self::Auto => 1_000,
            Self::High => 500,
        }
    }
}

/// How turns are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Detection {
    Server(ServerVad),
    /// The same detector, with the silence that goes with a word.
    Semantic(Eagerness),
}

/// The settings of `server_vad`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ServerVad {
    pub(super) threshold: f32,
    pub(super) prefix_padding_ms: u32,
    pub(super) silence_duration_ms: u32,
    pub(super) idle_timeout_ms: Option<u32>,
    /// Silence after which a turn may be over; half of the silence that ends it if absent.
    pub(super) eager_silence_duration_ms: Option<u32>,
}

impl ServerVad {
    pub(super) const DEFAULT: Self = Self {
        threshold: 0.5,
        prefix_padding_ms: 300,
        silence_duration_ms: 500,
        idle_timeout_ms: None,
        eager_silence_duration_ms: None,
    };
}

impl Detection {
    /// What is in force if the client says nothing.
    pub(super) const DEFAULT: Self = Self::Server(ServerVad::DEFAULT);

    /// The same as settings of `server_vad`.
    pub(super) const fn rules(self) -> ServerVad {
        match self {
            Self::Server(rules) => rules,
            Self::Semantic(eagerness) => ServerVad { silence_duration_ms: eagerness.silence_ms(), ..ServerVad::DEFAULT },
        }
    }

    /// The same for the finder of segments. Padding is not its business: it is added to the beginning alone.
    pub(super) fn segment_rules(self) -> SegmentRules {
        let ServerVad { threshold, silence_duration_ms, .. } = self.rules();
        let threshold = threshold.clamp(THRESHOLD_LEAST, THRESHOLD_MOST);
        SegmentRules {
            threshold,
            negative_threshold: SegmentRules::negative_threshold_below(threshold),
            min_speech_ms: MIN_SPEECH_MS,
            min_silence_ms: silence_duration_ms,
            pad_ms: 0,
        }
    }

    /// Silence after which a turn may be over.
    pub(super) fn eager_silence_ms(self) -> u32 {
        let rules = self.rules();
        rules.eager_silence_duration_ms.unwrap_or(rules.silence_duration_ms / 2)
    }

    fn json(self) -> Value {
        match self {
            Self::Server(rules) => {
                let ServerVad { threshold, prefix_padding_ms, silence_duration_ms, idle_timeout_ms, .. } = rules;
                // Two digits more than a client can mean, and none that came from the conversion.
                let threshold = (f64::from(threshold) * 1e6).round() / 1e6;
                let mut shown = json!({
                    "type": "server_vad",
                    "threshold": threshold,
                    "prefix_padding_ms": prefix_padding_ms,
                    "silence_duration_ms": silence_duration_ms,
                    "idle_timeout_ms": idle_timeout_ms,
                });
                if let Some(eager) = rules.eager_silence_duration_ms {
                    shown["eager_silence_duration_ms"] = eager.into();
                }
                shown
            }
            Self::Semantic(eagerness) => json!({ "type": "semantic_vad", "eagerness": eagerness.name() }),
        }
    }
}

/// What the client wants of transcripts, apart from the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Transcription {
    pub(super) language: Option<String>,
}

/// The kind of noise to reduce, which is noted and does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noise {
    NearField,
    FarField,
}

impl Noise {
    pub(super) const ALL: [Self; 2] = [Self::NearField, Self::FarField];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NearField => "near_field",
            Self::FarField => "far_field",
        }
    }
}

/// Events that clients get only if they ask for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Include {
    /// The probability of each window.
    pub(super) probabilities: bool,
    /// Turns, and when they may be over.
    pub(super) turns: bool,
}

impl Include {
    pub(super) const PROBABILITIES: &'static str = "tidemill.probabilities";
    pub(super) const TURNS: &'static str = "tidemill.turns";

    fn json(self) -> Value {
        let all = [(self.probabilities, Self::PROBABILITIES), (self.turns, Self::TURNS)];
        all.into_iter().filter_map(|(is_wanted, name)| is_wanted.then_some(name)).collect()
    }
}

/// All that a client may change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    /// `None` until the client has named one.
    pub(super) format: Option<Format>,
    /// The model's name, once it is known.
    pub(super) model: Option<String>,
    /// `None` if it is switched off.
    pub(super) transcription: Option<Transcription>,
    pub(super) noise: Option<Noise>,
    /// `None` if it is switched off.
    pub(super) detection: Option<Detection>,
    pub(super) include: Include,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            format: None,
            model: None,
            transcription: Some(Transcription::default()),
            noise: None,
            detection: Some(Detection::DEFAULT),
            include: Include::default(),
        }
    }
}

/// What identifies a session, and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// A word that no other session has.
    pub(super) seed: String,
    /// Both in seconds since 1970.
    pub(super) created_s: u64,
    pub(super) expires_s: u64,
}

impl Identity {
    pub(super) fn session_id(&self) -> String {
        format!("sess_{}", self.seed)
    }
}

impl Settings {
    /// How the client writes its audio.
    pub(super) fn format(&self) -> Format {
        self.format.unwrap_or(Format::DEFAULT)
    }

    fn transcription_json(&self) -> Value {
        match &self.transcription {
            None => Value::Null,
            Some(Transcription { language }) => {
                let mut shown = json!({ "model": self.model });
                if let Some(language) = language {
                    shown["language"] = language.as_str().into();
                }
                shown
            }
        }
    }

    fn noise_json(&self) -> Value {
        self.noise.map_or(Value::Null, |noise| json!({ "type": noise.name() }))
    }

    /// The whole session in the shape of the general API.
    pub(super) fn json(&self, identity: &Identity) -> Value {
        json!({
            "id": identity.session_id(),
            "object": "realtime.transcription_session",
            "type": "transcription",
            "expires_at": identity.expires_s,
            "audio": { "input": {
                "format": self.format().json(),
                "transcription": self.transcription_json(),
                "noise_reduction": self.noise_json(),
                "turn_detection": self.detection.map_or(Value::Null, Detection::json),
            } },
            "include": self.include.json(),
        })
    }

    /// The same in the flat shape of the beta.
    pub(super) fn beta_json(&self, identity: &Identity) -> Value {
        json!({
            "id": identity.session_id(),
            "object": "realtime.transcription_session",
            "modalities": ["text"],
            "expires_at": identity.expires_s,
            "input_audio_format": self.format().beta_name(),
            "input_audio_transcription": self.transcription_json(),
            "input_audio_noise_reduction": self.noise_json(),
            "turn_detection": self.detection.map_or(Value::Null, Detection::json),
            "include": self.include.json(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_formats_are_counted_in_whole_ticks() {
        for rate_hz in Format::PCM_RATES_HZ {
            assert_eq!(TICKS_PER_S % u64::from(rate_hz), 0);
            assert_eq!(Format::Pcm(rate_hz).ticks(2 * u64::from(rate_hz) + 1), TICKS_PER_S);
        }
        assert_eq!([Format::Pcmu, Format::Pcma].map(|format| format.ticks(8_000)), [TICKS_PER_S; 2]);
    }

    #[test]
    fn every_threshold_gives_sound_rules() {
        for threshold in [0.0, 0.01, 0.5, 1.0] {
            let rules = Detection::Server(ServerVad { threshold, ..ServerVad::DEFAULT }).segment_rules();
            assert_eq!(rules.validate(), Vec::<String>::new(), "{threshold}");
        }
    }

    #[test]
    fn a_session_is_shown_whole() {
        let identity = Identity { seed: "1".to_owned(), created_s: 1, expires_s: 3_601 };
        let shown = Settings { model: Some("silero-vad".to_owned()), ..Settings::default() }.json(&identity);
        let expected = json!({
            "id": "sess_1", "object": "realtime.transcription_session", "type": "transcription", "expires_at": 3_601,
            "audio": { "input": {
                "format": { "type": "audio/pcm", "rate": 24_000 },
                "transcription": { "model": "silero-vad" },
                "noise_reduction": null,
                "turn_detection": {
                    "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500,
                    "idle_timeout_ms": null,
                },
            } },
            "include": [],
        });
        assert_eq!(shown, expected);
    }
}
