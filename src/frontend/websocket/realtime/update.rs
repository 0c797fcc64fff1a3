//! What a client's update makes of a session's settings: whatever it leaves out stays as it is, and `null` switches off.
//!
//! Fields that are not known here are passed over. A field that is known and has no such value is an error, and nothing changes.

use serde_json::Value;

use super::{
    settings::{Detection, Eagerness, Format, Include, Noise, ServerVad, Settings, Transcription},
    wrong::Wrong,
};

/// Longest name of a model or a language.
const NAME_BYTES_MAX: usize = 256;

/// Longest time that a setting may be.
const MS_MAX: u32 = 600_000;

/// The settings after an update in the shape of the general API.
///
/// # Errors
/// The first value that does not fit.
pub(super) fn merge(settings: &Settings, session: &Value) -> Result<Settings, Wrong> {
    let at = At::root("session");
    let fields = at.object(session)?;
    if let Some(kind) = fields.get("type").filter(|kind| !kind.is_null())
        && kind != "transcription"
    {
        let message = "sessions of this server are of the type 'transcription': it has no conversations";
        return Err(Wrong::value(&at.at("type").path, message));
    }
    let mut merged = settings.clone();
    if let Some(include) = fields.get("include") {
        merged.include = at.at("include").include(include)?;
    }
    let Some(audio) = fields.get("audio").filter(|audio| !audio.is_null()) else { return Ok(merged) };
    let at = at.at("audio");
    let Some(input) = at.object(audio)?.get("input").filter(|input| !input.is_null()) else { return Ok(merged) };
    let at = at.at("input");
    for (name, value) in at.object(input)? {
        let at = at.at(name);
        match name.as_str() {
            "format" => merged.format = at.format(value)?,
            "transcription" => at.transcription(value, &mut merged)?,
            "noise_reduction" => merged.noise = at.noise(value)?,
            "turn_detection" => merged.detection = at.detection(value, settings.detection)?,
            _ => {}
        }
    }
    Ok(merged)
}

/// The same for the flat shape of the beta.
///
/// # Errors
/// The first value that does not fit.
pub(super) fn merge_beta(settings: &Settings, session: &Value) -> Result<Settings, Wrong> {
    let at = At::root("session");
    let mut merged = settings.clone();
    for (name, value) in at.object(session)? {
        let at = at.at(name);
        match name.as_str() {
            "input_audio_format" => merged.format = at.beta_format(value)?,
            "input_audio_transcription" => at.transcription(value, &mut merged)?,
            "input_audio_noise_reduction" => merged.noise = at.noise(value)?,
            "turn_detection" => merged.detection = at.detection(value, settings.detection)?,
            "include" => merged.include = at.include(value)?,
            _ => {}
        }
    }
    Ok(merged)
}

/// A place in an update, for messages.
struct At {
    path: String,
}

impl At {
    fn root(name: &str) -> Self {
        Self { path: name.to_owned() }
    }

    fn at(&self, name: &str) -> Self {
        let kept = name.floor_char_boundary(NAME_BYTES_MAX);
        Self { path: format!("{}.{}", self.path, &name[..kept]) }
    }

    fn wrong(&self, message: &str) -> Wrong {
        Wrong::value(&self.path, message)
    }

    fn object<'a>(&self, value: &'a Value) -> Result<&'a serde_json::Map<String, Value>, Wrong> {
        value.as_object().ok_or_else(|| self.wrong("is not an object"))
    }

    /// One of several words.
    fn word<T: Copy>(&self, value: &Value, known: &[T], name: fn(T) -> &'static str) -> Result<T, Wrong> {
        let found = value.as_str().and_then(|value| known.iter().copied().find(|known| name(*known) == value));
        found.ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|known| format!("'{}'", name(*known))).collect();
            self.wrong(&format!("is not one of {}", names.join(", ")))
        })
    }

    fn text(&self, value: &Value) -> Result<String, Wrong> {
        match value.as_str() {
            Some(text) if text.len() <= NAME_BYTES_MAX => Ok(text.to_owned()),
            Some(text) => Err(self.wrong(&format!("has {} bytes; at most {NAME_BYTES_MAX} are allowed", text.len()))),
            None => Err(self.wrong("is not a text")),
        }
    }

    fn ms(&self, value: &Value) -> Result<u32, Wrong> {
        let found = value.as_f64().filter(|found| (0.0..=f64::from(MS_MAX)).contains(found));
        found.map(|found| found.round() as u32).ok_or_else(|| self.wrong(&format!("is not a number from 0 to {MS_MAX}")))
    }

    fn format(&self, value: &Value) -> Result<Option<Format>, Wrong> {
        if value.is_null() {
            return Ok(None);
        }
        let fields = self.object(value)?;
        match fields.get("type").and_then(Value::as_str) {
            Some("audio/pcm") => {
                let Some(rate) = fields.get("rate").filter(|rate| !rate.is_null()) else { return Ok(Some(Format::DEFAULT)) };
                let known = Format::PCM_RATES_HZ.into_iter().find(|known| rate.as_f64() == Some(f64::from(*known)));
                let refused = || self.at("rate").wrong("is not 16000, 24000 or 48000, the rates that are taken");
                known.map(|rate_hz| Some(Format::Pcm(rate_hz))).ok_or_else(refused)
            }
            Some("audio/pcmu") => Ok(Some(Format::Pcmu)),
            Some("audio/pcma") => Ok(Some(Format::Pcma)),
            _ => Err(self.at("type").wrong("is not 'audio/pcm', 'audio/pcmu' or 'audio/pcma'")),
        }
    }

    fn beta_format(&self, value: &Value) -> Result<Option<Format>, Wrong> {
        match value.as_str() {
            Some("pcm16") => Ok(Some(Format::DEFAULT)),
            Some("g711_ulaw") => Ok(Some(Format::Pcmu)),
            Some("g711_alaw") => Ok(Some(Format::Pcma)),
            None if value.is_null() => Ok(None),
            _ => Err(self.wrong("is not 'pcm16', 'g711_ulaw' or 'g711_alaw'")),
        }
    }

    fn transcription(&self, value: &Value, merged: &mut Settings) -> Result<(), Wrong> {
        if value.is_null() {
            merged.transcription = None;
            return Ok(());
        }
        let transcription = merged.transcription.get_or_insert_with(Transcription::default);
        for (name, value) in self.object(value)? {
            let at = self.at(name);
            match (name.as_str(), value.is_null()) {
                ("model", false) => merged.model = Some(at.text(value)?),
                ("language", true) => transcription.language = None,
                ("language", false) => transcription.language = Some(at.text(value)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn noise(&self, value: &Value) -> Result<Option<Noise>, Wrong> {
        if value.is_null() {
            return Ok(None);
        }
        let kind = self.object(value)?.get("type").unwrap_or(&Value::Null);
        self.at("type").word(kind, &Noise::ALL, Noise::name).map(Some)
    }

    fn detection(&self, value: &Value, now: Option<Detection>) -> Result<Option<Detection>, Wrong> {
        if value.is_null() {
            return Ok(None);
        }
        let fields = self.object(value)?;
        let is_semantic = match fields.get("type").filter(|kind| !kind.is_null()).map(|kind| kind.as_str()) {
            None => matches!(now, Some(Detection::Semantic(_))),
            Some(Some("server_vad")) => false,
            Some(Some("semantic_vad")) => true,
            Some(_) => return Err(self.at("type").wrong("is not 'server_vad' or 'semantic_vad'")),
        };
        if !is_semantic {
            let now = if let Some(Detection::Server(now)) = now { now } else { ServerVad::DEFAULT };
            return self.server_vad(fields, now).map(|rules| Some(Detection::Server(rules)));
        }
        let now = if let Some(Detection::Semantic(now)) = now { now } else { Eagerness::Auto };
        let eagerness = match fields.get("eagerness") {
            None => now,
            Some(Value::Null) => Eagerness::Auto,
            Some(value) => self.at("eagerness").word(value, &Eagerness::ALL, Eagerness::name)?,
        };
        Ok(Some(Detection::Semantic(eagerness)))
    }

    fn server_vad(&self, fields: &serde_json::Map<String, Value>, mut rules: ServerVad) -> Result<ServerVad, Wrong> {
        let default = ServerVad::DEFAULT;
        for (name, value) in fields {
            let at = self.at(name);
            let ms = || if value.is_null() { Ok(None) } else { at.ms(value).map(Some) };
            match name.as_str() {
                "threshold" if value.is_null() => rules.threshold = default.threshold,
                "threshold" => {
                    let found = value.as_f64().filter(|found| (0.0..=1.0).contains(found));
                    rules.threshold = found.ok_or_else(|| at.wrong("is not a number from 0 to 1"))? as f32;
                }
                "prefix_padding_ms" => rules.prefix_padding_ms = ms()?.unwrap_or(default.prefix_padding_ms),
                "silence_duration_ms" => rules.silence_duration_ms = ms()?.unwrap_or(default.silence_duration_ms),
                "idle_timeout_ms" => rules.idle_timeout_ms = ms()?.filter(|timeout| *timeout > 0),
                "eager_silence_duration_ms" => rules.eager_silence_duration_ms = ms()?,
                _ => {}
            }
        }
        Ok(rules)
    }

    /// The events that are asked for; those that are not known, or that go with transcripts, are passed over.
    fn include(&self, value: &Value) -> Result<Include, Wrong> {
        let Some(names) = value.as_array() else {
            return if value.is_null() { Ok(Include::default()) } else { Err(self.wrong("is not a list of texts")) };
        };
        let has = |name: &str| names.iter().any(|found| found == name);
        Ok(Include { probabilities: has(Include::PROBABILITIES), turns: has(Include::TURNS) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(session: &Value) -> Settings {
        merge(&Settings::default(), session).expect("sound")
    }

    fn input(input: &Value) -> Value {
        json!({ "type": "transcription", "audio": { "input": input } })
    }

    #[test]
    fn what_is_left_out_stays_and_null_switches_off() {
        let first = merged(&input(&json!({
            "format": { "type": "audio/pcmu" },
            "transcription": { "model": "m", "language": "en" },
            "noise_reduction": { "type": "far_field" },
            "turn_detection": { "type": "server_vad", "threshold": 0.7, "idle_timeout_ms": 6000 },
        })));
        let rules = ServerVad { threshold: 0.7, idle_timeout_ms: Some(6_000), ..ServerVad::DEFAULT };
        let expected = Settings {
            format: Some(Format::Pcmu),
            model: Some("m".to_owned()),
            transcription: Some(Transcription { language: Some("en".to_owned()) }),
            noise: Some(Noise::FarField),
            detection: Some(Detection::Server(rules)),
            include: Include::default(),
        };
        assert_eq!(first, expected);
        for nothing in [json!({}), json!({ "type": "transcription", "colour": 1 }), json!({ "audio": { "input": {} } })] {
            assert_eq!(merge(&first, &nothing), Ok(first.clone()), "{nothing}");
        }
        let silence = merge(&first, &input(&json!({ "turn_detection": { "silence_duration_ms": 350 } }))).expect("sound");
        let rules = ServerVad { silence_duration_ms: 350, ..rules };
        assert_eq!(silence, Settings { detection: Some(Detection::Server(rules)), ..first.clone() });
        let off = input(&json!({ "turn_detection": null, "transcription": null, "noise_reduction": null, "format": null }));
        let off = merge(&first, &off).expect("sound");
        assert_eq!((off.detection, off.noise, off.format, off.transcription), (None, None, None, None));
        assert_eq!(off.model.as_deref(), Some("m"), "it goes on running");
    }

    #[test]
    fn another_kind_of_detection_begins_with_its_defaults() {
        let loud = merged(&input(&json!({ "turn_detection": { "threshold": 0.9 } })));
        let semantic = |fields: Value| merge(&loud, &input(&json!({ "turn_detection": fields }))).expect("sound");
        assert_eq!(semantic(json!({ "type": "semantic_vad" })).detection, Some(Detection::Semantic(Eagerness::Auto)));
        let low = semantic(json!({ "type": "semantic_vad", "eagerness": "low" }));
        assert_eq!(low.detection, Some(Detection::Semantic(Eagerness::Low)));
        let back = merge(&low, &input(&json!({ "turn_detection": { "type": "server_vad" } }))).expect("sound");
        assert_eq!(back.detection, Some(Detection::DEFAULT));
    }

    #[test]
    fn what_does_not_fit_is_named_and_changes_nothing() {
        for (session, param) in [
            (json!([]), "session"),
            (json!({ "type": "realtime" }), "session.type"),
            (json!({ "include": "all" }), "session.include"),
            (input(&json!({ "format": { "type": "audio/mp3" } })), "session.audio.input.format.type"),
            (input(&json!({ "format": { "type": "audio/pcm", "rate": 44_100 } })), "session.audio.input.format.rate"),
            (input(&json!({ "turn_detection": { "threshold": 1.1 } })), "session.audio.input.turn_detection.threshold"),
            (input(&json!({ "turn_detection": { "type": "push_to_talk" } })), "session.audio.input.turn_detection.type"),
            (
                input(&json!({ "turn_detection": { "silence_duration_ms": -1 } })),
                "session.audio.input.turn_detection.silence_duration_ms",
            ),
            (input(&json!({ "transcription": { "model": 7 } })), "session.audio.input.transcription.model"),
            (input(&json!({ "noise_reduction": { "type": "none" } })), "session.audio.input.noise_reduction.type"),
        ] {
            let wrong = merge(&Settings::default(), &session).expect_err("wrong");
            assert_eq!(wrong.param.as_deref(), Some(param), "{session}");
        }
    }

    #[test]
    fn the_beta_says_the_same_in_a_flat_shape() {
        let session = json!({
            "input_audio_format": "g711_alaw",
            "input_audio_transcription": { "model": "m" },
            "input_audio_noise_reduction": { "type": "near_field" },
            "turn_detection": null,
            "include": [Include::TURNS, "item.input_audio_transcription.logprobs"],
        });
        let expected = Settings {
            format: Some(Format::Pcma),
            model: Some("m".to_owned()),
            noise: Some(Noise::NearField),
            detection: None,
            include: Include { probabilities: false, turns: true },
            ..Settings::default()
        };
        assert_eq!(merge_beta(&Settings::default(), &session), Ok(expected));
    }
}
