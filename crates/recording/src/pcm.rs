//! Uncompressed samples: a payload of frames, to its stated length or to the end of the input.
//!
//! Knows no headers; the code that has read one says how long the payload is and how its samples are stored.

use std::io::{self, Read as _};

use super::{Flaw, chunks::Chunks, length::Length, samples::Layout, source::Source};

/// Bytes that are read at a time; a frame may be longer.
const BLOCK_BYTES: usize = 64 * 1024;

/// The bytes of all frames.
#[derive(Debug)]
pub(super) struct Payload {
    source: Source,
    /// What may follow these bytes, in a format where more of them can.
    chunks: Option<Chunks>,
    length: Length,
    /// The rest of the stated length.
    left: u64,
    ended: bool,
}

impl Payload {
    pub(super) const fn new(source: Source, length: Length, chunks: Option<Chunks>) -> Self {
        let mut payload = Self { source, chunks, length, left: 0, ended: false };
        payload.begin(length);
        payload
    }

    const fn begin(&mut self, length: Length) {
        self.length = length;
        self.left = match length {
            Length::Stated(bytes) | Length::Placeholder(bytes) => bytes,
            Length::ToTheEnd => u64::MAX,
        };
    }

    /// How many bytes there are, if known: for a file they are counted, whatever its header says.
    fn bytes_total(&mut self) -> Option<u64> {
        let there = self.source.length().map(|length| length.saturating_sub(self.source.position()));
        match self.length {
            Length::Stated(bytes) => Some(there.map_or(bytes, |there| bytes.min(there))),
            Length::Placeholder(_) | Length::ToTheEnd => there,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            if self.left == 0 {
                self.go_on()?;
                continue;
            }
            let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = self.source.read(&mut buffer[..most])?;
            if count == 0 {
                self.ended = true;
            }
            if self.length != Length::ToTheEnd {
                self.left -= count as u64;
            }
            return Ok(count);
        }
        Ok(0)
    }

    /// At the end of what was stated: moves to another chunk of samples, to more than was stated, or to the end.
    fn go_on(&mut self) -> io::Result<()> {
        let is_placeholder = matches!(self.length, Length::Placeholder(_));
        match &mut self.chunks {
            // A length of 0, or one so large that it looks made up, is sometimes right. Then a chunk begins here.
            Some(chunks) if is_placeholder && !chunks.is_next(&mut self.source)? => self.begin(Length::ToTheEnd),
            Some(chunks) => match chunks.next_samples(&mut self.source)? {
                Some(length) => self.begin(length),
                None => self.ended = true,
            },
            None if is_placeholder => self.begin(Length::ToTheEnd),
            None => self.ended = true,
        }
        Ok(())
    }

    /// Bytes that were stated but are missing.
    const fn missing(&self) -> Option<u64> {
        match self.length {
            Length::Stated(_) if self.ended && self.left > 0 => Some(self.left),
            _ => None,
        }
    }
}

/// Frames of uncompressed samples.
#[derive(Debug)]
pub(super) struct PcmReader {
    layout: Layout,
    payload: Payload,
    /// Bytes that are not decoded yet: between calls, less than a frame.
    bytes: Vec<u8>,
    frames_given: u64,
}

impl PcmReader {
    pub(super) const fn new(layout: Layout, payload: Payload) -> Self {
        Self { layout, payload, bytes: Vec::new(), frames_given: 0 }
    }

    pub(super) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How many frames there are, if known.
    pub(super) fn frames_total(&mut self) -> Option<u64> {
        self.payload.bytes_total().map(|bytes| bytes / self.layout.frame_bytes() as u64)
    }

    /// Appends the next frames, mixed into one channel; nothing at the end.
    pub(super) fn read(&mut self, mono: &mut Vec<f32>) -> io::Result<()> {
        let frame_bytes = self.layout.frame_bytes();
        let mut filled = self.bytes.len();
        self.bytes.resize(BLOCK_BYTES.max(frame_bytes), 0);
        let whole = loop {
            let read = self.payload.read(&mut self.bytes[filled..]);
            let count = *read.as_ref().unwrap_or(&0);
            filled += count;
            let whole = filled - filled % frame_bytes;
            // Bytes that have come are passed on at once: they may come from a microphone.
            if count == 0 || whole > 0 {
                self.bytes.truncate(filled);
                read?;
                break whole;
            }
        };
        self.layout.mix_into(&self.bytes[..whole], mono);
        self.frames_given += (whole / frame_bytes) as u64;
        self.bytes.drain(..whole);
        Ok(())
    }

    /// Whether all that was stated has been read. What may follow are hardly ever more samples.
    pub(super) const fn is_complete(&self) -> bool {
        matches!(self.payload.length, Length::Stated(_)) && self.payload.left == 0
    }

    /// The flaw at the end, once everything has been read.
    pub(super) fn flaw(&self) -> Option<Flaw> {
        if let Some(bytes) = self.payload.missing() {
            let frames = bytes.div_ceil(self.layout.frame_bytes() as u64);
            return Some(Flaw::CutOff {
                missing: Some(std::time::Duration::from_secs_f64(frames as f64 / f64::from(self.layout.rate_hz))),
            });
        }
        match (self.payload.length, self.bytes.len()) {
            (_, 0) | (Length::Stated(_), _) => None,
            // Chunks of odd length are followed by a byte that belongs to no chunk.
            (Length::Placeholder(_) | Length::ToTheEnd, 1) if self.payload.chunks.is_some() => None,
            (Length::Placeholder(_) | Length::ToTheEnd, bytes) => {
                Some(Flaw::HalfSample { bytes, frame_bytes: self.layout.frame_bytes(), frames: self.frames_given })
            }
        }
    }
}
