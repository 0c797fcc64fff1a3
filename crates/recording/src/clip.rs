//! A short clip of synthetic, speech-like sound, so that a speech model can be seen at work without a file.
//!
//! It says nothing, in no language: a pulse train, like that of vocal cords, goes through three resonators, like those of a mouth, that
//! glide from vowel to vowel. There are two utterances, with silence around and between them.

use std::f64::consts::{PI, TAU};

/// Samples per second.
pub(super) const RATE_HZ: u32 = 16_000;

const SECONDS: f64 = 3.6;

/// Pitch in the middle of an utterance, which falls from above it to below it.
const PITCH_HZ: f64 = 118.0;

/// Loudest sample.
const PEAK: f64 = 0.5;

/// Resonances of a mouth, in Hz.
type Vowel = [f64; 3];

const A: Vowel = [730.0, 1_090.0, 2_440.0];
const E: Vowel = [530.0, 1_840.0, 2_480.0];
const I: Vowel = [270.0, 2_290.0, 3_010.0];
const O: Vowel = [570.0, 840.0, 2_410.0];
const U: Vowel = [300.0, 870.0, 2_240.0];

/// How wide the resonances are, in Hz.
const WIDTHS_HZ: [f64; 3] = [60.0, 90.0, 150.0];

/// A row of vowels, between two moments in seconds.
struct Utterance {
    begin_s: f64,
    end_s: f64,
    vowels: &'static [Vowel],
}

const UTTERANCES: [Utterance; 2] = [
    Utterance { begin_s: 0.4, end_s: 1.3, vowels: &[A, I, E, O] },
    Utterance { begin_s: 2.0, end_s: 3.1, vowels: &[U, A, I, E, A] },
];

/// What the voice does at a moment.
struct Moment {
    loudness: f64,
    pitch_hz: f64,
    resonances: Vowel,
}

impl Utterance {
    /// `None` before and after it.
    fn at(&self, seconds: f64) -> Option<Moment> {
        const RISE_S: f64 = 0.04;
        const FALL_S: f64 = 0.08;
        if !(self.begin_s..self.end_s).contains(&seconds) {
            return None;
        }
        let (since, until) = (seconds - self.begin_s, self.end_s - seconds);
        let done = since / (since + until);
        let place = done * self.vowels.len() as f64;
        let vowel = (place as usize).min(self.vowels.len() - 1);
        let next = (vowel + 1).min(self.vowels.len() - 1);
        let within = place - vowel as f64;
        // The last two fifths of a vowel glide into the next; in between the mouth is nearly closed.
        let glide = ((within - 0.6) / 0.4).max(0.0);
        let closing = |distance: f64| 0.75 * (-(distance / 0.1).powi(2)).exp();
        let openness = (1.0 - closing(within) - closing(1.0 - within)).max(0.15);
        let vibrato = 1.0 + 0.015 * (TAU * 5.5 * seconds).sin();
        Some(Moment {
            loudness: (since / RISE_S).min(until / FALL_S).min(1.0) * openness,
            pitch_hz: PITCH_HZ * (1.12 - 0.28 * done) * vibrato,
            resonances: std::array::from_fn(|at| {
                self.vowels[vowel][at] + (self.vowels[next][at] - self.vowels[vowel][at]) * glide
            }),
        })
    }
}

/// A two-pole filter: rings at one frequency.
#[derive(Default)]
struct Resonator {
    last: [f64; 2],
}

impl Resonator {
    fn pass(&mut self, value: f64, resonance_hz: f64, width_hz: f64) -> f64 {
        let radius = (-PI * width_hz / f64::from(RATE_HZ)).exp();
        let (first, second) = (2.0 * radius * (TAU * resonance_hz / f64::from(RATE_HZ)).cos(), -radius * radius);
        let passed = (1.0 - first - second) * value + first * self.last[0] + second * self.last[1];
        self.last = [passed, self.last[0]];
        passed
    }
}

/// The change in air flow through the vocal cords at a moment of their cycle; they are open for three fifths of it.
fn pulse(phase: f64) -> f64 {
    const OPEN: f64 = 0.6;
    let opened = phase / OPEN;
    if opened < 1.0 { 2.0 * opened - 3.0 * opened * opened } else { 0.0 }
}

/// The clip: mono 16-bit samples at [`RATE_HZ`], always the same ones.
pub(super) fn samples() -> Vec<i16> {
    let mut resonators: [Resonator; 3] = Default::default();
    let (mut phase, mut drawn) = (0.0_f64, 1_u32);
    let values: Vec<f64> = (0..(SECONDS * f64::from(RATE_HZ)) as u32)
        .map(|at| {
            let seconds = f64::from(at) / f64::from(RATE_HZ);
            let silence = Moment { loudness: 0.0, pitch_hz: PITCH_HZ, resonances: A };
            let moment = UTTERANCES.iter().find_map(|utterance| utterance.at(seconds)).unwrap_or(silence);
            phase = (phase + moment.pitch_hz / f64::from(RATE_HZ)).fract();
            // Breath: a little noise.
            drawn = drawn.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let breath = f64::from(drawn >> 8) / f64::from(1 << 23) - 1.0;
            let source = (pulse(phase) + 0.02 * breath) * moment.loudness;
            let ways = resonators.iter_mut().zip(moment.resonances).zip(WIDTHS_HZ);
            ways.fold(source, |value, ((resonator, resonance_hz), width_hz)| resonator.pass(value, resonance_hz, width_hz))
        })
        .collect();
    let loudest = values.iter().fold(f64::MIN_POSITIVE, |loudest, value| loudest.max(value.abs()));
    values.iter().map(|value| (value / loudest * PEAK * 32_767.0).round() as i16).collect()
}

/// The clip as a WAV file.
#[must_use]
pub fn wav() -> Vec<u8> {
    const BYTES_PER_SAMPLE: u16 = 2;
    let samples = samples();
    let data_bytes = u32::try_from(samples.len()).unwrap_or(u32::MAX).saturating_mul(BYTES_PER_SAMPLE.into());
    let mut file = Vec::with_capacity(44 + samples.len() * usize::from(BYTES_PER_SAMPLE));
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&data_bytes.saturating_add(36).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&16_u32.to_le_bytes());
    // PCM, mono.
    file.extend_from_slice(&1_u16.to_le_bytes());
    file.extend_from_slice(&1_u16.to_le_bytes());
    file.extend_from_slice(&RATE_HZ.to_le_bytes());
    file.extend_from_slice(&(RATE_HZ * u32::from(BYTES_PER_SAMPLE)).to_le_bytes());
    file.extend_from_slice(&BYTES_PER_SAMPLE.to_le_bytes());
    file.extend_from_slice(&(8 * BYTES_PER_SAMPLE).to_le_bytes());
    file.extend_from_slice(b"data");
    file.extend_from_slice(&data_bytes.to_le_bytes());
    file.extend(samples.into_iter().flat_map(i16::to_le_bytes));
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_two_utterances_between_silence_at_a_usual_loudness() {
        let samples = samples();
        assert_eq!(samples.len(), 57_600);
        assert_eq!(samples.iter().map(|sample| sample.unsigned_abs()).max(), Some(16_384));
        let loudest = |from_s: f64, to_s: f64| {
            let range = (from_s * f64::from(RATE_HZ)) as usize..(to_s * f64::from(RATE_HZ)) as usize;
            samples[range].iter().map(|sample| sample.unsigned_abs()).max().expect("samples")
        };
        assert_eq!((loudest(0.0, 0.39), loudest(1.5, 1.99), loudest(3.3, 3.6)), (0, 0, 0));
        assert!(loudest(0.4, 1.3) > 8_000 && loudest(2.0, 3.1) > 8_000);
    }
}
