//! Prepares an MP4 file for its decoder: from where it can be read, and which of its samples are to be heard.
//!
//! An index (`moov`) says where the packets are. Where it comes first, a pipe can be read as it arrives; where it comes last, the pipe has to
//! be read to its end before the first packet can be found. Edit lists say how many samples an encoder put before the first of the recording.

use std::io::{self, Cursor, Read as _, SeekFrom};

use symphonia::core::io::{MediaSource, ReadOnlySource};

use super::{
    RecordingError,
    source::{Source, read_up_to},
};

/// How much of a pipe is read into memory, at most, because its index comes last.
pub(super) const PIPE_BYTES_MAX: usize = 256 << 20;

/// Largest index that is read.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// How many boxes at the top level of a file may be skipped.
const BOXES_MAX: usize = 65_536;

/// The audio track to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AudioTrack {
    /// Its number in the file.
    pub(super) id: u32,
    /// The name of its codec in the file.
    pub(super) codec: [u8; 4],
    /// What its edit list leaves of it, if there is one.
    pub(super) edit: Option<Edit>,
}

/// A stretch of a track, in samples of its own time scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    /// Where it begins, in units of 1/`scale` s.
    pub(super) start: u64,
    pub(super) scale: u32,
    /// How long it is, in units of 1/`movie_scale` s; 0 means to the end.
    pub(super) duration: u64,
    pub(super) movie_scale: u32,
}

/// A file or pipe that the decoder can read, and its audio track.
pub(super) struct Mp4 {
    pub(super) media: Box<dyn MediaSource>,
    pub(super) track: AudioTrack,
}

/// A file that claims to be as long as its boxes say. In one that is cut off, the decoder would otherwise skip the box in which the file
/// ends, and all of its packets with it.
struct Whole<F> {
    file: F,
    length: u64,
}

impl<F: io::Read> io::Read for Whole<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl<F: io::Seek> io::Seek for Whole<F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(match to {
            SeekFrom::End(offset) => SeekFrom::Start(self.length.saturating_add_signed(offset)),
            other => other,
        })
    }
}

impl<F: io::Read + io::Seek + Send + Sync> MediaSource for Whole<F> {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.length)
    }
}

/// Finds the index, and turns the source into something that the decoder can read.
///
/// # Errors
/// [`RecordingError`] if there is no index, it describes no audio, or it comes last in a pipe that is too long.
pub(super) fn prepare(mut source: Source) -> Result<Mp4, RecordingError> {
    if let Some(file) = source.rewound()? {
        return of_file(file);
    }
    let mut read = Vec::new();
    let index = index_of_pipe(&mut source, &mut read)?;
    if let Some(index) = index {
        let (track, tracks) = audio_track(&read[index])?;
        // With several tracks, packets are not asked for in the order of the file.
        if tracks == 1 {
            source.put_back(&read);
            return Ok(Mp4 { track, media: Box::new(ReadOnlySource::new(source)) });
        }
    }
    source.put_back(&read);
    of_file(Cursor::new(source.into_memory(PIPE_BYTES_MAX)?))
}

fn of_file(mut file: impl io::Read + io::Seek + Send + Sync + 'static) -> Result<Mp4, RecordingError> {
    let (index, length) = index_of_file(&mut file)?;
    let track = audio_track(&index)?.0;
    file.seek(SeekFrom::Start(0))?;
    Ok(Mp4 { track, media: Box::new(Whole { file, length }) })
}

/// The header of a box: its kind, and how many bytes follow; `None` if they go on to the end.
struct BoxHeader {
    kind: [u8; 4],
    bytes: Option<u64>,
}

/// Reads the header of a box; `None` at the end.
fn read_header(input: &mut impl io::Read, read: &mut Vec<u8>) -> io::Result<Option<BoxHeader>> {
    let at = read.len();
    read_up_to(input, read, 8)?;
    let Some(header) = read[at..].first_chunk::<8>() else { return Ok(None) };
    let [a, b, c, d, kind @ ..] = *header;
    let stated = u64::from(u32::from_be_bytes([a, b, c, d]));
    let bytes = match stated {
        0 => None,
        1 => {
            read_up_to(input, read, 8)?;
            let Some(long) = read[at + 8..].first_chunk::<8>() else { return Ok(None) };
            Some(u64::from_be_bytes(*long).saturating_sub(16))
        }
        stated => Some(stated.saturating_sub(8)),
    };
    Ok(Some(BoxHeader { kind, bytes }))
}

/// The content of the index of a file that can be read in any order, and how long the file is by its boxes.
fn index_of_file(file: &mut (impl io::Read + io::Seek)) -> Result<(Vec<u8>, u64), RecordingError> {
    let (mut index, mut length) = (None, file.seek(SeekFrom::End(0))?);
    let mut at = file.seek(SeekFrom::Start(0))?;
    for _ in 0..BOXES_MAX {
        let mut header = Vec::new();
        let Some(BoxHeader { kind, bytes }) = read_header(file, &mut header)? else { break };
        if kind == *b"moov" {
            index = Some(read_index(file, bytes.unwrap_or(u64::MAX))?);
        }
        let Some(end) = bytes.map(|bytes| at.saturating_add(header.len() as u64).saturating_add(bytes)) else { break };
        length = length.max(end);
        at = file.seek(SeekFrom::Start(end))?;
    }
    let index = index.ok_or_else(|| RecordingError::damaged("it has no index (`moov`): was it written to the end?"))?;
    Ok((index, length))
}

fn read_index(input: &mut impl io::Read, bytes: u64) -> Result<Vec<u8>, RecordingError> {
    if bytes > INDEX_BYTES_MAX && bytes != u64::MAX {
        return Err(RecordingError::damaged(format!(
            "its index (`moov`) has {bytes} bytes, more than the {INDEX_BYTES_MAX} that are read"
        )));
    }
    let mut index = Vec::new();
    input.take(bytes.min(INDEX_BYTES_MAX)).read_to_end(&mut index)?;
    Ok(index)
}

/// Reads a pipe up to its packets, and says where in `read` the index is, if it comes before them.
fn index_of_pipe(source: &mut Source, read: &mut Vec<u8>) -> Result<Option<std::ops::Range<usize>>, RecordingError> {
    let mut index = None;
    for _ in 0..BOXES_MAX {
        // Once the index is known, packets are left to be read, and so is everything else that follows it.
        if index.is_some() || source.peek(8)?.get(4..) == Some(b"mdat") {
            break;
        }
        let Some(BoxHeader { kind, bytes }) = read_header(source, read)? else { break };
        let at = read.len();
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        read_up_to(source, read, bytes.min(PIPE_BYTES_MAX.saturating_sub(at)))?;
        if kind == *b"moov" {
            index = Some(at..read.len());
        }
    }
    Ok(index)
}

/// Adjacent boxes, with their content.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let mut rest = bytes;
        let mut header = Vec::new();
        let BoxHeader { kind, bytes: length } = read_header(&mut rest, &mut header).ok().flatten()?;
        let length = length.and_then(|length| usize::try_from(length).ok()).map_or(rest.len(), |length| length.min(rest.len()));
        let (content, after) = rest.split_at(length);
        bytes = after;
        Some((kind, content))
    })
}

/// The content of the first box that a path of kinds leads to.
fn find<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, kind| boxes(bytes).find(|(found, _)| found == *kind).map(|(_, content)| content))
}

/// A number in a box with a version: at one place in the short form, at another in the long one.
fn u32_of(content: &[u8], short: usize, long: usize) -> Option<u32> {
    let at = if *content.first()? == 0 { short } else { long };
    content.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The first audio track of an index, and how many tracks there are.
fn audio_track(index: &[u8]) -> Result<(AudioTrack, usize), RecordingError> {
    let movie_scale = find(index, &[b"mvhd"]).and_then(|header| u32_of(header, 12, 20)).unwrap_or(0);
    let tracks = || boxes(index).filter(|(kind, _)| kind == b"trak").map(|(_, track)| track);
    let is_audio = |track: &&[u8]| find(track, &[b"mdia", b"hdlr"]).and_then(|handler| handler.get(8..12)) == Some(b"soun");
    let track = tracks().find(is_audio).ok_or_else(|| RecordingError::unread("an MP4 file without sound"))?;
    let id = find(track, &[b"tkhd"]).and_then(|header| u32_of(header, 12, 20)).unwrap_or(0);
    let codec = find(track, &[b"mdia", b"minf", b"stbl", b"stsd"]).and_then(|table| table.get(12..16)?.first_chunk().copied());
    let scale = find(track, &[b"mdia", b"mdhd"]).and_then(|header| u32_of(header, 12, 20)).unwrap_or(0);
    let edit = find(track, &[b"edts", b"elst"]).and_then(|list| edit_of(list, scale, movie_scale));
    Ok((AudioTrack { id, codec: codec.unwrap_or(*b"????"), edit }, tracks().count()))
}

/// The only stretch of an edit list, after silence that is not played. If there are several, the first says where to begin, and everything
/// after it is heard.
fn edit_of(list: &[u8], scale: u32, movie_scale: u32) -> Option<Edit> {
    let is_long = *list.first()? != 0;
    let entries = list.get(8..)?;
    let (entry_bytes, time_at) = if is_long { (20, 8) } else { (12, 4) };
    let number = |entry: &[u8], at: usize| -> Option<i64> {
        let bytes = entry.get(at..)?;
        if is_long {
            bytes.first_chunk().map(|bytes| i64::from_be_bytes(*bytes))
        } else {
            bytes.first_chunk().map(|bytes| i32::from_be_bytes(*bytes).into())
        }
    };
    let mut stretches = entries.chunks_exact(entry_bytes).filter_map(|entry| {
        let (duration, start) = (number(entry, 0)?, number(entry, time_at)?);
        // -1 is silence.
        u64::try_from(start).ok().map(|start| (start, u64::try_from(duration).unwrap_or(0)))
    });
    let (start, duration) = stretches.next()?;
    let duration = if stretches.next().is_none() { duration } else { 0 };
    (scale > 0 && movie_scale > 0).then_some(Edit { start, scale, duration, movie_scale })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let mut bytes = (content.len() as u32 + 8).to_be_bytes().to_vec();
        bytes.extend_from_slice(kind);
        bytes.extend_from_slice(content);
        bytes
    }

    fn with_scale(kind: &[u8; 4], scale: u32) -> Vec<u8> {
        boxed(kind, &[&[0; 12][..], &scale.to_be_bytes(), &[0; 8]].concat())
    }

    fn track(handler: &[u8; 4], id: u32, edits: &[u8]) -> Vec<u8> {
        let description = boxed(b"stsd", &[&[0; 7][..], &[1], &[0, 0, 0, 16], b"mp4a", &[0; 8]].concat());
        let media = [
            with_scale(b"mdhd", 44_100),
            boxed(b"hdlr", &[&[0; 8][..], handler, &[0; 12]].concat()),
            boxed(b"minf", &boxed(b"stbl", &description)),
        ];
        let edits = if edits.is_empty() { Vec::new() } else { boxed(b"edts", &boxed(b"elst", edits)) };
        boxed(b"trak", &[with_scale(b"tkhd", id), edits, boxed(b"mdia", &media.concat())].concat())
    }

    fn index(tracks: &[Vec<u8>]) -> Vec<u8> {
        [with_scale(b"mvhd", 1_000), tracks.concat()].concat()
    }

    /// Half a second of silence, then three seconds from sample 1024 on.
    const EDITS: &[u8] =
        &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0xf4, 0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0, 0, 0x0b, 0xb8, 0, 0, 4, 0, 0, 1, 0, 0];

    #[test]
    fn the_first_audio_track_is_found_with_its_edit() {
        let edit = Edit { start: 1_024, scale: 44_100, duration: 3_000, movie_scale: 1_000 };
        let expected = AudioTrack { id: 2, codec: *b"mp4a", edit: Some(edit) };
        let tracks = [track(b"vide", 1, &[]), track(b"soun", 2, EDITS), track(b"soun", 3, &[])];
        assert_eq!(audio_track(&index(&tracks)).expect("a track"), (expected, 3));
        let plain = AudioTrack { id: 7, codec: *b"mp4a", edit: None };
        assert_eq!(audio_track(&index(&[track(b"soun", 7, &[])])).expect("a track"), (plain, 1));
        let error = audio_track(&index(&[track(b"vide", 1, &[])])).expect_err("no sound");
        assert_eq!(error.to_string(), "is an MP4 file without sound, which cannot be read");
    }

    #[test]
    fn a_pipe_is_read_as_it_comes_if_its_index_does() {
        let (head, packets) = (boxed(b"ftyp", b"M4A "), boxed(b"mdat", &[7; 64]));
        let moov = boxed(b"moov", &index(&[track(b"soun", 1, EDITS)]));
        let first = prepare(Source::of([head.clone(), moov.clone(), packets.clone()].concat())).expect("an index");
        assert!(!first.media.is_seekable());
        let mut last = prepare(Source::of([head.clone(), packets.clone(), moov.clone()].concat())).expect("an index");
        assert!(last.media.is_seekable());
        assert_eq!(first.track, last.track);
        let mut all = Vec::new();
        last.media.read_to_end(&mut all).expect("bytes");
        assert_eq!(all, [head.clone(), packets.clone(), moov].concat());
        let error = prepare(Source::of([head, packets].concat())).err().expect("no index");
        assert!(error.to_string().contains("it has no index (`moov`)"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_index_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), edits in prop::collection::vec(any::<u8>(), 1..60)) {
            audio_track(&bytes).ok();
            audio_track(&index(&[track(b"soun", 1, &edits)])).expect("a track, whatever its edits");
            prepare(Source::of([boxed(b"ftyp", b"M4A "), bytes].concat())).err();
        }
    }
}
