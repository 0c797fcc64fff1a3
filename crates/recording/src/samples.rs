//! Decodes samples: integers and floats of any width and byte order, and G.711.
//!
//! Pure. Full scale is 1.0; what lies beyond it is clipped, and what is not a number is silence.

/// How samples are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Two's complement, filled from the most significant bit: with 24 valid bits in 32, the low 8 mean nothing.
    Signed,
    /// Zero is in the middle: 8-bit WAV.
    Unsigned,
    /// IEEE 754 of 4 or 8 bytes.
    Float,
    /// G.711 as used in Europe.
    ALaw,
    /// G.711 as used in North America and Japan.
    MuLaw,
}

/// How the frames of a payload are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) encoding: Encoding,
    /// Bytes of a sample of one channel: 1 to 8.
    pub(super) sample_bytes: usize,
    pub(super) is_big_endian: bool,
    pub(super) channels: usize,
    pub(super) rate_hz: u32,
}

impl Layout {
    /// Raw signed 16-bit little-endian mono samples.
    pub(super) const fn raw(rate_hz: u32) -> Self {
        Self { encoding: Encoding::Signed, sample_bytes: 2, is_big_endian: false, channels: 1, rate_hz }
    }

    /// Bytes of a sample over all channels.
    pub(super) const fn frame_bytes(&self) -> usize {
        self.sample_bytes * self.channels
    }

    /// Its usual name.
    pub(super) fn describe(&self) -> String {
        let bits = self.sample_bytes * 8;
        match self.encoding {
            Encoding::Signed | Encoding::Unsigned => format!("{bits}-bit"),
            Encoding::Float => format!("{bits}-bit float"),
            Encoding::ALaw => "A-law".to_owned(),
            Encoding::MuLaw => "mu-law".to_owned(),
        }
    }

    /// Appends the mean of the channels of each whole frame in `bytes`.
    pub(super) fn mix_into(&self, bytes: &[u8], mono: &mut Vec<f32>) {
        // One loop for each encoding, so that nothing is decided sample by sample.
        match (self.encoding, self.sample_bytes, self.is_big_endian) {
            (Encoding::Signed, 2, false) => {
                self.mix(bytes, mono, |sample| i32::from(i16::from_le_bytes([sample[0], sample[1]])) << 16);
            }
            (Encoding::Signed, _, false) => self.mix(bytes, mono, |sample| left_aligned(sample.iter().rev())),
            (Encoding::Signed, _, true) => self.mix(bytes, mono, |sample| left_aligned(sample.iter())),
            (Encoding::Unsigned, _, false) => self.mix(bytes, mono, |sample| left_aligned(sample.iter().rev()) ^ i32::MIN),
            (Encoding::Unsigned, _, true) => self.mix(bytes, mono, |sample| left_aligned(sample.iter()) ^ i32::MIN),
            (Encoding::ALaw, ..) => self.mix(bytes, mono, |sample| a_law(sample[0]) << 16),
            (Encoding::MuLaw, ..) => self.mix(bytes, mono, |sample| mu_law(sample[0]) << 16),
            (Encoding::Float, 8, false) => self.mix_floats(bytes, mono, |sample| f64::from_le_bytes(array(sample)) as f32),
            (Encoding::Float, 8, true) => self.mix_floats(bytes, mono, |sample| f64::from_be_bytes(array(sample)) as f32),
            (Encoding::Float, _, false) => self.mix_floats(bytes, mono, |sample| f32::from_le_bytes(array(sample))),
            (Encoding::Float, _, true) => self.mix_floats(bytes, mono, |sample| f32::from_be_bytes(array(sample))),
        }
    }

    fn mix(&self, bytes: &[u8], mono: &mut Vec<f32>, decode: impl Fn(&[u8]) -> i32) {
        self.mix_floats(bytes, mono, |sample| decode(sample) as f32 * (1.0 / 2_147_483_648.0));
    }

    fn mix_floats(&self, bytes: &[u8], mono: &mut Vec<f32>, decode: impl Fn(&[u8]) -> f32) {
        let scale = 1.0 / self.channels as f32;
        let frames = bytes.chunks_exact(self.frame_bytes());
        mono.extend(frames.map(|frame| {
            let sum: f32 = frame.chunks_exact(self.sample_bytes).map(|sample| clipped(decode(sample))).sum();
            sum * scale
        }));
    }
}

/// The mean of the channels of each frame of interleaved samples.
pub(super) fn mix_interleaved(samples: &[f32], channels: usize, mono: &mut Vec<f32>) {
    let scale = 1.0 / channels as f32;
    mono.extend(samples.chunks_exact(channels).map(|frame| frame.iter().copied().map(clipped).sum::<f32>() * scale));
}

/// The nearest 16-bit sample.
pub(super) fn quantized(value: f32) -> i16 {
    // A cast saturates, and turns what is not a number into 0.
    (value * 32_768.0).round() as i16
}

fn clipped(value: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(-1.0, 1.0) }
}

/// The first four bytes, from the most significant on, as the upper part of a 32-bit number.
fn left_aligned<'a>(bytes: impl Iterator<Item = &'a u8>) -> i32 {
    let mut upper = [0; 4];
    upper.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
    i32::from_be_bytes(upper)
}

/// The `N` bytes of a sample that has that many; a layout with another width never gets here.
fn array<const N: usize>(sample: &[u8]) -> [u8; N] {
    sample.first_chunk().copied().unwrap_or([0; N])
}

/// G.711 A-law in 16 bits: a sign, three bits of exponent, four of mantissa, the even bits inverted.
const fn a_law(code: u8) -> i32 {
    let code = code ^ 0x55;
    let (exponent, mantissa) = ((code >> 4) & 7, (code & 0x0f) as i32);
    let magnitude = if exponent == 0 { (mantissa << 4) + 8 } else { ((mantissa << 4) + 0x108) << (exponent - 1) };
    if code & 0x80 == 0 { -magnitude } else { magnitude }
}

/// G.711 mu-law in 16 bits: the same, all bits inverted, with a bias of 33 in steps of 4.
const fn mu_law(code: u8) -> i32 {
    let code = !code;
    let (exponent, mantissa) = ((code >> 4) & 7, (code & 0x0f) as i32);
    let magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84;
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn layout(encoding: Encoding, sample_bytes: usize, channels: usize) -> Layout {
        Layout { encoding, sample_bytes, is_big_endian: false, channels, rate_hz: 16_000 }
    }

    fn samples(layout: &Layout, bytes: &[u8]) -> Vec<i16> {
        let mut mono = Vec::new();
        layout.mix_into(bytes, &mut mono);
        mono.into_iter().map(quantized).collect()
    }

    #[test]
    fn sixteen_bits_come_out_as_they_were() {
        let all: Vec<i16> = (i16::MIN..=i16::MAX).collect();
        let (little, big): (Vec<u8>, Vec<u8>) = (
            all.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
            all.iter().flat_map(|sample| sample.to_be_bytes()).collect(),
        );
        let layout = layout(Encoding::Signed, 2, 1);
        assert_eq!(samples(&layout, &little), all);
        assert_eq!(samples(&Layout { is_big_endian: true, ..layout }, &big), all);
    }

    #[test]
    fn the_valid_bits_are_the_upper_ones_whatever_the_width() {
        // 0x0100 and -0x0100 in 16 bits.
        for (sample_bytes, bytes) in [
            (2, &b"\x00\x01\x00\xff"[..]),
            (3, b"\x00\x00\x01\x00\x00\xff"),
            (4, b"\x00\x00\x00\x01\x00\x00\x00\xff"),
            (5, b"\x00\x00\x00\x00\x01\x00\x00\x00\x00\xff"),
            (8, b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xff"),
        ] {
            assert_eq!(samples(&layout(Encoding::Signed, sample_bytes, 1), bytes), [256, -256], "{sample_bytes} bytes");
        }
        let big = Layout { is_big_endian: true, ..layout(Encoding::Signed, 3, 1) };
        assert_eq!(samples(&big, b"\x01\x00\x00\xff\x00\x00"), [256, -256]);
        assert_eq!(samples(&layout(Encoding::Signed, 1, 1), b"\x01\xff\x80"), [256, -256, -32_768]);
        assert_eq!(samples(&layout(Encoding::Unsigned, 1, 1), b"\x81\x7f\x00\x80"), [256, -256, -32_768, 0]);
    }

    #[test]
    fn floats_are_scaled_clipped_and_silent_where_they_are_not_numbers() {
        let values = [0.5, -1.0, 1.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0 / 32_768.0];
        let expected = [16_384, -32_768, 32_767, 0, 32_767, -32_768, 1];
        let single: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let double: Vec<u8> = values.iter().flat_map(|value| f64::from(*value).to_be_bytes()).collect();
        assert_eq!(samples(&layout(Encoding::Float, 4, 1), &single), expected);
        assert_eq!(samples(&Layout { is_big_endian: true, ..layout(Encoding::Float, 8, 1) }, &double), expected);
    }

    #[test]
    fn channels_are_mixed_into_their_mean_and_a_broken_frame_is_left_out() {
        let stereo: Vec<u8> = [100_i16, 300, -32_768, -32_768, 7, -7, 9].iter().flat_map(|sample| sample.to_le_bytes()).collect();
        assert_eq!(samples(&layout(Encoding::Signed, 2, 2), &stereo), [200, -32_768, 0]);
        let mut mono = Vec::new();
        mix_interleaved(&[0.5, 0.25, f32::NAN, 0.5, 9.0, 1.0, 0.1], 2, &mut mono);
        assert_eq!(mono, [0.375, 0.25, 1.0]);
    }

    /// The recommendation's tables, at the ends and boundaries of segments, in 16 bits.
    #[test]
    fn g711_agrees_with_the_recommendation() {
        let a_law_pairs = [(0xd5, 8), (0x55, -8), (0xd4, 24), (0xc5, 264), (0xaa, 32_256), (0x2a, -32_256), (0x80, 5_504)];
        for (code, value) in a_law_pairs {
            assert_eq!(a_law(code), value, "A-law {code:#x}");
        }
        let mu_law_pairs = [(0xff, 0), (0x7f, 0), (0xfe, 8), (0xef, 132), (0x80, 32_124), (0x00, -32_124), (0x8f, 16_764)];
        for (code, value) in mu_law_pairs {
            assert_eq!(mu_law(code), value, "mu-law {code:#x}");
        }
        assert_eq!(samples(&layout(Encoding::ALaw, 1, 1), &[0x2a]), [-32_256]);
        assert_eq!(samples(&layout(Encoding::MuLaw, 1, 1), &[0x80]), [32_124]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_numbers_within_full_scale(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            encoding in prop_oneof![
                Just(Encoding::Signed), Just(Encoding::Unsigned), Just(Encoding::Float), Just(Encoding::ALaw), Just(Encoding::MuLaw)
            ],
            sample_bytes in 1..=8_usize,
            channels in 1..=5_usize,
            is_big_endian: bool,
        ) {
            let layout = Layout { encoding, sample_bytes, is_big_endian, channels, rate_hz: 1 };
            let mut mono = Vec::new();
            layout.mix_into(&bytes, &mut mono);
            prop_assert_eq!(mono.len(), bytes.len() / layout.frame_bytes());
            prop_assert!(mono.iter().all(|value| (-1.0..=1.0).contains(value)), "{:?}", mono);
        }
    }
}
