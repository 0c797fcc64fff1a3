//! Recognises a recording's format by its first bytes, never by its name.
//!
//! MP3 and AAC have no signature, only frames that follow each other: two in a row that agree in everything that stays the same in a stream
//! are taken for one. Of streams of random bytes, one in 200 million passes.

use std::io;

use tidemill_codec::Container;

use super::source::Source;

/// The reader for a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// WAV, RF64, BW64, Wave64.
    Riff,
    Aiff,
    Caf,
    Au,
    Flac,
    /// Vorbis or FLAC in Ogg.
    Ogg,
    Mp3,
    /// AAC in frames.
    Adts,
    Mp4,
    /// Known, but cannot be read.
    Unread(&'static str),
    /// Nothing known.
    Unknown,
}

impl Format {
    /// Its name, shown with its rate and channels.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Riff => "WAV",
            Self::Aiff => "AIFF",
            Self::Caf => "CAF",
            Self::Au => "AU",
            Self::Flac => "FLAC",
            Self::Ogg => "Ogg",
            Self::Mp3 => "MP3",
            Self::Adts => "AAC",
            Self::Mp4 => "MP4",
            Self::Unread(name) => name,
            Self::Unknown => "raw",
        }
    }
}

/// Looks at the beginning of `source` without reading it, except for ID3 tags, which are skipped.
pub(super) fn sniff(source: &mut Source) -> io::Result<Format> {
    let mut container = Container::of(source.peek(Container::BYTES)?);
    let is_tagged = container == Some(Container::Id3);
    while container == Some(Container::Id3) {
        skip_id3(source)?;
        container = Container::of(source.peek(Container::BYTES)?);
    }
    Ok(match container {
        Some(Container::Wave | Container::Rf64 | Container::Bw64 | Container::Wave64) => Format::Riff,
        Some(Container::Aiff) => Format::Aiff,
        Some(Container::Caf) => Format::Caf,
        Some(Container::Au) => Format::Au,
        Some(Container::Flac) => Format::Flac,
        Some(Container::Ogg) => in_ogg(source)?,
        Some(Container::Mp4) => Format::Mp4,
        Some(
            container @ (Container::WaveBigEndian
            | Container::Matroska
            | Container::Amr
            | Container::Asf
            | Container::WavPack
            | Container::Ape),
        ) => Format::Unread(container.name()),
        Some(Container::Id3) | None => match framed(source)? {
            // There may be anything between the tag and the frames; the reader looks for frames.
            Format::Unknown if is_tagged => Format::Mp3,
            format => format,
        },
    })
}

/// The first page of an Ogg file holds the header of its codec.
fn in_ogg(source: &mut Source) -> io::Result<Format> {
    let page = source.peek(256)?;
    let holds = |magic: &[u8]| page.windows(magic.len()).any(|window| window == magic);
    Ok(if holds(b"OpusHead") {
        Format::Unread("Opus in Ogg")
    } else if holds(b"Speex   ") {
        Format::Unread("Speex in Ogg")
    } else {
        Format::Ogg
    })
}

/// Skips one tag; another may follow.
fn skip_id3(source: &mut Source) -> io::Result<()> {
    const HEADER_BYTES: u64 = 10;
    const HAS_FOOTER: u8 = 0x10;
    let mut header = [0; HEADER_BYTES as usize];
    source.fill(&mut header)?;
    let length = header[6..].iter().fold(0, |length, byte| length << 7 | u64::from(byte & 0x7f));
    let footer = if header[5] & HAS_FOOTER == 0 { 0 } else { HEADER_BYTES };
    source.skip(length + footer).map(drop)
}

/// Streams of frames without a header of their own.
fn framed(source: &mut Source) -> io::Result<Format> {
    let Some(first) = header_at(source, 0)? else { return Ok(Format::Unknown) };
    if let Some(frame) = AdtsFrame::of(first)
        && goes_on(source, frame.bytes, |next| AdtsFrame::of(next).is_some_and(|next| next.stream == frame.stream))?
    {
        return Ok(Format::Adts);
    }
    if let Some(frame) = MpegFrame::of(first)
        && goes_on(source, frame.bytes, |next| MpegFrame::of(next).is_some_and(|next| next.stream == frame.stream))?
    {
        return Ok(match frame.layer {
            3 => Format::Mp3,
            2 => Format::Unread("MPEG audio layer II"),
            _ => Format::Unread("MPEG audio layer I"),
        });
    }
    Ok(Format::Unknown)
}

/// The bytes of a header that decide: the first ones, which both kinds of frame have.
type Header = [u8; 6];

fn header_at(source: &mut Source, at: usize) -> io::Result<Option<Header>> {
    // Most streams can be distinguished by their first two bytes, without waiting for more.
    if at == 0 && source.peek(2)?.first() != Some(&0xff) {
        return Ok(None);
    }
    Ok(source.peek(at + size_of::<Header>())?.get(at..).and_then(|header| header.first_chunk()).copied())
}

/// Whether a first frame of this many bytes is followed by one of the same stream, or by nothing at all.
fn goes_on(source: &mut Source, bytes: usize, is_of_stream: impl Fn(Header) -> bool) -> io::Result<bool> {
    match header_at(source, bytes)? {
        Some(next) => Ok(is_of_stream(next)),
        None => Ok(source.peek(bytes + 1)?.len() == bytes),
    }
}

/// A frame of AAC.
struct AdtsFrame {
    bytes: usize,
    /// What all frames of a stream have in common: version, layer, profile, rate, channels.
    stream: [u8; 4],
}

impl AdtsFrame {
    const HEADER_BYTES: usize = 7;

    fn of([sync, b, c, d, e, f]: Header) -> Option<Self> {
        let bytes = usize::from(d & 3) << 11 | usize::from(e) << 3 | usize::from(f >> 5);
        let rate = (c >> 2) & 0x0f;
        let is_one = sync == 0xff && b & 0xf6 == 0xf0 && rate < 13 && bytes > Self::HEADER_BYTES;
        // The private bit, and those of the copyright, may differ.
        is_one.then_some(Self { bytes, stream: [sync, b, c & 0xfd, d & 0xc0] })
    }
}

/// A frame of MPEG audio.
struct MpegFrame {
    bytes: usize,
    layer: u8,
    /// What all frames of a stream have in common: version, layer, rate.
    stream: [u8; 3],
}

impl MpegFrame {
    fn of([sync, b, c, ..]: Header) -> Option<Self> {
        /// In kbit/s, for MPEG-1's layers I, II and III, and MPEG-2's layer I and layers II and III.
        const BIT_RATES: [[u32; 14]; 5] = [
            [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
            [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
            [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
            [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
            [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
        ];
        let (version, layer) = ((b >> 3) & 3, 4 - ((b >> 1) & 3));
        let (bit_rate, rate, padding) = (usize::from(c >> 4), usize::from((c >> 2) & 3), u32::from((c >> 1) & 1));
        // Version 1 and layer 4 do not exist; a bit rate of 0 leaves the length of frames open.
        if sync != 0xff || b & 0xe0 != 0xe0 || version == 1 || layer == 4 || rate == 3 {
            return None;
        }
        let is_mpeg1 = version == 3;
        let row = match (is_mpeg1, layer) {
            (true, layer) => usize::from(layer) - 1,
            (false, 1) => 3,
            (false, _) => 4,
        };
        let bit_rate = BIT_RATES[row].get(bit_rate.checked_sub(1)?)? * 1_000;
        let divisor = [4, 1, 2, 1][usize::from(version)];
        let rate_hz = [44_100, 48_000, 32_000][rate] / divisor;
        let bytes = match (layer, is_mpeg1) {
            (1, _) => (12 * bit_rate / rate_hz + padding) * 4,
            (3, false) => 72 * bit_rate / rate_hz + padding,
            _ => 144 * bit_rate / rate_hz + padding,
        };
        Some(Self { bytes: bytes as usize, layer, stream: [sync, b & 0xfe, c & 0x0c] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format_of(bytes: &[u8]) -> Format {
        sniff(&mut Source::of(bytes)).expect("no fault of a slice")
    }

    /// Frames with a header and nothing else.
    fn frames(header: &[u8], bytes: usize, count: usize) -> Vec<u8> {
        let mut frame = header.to_vec();
        frame.resize(bytes, 0);
        frame.repeat(count)
    }

    #[test]
    fn frames_in_a_row_are_a_stream() {
        // 128 kbit/s at 44.1 kHz: 417 bytes; MPEG-2 at 16 kHz and 32 kbit/s: 144.
        for (header, bytes) in [(&b"\xff\xfb\x90\x64"[..], 417), (b"\xff\xf3\x48\xc4", 144)] {
            assert_eq!(format_of(&frames(header, bytes, 3)), Format::Mp3, "{header:?}");
            assert_eq!(format_of(&frames(header, bytes, 1)), Format::Mp3, "one alone: {header:?}");
            assert_eq!(format_of(&frames(header, bytes + 1, 3)), Format::Unknown, "not in a row: {header:?}");
        }
        assert_eq!(format_of(&frames(b"\xff\xfd\x84\x04", 384, 2)), Format::Unread("MPEG audio layer II"));
        let adts = b"\xff\xf1\x60\x40\x06\x3f\xfc";
        assert_eq!(format_of(&frames(adts, 49, 2)), Format::Adts);
        assert_eq!(format_of(&frames(adts, 50, 2)), Format::Unknown);
        // Raw samples that begin in the same way.
        assert_eq!(format_of(b"\xff\xfb\x90\x64"), Format::Unknown);
        assert_eq!(format_of(&[0xff; 4_000]), Format::Unknown);
        assert_eq!(format_of(&[0; 4_000]), Format::Unknown);
        assert_eq!(format_of(b""), Format::Unknown);
    }

    #[test]
    fn tags_are_skipped() {
        let tag = [&b"ID3\x04\0\0\0\0\x01\x02"[..], &[b'x'; 130]].concat();
        let with_footer = [&b"ID3\x04\0\x10\0\0\0\x03"[..], &[b'x'; 13]].concat();
        let mut source = Source::of([tag.clone(), with_footer, frames(b"\xff\xfb\x90\x64", 417, 2)].concat());
        assert_eq!(sniff(&mut source).expect("read"), Format::Mp3);
        assert_eq!(source.position(), 140 + 23);
        assert_eq!(format_of(&[tag.clone(), b"fLaC\0\0\0\x22".to_vec()].concat()), Format::Flac);
        assert_eq!(format_of(&[tag, b"who knows what".to_vec()].concat()), Format::Mp3);
    }

    #[test]
    fn any_number_of_tags_is_skipped() {
        let tags = b"ID3\x04\0\0\0\0\0\0".repeat(200_000);
        assert_eq!(format_of(&[&tags[..], b"fLaC\0\0\0\x22"].concat()), Format::Flac);
        assert_eq!(format_of(&tags), Format::Mp3);
    }

    #[test]
    fn what_is_in_an_ogg_file_is_seen_in_its_first_page() {
        let page = |codec: &[u8]| [&b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x13"[..], codec].concat();
        assert_eq!(format_of(&page(b"OpusHead\x01")), Format::Unread("Opus in Ogg"));
        assert_eq!(format_of(&page(b"Speex   1.2")), Format::Unread("Speex in Ogg"));
        assert_eq!(format_of(&page(b"\x01vorbis")), Format::Ogg);
    }
}
