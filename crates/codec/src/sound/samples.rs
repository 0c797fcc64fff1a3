//! From bytes to samples, however the bytes are cut.

use tidemill_domain::Fault;

use super::{
    SampleFormat,
    g711::{ALAW, MULAW},
};

/// Full scale: samples are decoded to this many steps, those of 16 bits.
pub(super) const FULL_SCALE: f32 = 32_768.0;

/// How far a float may lie beyond full scale: programs that divide 16-bit samples by 32,767 end up one step beyond it.
const BEYOND: f32 = 2.0 / FULL_SCALE;

/// Decodes one stream of samples.
#[derive(Debug)]
pub(super) struct Decoder {
    format: SampleFormat,
    /// The beginning of a sample whose end has not come.
    begun: [u8; 4],
    begun_bytes: usize,
    samples: u64,
}

impl Decoder {
    pub(super) const fn new(format: SampleFormat) -> Self {
        Self { format, begun: [0; 4], begun_bytes: 0, samples: 0 }
    }

    /// Appends the samples that are whole now, in steps of 16 bits.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) with the field `chunk` for a float that is no sample.
    pub(super) fn decode(&mut self, mut bytes: &[u8], samples: &mut Vec<f32>) -> Result<(), Fault> {
        let sample_bytes = self.format.sample_bytes();
        if self.begun_bytes > 0 {
            let wanted = (sample_bytes - self.begun_bytes).min(bytes.len());
            let (taken, rest) = bytes.split_at(wanted);
            self.begun[self.begun_bytes..self.begun_bytes + wanted].copy_from_slice(taken);
            self.begun_bytes += wanted;
            bytes = rest;
            if self.begun_bytes < sample_bytes {
                return Ok(());
            }
            self.begun_bytes = 0;
            let begun = self.begun;
            self.decode_whole(&begun[..sample_bytes], samples)?;
        }
        let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % sample_bytes);
        self.decode_whole(whole, samples)?;
        self.begun[..rest.len()].copy_from_slice(rest);
        self.begun_bytes = rest.len();
        Ok(())
    }

    fn decode_whole(&mut self, bytes: &[u8], samples: &mut Vec<f32>) -> Result<(), Fault> {
        let before = samples.len();
        match self.format {
            SampleFormat::S16le => {
                samples.extend(bytes.as_chunks().0.iter().map(|sample| f32::from(i16::from_le_bytes(*sample))));
            }
            SampleFormat::F32le => {
                let values = bytes.as_chunks().0.iter().map(|sample| f32::from_le_bytes(*sample));
                // Also finds NaN.
                let is_bad = |value: &f32| !(-1.0 - BEYOND..=1.0 + BEYOND).contains(value);
                if let Some((at, value)) = values.clone().enumerate().find(|(_, value)| is_bad(value)) {
                    return Err(not_a_sample(self.samples + at as u64, value));
                }
                samples.extend(values.map(|value| value * FULL_SCALE));
            }
            SampleFormat::Mulaw => samples.extend(bytes.iter().map(|code| f32::from(MULAW[usize::from(*code)]))),
            SampleFormat::Alaw => samples.extend(bytes.iter().map(|code| f32::from(ALAW[usize::from(*code)]))),
        }
        self.samples += (samples.len() - before) as u64;
        Ok(())
    }

    /// Checks that the stream ended between two samples.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) with the field `chunk`.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.begun_bytes == 0 {
            return Ok(());
        }
        let (name, each, begun) = (self.format.name(), self.format.sample_bytes(), self.begun_bytes);
        let bytes = self.samples * each as u64 + begun as u64;
        let message = format!("the payload has {bytes} bytes, but {name} takes {each} for each sample, so {begun} are left over");
        Err(Fault::invalid("chunk", message))
    }
}

fn not_a_sample(number: u64, value: f32) -> Fault {
    let message = if value.is_finite() {
        format!("sample {number} of the audio is {value}, beyond full scale; scale pcm_f32le to lie between -1 and 1")
    } else {
        format!("sample {number} of the audio is {value}, which is no sound; pcm_f32le is finite, between -1 and 1")
    };
    Fault::invalid("chunk", message)
}

#[cfg(test)]
mod tests {
    use tidemill_domain::FaultKind;

    use super::*;

    fn decoded(format: SampleFormat, bytes: &[u8], cut: usize) -> Result<Vec<f32>, Fault> {
        let (mut decoder, mut samples) = (Decoder::new(format), Vec::new());
        for chunk in bytes.chunks(cut) {
            decoder.decode(chunk, &mut samples)?;
        }
        decoder.finish().map(|()| samples)
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn samples_of_every_format_are_whole_however_they_are_cut() {
        let cases: [(SampleFormat, Vec<u8>, &[f32]); 4] = [
            (SampleFormat::S16le, vec![0, 0x80, 1, 0, 0xff, 0x7f], &[-32_768.0, 1.0, 32_767.0]),
            (SampleFormat::F32le, floats(&[-1.0, 0.5, 0.0]), &[-32_768.0, 16_384.0, 0.0]),
            (SampleFormat::Mulaw, vec![0x00, 0xff, 0x80], &[-32_124.0, 0.0, 32_124.0]),
            (SampleFormat::Alaw, vec![0x2a, 0xd5, 0xaa], &[-32_256.0, 8.0, 32_256.0]),
        ];
        for (format, bytes, expected) in cases {
            for cut in 1..=bytes.len() {
                assert_eq!(decoded(format, &bytes, cut).as_deref(), Ok(expected), "{format:?}, {cut}");
            }
        }
    }

    #[test]
    fn a_float_that_is_no_sample_is_named_with_its_number() {
        for (value, said) in [(f32::NAN, "is NaN"), (f32::INFINITY, "is inf"), (-1.01, "is -1.01"), (f32::MAX, "is 340")] {
            let fault = decoded(SampleFormat::F32le, &floats(&[0.0, 1.0, value, 0.0]), 3).expect_err("no sample");
            assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("chunk")));
            assert!(fault.message().starts_with(&format!("sample 2 of the audio {said}")), "{fault}");
            assert!(fault.message().contains("between -1 and 1"), "{fault}");
        }
        // What 16-bit samples become when they are divided by 32,767.
        assert!(decoded(SampleFormat::F32le, &floats(&[-32_768.0 / 32_767.0]), 4).is_ok());
    }

    #[test]
    fn a_part_of_a_sample_at_the_end_is_said_in_bytes() {
        let fault = decoded(SampleFormat::F32le, &[0; 11], 2).expect_err("three bytes of a sample");
        assert_eq!(
            (fault.field(), fault.message()),
            (Some("chunk"), "the payload has 11 bytes, but pcm_f32le takes 4 for each sample, so 3 are left over")
        );
    }
}
