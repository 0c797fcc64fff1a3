//! Raw audio as clients have it, turned into what models take: signed 16-bit samples at the model's rate.
//!
//! A [`Converter`] takes one stream of mono samples, in chunks whose borders mean nothing. Samples are decoded by `samples` and `g711`, and
//! brought to another rate by `resampler`, with a filter that `cache` shares with all streams of the same two rates. Knows no files and no
//! channels.
//!
//! # Quality
//! The filter is a windowed sinc of 64 periods of the lower rate on each side, so a sample comes out 4 ms late at 16 kHz and 8 ms late at
//! 8 kHz. Up to 0.9 of the lower rate's half it is flat to 0.02 dB, and from that half on it is 90 dB down. Steep filters overshoot: sound
//! at full scale may leave them a little above it, and is cut off there, as in any resampler.
//!
//! Between rates that are not usual the filter's edge may be up to 4 % lower, and what is interpolated adds errors 100 dB down.

mod cache;
mod converter;
mod filter;
mod g711;
mod resampler;
mod samples;

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use tidemill_domain::Fault;

pub use converter::Converter;

/// How a sample is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum SampleFormat {
    /// Signed 16-bit integers, little-endian.
    #[default]
    S16le,
    /// IEEE single precision, little-endian, full scale at -1 and 1.
    F32le,
    /// G.711 mu-law, as on telephones in North America and Japan.
    Mulaw,
    /// G.711 A-law, as on telephones elsewhere.
    Alaw,
}

impl SampleFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::S16le, Self::F32le, Self::Mulaw, Self::Alaw];

    /// Bytes of a sample.
    #[must_use]
    pub const fn sample_bytes(self) -> usize {
        match self {
            Self::S16le => 2,
            Self::F32le => 4,
            Self::Mulaw | Self::Alaw => 1,
        }
    }

    /// The name that clients use for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::S16le => "pcm_s16le",
            Self::F32le => "pcm_f32le",
            Self::Mulaw => "mulaw",
            Self::Alaw => "alaw",
        }
    }

    /// The rate that the format itself stands for, if it stands for one.
    #[must_use]
    pub const fn own_rate_hz(self) -> Option<u32> {
        match self {
            Self::S16le | Self::F32le => None,
            Self::Mulaw | Self::Alaw => Some(8_000),
        }
    }
}

/// What raw bytes of mono audio mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sound {
    /// How a sample is written.
    pub format: SampleFormat,
    /// Samples per second.
    pub rate_hz: u32,
}

impl Sound {
    /// The rates between which sound can be converted.
    pub const RATES_HZ: RangeInclusive<u32> = 8_000..=192_000;

    /// Whether its bytes are already what a model at `rate_hz` takes, so that no [`Converter`] is needed.
    #[must_use]
    pub fn is_s16le_at(self, rate_hz: u32) -> bool {
        self == Self { format: SampleFormat::S16le, rate_hz }
    }

    /// How many samples at `rate_hz` follow from this many of its own: the nearest whole number.
    #[must_use]
    pub fn samples_at(self, rate_hz: u32, samples: u64) -> u64 {
        let from_hz = u128::from(self.rate_hz.max(1));
        let rounded = (u128::from(samples) * u128::from(rate_hz) + from_hz / 2) / from_hz;
        u64::try_from(rounded).unwrap_or(u64::MAX)
    }

    /// Whether it can be converted to `rate_hz`.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) with the field `sample_rate_hz`.
    pub fn check(self, rate_hz: u32) -> Result<(), Fault> {
        let (from_hz, least, most) = (self.rate_hz, Self::RATES_HZ.start(), Self::RATES_HZ.end());
        let message = if from_hz == rate_hz || (Self::RATES_HZ.contains(&from_hz) && Self::RATES_HZ.contains(&rate_hz)) {
            return Ok(());
        } else if Self::RATES_HZ.contains(&rate_hz) {
            format!("sample_rate_hz is {from_hz}; it must be {least} to {most}, and the model's own rate is {rate_hz}")
        } else {
            format!(
                "sample_rate_hz is {from_hz}, but the model takes {rate_hz}, and the server resamples only between {least} and {most}; \
                 send audio at {rate_hz} Hz"
            )
        };
        Err(Fault::invalid("sample_rate_hz", message))
    }
}
