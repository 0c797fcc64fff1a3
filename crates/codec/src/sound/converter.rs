//! One stream of audio, from what a client has to what a model takes.

use bytes::{Bytes, BytesMut};
use tidemill_domain::Fault;

use super::{
    Sound,
    filter::Ratio,
    resampler::{Resampler, quantized},
    samples::Decoder,
};

/// Bytes that are converted at once.
const BLOCK_BYTES: usize = 4 * 1024;

/// Converts one stream of mono audio to signed 16-bit little-endian samples at another rate.
///
/// How the stream is cut into chunks changes nothing: the same bytes give the same bytes. Output sample `n` lies at the time `n / rate` of
/// the input, and once all of it has come, there are as many as fit into its length, rounded to the nearest. Holds at most 16 KiB.
#[derive(Debug)]
pub struct Converter {
    from: Sound,
    decoder: Decoder,
    /// `None` at equal rates.
    resampler: Option<Resampler>,
}

impl Converter {
    /// A stream that has not begun.
    ///
    /// # Errors
    /// Those of [`Sound::check`].
    pub fn new(from: Sound, to_rate_hz: u32) -> Result<Self, Fault> {
        from.check(to_rate_hz)?;
        let resampler = (from.rate_hz != to_rate_hz).then(|| Resampler::new(from.rate_hz, to_rate_hz));
        Ok(Self { from, decoder: Decoder::new(from.format), resampler })
    }

    /// Takes the next bytes, however many, and returns what is certain now.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) with the field `chunk` for a float that is not finite, or lies beyond
    /// full scale by more than rounding explains. The stream is of no use any more.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Bytes, Fault> {
        let Ratio { outputs, inputs } = self.ratio();
        let samples = bytes.len() / self.from.format.sample_bytes() + 1;
        let expected = samples.saturating_mul(outputs as usize) / inputs as usize + 1;
        let mut output = BytesMut::with_capacity(expected.saturating_mul(size_of::<i16>()));
        let mut samples = Vec::with_capacity(BLOCK_BYTES.min(bytes.len()) / self.from.format.sample_bytes() + 1);
        for block in bytes.chunks(BLOCK_BYTES) {
            samples.clear();
            self.decoder.decode(block, &mut samples)?;
            match &mut self.resampler {
                Some(resampler) => resampler.push(&samples, &mut output),
                None => output.extend(samples.iter().flat_map(|sample| quantized(*sample).to_le_bytes())),
            }
        }
        Ok(output.freeze())
    }

    /// The rest of what follows from the bytes so far, as if silence came next. The stream may go on: what comes then follows without a gap.
    /// A part of a sample stays until its rest comes.
    pub fn flush(&mut self) -> Bytes {
        let mut output = BytesMut::new();
        if let Some(resampler) = &mut self.resampler {
            resampler.flush(&mut output);
        }
        output.freeze()
    }

    /// The rest of what follows from the bytes so far, at their end.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) with the field `chunk` if the last sample is not whole.
    pub fn finish(&mut self) -> Result<Bytes, Fault> {
        self.check_end().map(|()| self.flush())
    }

    /// Checks that the stream so far ends between two samples.
    ///
    /// # Errors
    /// As [`Converter::finish`].
    pub fn check_end(&self) -> Result<(), Fault> {
        self.decoder.finish()
    }

    /// How many bytes have so many samples before or after the conversion, whichever are more; at least those of one sample. Time spent on
    /// a chunk of this size depends little on the rates.
    #[must_use]
    pub fn bytes_of(&self, samples: usize) -> usize {
        let Ratio { outputs, inputs } = self.ratio();
        let samples = (samples as u64 * u64::from(inputs) / u64::from(outputs.max(inputs))).max(1);
        usize::try_from(samples).unwrap_or(usize::MAX).saturating_mul(self.from.format.sample_bytes())
    }

    fn ratio(&self) -> Ratio {
        self.resampler.as_ref().map_or(Ratio { outputs: 1, inputs: 1 }, Resampler::ratio)
    }
}
