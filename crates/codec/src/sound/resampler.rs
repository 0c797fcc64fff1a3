//! One stream of samples, from one rate to another.
//!
//! Output sample `n` lies at the time `n / rate` of the input: what comes before the first sample is taken to be silence, and so is what
//! comes after the last when the stream is flushed.

use std::sync::Arc;

use bytes::BytesMut;

use super::{
    cache,
    filter::{Design, Filter, Ratio},
};

#[derive(Debug)]
pub(super) struct Resampler {
    filter: Arc<Filter>,
    ratio: Ratio,
    /// How far the next output sample lies after the sample in the middle of its taps, in parts of `ratio.outputs`.
    place: u32,
    /// The samples from the next output sample's first tap on; fewer than it takes.
    recent: Vec<f32>,
    taken: u64,
    given: u64,
}

impl Resampler {
    /// For two rates that are not 0.
    pub(super) fn new(from_hz: u32, to_hz: u32) -> Self {
        let filter = cache::filter(Design::new(from_hz, to_hz));
        let mut recent = Vec::with_capacity(filter.taps());
        // Silence, up to the first sample, which is where the first output sample is.
        recent.resize(filter.taps() / 2 - 1, 0.0);
        Self { filter, ratio: Ratio::new(from_hz, to_hz), place: 0, recent, taken: 0, given: 0 }
    }

    /// The two rates.
    pub(super) const fn ratio(&self) -> Ratio {
        self.ratio
    }

    /// Takes the next samples, and appends what is certain now.
    pub(super) fn push(&mut self, samples: &[f32], output: &mut BytesMut) {
        self.taken += samples.len() as u64;
        if self.recent.len() + samples.len() < self.filter.taps() {
            self.recent.extend_from_slice(samples);
            return;
        }
        let joined = [&self.recent, samples].concat();
        let passed = self.run(&joined, u64::MAX, output);
        self.recent.clear();
        self.recent.extend_from_slice(&joined[passed..]);
    }

    /// Appends all that lies within the samples so far, as if silence came next. If samples come next, they do so without a gap, and what
    /// follows from them does not hear that silence.
    pub(super) fn flush(&mut self, output: &mut BytesMut) {
        let silence = vec![0.0; self.filter.taps() / 2];
        let joined = [&self.recent[..], &silence].concat();
        let passed = self.run(&joined, self.ratio.outputs_of(self.taken), output);
        self.recent.drain(..passed.min(self.recent.len()));
    }

    /// Makes output samples until there are `end`, or input is missing. Returns how many input samples are of no use any more.
    fn run(&mut self, samples: &[f32], end: u64, output: &mut BytesMut) -> usize {
        let Self { filter, ratio: Ratio { outputs, inputs }, place, given, .. } = self;
        let (taps, whole, part) = (filter.taps(), (*inputs / *outputs) as usize, *inputs % *outputs);
        let mut first = 0;
        while *given < end
            && let Some(window) = samples.get(first..first + taps)
        {
            output.extend_from_slice(&quantized(filter.apply(*place, *outputs, window)).to_le_bytes());
            *given += 1;
            first += whole;
            *place += part;
            if *place >= *outputs {
                *place -= *outputs;
                first += 1;
            }
        }
        first
    }
}

/// The nearest of 16 bits; what lies beyond full scale is cut off there.
pub(super) fn quantized(sample: f32) -> i16 {
    (sample + 0.5_f32.copysign(sample)) as i16
}
