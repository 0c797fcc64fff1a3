//! The walk over the chunks of RIFF and its successors; samples may take up several.

use std::io;

use super::{length::Length, source::Source};

/// Chunks that are walked past before the samples begin.
pub(super) const CHUNKS_MAX: usize = 4_096;

/// Ids by which a chunk is known where it is not certain that one begins.
const KNOWN_IDS: [&[u8; 4]; 16] = [
    b"fmt ", b"data", b"fact", b"LIST", b"bext", b"JUNK", b"junk", b"PAD ", b"id3 ", b"ID3 ", b"iXML", b"cue ", b"smpl", b"PEAK",
    b"axml", b"chna",
];

/// The rest of Wave64's GUIDs of chunks, after four letters.
const WAVE64_TAIL: [u8; 12] = [0xf3, 0xac, 0xd3, 0x11, 0x8c, 0xd1, 0, 0xc0, 0x4f, 0x8e, 0xdb, 0x8a];

/// The position of a walk over a file's chunks: after a chunk's content, before its padding.
#[derive(Debug)]
pub(super) struct Chunks {
    is_wave64: bool,
    /// Bytes that pad the chunk before.
    padding: u64,
    /// RF64's lengths of chunks that are too long for 32 bits.
    pub(super) long: Vec<([u8; 4], u64)>,
    pub(super) walked: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) id: [u8; 4],
    pub(super) length: Length,
}

impl Chunk {
    /// As stated.
    pub(super) const fn bytes(self) -> u64 {
        match self.length {
            Length::Stated(bytes) | Length::Placeholder(bytes) => bytes,
            Length::ToTheEnd => u64::MAX,
        }
    }
}

impl Chunks {
    pub(super) const fn new(is_wave64: bool) -> Self {
        Self { is_wave64, padding: 0, long: Vec::new(), walked: 0 }
    }

    /// The header of the next chunk, if there is one; its content is read next.
    pub(super) fn next(&mut self, source: &mut Source) -> io::Result<Option<Chunk>> {
        self.walked += 1;
        self.skip_padding(source)?;
        let chunk = if self.is_wave64 { self.next_of_wave64(source)? } else { self.next_of_riff(source)? };
        if let Some(chunk) = chunk {
            let alignment = if self.is_wave64 { 8 } else { 2 };
            self.padding = chunk.bytes().wrapping_neg() % alignment;
        }
        Ok(chunk)
    }

    /// Some writers leave the byte out that makes an odd chunk even. The id of the next chunk shows it.
    fn skip_padding(&mut self, source: &mut Source) -> io::Result<()> {
        let is_left_out = self.padding == 1 && !self.is_wave64 && source.peek(4)?.first_chunk().is_some_and(is_known);
        if !is_left_out {
            source.skip(self.padding)?;
        }
        self.padding = 0;
        Ok(())
    }

    fn next_of_riff(&self, source: &mut Source) -> io::Result<Option<Chunk>> {
        let mut header = [0; 8];
        if source.fill(&mut header)? < header.len() {
            return Ok(None);
        }
        let id = [header[0], header[1], header[2], header[3]];
        let stated = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let long = self.long.iter().find(|(long, _)| stated == u32::MAX && *long == id);
        Ok(Some(Chunk { id, length: long.map_or_else(|| Length::of_32(stated), |(_, bytes)| Length::of_64(*bytes)) }))
    }

    fn next_of_wave64(&self, source: &mut Source) -> io::Result<Option<Chunk>> {
        const HEADER_BYTES: u64 = 24;
        let mut header = [0; HEADER_BYTES as usize];
        if source.fill(&mut header)? < header.len() {
            return Ok(None);
        }
        let id = if header[4..16] == WAVE64_TAIL { [header[0], header[1], header[2], header[3]] } else { *b"????" };
        let stated = u64_at(&header, 16);
        // Its lengths count the header.
        let length = if stated <= HEADER_BYTES { Length::Placeholder(0) } else { Length::of_64(stated - HEADER_BYTES) };
        Ok(Some(Chunk { id, length }))
    }

    /// Whether a chunk begins here, rather than more samples than were stated.
    pub(super) fn is_next(&self, source: &mut Source) -> io::Result<bool> {
        let ahead = source.peek(16)?;
        let begins = |at: usize| ahead.get(at..).and_then(<[u8]>::first_chunk).is_some_and(is_known);
        Ok(if self.is_wave64 {
            begins(0) && ahead.get(4..16) == Some(&WAVE64_TAIL[..])
        } else {
            begins(0) || (self.padding == 1 && begins(1))
        })
    }

    /// The next chunk of samples after one of them, if there is one. Whatever else follows is passed over, broken or not.
    pub(super) fn next_samples(&mut self, source: &mut Source) -> io::Result<Option<Length>> {
        while self.walked < CHUNKS_MAX
            && let Some(chunk) = self.next(source)?
        {
            if chunk.id == *b"data" {
                return Ok(Some(chunk.length));
            }
            source.skip(chunk.bytes())?;
        }
        Ok(None)
    }
}

fn is_known(id: &[u8; 4]) -> bool {
    KNOWN_IDS.contains(&id)
}

/// The number of 64 bits at this place, or 0 beyond the end.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
