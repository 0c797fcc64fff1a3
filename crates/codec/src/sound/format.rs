//! How samples are written.

use tidemill_domain::Fault;

/// How far beyond full scale a floating-point sample may be: what rounding in the client's own arithmetic adds.
const ROUNDING: f32 = 1.0 / 32_768.0;

/// How a sample is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SampleFormat {
    /// Signed 16-bit little-endian.
    #[default]
    S16le,
    /// 32-bit little-endian floating point, from -1 to 1.
    F32le,
    /// G.711 µ-law, 8 bits.
    Mulaw,
    /// G.711 A-law, 8 bits.
    Alaw,
}

/// The form of a mono sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sound {
    /// How a sample is written.
    pub format: SampleFormat,
    /// Samples per second.
    pub rate_hz: u32,
}

impl SampleFormat {
    /// Bytes of a sample.
    #[must_use]
    pub const fn width(self) -> usize {
        match self {
            Self::S16le => 2,
            Self::F32le => 4,
            Self::Mulaw | Self::Alaw => 1,
        }
    }

    /// Appends the samples of `bytes`, which are whole, as fractions of full scale.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) for floating-point samples that are no numbers or beyond full scale.
    pub(super) fn read(self, bytes: &[u8], samples: &mut Vec<f32>) -> Result<(), Fault> {
        match self {
            Self::S16le => {
                let (whole, _) = bytes.as_chunks::<2>();
                samples.extend(whole.iter().map(|sample| fraction(i16::from_le_bytes(*sample))));
            }
            Self::F32le => {
                let (whole, _) = bytes.as_chunks::<4>();
                for sample in whole {
                    samples.push(checked(f32::from_le_bytes(*sample))?);
                }
            }
            Self::Mulaw => samples.extend(bytes.iter().map(|byte| fraction(mulaw(*byte)))),
            Self::Alaw => samples.extend(bytes.iter().map(|byte| fraction(alaw(*byte)))),
        }
        Ok(())
    }
}

fn fraction(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}

fn checked(sample: f32) -> Result<f32, Fault> {
    // Not a number is not within either.
    if sample.abs() <= 1.0 + ROUNDING {
        return Ok(sample);
    }
    Err(Fault::invalid(
        "chunk",
        format!(
            "the audio has a sample of {sample}; floating-point samples must be from -1 to 1: divide by the largest that there may be"
        ),
    ))
}

/// G.711, table 2a: 14 bits, here as 16.
const fn mulaw(byte: u8) -> i16 {
    let byte = !byte;
    let (segment, step) = ((byte >> 4) & 7, (byte & 15) as i16);
    let magnitude = (((step << 3) + 0x84) << segment) - 0x84;
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// G.711, table 1a: 13 bits, here as 16.
const fn alaw(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let (segment, step) = ((byte >> 4) & 7, (byte & 15) as i16);
    let magnitude = if segment == 0 { (step << 4) + 8 } else { ((step << 4) + 0x108) << (segment - 1) };
    if byte & 0x80 == 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value in the middle of the interval that the recommendation's formula gives for a code.
    fn by_formula(byte: u8, law: SampleFormat) -> f64 {
        match law {
            SampleFormat::Mulaw => {
                let code = !byte;
                let (segment, step) = (f64::from((code >> 4) & 7), f64::from(code & 15));
                let value = (2.0 * step + 33.0) * segment.exp2() - 33.0;
                // Of 8,159 in the recommendation's own units.
                (if code & 0x80 == 0 { value } else { -value }) * 4.0
            }
            _ => {
                let code = byte ^ 0x55;
                let (segment, step) = (i32::from((code >> 4) & 7), f64::from(code & 15));
                let value = if segment == 0 { 2.0 * step + 1.0 } else { f64::from(1 << (segment - 1)) * (2.0 * step + 33.0) };
                (if code & 0x80 == 0 { -value } else { value }) * 8.0
            }
        }
    }

    #[test]
    fn every_code_of_g711_is_what_its_formula_gives() {
        for byte in 0..=u8::MAX {
            assert_eq!(f64::from(mulaw(byte)), by_formula(byte, SampleFormat::Mulaw), "mu-law {byte}");
            assert_eq!(f64::from(alaw(byte)), by_formula(byte, SampleFormat::Alaw), "A-law {byte}");
        }
        assert_eq!([mulaw(0), mulaw(0x80), mulaw(0xff), mulaw(0x7f)], [-32_124, 32_124, 0, 0]);
        assert_eq!([alaw(0x2a), alaw(0xaa), alaw(0xd5), alaw(0x55)], [-32_256, 32_256, 8, -8]);
    }

    #[test]
    fn what_is_no_sample_is_refused_and_not_clipped() {
        let read = |value: f32| SampleFormat::F32le.read(&value.to_le_bytes(), &mut Vec::new());
        for good in [0.0, -1.0, 1.0, 1.000_03, f32::MIN_POSITIVE] {
            read(good).expect("a sample");
        }
        for bad in [1.001, -2.0, 32_767.0, f32::NAN, f32::INFINITY] {
            let fault = read(bad).expect_err("no sample");
            assert!(fault.message().contains("must be from -1 to 1"), "{fault}");
        }
    }
}
