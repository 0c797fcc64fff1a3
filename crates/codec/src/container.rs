//! Recognises a file that was sent as raw samples by mistake, from its first bytes.
//!
//! Whole headers are not checked, so the table holds only signatures of at least four bytes: by chance, one stream in four billion begins
//! with one of them. Knows nothing about how such files are read.

use std::fmt;

/// A kind of file that can be recognised by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// `RIFF`, a form's length, `WAVE`.
    Wave,
    /// The same with big-endian numbers.
    WaveBigEndian,
    /// WAV beyond 4 GiB.
    Rf64,
    /// RF64 under the name that broadcasters gave it.
    Bw64,
    /// Sony's WAV beyond 4 GiB.
    Wave64,
    /// Apple's and SGI's.
    Aiff,
    /// Apple's later format.
    Caf,
    /// Sun's and NeXT's.
    Au,
    /// Free Lossless Audio Codec.
    Flac,
    /// Holds Vorbis, Opus, Speex or FLAC.
    Ogg,
    /// A tag before MP3, and sometimes before other formats.
    Id3,
    /// MP4, M4A and QuickTime.
    Mp4,
    /// Matroska and `WebM`.
    Matroska,
    /// Adaptive multi-rate, as used by telephones.
    Amr,
    /// Windows Media.
    Asf,
    /// `WavPack`.
    WavPack,
    /// Monkey's Audio.
    Ape,
}

/// Bytes, and where they begin. All those in a row must be present.
type Signature = (Container, &'static [(usize, &'static [u8])]);

const SIGNATURES: [Signature; 19] = [
    (Container::Wave, &[(0, b"RIFF"), (8, b"WAVE")]),
    (Container::WaveBigEndian, &[(0, b"RIFX"), (8, b"WAVE")]),
    (Container::Rf64, &[(0, b"RF64"), (8, b"WAVE")]),
    (Container::Bw64, &[(0, b"BW64"), (8, b"WAVE")]),
    (Container::Wave64, &[(0, b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb")]),
    (Container::Aiff, &[(0, b"FORM"), (8, b"AIFF")]),
    (Container::Aiff, &[(0, b"FORM"), (8, b"AIFC")]),
    (Container::Caf, &[(0, b"caff\x00\x01")]),
    (Container::Au, &[(0, b".snd\x00\x00")]),
    (Container::Flac, &[(0, b"fLaC")]),
    (Container::Ogg, &[(0, b"OggS")]),
    (Container::Mp4, &[(4, b"ftyp")]),
    (Container::Matroska, &[(0, b"\x1a\x45\xdf\xa3")]),
    (Container::Amr, &[(0, b"#!AMR\n")]),
    (Container::Amr, &[(0, b"#!AMR-WB\n")]),
    (Container::Amr, &[(0, b"#!AMR_MC")]),
    (Container::Asf, &[(0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")]),
    (Container::WavPack, &[(0, b"wvpk")]),
    (Container::Ape, &[(0, b"MAC \x96\x0f")]),
];

impl Container {
    /// This many bytes decide; more change nothing.
    pub const BYTES: usize = 12;

    /// The kind of file that begins with these bytes.
    #[must_use]
    pub fn of(beginning: &[u8]) -> Option<Self> {
        let holds = |(at, bytes): &(usize, &[u8])| beginning.get(*at..at + bytes.len()) == Some(*bytes);
        let found = SIGNATURES.iter().find(|(_, parts)| parts.iter().all(holds));
        found.map(|(container, _)| *container).or_else(|| is_id3(beginning).then_some(Self::Id3))
    }

    /// Its usual name, with its article.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wave => "a WAV file",
            Self::WaveBigEndian => "a big-endian WAV file (RIFX)",
            Self::Rf64 => "an RF64 file",
            Self::Bw64 => "a BW64 file",
            Self::Wave64 => "a Wave64 file",
            Self::Aiff => "an AIFF file",
            Self::Caf => "a CAF file",
            Self::Au => "an AU file",
            Self::Flac => "a FLAC file",
            Self::Ogg => "an Ogg file",
            Self::Id3 => "an MP3 file (ID3)",
            Self::Mp4 => "an MP4 or M4A file",
            Self::Matroska => "a Matroska or WebM file",
            Self::Amr => "an AMR file",
            Self::Asf => "a Windows Media file",
            Self::WavPack => "a WavPack file",
            Self::Ape => "a Monkey's Audio file",
        }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An ID3 tag of an existing version, whose length has no byte above 127.
fn is_id3(beginning: &[u8]) -> bool {
    let Some(&[b'I', b'D', b'3', version, revision, flags, ref length @ ..]) = beginning.first_chunk::<10>() else {
        return false;
    };
    (2..=4).contains(&version) && revision != 0xff && flags & 0x0f == 0 && length.iter().all(|byte| *byte < 0x80)
}

/// Assembles the first bytes of a stream, however they are cut into chunks.
#[derive(Debug, Clone, Default)]
pub struct Beginning {
    bytes: [u8; Container::BYTES],
    length: usize,
}

impl Beginning {
    /// Takes the next bytes of the stream, and says what the stream is now known to be.
    pub fn push(&mut self, chunk: &[u8]) -> Option<Container> {
        let taken = chunk.len().min(self.bytes.len() - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&chunk[..taken]);
        self.length += taken;
        Container::of(&self.bytes[..self.length])
    }

    /// Whether every byte that matters has come.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.length == Container::BYTES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAVE: &[u8] = b"RIFF\x24\x00\x00\x00WAVEfmt ";

    #[test]
    fn files_are_known_by_their_first_bytes() {
        for (bytes, container) in [
            (WAVE, Container::Wave),
            (b"RF64\xff\xff\xff\xffWAVE", Container::Rf64),
            (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1", Container::Wave64),
            (b"FORM\x00\x00\x00\x2eAIFC", Container::Aiff),
            (b"fLaC", Container::Flac),
            (b"OggS\x00\x02", Container::Ogg),
            (b"ID3\x04\x00\x00\x00\x00\x02\x01\xff\xfb", Container::Id3),
            (b"\x00\x00\x00\x20ftypM4A ", Container::Mp4),
            (b"#!AMR-WB\n", Container::Amr),
        ] {
            assert_eq!(Container::of(bytes), Some(container), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_not_quite_one_is_none() {
        for bytes in [
            &b""[..],
            b"RIFF\x24\x00\x00\x00WAV",
            b"RIFF\x24\x00\x00\x00AVI LIST",
            b"fLa",
            // A version that does not exist, a revision, flags and a length that cannot be.
            b"ID3\x05\x00\x00\x00\x00\x02\x01",
            b"ID3\x04\xff\x00\x00\x00\x02\x01",
            b"ID3\x04\x00\x01\x00\x00\x02\x01",
            b"ID3\x04\x00\x00\x00\x80\x02\x01",
            b"ID3\x04\x00\x00\x00\x00\x02",
            b" ftypM4A    ",
            &[0; 64],
        ] {
            assert_eq!(Container::of(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn however_it_is_cut_a_beginning_is_what_it_is_in_one_piece(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                (0..SIGNATURES.len(), prop::collection::vec(any::<u8>(), 24)).prop_map(|(row, mut bytes)| {
                    for (at, part) in SIGNATURES[row].1 {
                        bytes[*at..at + part.len()].copy_from_slice(part);
                    }
                    bytes
                }),
            ],
            cuts in prop::collection::vec(0..6_usize, 40),
        ) {
            let (mut beginning, mut rest, mut found) = (Beginning::default(), &bytes[..], None);
            for cut in cuts {
                let (chunk, left) = rest.split_at(cut.min(rest.len()));
                found = found.or(beginning.push(chunk));
                rest = left;
            }
            found = found.or(beginning.push(rest));
            prop_assert_eq!(found, Container::of(&bytes));
            prop_assert_eq!(beginning.is_complete(), bytes.len() >= Container::BYTES);
        }
    }
}
