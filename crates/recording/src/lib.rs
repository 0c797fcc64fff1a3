//! Recordings: bytes in any common format in, mono 16-bit samples at the wanted rate out.
//!
//! The format is recognised by the first bytes, never by the name. A recording is read once and forwards, so a pipe works as well
//! as a file. One that is cut off is read up to the last whole sample. WAV and its successors, AIFF, CAF and AU are read here;
//! symphonia decodes FLAC, MP3, AAC and Vorbis, and rubato resamples. Blocks its thread; knows no server and no model.

mod aac;
mod big_endian;
mod chunks;
mod clip;
mod compressed;
mod length;
mod mp4;
mod pcm;
mod resample;
mod riff;
mod samples;
mod sniff;
mod source;

#[cfg(test)]
mod tests;

use std::{fmt, io, time::Duration};

use self::{
    big_endian::CafSamples,
    compressed::Compressed,
    length::Length,
    pcm::{Payload, PcmReader},
    resample::Resampler,
    samples::{Layout, quantized},
    sniff::Format,
    source::Source,
};

pub use self::{
    clip::wav as sample_wav,
    source::{Forwards, Input},
};

/// Bytes of one sample that is given out.
pub const SAMPLE_BYTES: usize = size_of::<i16>();

/// Lowest and highest rate that can be resampled.
pub const RESAMPLED_HZ: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The system reported it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is in a format that is known but cannot be read.
    #[error("is {0}, which cannot be read")]
    Unread(String),
    /// It is not what its beginning suggests.
    #[error("cannot be read as {kind}: {reason}")]
    Damaged {
        /// The format that it seems to have.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Its rate cannot be resampled.
    #[error("has {from_hz} samples a second, which cannot be resampled to {to_hz}: only {} to {} can", RESAMPLED_HZ.start(), RESAMPLED_HZ.end())]
    Rate {
        /// Its own.
        from_hz: u32,
        /// The wanted one.
        to_hz: u32,
    },
    /// It has no bytes.
    #[error("is empty")]
    Empty,
    /// It has to be read as a whole, and is too long for that.
    #[error(
        "has its index (moov) after its samples, so from a pipe all of it has to be read into memory, but it is longer than the \
         {limit_bytes} bytes that this may take; give the file's name instead of the pipe"
    )]
    TooLongForAPipe {
        /// The most that is read into memory.
        limit_bytes: usize,
    },
}

impl RecordingError {
    fn unread(what: impl Into<String>) -> Self {
        Self::Unread(what.into())
    }

    fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged { kind: "", reason: reason.into() }
    }

    /// The same, for a recording that seems to be in this format.
    fn of(self, format: Format) -> Self {
        match self {
            Self::Damaged { reason, .. } => Self::Damaged { kind: format.name(), reason },
            other => other,
        }
    }
}

/// A flaw in a recording that could still be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It ends before its header says, or in the middle of something that must be whole.
    CutOff {
        /// How much is missing, if known.
        missing: Option<Duration>,
    },
    /// Its last bytes do not make a whole sample.
    HalfSample {
        /// How many.
        bytes: usize,
        /// How many a sample has, over all channels.
        frame_bytes: usize,
        /// Whole ones before it.
        frames: u64,
    },
    /// Parts of it could not be decoded; they were replaced by silence.
    Damaged {
        /// How many.
        packets: u64,
    },
    /// It goes on at another rate; that part is not read.
    OtherRate {
        /// Until then.
        from_hz: u32,
        /// From then on.
        to_hz: u32,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutOff { missing: Some(missing) } => {
                write!(
                    f,
                    "is cut off {:.2} s before the end that its header states; everything up to there was sent",
                    missing.as_secs_f64()
                )
            }
            Self::CutOff { missing: None } => f.write_str("is cut off; everything up to there was sent"),
            Self::HalfSample { bytes, frame_bytes, frames } => write!(
                f,
                "ends with {bytes} of the {frame_bytes} bytes of a sample, which were left out after {frames} whole ones; is it in this \
                 format?"
            ),
            Self::Damaged { packets } => write!(f, "has {packets} damaged packets; silence was sent in their place"),
            Self::OtherRate { from_hz, to_hz } => {
                write!(f, "goes on at {to_hz} samples a second after {from_hz}; only the first part was sent")
            }
        }
    }
}

/// The contents of an input.
#[derive(Debug)]
pub enum Opened {
    /// A recording in a format that can be read.
    Recording(Box<Recording>),
    /// Nothing known: perhaps raw samples. The bytes come before what the input still has.
    Unknown(Vec<u8>, Input),
}

/// A recording, read in order and once.
pub struct Recording {
    reader: Reader,
    format: Format,
    resampler: Option<Resampler>,
    /// Decoded, before it is resampled.
    decoded: Vec<f32>,
    /// Ready to be given out.
    ready: Vec<f32>,
    ended: bool,
    is_empty_so_far: bool,
}

enum Reader {
    Pcm(PcmReader),
    Compressed(Compressed),
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("format", &self.describe()).finish_non_exhaustive()
    }
}

/// Finds out what `input` holds.
///
/// # Errors
/// [`RecordingError`] if it is empty, or holds something that is known but cannot be read.
pub fn open(input: Input) -> Result<Opened, RecordingError> {
    let mut source = Source::new(input);
    if source.peek(1)?.is_empty() {
        return Err(RecordingError::Empty);
    }
    let format = sniff::sniff(&mut source)?;
    if format == Format::Unknown {
        let (beginning, input) = source.into_parts();
        return Ok(Opened::Unknown(beginning, input));
    }
    let reader = read_as(format, source).map_err(|error| error.of(format))?;
    Ok(Opened::Recording(Box::new(Recording::new(reader, format))))
}

fn read_as(format: Format, mut source: Source) -> Result<Reader, RecordingError> {
    Ok(match format {
        Format::Riff => Reader::Pcm(riff::open(source)?),
        Format::Aiff => Reader::Pcm(big_endian::open_aiff(source)?),
        Format::Au => Reader::Pcm(big_endian::open_au(source)?),
        Format::Caf => match big_endian::describe_caf(&mut source)? {
            CafSamples::Pcm(layout) => Reader::Pcm(big_endian::open_caf(source, layout)?),
            CafSamples::Packets(codec) => Reader::Compressed(compressed::open_caf(source, codec)?),
        },
        Format::Flac => Reader::Compressed(compressed::open_flac(source)?),
        Format::Ogg => Reader::Compressed(compressed::open_ogg(source)?),
        Format::Mp3 => Reader::Compressed(compressed::open_mp3(source)?),
        Format::Adts => Reader::Compressed(compressed::open_adts(source)?),
        Format::Mp4 => Reader::Compressed(compressed::open_mp4(source)?),
        Format::Unread(name) => return Err(RecordingError::unread(name)),
        Format::Unknown => Reader::Pcm(PcmReader::new(Layout::raw(0), Payload::new(source, Length::ToTheEnd, None))),
    })
}

impl Recording {
    fn new(reader: Reader, format: Format) -> Self {
        Self { reader, format, resampler: None, decoded: Vec::new(), ready: Vec::new(), ended: false, is_empty_so_far: true }
    }

    /// Raw signed 16-bit little-endian mono samples at `rate_hz`; those in `beginning` come before what `input` has.
    #[must_use]
    pub fn raw(beginning: &[u8], input: Input, rate_hz: u32) -> Self {
        let mut source = Source::new(input);
        source.put_back(beginning);
        let payload = Payload::new(source, Length::ToTheEnd, None);
        Self::new(Reader::Pcm(PcmReader::new(Layout::raw(rate_hz), payload)), Format::Unknown)
    }

    /// A short clip of synthetic, speech-like sound.
    #[must_use]
    pub fn sample_clip() -> Self {
        let bytes = clip::samples().into_iter().flat_map(i16::to_le_bytes).collect();
        Self::raw(&[], Input::Memory(io::Cursor::new(bytes)), clip::RATE_HZ)
    }

    /// Samples per second, as recorded.
    #[must_use]
    pub fn rate_hz(&self) -> u32 {
        match &self.reader {
            Reader::Pcm(pcm) => pcm.layout().rate_hz,
            Reader::Compressed(compressed) => compressed.rate_hz(),
        }
    }

    /// Channels, as recorded.
    #[must_use]
    pub fn channels(&self) -> usize {
        match &self.reader {
            Reader::Pcm(pcm) => pcm.layout().channels,
            Reader::Compressed(compressed) => compressed.channels(),
        }
    }

    /// Its format, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let samples = match &self.reader {
            Reader::Pcm(pcm) => format!("{} {}", self.format.name(), pcm.layout().describe()),
            Reader::Compressed(compressed) if compressed.codec() == self.format.name() => self.format.name().to_owned(),
            Reader::Compressed(compressed) => format!("{} in {}", compressed.codec(), self.format.name()),
        };
        let (rate_hz, channels) = (self.rate_hz(), self.channels());
        let channels = if channels == 1 { "mono".to_owned() } else { format!("{channels} channels") };
        format!("{samples}, {rate_hz} Hz, {channels}")
    }

    /// Gives samples at this rate from here on. Says what is done to them, if anything.
    ///
    /// # Errors
    /// [`RecordingError::Rate`] if the recording's own rate cannot be resampled.
    pub fn at_rate(&mut self, rate_hz: u32) -> Result<Option<String>, RecordingError> {
        let from_hz = self.rate_hz();
        if from_hz != rate_hz {
            if !RESAMPLED_HZ.contains(&from_hz) || !RESAMPLED_HZ.contains(&rate_hz) {
                return Err(RecordingError::Rate { from_hz, to_hz: rate_hz });
            }
            self.resampler = Some(Resampler::new(from_hz, rate_hz)?);
        }
        let mixed = (self.channels() > 1).then(|| "mixed to mono".to_owned());
        let resampled = self.resampler.is_some().then(|| format!("resampled to {rate_hz} Hz"));
        let done: Vec<String> = mixed.into_iter().chain(resampled).collect();
        Ok((!done.is_empty()).then(|| format!("{}: {}", self.describe(), done.join(" and "))))
    }

    /// How many samples there are at the rate at which they are given, if known.
    #[must_use]
    pub fn samples_total(&mut self) -> Option<u64> {
        let from_hz = self.rate_hz();
        let frames = match &mut self.reader {
            Reader::Pcm(pcm) => pcm.frames_total()?,
            Reader::Compressed(compressed) => compressed.frames_total()?,
        };
        let to_hz = self.resampler.as_ref().map_or(from_hz, Resampler::to_hz);
        Some((u128::from(frames) * u128::from(to_hz) / u128::from(from_hz.max(1))).try_into().unwrap_or(u64::MAX))
    }

    /// The next `samples` samples, fewer only at the end, little-endian; none after the last.
    ///
    /// # Errors
    /// [`RecordingError`] if it cannot be read; being cut off or partly damaged is not an error, but a [`Flaw`].
    pub fn next_chunk(&mut self, samples: usize) -> Result<Vec<u8>, RecordingError> {
        while self.ready.len() < samples && !self.ended {
            self.read_block().map_err(|error| error.of(self.format))?;
        }
        let count = self.ready.len().min(samples);
        if self.ended && self.is_empty_so_far && count == 0 && matches!(self.reader, Reader::Compressed(_)) {
            return Err(RecordingError::damaged("none of it can be decoded").of(self.format));
        }
        self.is_empty_so_far &= count == 0;
        Ok(self.ready.drain(..count).flat_map(|value| quantized(value).to_le_bytes()).collect())
    }

    /// All samples of the next piece that can be decoded by itself, none where they are still held back; `None` after the last. An input
    /// with [`Recording::look_ahead_bytes`] or all of its rest at hand is not asked for more.
    ///
    /// # Errors
    /// As for [`Recording::next_chunk`].
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, RecordingError> {
        if self.ended && self.ready.is_empty() {
            return Ok(None);
        }
        // What is ready comes before what is not even read.
        if self.ready.is_empty() {
            self.read_block().map_err(|error| error.of(self.format))?;
        }
        let samples = self.ready.len();
        if samples == 0 && !self.ended {
            return Ok(Some(Vec::new()));
        }
        let piece = self.next_chunk(samples.max(1))?;
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// The bytes of the input that one piece may take.
    #[must_use]
    pub const fn look_ahead_bytes(&self) -> usize {
        match self.reader {
            Reader::Pcm(_) => 256 << 10,
            Reader::Compressed(_) => 512 << 10,
        }
    }

    /// Whether all samples that its header states have been given. More may follow, but hardly ever do.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        match &self.reader {
            Reader::Pcm(pcm) => pcm.is_complete() && self.ready.is_empty(),
            Reader::Compressed(_) => false,
        }
    }

    fn read_block(&mut self) -> Result<(), RecordingError> {
        let block = if self.resampler.is_some() { &mut self.decoded } else { &mut self.ready };
        let before = block.len();
        match &mut self.reader {
            Reader::Pcm(pcm) => pcm.read(block)?,
            Reader::Compressed(compressed) => compressed.read(block)?,
        }
        self.ended = block.len() == before;
        if let Some(resampler) = &mut self.resampler {
            resampler.push(&self.decoded, &mut self.ready);
            self.decoded.clear();
            if self.ended {
                resampler.finish(&mut self.ready);
            }
        }
        Ok(())
    }

    /// The flaw that was found, once everything has been read.
    #[must_use]
    pub fn flaw(&self) -> Option<Flaw> {
        match &self.reader {
            _ if !self.ended => None,
            Reader::Pcm(pcm) => pcm.flaw(),
            Reader::Compressed(compressed) => compressed.flaw(),
        }
    }
}
