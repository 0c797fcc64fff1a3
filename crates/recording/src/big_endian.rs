//! AIFF, CAF and AU with uncompressed samples: headers with big-endian numbers, read only forwards.
//!
//! Knows nothing about what samples mean.

use super::{
    RecordingError,
    length::Length,
    pcm::{Payload, PcmReader},
    riff::CHANNELS_MAX,
    samples::{Encoding, Layout},
    source::Source,
};

/// How many chunks may be skipped before the samples begin.
const CHUNKS_MAX: usize = 4_096;

/// Numbers at the front of a slice, each taken once.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) = self.0.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *bytes
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }
}

/// How samples are stored, before channels and rate are known.
#[derive(Debug, Clone, Copy)]
struct Stored {
    encoding: Encoding,
    sample_bytes: usize,
    is_big_endian: bool,
}

const fn stored(encoding: Encoding, sample_bytes: usize, is_big_endian: bool) -> Option<Stored> {
    Some(Stored { encoding, sample_bytes, is_big_endian })
}

impl Stored {
    fn layout(self, channels: u32, rate_hz: f64, kind: &str) -> Result<Layout, RecordingError> {
        if channels == 0 || channels > u32::from(CHANNELS_MAX) {
            return Err(RecordingError::unread(format!("{kind} of {channels} channels (none, or more than {CHANNELS_MAX})")));
        }
        let Self { encoding, sample_bytes, is_big_endian } = self;
        // A cast saturates; the rate is checked where it is used.
        Ok(Layout { encoding, sample_bytes, is_big_endian, channels: channels as usize, rate_hz: rate_hz.round() as u32 })
    }
}

/// Reads an AIFF or AIFF-C file up to where its samples begin.
///
/// # Errors
/// [`RecordingError`] if that is not reached, or the samples are stored in a way that cannot be read.
pub(super) fn open_aiff(mut source: Source) -> Result<PcmReader, RecordingError> {
    const SOUND_FIELDS_BYTES: u64 = 8;
    let mut form = [0; 12];
    source.fill(&mut form)?;
    let is_compressed_form = form[8..] == *b"AIFC";
    let mut layout = None;
    for _ in 0..CHUNKS_MAX {
        let mut header = [0; 8];
        if source.fill(&mut header)? < header.len() {
            let missing = if layout.is_none() { "its format (`COMM`)" } else { "its samples (`SSND`)" };
            return Err(RecordingError::damaged(format!("it ends after {} bytes, before {missing}", source.position())));
        }
        let mut fields = Fields(&header);
        let (id, bytes) = (fields.bytes::<4>(), fields.u32());
        let padded = u64::from(bytes) + u64::from(bytes % 2);
        match &id {
            b"COMM" => layout = Some(read_common(&mut source, padded, is_compressed_form)?),
            b"SSND" => {
                let layout = layout.ok_or_else(|| RecordingError::damaged("its samples come before its format (`COMM`)"))?;
                let mut sound = [0; SOUND_FIELDS_BYTES as usize];
                source.fill(&mut sound)?;
                let offset = u64::from(Fields(&sound).u32());
                source.skip(offset)?;
                // What sox and ffmpeg write when they cannot go back.
                let is_placeholder = bytes == 0 || bytes >= 0x7f00_0000;
                let samples_bytes = u64::from(bytes).saturating_sub(SOUND_FIELDS_BYTES + offset);
                let length = if is_placeholder { Length::ToTheEnd } else { Length::Stated(samples_bytes) };
                return Ok(PcmReader::new(layout, Payload::new(source, length, None)));
            }
            _ => {
                source.skip(padded)?;
            }
        }
    }
    Err(RecordingError::damaged(format!("{CHUNKS_MAX} chunks come before its samples")))
}

fn read_common(source: &mut Source, bytes: u64, is_compressed_form: bool) -> Result<Layout, RecordingError> {
    let mut common = [0; 22];
    let known = usize::try_from(bytes).map_or(common.len(), |bytes| bytes.min(common.len()));
    let read = source.fill(&mut common[..known])?;
    source.skip(bytes - known as u64)?;
    let needed = if is_compressed_form { 22 } else { 18 };
    if read < needed {
        return Err(RecordingError::damaged(format!("its format (`COMM`) has {read} bytes, but needs at least {needed}")));
    }
    let mut fields = Fields(&common);
    let (channels, _frames, bits) = (fields.u16(), fields.u32(), usize::from(fields.u16()));
    let rate_hz = extended(fields.bytes());
    let compression: [u8; 4] = if is_compressed_form { fields.bytes() } else { *b"NONE" };
    let width = bits.div_ceil(8);
    let is_integer = (1..=8).contains(&width);
    let stored = match &compression {
        b"NONE" | b"twos" if is_integer => stored(Encoding::Signed, width, true),
        b"sowt" if is_integer => stored(Encoding::Signed, width, false),
        b"raw " => stored(Encoding::Unsigned, 1, true),
        b"in24" => stored(Encoding::Signed, 3, true),
        b"in32" => stored(Encoding::Signed, 4, true),
        b"42ni" => stored(Encoding::Signed, 3, false),
        b"23ni" => stored(Encoding::Signed, 4, false),
        b"fl32" | b"FL32" => stored(Encoding::Float, 4, true),
        b"fl64" | b"FL64" => stored(Encoding::Float, 8, true),
        b"alaw" | b"ALAW" => stored(Encoding::ALaw, 1, true),
        b"ulaw" | b"ULAW" => stored(Encoding::MuLaw, 1, true),
        _ => None,
    };
    let unread =
        || RecordingError::unread(format!("an AIFF file of {bits}-bit samples, compressed as '{}'", compression.escape_ascii()));
    stored.ok_or_else(unread)?.layout(channels.into(), rate_hz, "an AIFF file")
}

/// An 80-bit float: sign, 15 bits of exponent, 64 of mantissa with its leading one.
fn extended(bytes: [u8; 10]) -> f64 {
    let mut fields = Fields(&bytes);
    let (exponent, mantissa) = (fields.u16(), u64::from_be_bytes(fields.bytes()));
    let magnitude = mantissa as f64 * 2_f64.powi(i32::from(exponent & 0x7fff) - 16_383 - 63);
    if exponent & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// The bytes of a CAF file that say how its samples are stored: the header and the first chunk.
const CAF_DESCRIPTION_BYTES: usize = 52;

/// A CAF file's description of its samples.
#[derive(Debug)]
pub(super) enum CafSamples {
    /// They are uncompressed; the search for them begins after the description.
    Pcm(Layout),
    /// They are packets of a codec, which this module does not read; this is its name in the file.
    Packets([u8; 4]),
}

/// Looks at the description of a CAF file without reading past it.
///
/// # Errors
/// [`RecordingError`] if there is none.
pub(super) fn describe_caf(source: &mut Source) -> Result<CafSamples, RecordingError> {
    let header = source.peek(CAF_DESCRIPTION_BYTES)?;
    if header.len() < CAF_DESCRIPTION_BYTES || header[8..12] != *b"desc" {
        return Err(RecordingError::damaged("it has no description (`desc`) of its samples at its beginning"));
    }
    let mut fields = Fields(&header[20..]);
    let rate_hz = f64::from_be_bytes(fields.bytes());
    let (codec, flags): ([u8; 4], u32) = (fields.bytes(), fields.u32());
    let (packet_bytes, packet_frames, channels, bits) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
    let (is_float, is_big_endian) = (flags & 1 != 0, flags & 2 == 0);
    let width = packet_bytes.checked_div(channels).filter(|width| packet_frames == 1 && width * channels == packet_bytes);
    let stored = match (&codec, width) {
        (b"lpcm", Some(width @ (4 | 8))) if is_float => stored(Encoding::Float, width as usize, is_big_endian),
        (b"lpcm", Some(width @ 1..=8)) if !is_float => stored(Encoding::Signed, width as usize, is_big_endian),
        (b"alaw", Some(1)) => stored(Encoding::ALaw, 1, true),
        (b"ulaw", Some(1)) => stored(Encoding::MuLaw, 1, true),
        (b"lpcm" | b"alaw" | b"ulaw", _) => {
            return Err(RecordingError::unread(format!("a CAF file of {bits}-bit samples in {packet_bytes} bytes a packet")));
        }
        _ => return Ok(CafSamples::Packets(codec)),
    };
    stored.map_or(Ok(CafSamples::Packets(codec)), |stored| stored.layout(channels, rate_hz, "a CAF file").map(CafSamples::Pcm))
}

/// Reads a CAF file of uncompressed samples up to where they begin.
///
/// # Errors
/// [`RecordingError`] if that is not reached.
pub(super) fn open_caf(mut source: Source, layout: Layout) -> Result<PcmReader, RecordingError> {
    const EDIT_COUNT_BYTES: u64 = 4;
    source.skip(CAF_DESCRIPTION_BYTES as u64)?;
    for _ in 0..CHUNKS_MAX {
        let mut header = [0; 12];
        if source.fill(&mut header)? < header.len() {
            return Err(RecordingError::damaged(format!(
                "it ends after {} bytes, before its samples (`data`)",
                source.position()
            )));
        }
        let mut fields = Fields(&header);
        let (id, bytes) = (fields.bytes::<4>(), u64::from_be_bytes(fields.bytes()));
        if id == *b"data" {
            source.skip(EDIT_COUNT_BYTES)?;
            // -1 means unknown; other negative lengths are no lengths either.
            let is_placeholder = bytes <= EDIT_COUNT_BYTES || i64::try_from(bytes).is_err();
            let length = if is_placeholder { Length::ToTheEnd } else { Length::Stated(bytes - EDIT_COUNT_BYTES) };
            return Ok(PcmReader::new(layout, Payload::new(source, length, None)));
        }
        source.skip(bytes)?;
    }
    Err(RecordingError::damaged(format!("{CHUNKS_MAX} chunks come before its samples")))
}

/// Reads an AU file up to where its samples begin.
///
/// # Errors
/// [`RecordingError`] if that is not reached, or the samples are stored in a way that is not read.
pub(super) fn open_au(mut source: Source) -> Result<PcmReader, RecordingError> {
    const HEADER_BYTES: u32 = 24;
    let mut header = [0; HEADER_BYTES as usize];
    let read = source.fill(&mut header)?;
    if read < header.len() {
        return Err(RecordingError::damaged(format!("it ends after {read} bytes, in its header")));
    }
    let mut fields = Fields(&header[4..]);
    let (offset, bytes, encoding) = (fields.u32(), fields.u32(), fields.u32());
    let (rate_hz, channels) = (fields.u32(), fields.u32());
    let stored = match encoding {
        1 => stored(Encoding::MuLaw, 1, true),
        2..=5 => stored(Encoding::Signed, encoding as usize - 1, true),
        6 => stored(Encoding::Float, 4, true),
        7 => stored(Encoding::Float, 8, true),
        27 => stored(Encoding::ALaw, 1, true),
        _ => None,
    };
    let layout = stored.ok_or_else(|| RecordingError::unread(format!("an AU file of encoding {encoding}")))?.layout(
        channels,
        rate_hz.into(),
        "an AU file",
    )?;
    source.skip(offset.saturating_sub(HEADER_BYTES).into())?;
    Ok(PcmReader::new(layout, Payload::new(source, Length::of_32(bytes), None)))
}
