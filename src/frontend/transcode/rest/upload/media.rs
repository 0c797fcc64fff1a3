//! What the type of an upload's body says about it.

use http::{HeaderMap, StatusCode, header};

use super::{decoder::Taken, settings::Settings};
use crate::domain::Fault;

/// A body that is audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Media {
    pub(super) taken: Taken,
    /// Samples with the high byte first, as `audio/L16` has them.
    pub(super) is_swapped: bool,
}

/// Reads the type. One of a form says nothing: programs send it where nobody has set another.
///
/// # Errors
/// 415 for a body that cannot be a recording, 400 for parameters that make no sense.
pub(super) fn media(headers: &HeaderMap, settings: &Settings) -> Result<Media, (Fault, Option<StatusCode>)> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let message = format!("the body is encoded as {encoding:?}; send the recording as it is");
        return Err((Fault::invalid("content-encoding", message), Some(StatusCode::UNSUPPORTED_MEDIA_TYPE)));
    }
    let text = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    if name == "audio/l16" {
        return l16(parts, settings).map_err(|fault| (fault, None));
    }
    let is_plausible =
        matches!(name.as_str(), "" | "application/x-www-form-urlencoded" | "application/octet-stream" | "application/ogg")
            || name.starts_with("audio/")
            || name.starts_with("video/");
    if !is_plausible {
        let message = format!(
            "the body is of type '{name}'; send the recording itself (curl --data-binary @talk.mp3), as audio/… or application/octet-stream"
        );
        return Err((Fault::invalid("content-type", message), Some(StatusCode::UNSUPPORTED_MEDIA_TYPE)));
    }
    let taken = match (settings.is_raw, settings.rate_hz) {
        (true, Some(rate_hz)) => Taken::Raw(rate_hz),
        (true, None) => {
            let message = "accept_container_bytes takes the body as raw samples, whose rate sample_rate_hz has to state";
            return Err((Fault::invalid("sample_rate_hz", message), None));
        }
        (false, rate_hz) => Taken::Sniffed(rate_hz),
    };
    Ok(Media { taken, is_swapped: false })
}

/// `audio/L16;rate=16000`: raw samples, the high byte first unless `endianness` says otherwise.
fn l16<'a>(parameters: impl Iterator<Item = &'a str>, settings: &Settings) -> Result<Media, Fault> {
    let invalid = |message: String| Fault::invalid("content-type", message);
    let (mut rate_hz, mut is_swapped) = (settings.rate_hz, true);
    for parameter in parameters.filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "rate" => {
                let rate = value.parse().ok().filter(|rate| *rate > 0);
                rate_hz = Some(
                    rate.ok_or_else(|| invalid(format!("the rate of audio/L16 is '{value}', which is no number of samples")))?,
                );
            }
            "channels" if value != "1" => {
                return Err(invalid(format!("audio/L16 of {value} channels: send one channel, or a WAV file")));
            }
            "endianness" if value.eq_ignore_ascii_case("little-endian") => is_swapped = false,
            // Others change nothing about the samples.
            _ => {}
        }
    }
    match rate_hz {
        Some(rate_hz) => Ok(Media { taken: Taken::Raw(rate_hz), is_swapped }),
        None => Err(invalid("audio/L16 has to say its rate: audio/L16;rate=16000".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content_type: &str, settings: &Settings) -> Result<Media, Option<StatusCode>> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type.parse().expect("a value"))]);
        media(&headers, settings).map_err(|(_, status)| status)
    }

    #[test]
    fn the_type_matters_only_for_what_has_no_beginning() {
        let plain = Settings::default();
        let sniffed = Ok(Media { taken: Taken::Sniffed(None), is_swapped: false });
        assert_eq!(media(&HeaderMap::new(), &plain).map_err(|(_, status)| status), sniffed);
        for name in [
            "audio/mpeg",
            "audio/x-wav",
            "application/octet-stream",
            "application/x-www-form-urlencoded",
            "video/mp4",
            "Audio/Flac; q=1",
        ] {
            assert_eq!(of(name, &plain), sniffed, "{name}");
        }
        for name in ["application/json", "multipart/form-data; boundary=x", "text/plain", "image/png"] {
            assert_eq!(of(name, &plain), Err(Some(StatusCode::UNSUPPORTED_MEDIA_TYPE)), "{name}");
        }
    }

    #[test]
    fn raw_samples_say_their_rate() {
        let plain = Settings::default();
        let stated = Settings { rate_hz: Some(8_000), ..Settings::default() };
        let raw = |rate_hz, is_swapped| Ok(Media { taken: Taken::Raw(rate_hz), is_swapped });
        assert_eq!(of("audio/L16;rate=16000", &plain), raw(16_000, true));
        assert_eq!(of("audio/l16; channels=1; rate=\"44100\"; endianness=little-endian", &plain), raw(44_100, false));
        assert_eq!(of("audio/L16", &stated), raw(8_000, true));
        for wrong in ["audio/L16", "audio/L16;rate=0", "audio/L16;rate=x", "audio/L16;rate=16000;channels=2"] {
            assert_eq!(of(wrong, &plain), Err(None), "{wrong}");
        }
        let meant = Settings { is_raw: true, ..Settings::default() };
        assert_eq!(of("audio/wav", &Settings { rate_hz: Some(8_000), ..meant }), raw(8_000, false));
        assert_eq!(of("audio/wav", &Settings { is_raw: true, ..Settings::default() }), Err(None));
    }
}
