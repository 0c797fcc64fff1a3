//! One stream of sound, on its way to another form.

use std::{mem, sync::Arc};

use bytes::Bytes;
use tidemill_domain::Fault;

use super::{
    RATES_HZ,
    filter::Filter,
    format::{SampleFormat, Sound},
};

/// Bytes of one sample that is given out.
const SAMPLE_BYTES: usize = size_of::<i16>();

/// Samples that are filtered at a time: how much of a chunk is held in full precision at once.
const BLOCK_SAMPLES: usize = 1_024;

/// Turns a mono sound into 16-bit samples at another rate, in pieces of any size: where they are cut changes no sample.
///
/// The filter's delay is taken out: sample `n` of what comes out lies at the time `n / to_rate_hz` of what went in, and at the end there
/// are as many as the sound lasts. What the filter swings above full scale becomes full scale.
#[derive(Debug)]
pub struct Converter {
    from: Sound,
    to_rate_hz: u32,
    /// The beginning of a sample whose rest has not arrived.
    partial: Vec<u8>,
    /// Absent until there is audio, and for good if only the format changes.
    resampling: Option<Resampling>,
}

/// Between two rates.
#[derive(Debug)]
struct Resampling {
    filter: Arc<Filter>,
    /// Samples that later ones still need, and such as have not been used.
    window: Vec<f32>,
    /// Where in the window the taps of the next output sample begin.
    begin: usize,
    /// Its place between two input samples, of `filter.places`.
    place: u32,
    read: u64,
    written: u64,
}

impl Converter {
    /// A sound that has not begun.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) if rates differ and one of them is not within [`RATES_HZ`].
    pub fn new(from: Sound, to_rate_hz: u32) -> Result<Self, Fault> {
        let is_known = |rate: u32| RATES_HZ.contains(&rate);
        if from.rate_hz != to_rate_hz && !(is_known(from.rate_hz) && is_known(to_rate_hz)) {
            let (lowest, highest) = RATES_HZ.into_inner();
            let message = format!(
                "sample_rate_hz is {}, and the model takes {to_rate_hz}; audio is converted between rates from {lowest} to {highest}",
                from.rate_hz
            );
            return Err(Fault::invalid("sample_rate_hz", message));
        }
        Ok(Self { from, to_rate_hz, partial: Vec::new(), resampling: None })
    }

    /// Whether what comes out is what goes in.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        self.from.format == SampleFormat::S16le && self.from.rate_hz == self.to_rate_hz
    }

    /// Takes the next bytes, and returns the samples that they make possible: signed, 16 bits, little-endian.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) for floating-point samples that are no numbers or beyond full scale;
    /// [`FaultKind::Overloaded`](tidemill_domain::FaultKind::Overloaded) at the first bytes, if audio of too many rates is being converted.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Bytes, Fault> {
        if self.changes_nothing() {
            return Ok(Bytes::copy_from_slice(bytes));
        }
        let width = self.from.format.width();
        let mut out = Vec::with_capacity(self.expected(bytes.len() / width + 1) * SAMPLE_BYTES);
        let mut bytes = bytes;
        if !self.partial.is_empty() {
            let missing = (width - self.partial.len()).min(bytes.len());
            let (rest, others) = bytes.split_at(missing);
            self.partial.extend_from_slice(rest);
            bytes = others;
            if self.partial.len() < width {
                return Ok(Bytes::new());
            }
            let whole = mem::take(&mut self.partial);
            self.take(&whole, &mut out)?;
        }
        let (whole, partial) = bytes.split_at(bytes.len() / width * width);
        self.partial.extend_from_slice(partial);
        for block in whole.chunks(BLOCK_SAMPLES * width) {
            self.take(block, &mut out)?;
        }
        Ok(out.into())
    }

    /// The samples that waited for more to come. There is nothing after it.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) if the sound ends within a sample.
    pub fn finish(&mut self) -> Result<Bytes, Fault> {
        if !self.partial.is_empty() {
            let (bytes, width) = (self.partial.len(), self.from.format.width());
            let message = format!("the audio ends within a sample: {bytes} of its {width} bytes are there");
            return Err(Fault::invalid("chunk", message));
        }
        let mut out = Vec::new();
        if let Some(mut resampling) = self.resampling.take() {
            resampling.end(&mut out);
        }
        Ok(out.into())
    }

    /// How many samples come out for this many.
    fn expected(&self, samples: usize) -> usize {
        (samples as u64 * u64::from(self.to_rate_hz) / u64::from(self.from.rate_hz.max(1))) as usize + 1
    }

    /// Whole samples, a block at most.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.from.rate_hz == self.to_rate_hz {
            let mut samples = Vec::with_capacity(bytes.len());
            self.from.format.read(bytes, &mut samples)?;
            samples.into_iter().for_each(|sample| write(sample, out));
            return Ok(());
        }
        let resampling = match &mut self.resampling {
            Some(resampling) => resampling,
            empty => empty.insert(Resampling::new(Filter::between(self.from.rate_hz, self.to_rate_hz)?)),
        };
        let before = resampling.window.len();
        self.from.format.read(bytes, &mut resampling.window)?;
        resampling.read += (resampling.window.len() - before) as u64;
        resampling.run(out, u64::MAX);
        Ok(())
    }
}

impl Resampling {
    fn new(filter: Arc<Filter>) -> Self {
        let taps = filter.taps;
        let mut window = Vec::with_capacity(taps + BLOCK_SAMPLES);
        // Before the sound there is silence.
        window.resize(taps / 2 - 1, 0.0);
        Self { filter, window, begin: 0, place: 0, read: 0, written: 0 }
    }

    /// Writes what there are samples for, up to `end` in all.
    fn run(&mut self, out: &mut Vec<u8>, end: u64) {
        let Filter { places, step, taps, .. } = *self.filter;
        while self.written < end && self.begin + taps <= self.window.len() {
            write(self.filter.sample(&self.window[self.begin..self.begin + taps], self.place), out);
            self.written += 1;
            self.place += step;
            self.begin += (self.place / places) as usize;
            self.place %= places;
        }
        let used = self.begin.min(self.window.len());
        self.window.drain(..used);
        self.begin -= used;
    }

    /// Writes the rest: behind the sound there is silence, too.
    fn end(&mut self, out: &mut Vec<u8>) {
        let (places, step) = (u64::from(self.filter.places), u64::from(self.filter.step));
        let end = (self.read * places + step / 2) / step;
        let mut silence = self.filter.taps + self.begin;
        while self.written < end && silence > 0 {
            let more = silence.min(BLOCK_SAMPLES);
            self.window.resize(self.window.len() + more, 0.0);
            self.run(out, end);
            silence -= more;
        }
    }
}

/// As a 16-bit sample.
fn write(sample: f32, out: &mut Vec<u8>) {
    // Never out of range after this, and never not a number.
    let rounded = (sample * 32_768.0).round_ties_even().clamp(-32_768.0, 32_767.0);
    out.extend_from_slice(&(rounded as i16).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use proptest::prelude::*;

    use super::*;

    const TO: u32 = 16_000;

    fn sound(format: SampleFormat, rate_hz: u32) -> Sound {
        Sound { format, rate_hz }
    }

    fn sine(rate_hz: u32, frequency: f64, seconds: f64) -> Vec<u8> {
        let count = (f64::from(rate_hz) * seconds) as usize;
        let at = |n: usize| (16_000.0 * (TAU * frequency * n as f64 / f64::from(rate_hz)).sin()).round() as i16;
        (0..count).flat_map(|n| at(n).to_le_bytes()).collect()
    }

    fn converted(from: Sound, to_rate_hz: u32, bytes: &[u8]) -> Vec<i16> {
        let mut converter = Converter::new(from, to_rate_hz).expect("known rates");
        let mut out = converter.push(bytes).expect("sound samples").to_vec();
        out.extend(converter.finish().expect("whole samples"));
        out.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    /// How strong a frequency is in the middle of a sound, in parts of what [`sine`] makes, and what else is there.
    fn strength(samples: &[i16], rate_hz: u32, frequency: f64) -> (f64, f64) {
        let middle = &samples[samples.len() / 4..samples.len() * 3 / 4];
        let (mut real, mut imaginary, mut energy, mut weights) = (0.0, 0.0, 0.0, 0.0);
        for (n, sample) in middle.iter().enumerate() {
            let phase = TAU * frequency * n as f64 / f64::from(rate_hz);
            // Hann's window keeps other frequencies out.
            let weight = 0.5 - 0.5 * (TAU * (n as f64 + 0.5) / middle.len() as f64).cos();
            let value = f64::from(*sample) / 16_000.0;
            real += weight * value * phase.cos();
            imaginary += weight * value * phase.sin();
            energy += weight * value * value;
            weights += weight;
        }
        let amplitude = 2.0 * real.hypot(imaginary) / weights;
        (amplitude, (energy / weights - amplitude * amplitude / 2.0).max(0.0).sqrt())
    }

    fn decibels(ratio: f64) -> f64 {
        20.0 * ratio.max(1e-12).log10()
    }

    #[test]
    fn what_both_rates_can_carry_passes_and_nothing_else_does() {
        for from in [8_000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000] {
            let nyquist = f64::from(from.min(TO)) / 2.0;
            for part in [0.05, 0.3, 0.6, 0.88] {
                let samples = converted(sound(SampleFormat::S16le, from), TO, &sine(from, part * nyquist, 0.5));
                let (amplitude, rest) = strength(&samples, TO, part * nyquist);
                assert!(decibels(amplitude).abs() < 0.1, "{from} Hz, {part} of Nyquist: {} dB", decibels(amplitude));
                assert!(
                    decibels(rest / amplitude) < -82.0,
                    "{from} Hz, {part}: {} dB of anything else",
                    decibels(rest / amplitude)
                );
            }
            for frequency in [1.01 * nyquist, 1.2 * nyquist, 1.9 * nyquist].into_iter().filter(|f| *f < f64::from(from) / 2.0) {
                let samples = converted(sound(SampleFormat::S16le, from), TO, &sine(from, frequency, 0.5));
                let middle = &samples[samples.len() / 4..samples.len() * 3 / 4];
                // A sample of one is -84 dB here; beyond rounding there is nothing.
                assert!(middle.iter().all(|sample| sample.abs() <= 1), "{from} Hz: {frequency} Hz comes through as an alias");
            }
        }
    }

    #[test]
    fn the_filters_delay_is_taken_out_and_the_length_is_kept() {
        for from in [8_000, 22_050, 24_000, 44_100, 48_000] {
            let mut bytes = vec![0; from as usize / 10 * 2];
            let at = from as usize / 20;
            bytes[at * 2..at * 2 + 2].copy_from_slice(&20_000_i16.to_le_bytes());
            let samples = converted(sound(SampleFormat::S16le, from), TO, &bytes);
            assert_eq!(samples.len(), TO as usize / 10, "{from} Hz");
            let (peak, _) = samples.iter().enumerate().max_by_key(|(_, sample)| **sample).expect("samples");
            let due = (at as f64 * f64::from(TO) / f64::from(from)).round() as usize;
            assert!(peak.abs_diff(due) <= 1, "{from} Hz: the impulse comes at {peak} instead of {due}");
        }
    }

    #[test]
    fn a_constant_stays_what_it_is() {
        for from in [8_000, 16_001, 44_100, 192_000] {
            let bytes: Vec<u8> = (0..from / 4).flat_map(|_| 12_345_i16.to_le_bytes()).collect();
            let samples = converted(sound(SampleFormat::S16le, from), TO, &bytes);
            let middle = &samples[samples.len() / 3..samples.len() * 2 / 3];
            assert!(middle.iter().all(|sample| sample.abs_diff(12_345) <= 1), "{from} Hz");
        }
    }

    #[test]
    fn equal_rates_change_only_the_format() {
        let bytes = sine(TO, 440.0, 0.05);
        let converter = Converter::new(sound(SampleFormat::S16le, TO), TO).expect("known rates");
        assert!(converter.changes_nothing());
        let samples = converted(sound(SampleFormat::S16le, TO), TO, &bytes);
        let floats: Vec<u8> = samples.iter().flat_map(|sample| (f32::from(*sample) / 32_768.0).to_le_bytes()).collect();
        assert_eq!(converted(sound(SampleFormat::F32le, TO), TO, &floats), samples);
        assert_eq!(converted(sound(SampleFormat::Mulaw, TO), TO, &[0xff, 0x80, 0x00]), [0, 32_124, -32_124]);
    }

    #[test]
    fn a_sound_that_ends_within_a_sample_is_refused() {
        let mut converter = Converter::new(sound(SampleFormat::F32le, 48_000), TO).expect("known rates");
        converter.push(&[0; 7]).expect("sound samples");
        let fault = converter.finish().expect_err("three bytes are left");
        assert_eq!(fault.message(), "the audio ends within a sample: 3 of its 4 bytes are there");
    }

    #[test]
    fn rates_that_are_not_converted_are_named() {
        for rate_hz in [0, 7_999, 192_001] {
            let fault = Converter::new(sound(SampleFormat::S16le, rate_hz), TO).expect_err("no such rate");
            assert!(fault.message().contains(&format!("sample_rate_hz is {rate_hz}")), "{fault}");
        }
    }

    proptest! {
        #[test]
        fn where_it_is_cut_changes_nothing(
            format in prop_oneof![Just(SampleFormat::S16le), Just(SampleFormat::Mulaw), Just(SampleFormat::Alaw)],
            rate_hz in prop_oneof![Just(8_000_u32), Just(11_025), Just(16_000), Just(24_000), Just(44_100), Just(48_000), 8_000_u32..=192_000],
            bytes in proptest::collection::vec(any::<u8>(), 0..3_000),
            cuts in proptest::collection::vec(0_usize..3_000, 0..12),
        ) {
            let even = bytes.len() / 2 * 2;
            let bytes = &bytes[..even];
            let whole = converted(sound(format, rate_hz), TO, bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(even)).collect();
            cuts.extend([0, even]);
            cuts.sort_unstable();
            let mut converter = Converter::new(sound(format, rate_hz), TO).expect("known rates");
            let mut out = Vec::new();
            for pair in cuts.windows(2) {
                out.extend(converter.push(&bytes[pair[0]..pair[1]]).expect("sound samples"));
            }
            out.extend(converter.finish().expect("whole samples"));
            let cut: Vec<i16> = out.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
            prop_assert_eq!(cut, whole);
        }
    }
}
