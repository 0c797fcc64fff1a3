//! What a client says about its payload when a stream opens.

use crate::codec::{SampleFormat, Sound};

/// How a stream's items are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// Named tensors.
    Tensors,
    /// Mono samples in chunks of any size; [`PcmOptions`] say how they are written.
    PcmS16le,
}

impl PayloadKind {
    /// The name that clients use for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensors => "tensors",
            Self::PcmS16le => "pcm_s16le",
        }
    }
}

/// What a client says about its raw audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PcmOptions {
    /// Samples per second; `None` if it does not say.
    pub sample_rate_hz: Option<u32>,
    /// How samples are written; `None` if it does not say.
    pub format: Option<SampleFormat>,
    /// Whether bytes that begin like a file are to be taken as samples.
    pub accept_container_bytes: bool,
}

impl PcmOptions {
    /// What its bytes mean to a model that takes `model_rate_hz`. Where it does not say, they are 16-bit integers at the rate that their
    /// format stands for, or the model's.
    #[must_use]
    pub fn sound(&self, model_rate_hz: u32) -> Sound {
        let format = self.format.unwrap_or_default();
        let rate_hz = self.sample_rate_hz.or(format.own_rate_hz()).unwrap_or(model_rate_hz);
        Sound { format, rate_hz }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_does_not_say_follows_from_its_format_and_the_model() {
        let sound = |sample_rate_hz, format| PcmOptions { sample_rate_hz, format, ..PcmOptions::default() }.sound(16_000);
        assert_eq!(sound(None, None), Sound { format: SampleFormat::S16le, rate_hz: 16_000 });
        assert_eq!(sound(Some(24_000), None), Sound { format: SampleFormat::S16le, rate_hz: 24_000 });
        assert_eq!(sound(None, Some(SampleFormat::F32le)), Sound { format: SampleFormat::F32le, rate_hz: 16_000 });
        assert_eq!(sound(None, Some(SampleFormat::Alaw)), Sound { format: SampleFormat::Alaw, rate_hz: 8_000 });
        assert_eq!(sound(Some(16_000), Some(SampleFormat::Alaw)), Sound { format: SampleFormat::Alaw, rate_hz: 16_000 });
    }
}
