//! WAV and its successors: RIFF, RF64, BW64 and Wave64, read chunk by chunk and never backwards.
//!
//! Trusts no impossible length: those written by programs that cannot go back count as unknown, and the form's own length is
//! ignored. Knows nothing about what samples mean.

use std::io;

use super::{
    RecordingError,
    chunks::{CHUNKS_MAX, Chunks, u64_at},
    length::Length,
    pcm::{Payload, PcmReader},
    samples::{Encoding, Layout},
    source::Source,
};

/// Lengths of chunks that RF64's table may hold.
const LONG_CHUNKS_MAX: usize = 64;

/// Most channels that are mixed into one.
pub(super) const CHANNELS_MAX: u16 = 256;

/// The rest of the GUIDs that begin with a format's tag.
const GUID_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/// Reads up to where the samples begin.
///
/// # Errors
/// [`RecordingError`] if that is not reached, or the samples are stored in a way that cannot be read.
pub(super) fn open(mut source: Source) -> Result<PcmReader, RecordingError> {
    let mut form = [0; 12];
    source.fill(&mut form)?;
    let is_wave64 = form[..4] == *b"riff";
    if is_wave64 {
        // The rest of the first GUID, the length of the file, and the GUID that says that this is WAVE.
        source.skip(28)?;
    }
    let (mut chunks, mut layout, mut samples_bytes) = (Chunks::new(is_wave64), None, None);
    while let Some(chunk) = chunks.next(&mut source)? {
        match &chunk.id {
            b"fmt " => layout = Some(read_format(&mut source, chunk.bytes())?),
            b"ds64" => samples_bytes = read_long_lengths(&mut source, chunk.bytes(), &mut chunks.long)?,
            b"data" => {
                let Some(layout) = layout else {
                    return Err(RecordingError::damaged("its samples come before its format (`fmt `)"));
                };
                let length = match (chunk.length, samples_bytes) {
                    (Length::Placeholder(0xffff_ffff), Some(bytes)) if !is_wave64 => Length::of_64(bytes),
                    (length, _) => length,
                };
                return Ok(PcmReader::new(layout, Payload::new(source, length, Some(chunks))));
            }
            _ => {
                source.skip(chunk.bytes())?;
            }
        }
        if chunks.walked >= CHUNKS_MAX {
            return Err(RecordingError::damaged(format!("{CHUNKS_MAX} chunks come before its samples")));
        }
    }
    let missing = if layout.is_none() { "its format (`fmt `)" } else { "its samples (`data`)" };
    Err(RecordingError::damaged(format!("it ends after {} bytes, before {missing}", source.position())))
}

/// The lengths that do not fit into 32 bits: that of the samples, and those of other chunks.
fn read_long_lengths(source: &mut Source, bytes: u64, long: &mut Vec<([u8; 4], u64)>) -> io::Result<Option<u64>> {
    const FIXED_BYTES: u64 = 28;
    const ENTRY_BYTES: u64 = 12;
    let mut fixed = [0; FIXED_BYTES as usize];
    if bytes < FIXED_BYTES || source.fill(&mut fixed)? < fixed.len() {
        source.skip(bytes.min(FIXED_BYTES))?;
        return Ok(None);
    }
    let mut left = bytes - FIXED_BYTES;
    let entries = u64::from(u32::from_le_bytes([fixed[24], fixed[25], fixed[26], fixed[27]])).min(left / ENTRY_BYTES);
    for _ in 0..entries.min(LONG_CHUNKS_MAX as u64) {
        let mut entry = [0; ENTRY_BYTES as usize];
        source.fill(&mut entry)?;
        long.push(([entry[0], entry[1], entry[2], entry[3]], u64_at(&entry, 4)));
        left -= ENTRY_BYTES;
    }
    source.skip(left)?;
    Ok(Some(u64_at(&fixed, 8)))
}

/// A chunk `fmt ` of any length.
fn read_format(source: &mut Source, bytes: u64) -> Result<Layout, RecordingError> {
    const LEAST_BYTES: usize = 16;
    /// Including what the extensible form adds.
    const MOST_BYTES: usize = 40;
    let mut format = [0; MOST_BYTES];
    let known = usize::try_from(bytes).map_or(MOST_BYTES, |bytes| bytes.min(MOST_BYTES));
    let read = source.fill(&mut format[..known])?;
    source.skip(bytes - known as u64)?;
    if read < known {
        return Err(RecordingError::damaged(format!("it ends after {} bytes, in its format (`fmt `)", source.position())));
    }
    if read < LEAST_BYTES {
        return Err(RecordingError::damaged(format!("its format (`fmt `) has {read} bytes, but needs at least {LEAST_BYTES}")));
    }
    layout_of(&format[..read])
}

fn layout_of(format: &[u8]) -> Result<Layout, RecordingError> {
    const EXTENSIBLE: u16 = 0xfffe;
    let (mut tag, channels, rate_hz) =
        (u16_at(format, 0), u16_at(format, 2), u32::from(u16_at(format, 4)) | u32::from(u16_at(format, 6)) << 16);
    let (frame_bytes, bits) = (usize::from(u16_at(format, 12)), usize::from(u16_at(format, 14)));
    if tag == EXTENSIBLE {
        tag = match format.get(24..40) {
            Some([low, high, tail @ ..]) if *tail == GUID_TAIL => u16::from_le_bytes([*low, *high]),
            Some(_) => return Err(RecordingError::unread("a WAV file in a format that has only a GUID of its own")),
            None => {
                return Err(RecordingError::damaged(format!(
                    "its format (`fmt `) is the extensible one, but has {} bytes",
                    format.len()
                )));
            }
        };
    }
    if channels == 0 || channels > CHANNELS_MAX {
        return Err(RecordingError::unread(format!("a WAV file of {channels} channels (none, or more than {CHANNELS_MAX})")));
    }
    let channels = usize::from(channels);
    // Samples are as wide as frames leave room for; a frame that does not divide evenly is not believed.
    let by_frame =
        Some(frame_bytes / channels).filter(|width| frame_bytes % channels == 0 && (1..=8).contains(width) && width * 8 >= bits);
    let sample_bytes = by_frame.unwrap_or(bits.div_ceil(8));
    let encoding = match (tag, sample_bytes) {
        (1, 1) => Encoding::Unsigned,
        (1, 2..=8) => Encoding::Signed,
        (3, 4 | 8) => Encoding::Float,
        (6, 1) => Encoding::ALaw,
        (7, 1) => Encoding::MuLaw,
        (1 | 3 | 6 | 7, _) => {
            let codec = codec_name(tag);
            return Err(RecordingError::unread(format!(
                "a WAV file of {bits}-bit {codec} samples in {frame_bytes} bytes a frame"
            )));
        }
        _ => return Err(RecordingError::unread(format!("a WAV file of {} (format {tag:#06x})", codec_name(tag)))),
    };
    Ok(Layout { encoding, sample_bytes, is_big_endian: false, channels, rate_hz })
}

/// The name of the codec that a format's tag stands for.
const fn codec_name(tag: u16) -> &'static str {
    match tag {
        0x0001 => "integer",
        0x0002 => "Microsoft ADPCM",
        0x0003 => "float",
        0x0006 => "A-law",
        0x0007 => "mu-law",
        0x0011 => "IMA ADPCM",
        0x0031 => "GSM 6.10",
        0x0040 => "G.721 ADPCM",
        0x0050 => "MPEG audio layer I or II",
        0x0055 => "MP3",
        0x0064 => "G.726 ADPCM",
        0x0065 => "G.722 ADPCM",
        0x00ff | 0x1600 | 0x1602 | 0xa106 => "AAC",
        0x0160..=0x0163 => "Windows Media Audio",
        0x2000 => "Dolby AC-3",
        0x2001 => "DTS",
        0x566f | 0x674f..=0x6751 | 0x676f..=0x6771 => "Vorbis",
        0x704f => "Opus",
        0xf1ac => "FLAC",
        _ => "an unknown encoding",
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}
