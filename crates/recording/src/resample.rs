//! Converts from one sample rate to another, in a stream, with no sample lost at either end.
//!
//! The filter is rubato's. Its output is late by half of its block: that much is left out at the beginning and made up for with silence at
//! the end, so that a sound stays where it was.

use rubato::{Fft, FixedSync, Indexing, Resampler as _, WindowFunction, audioadapter_buffers::direct::SequentialSlice};

use super::RecordingError;

/// A block is this part of a second: short enough for live input, long enough for a steep filter.
const BLOCKS_PER_SECOND: usize = 32;

/// Turns one stream of samples at one rate into one at another.
pub(super) struct Resampler {
    fft: Fft<f32>,
    rates_hz: (u32, u32),
    /// Samples that do not fill a block yet.
    input: Vec<f32>,
    output: Vec<f32>,
    /// Samples of the filter's delay that are still to come.
    delay: usize,
    taken: u64,
    given: u64,
}

impl Resampler {
    /// # Errors
    /// [`RecordingError::Rate`] if there is no filter for these rates.
    pub(super) fn new(from_hz: u32, to_hz: u32) -> Result<Self, RecordingError> {
        let (from, to) = (from_hz as usize, to_hz as usize);
        // Blocks are whole multiples of this one, in which both rates have whole samples. The middle of a filter of odd length lies between
        // two samples, and so would the sound: so blocks are even.
        let smallest = 2 * from / gcd(from, to);
        let block = (from / BLOCKS_PER_SECOND).max(1).next_multiple_of(smallest);
        let fft = Fft::new_custom(from, to, block, 1, 1, WindowFunction::BlackmanHarris2, FixedSync::Both)
            .map_err(|_| RecordingError::Rate { from_hz, to_hz })?;
        let (delay, output) = (fft.output_delay(), vec![0.0; fft.output_frames_max()]);
        Ok(Self { fft, rates_hz: (from_hz, to_hz), input: Vec::new(), output, delay, taken: 0, given: 0 })
    }

    /// The rate at which samples are given.
    pub(super) const fn to_hz(&self) -> u32 {
        self.rates_hz.1
    }

    /// Takes the next samples, and appends what follows from them.
    pub(super) fn push(&mut self, samples: &[f32], resampled: &mut Vec<f32>) {
        self.taken += samples.len() as u64;
        self.input.extend_from_slice(samples);
        let block = self.fft.input_frames_next();
        let mut at = 0;
        while self.input.len() - at >= block {
            self.run(at, block, resampled);
            at += block;
        }
        self.input.drain(..at);
    }

    /// Appends what is still to come after the last sample.
    pub(super) fn finish(&mut self, resampled: &mut Vec<f32>) {
        let (from_hz, to_hz) = (u128::from(self.rates_hz.0), u128::from(self.rates_hz.1));
        // Half a sample more counts as one more.
        let total = (u128::from(self.taken) * to_hz + from_hz / 2) / from_hz;
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        let before = resampled.len() as u64;
        let given = self.given;
        while self.given < total && self.run(0, self.input.len(), resampled) {
            self.input.clear();
        }
        resampled.truncate(usize::try_from(before + (total - given)).unwrap_or(usize::MAX));
        self.given = total;
    }

    /// Runs the filter over `count` samples at `at`, at most a block; a shorter block is filled up with silence. Says whether it gave
    /// anything.
    fn run(&mut self, at: usize, count: usize, resampled: &mut Vec<f32>) -> bool {
        let (input_frames, output_frames) = (self.input.len(), self.output.len());
        let indexing = Indexing::new().input_offset(at).partial_len(count);
        let adapters =
            (SequentialSlice::new(&self.input, 1, input_frames), SequentialSlice::new_mut(&mut self.output, 1, output_frames));
        let (Ok(input), Ok(mut output)) = adapters else { return false };
        let made = self.fft.process_into_buffer(&input, &mut output, Some(&indexing)).map_or(0, |(_, made)| made);
        let delayed = self.delay.min(made);
        self.delay -= delayed;
        resampled.extend_from_slice(&self.output[delayed..made]);
        self.given += (made - delayed) as u64;
        made > 0
    }
}

/// The greatest common divisor.
const fn gcd(mut a: usize, mut b: usize) -> usize {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A swelling tone of 440 Hz.
    fn tone(rate_hz: u32, samples: usize) -> Vec<f32> {
        (0..samples)
            .map(|at| {
                let seconds = at as f32 / rate_hz as f32;
                (seconds * 440.0 * std::f32::consts::TAU).sin() * 0.5 * (seconds * 3.0).sin()
            })
            .collect()
    }

    fn resampled(from_hz: u32, to_hz: u32, samples: &[f32], piece: usize) -> Vec<f32> {
        let (mut resampler, mut out) = (Resampler::new(from_hz, to_hz).expect("a filter"), Vec::new());
        samples.chunks(piece).for_each(|piece| resampler.push(piece, &mut out));
        resampler.finish(&mut out);
        out
    }

    #[test]
    fn a_tone_stays_where_it_is_and_keeps_its_length() {
        for from_hz in [8_000, 11_025, 16_001, 22_050, 44_100, 48_000, 96_000] {
            let source = tone(from_hz, from_hz as usize * 3 / 2);
            let out = resampled(from_hz, 16_000, &source, 1_000);
            // Half a sample at the end of the one is less than half a sample of the other.
            let expected = tone(16_000, if from_hz == 11_025 { 23_999 } else { 24_000 });
            assert_eq!(out.len(), expected.len(), "{from_hz} Hz");
            let largest = |range: std::ops::Range<usize>| {
                out[range.clone()].iter().zip(&expected[range]).map(|(out, expected)| (out - expected).abs()).fold(0.0, f32::max)
            };
            assert!(largest(0..23_500) < 2e-3, "{from_hz} Hz: off by {}", largest(0..23_500));
        }
    }

    #[test]
    fn what_the_new_rate_cannot_hold_is_left_out() {
        let source: Vec<f32> =
            (0..44_100_i32).map(|at| (f64::from(at) / 44_100.0 * 11_000.0 * std::f64::consts::TAU).sin() as f32).collect();
        let out = resampled(44_100, 16_000, &source, 4_000);
        // The ends are steps, which hold all frequencies.
        let loudest = out[1_000..15_000].iter().copied().fold(0.0, f32::max);
        assert!(loudest < 1e-3, "{loudest} is left of a tone of 11 kHz");
    }

    #[test]
    fn pieces_of_any_size_give_the_same_and_the_shortest_input_gives_its_share() {
        let source = tone(44_100, 10_007);
        let whole = resampled(44_100, 16_000, &source, 10_007);
        assert_eq!(whole.len(), 3_631);
        for piece in [1, 7, 1_379] {
            assert_eq!(resampled(44_100, 16_000, &source, piece), whole, "{piece}");
        }
        for (from_hz, samples, made) in [(8_000, 1, 2), (48_000, 1, 0), (48_000, 3, 1), (44_100, 0, 0)] {
            assert_eq!(resampled(from_hz, 16_000, &vec![0.5; samples], 1).len(), made, "{samples} at {from_hz} Hz");
        }
    }
}
