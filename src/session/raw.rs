//! A raw payload on its way into windows: looked at, converted, cut.

use bytes::Bytes;

use super::payload::PcmOptions;
use crate::{
    codec::{Beginning, Converter, FramingRule, PcmFramer, SampleFormat, Window},
    domain::Fault,
};

/// Samples that are converted at once, counted where there are more of them: about a tenth of a millisecond.
const SLICE_SAMPLES: usize = 4_096;

/// What there is to do with a raw payload.
#[derive(Debug)]
pub(super) enum Framed<W> {
    /// A full window.
    Window(W),
    /// Some of what has come was converted; there may be a window now.
    Converted,
    /// A window needs more than has come.
    Nothing,
}

/// The raw payload of one stream. It is converted as windows are asked for, a slice at a time, so that a large chunk takes neither much time
/// at once nor more memory than it has.
#[derive(Debug)]
pub(super) struct RawPayload {
    framer: PcmFramer,
    format: SampleFormat,
    /// The first bytes, until it is certain that they do not begin a file.
    beginning: Option<Beginning>,
    /// `None` for what the framer takes as it is.
    conversion: Option<Conversion>,
}

#[derive(Debug)]
struct Conversion {
    converter: Converter,
    /// What has come and is not converted yet.
    waiting: Bytes,
    slice_bytes: usize,
}

impl RawPayload {
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if the rate that the client states cannot be converted to the model's.
    pub(super) fn new(rule: FramingRule, options: PcmOptions) -> Result<Self, Fault> {
        let sound = options.sound(rule.sample_rate_hz);
        let conversion = if sound.is_s16le_at(rule.sample_rate_hz) {
            None
        } else {
            let converter = Converter::new(sound, rule.sample_rate_hz)?;
            let slice_bytes = converter.bytes_of(SLICE_SAMPLES);
            Some(Conversion { converter, waiting: Bytes::new(), slice_bytes })
        };
        let beginning = (!options.accept_container_bytes).then(Beginning::default);
        Ok(Self { framer: PcmFramer::new(rule), format: sound.format, beginning, conversion })
    }

    /// Takes the next bytes. The ones before have been used up: [`next`](Self::next) gave nothing more.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if the payload begins like a file.
    pub(super) fn push(&mut self, chunk: Bytes) -> Result<(), Fault> {
        if let Some(beginning) = &mut self.beginning {
            if let Some(container) = beginning.push(&chunk) {
                let message = format!(
                    "the raw audio begins like {container}: send only its samples (mono, {}), or set accept_container_bytes if these \
                     are samples",
                    self.format.name()
                );
                return Err(Fault::invalid("chunk", message));
            }
            if beginning.is_complete() {
                self.beginning = None;
            }
        }
        match &mut self.conversion {
            None => self.framer.push(chunk),
            Some(conversion) => conversion.waiting = chunk,
        }
        Ok(())
    }

    /// A full window, or a step on the way to one.
    ///
    /// # Errors
    /// Those of [`Converter::push`].
    pub(super) fn next(&mut self) -> Result<Framed<Window>, Fault> {
        if let Some(window) = self.framer.next_window() {
            return Ok(Framed::Window(window));
        }
        let Some(Conversion { converter, waiting, slice_bytes }) = &mut self.conversion else { return Ok(Framed::Nothing) };
        if waiting.is_empty() {
            return Ok(Framed::Nothing);
        }
        let slice = waiting.split_to(waiting.len().min(*slice_bytes));
        let converted = converter.push(&slice)?;
        if waiting.is_empty() {
            // An empty slice would still keep the chunk.
            *waiting = Bytes::new();
        }
        self.framer.push(converted);
        Ok(Framed::Converted)
    }

    /// Converts what was waiting for sound to come after it. Says whether there was any: it may have made windows full.
    pub(super) fn end_sound(&mut self) -> bool {
        let Some(conversion) = &mut self.conversion else { return false };
        let tail = conversion.converter.flush();
        let has_more = !tail.is_empty();
        self.framer.push(tail);
        has_more
    }

    /// The rest, padded to a window, if anything is left.
    pub(super) fn flush(&mut self) -> Option<Window> {
        self.framer.flush()
    }

    /// Checks that the payload ended between two samples.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) with the field `chunk`.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        match &self.conversion {
            None => self.framer.finish(),
            Some(conversion) => conversion.converter.check_end(),
        }
    }

    /// Samples so far, at the model's rate.
    pub(super) const fn samples(&self) -> u64 {
        self.framer.samples()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(sample_rate_hz: u32, format: SampleFormat) -> RawPayload {
        let rule = FramingRule::new(16_000, 512, 64).expect("within limits");
        let options = PcmOptions { sample_rate_hz: Some(sample_rate_hz), format: Some(format), accept_container_bytes: false };
        RawPayload::new(rule, options).expect("a usual rate")
    }

    /// Windows until there is nothing more, and steps in between.
    fn run(payload: &mut RawPayload) -> (usize, usize) {
        let (mut windows, mut steps) = (0, 0);
        loop {
            match payload.next().expect("sound") {
                Framed::Window(_) => windows += 1,
                Framed::Converted => steps += 1,
                Framed::Nothing => return (windows, steps),
            }
        }
    }

    #[test]
    fn a_large_chunk_is_converted_in_slices_and_its_length_is_kept() {
        let mut payload = payload(48_000, SampleFormat::S16le);
        payload.push(vec![0; 2 * 480_000].into()).expect("silence");
        let (windows, steps) = run(&mut payload);
        assert_eq!(steps, 480_000_usize.div_ceil(SLICE_SAMPLES));
        // The filter waits for 64 samples at the lower rate.
        assert_eq!(payload.samples(), 160_000 - 64);
        assert!(payload.end_sound());
        let (later, steps) = run(&mut payload);
        assert_eq!((windows + later, steps, payload.samples()), (160_000 / 512, 0, 160_000));
        assert_eq!(payload.flush().expect("the rest").position.end_sample, 160_000);
        assert!(!payload.end_sound(), "nothing has come since");
        assert_eq!(payload.finish(), Ok(()));
    }

    #[test]
    fn what_the_model_takes_is_not_converted() {
        let mut same = payload(16_000, SampleFormat::S16le);
        same.push(vec![0; 3 * 1_024 + 1].into()).expect("silence");
        assert_eq!((run(&mut same), same.end_sound()), ((3, 0), false));
        assert!(same.finish().is_err(), "half a sample");
        let mut law = payload(8_000, SampleFormat::Mulaw);
        law.push(vec![0xff; 256].into()).expect("silence");
        assert_eq!((run(&mut law), law.end_sound(), run(&mut law)), ((0, 1), true, (1, 0)));
    }

    #[test]
    fn the_bytes_that_come_are_looked_at_and_not_what_they_become() {
        let mut payload = payload(8_000, SampleFormat::Alaw);
        payload.push(Bytes::from_static(b"RIFF\x24\x08")).expect("it may still be sound");
        let fault = payload.push(Bytes::from_static(b"\0\0WAVEfmt ")).expect_err("a file");
        assert!(
            fault.message().starts_with("the raw audio begins like a WAV file: send only its samples (mono, alaw)"),
            "{fault}"
        );
    }
}
