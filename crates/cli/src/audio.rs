//! Where the audio comes from: a file or standard input, read piece by piece as mono signed 16-bit samples at the model's rate.
//!
//! Knows raw samples; [`tidemill_recording`] reads everything else, on a thread that may block. Does not know what the samples are for.

use std::{
    fs::File,
    io::{Cursor, Seek as _, stdin},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{
    AudioInput, RawArgs, convert,
    output::Printer,
    status::{Ending, Failure},
};
use tidemill_recording::{self as recording, Flaw, Input, Opened, Recording, RecordingError, SAMPLE_BYTES as BYTES};

/// Bytes of one sample on the wire.
pub(super) const SAMPLE_BYTES: usize = BYTES;

/// A recording or a live feed, read in order and once.
pub(super) struct AudioSource {
    path: PathBuf,
    reader: Reader,
    samples_total: Option<u64>,
    bytes_read: u64,
    flaw: Option<Flaw>,
}

enum Reader {
    /// Raw samples, at a rate that is not known yet or is the model's. The bytes that were looked at come first.
    Unread { beginning: Vec<u8>, input: Input, raw: RawArgs },
    /// Raw samples at the model's rate.
    Raw(Box<dyn AsyncRead + Send + Unpin>),
    /// `None` while a piece is being read on another thread.
    Recording(Option<Box<Recording>>),
}

impl AudioSource {
    /// Opens what the arguments name.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if it cannot be opened, or is in a format that cannot be read.
    pub(super) async fn of(arguments: &AudioInput) -> Result<Self, Failure> {
        match &arguments.file {
            Some(file) => Self::open(file, arguments.raw).await,
            None => {
                let clip = blocking(|| Box::new(Recording::sample_clip())).await?;
                Ok(Self::new(Path::new("--sample"), Reader::Recording(Some(clip))))
            }
        }
    }

    /// Opens `path`; `-` is standard input. It is what its first bytes say.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if it cannot be opened, or is in a format that cannot be read.
    async fn open(path: &Path, raw: RawArgs) -> Result<Self, Failure> {
        let name = path.to_owned();
        let opened = blocking(move || {
            let input = open_input(&name)?;
            if raw.raw { Ok(Opened::Unknown(Vec::new(), input)) } else { recording::open(input) }
        });
        let reader = match opened.await? {
            Ok(Opened::Unknown(beginning, input)) => Reader::Unread { beginning, input, raw },
            Ok(Opened::Recording(recording)) => Reader::Recording(Some(recording)),
            Err(error) => return Err(refused(path, error).await),
        };
        Ok(Self::new(path, reader))
    }

    fn new(path: &Path, reader: Reader) -> Self {
        Self { path: path.to_owned(), reader, samples_total: None, bytes_read: 0, flaw: None }
    }

    /// A source that reads raw samples from any reader.
    #[cfg(test)]
    pub(super) fn from_reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::new(Path::new("-"), Reader::Raw(Box::new(reader)))
    }

    /// How many samples there are, if that is known in advance, once the rate is known.
    pub(super) const fn samples_total(&self) -> Option<u64> {
        self.samples_total
    }

    /// Gives samples at the model's rate from here on, and prints what is done to them, if anything.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if they cannot be had at that rate.
    pub(super) async fn set_rate(&mut self, rate_hz: u32, printer: &mut Printer) -> Result<(), Failure> {
        if let Reader::Unread { raw, .. } = &self.reader {
            if !raw.raw {
                let raw = format!("raw signed 16-bit little-endian mono samples at {rate_hz} Hz");
                printer
                    .note(&format!("{}: not a known format, so taken as {raw}; --raw says so in advance", self.path.display()));
            }
            let own_hz = raw.rate.unwrap_or(rate_hz);
            let unread = std::mem::replace(&mut self.reader, Reader::Recording(None));
            let Reader::Unread { beginning, input, .. } = unread else { return Ok(()) };
            self.reader = if own_hz == rate_hz {
                self.samples_total = bytes_of(&input).map(|bytes| bytes / SAMPLE_BYTES as u64);
                Reader::Raw(raw_reader(beginning, input))
            } else {
                Reader::Recording(Some(Box::new(Recording::raw(&beginning, input, own_hz))))
            };
        }
        if let Reader::Recording(Some(recording)) = &mut self.reader {
            match recording.at_rate(rate_hz) {
                Ok(done) => done.into_iter().for_each(|done| printer.note(&format!("{}: {done}", self.path.display()))),
                Err(error) => return Err(refused(&self.path, error).await),
            }
            self.samples_total = recording.samples_total();
        }
        Ok(())
    }

    /// Reads the next `samples` samples, fewer only at the end, as little-endian bytes; `None` after the last.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if reading fails.
    pub(super) async fn next_chunk(&mut self, samples: usize) -> Result<Option<Bytes>, Failure> {
        let chunk = match &mut self.reader {
            Reader::Raw(_) => self.next_raw(samples).await?,
            Reader::Recording(slot) => {
                let Some(mut recording) = slot.take() else { return Ok(None) };
                let (recording, chunk) = blocking(move || {
                    let chunk = recording.next_chunk(samples);
                    (recording, chunk)
                })
                .await?;
                self.flaw = recording.flaw();
                *slot = Some(recording);
                match chunk {
                    Ok(chunk) => chunk.into(),
                    Err(error) => return Err(refused(&self.path, error).await),
                }
            }
            Reader::Unread { .. } => return Ok(None),
        };
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    async fn next_raw(&mut self, samples: usize) -> Result<Bytes, Failure> {
        let Reader::Raw(reader) = &mut self.reader else { return Ok(Bytes::new()) };
        let mut chunk = fill(reader, samples * SAMPLE_BYTES).await.map_err(|error| bad(&self.path, &error))?;
        self.bytes_read += chunk.len() as u64;
        let bytes = chunk.len() % SAMPLE_BYTES;
        if bytes > 0 {
            chunk.truncate(chunk.len() - bytes);
            self.flaw =
                Some(Flaw::HalfSample { bytes, frame_bytes: SAMPLE_BYTES, frames: self.bytes_read / SAMPLE_BYTES as u64 });
        }
        Ok(chunk)
    }

    /// Skips `samples` samples.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if the input has no more than that, or cannot be read.
    pub(super) async fn skip(&mut self, samples: u64) -> Result<(), Failure> {
        const STEP_SAMPLES: u64 = 32 * 1024;
        let mut left = samples;
        while left > 0 {
            let step = usize::try_from(left.min(STEP_SAMPLES)).unwrap_or(usize::MAX);
            let Some(chunk) = self.next_chunk(step).await? else {
                return Err(bad(&self.path, &format!("has only {} samples, but {samples} were to be skipped", samples - left)));
            };
            left -= (chunk.len() / SAMPLE_BYTES) as u64;
        }
        Ok(())
    }

    /// How a command that has sent all of it ends: not well if something was wrong with it. Prints what that was.
    pub(super) fn ending(&self, ending: Ending, printer: &mut Printer) -> Ending {
        let Some(flaw) = &self.flaw else { return ending };
        printer.note(&format!("warning: {}: {flaw}", self.path.display()));
        if ending == Ending::Ok { Ending::SomeFailed } else { ending }
    }
}

/// The file, or standard input.
fn open_input(path: &Path) -> Result<Input, RecordingError> {
    if path == Path::new("-") {
        // The same open file, without the buffer that the standard library puts in front of it.
        let mut file = File::from(stdin().as_fd().try_clone_to_owned()?);
        // Redirected from a file, unless some of it has been read already.
        let is_whole_file = file.metadata()?.is_file() && file.stream_position()? == 0;
        return Ok(if is_whole_file { Input::File(file) } else { Input::Pipe(file) });
    }
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::other("is a folder, not a recording").into());
    }
    Ok(Input::of(file)?)
}

fn bytes_of(input: &Input) -> Option<u64> {
    match input {
        Input::File(file) => file.metadata().ok().map(|metadata| metadata.len()),
        Input::Pipe(_) | Input::Memory(_) | Input::Other(_) => None,
    }
}

/// The bytes that have been looked at, and the rest.
fn raw_reader(beginning: Vec<u8>, input: Input) -> Box<dyn AsyncRead + Send + Unpin> {
    match input {
        Input::File(file) | Input::Pipe(file) => Box::new(Cursor::new(beginning).chain(tokio::fs::File::from_std(file))),
        Input::Memory(bytes) => Box::new(Cursor::new(beginning).chain(bytes)),
        // Nothing here opens one.
        Input::Other(_) => Box::new(Cursor::new(beginning)),
    }
}

/// The file name and what is wrong with it.
fn bad(path: &Path, reason: &dyn std::fmt::Display) -> Failure {
    Failure::BadInput(format!("{}: {reason}", path.display()))
}

/// What is wrong with a recording, and how to turn it into one that can be read.
async fn refused(path: &Path, error: RecordingError) -> Failure {
    let advice = match &error {
        RecordingError::Unread(_) | RecordingError::Rate { .. } => "convert it",
        RecordingError::Damaged { .. } => "if another program plays it, convert it",
        RecordingError::Io(_) | RecordingError::Empty | RecordingError::TooLongForAPipe { .. } => return bad(path, &error),
    };
    let rate_hz = if let RecordingError::Rate { to_hz, .. } = error { Some(to_hz) } else { None };
    let name = path.to_owned();
    match blocking(move || convert::command(&name, rate_hz)).await {
        Ok(command) => bad(path, &format!("{error}; {advice}: {command}")),
        Err(failure) => failure,
    }
}

/// Runs file work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::BadInput(format!("reading audio failed: {error}")))
}

/// Reads until `bytes` are there or the input ends. Pipes hand out less than asked for.
async fn fill(reader: &mut (dyn AsyncRead + Send + Unpin), bytes: usize) -> std::io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(bytes);
    let mut limited = reader.take(bytes as u64);
    while limited.limit() > 0 && limited.read_buf(&mut chunk).await? > 0 {}
    Ok(chunk.freeze())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_pipe_that_hands_out_single_bytes_still_gives_whole_chunks() {
        let bytes: Vec<u8> = (0..10).collect();
        let (mut writer, reader) = tokio::io::duplex(1);
        let written = bytes.clone();
        let writing = tokio::spawn(async move { writer.write_all(&written).await });
        let mut source = AudioSource::from_reader(reader);
        assert_eq!(source.next_chunk(4).await.expect("read"), Some(Bytes::copy_from_slice(&bytes[..8])));
        assert_eq!(source.next_chunk(4).await.expect("read"), Some(Bytes::copy_from_slice(&bytes[8..])));
        assert_eq!(source.next_chunk(4).await.expect("read"), None);
        writing.await.expect("no panic").expect("all written");
    }

    #[tokio::test]
    async fn half_a_sample_at_the_end_is_left_out_and_reported() {
        let mut source = AudioSource::from_reader(&[0_u8; 7][..]);
        assert_eq!(source.next_chunk(2).await.expect("whole samples").map(|chunk| chunk.len()), Some(4));
        assert_eq!(source.next_chunk(2).await.expect("one more, and a byte").map(|chunk| chunk.len()), Some(2));
        assert_eq!(source.next_chunk(2).await.expect("the end"), None);
        assert_eq!(source.flaw, Some(Flaw::HalfSample { bytes: 1, frame_bytes: 2, frames: 3 }));
    }

    #[tokio::test]
    async fn skipping_past_the_end_says_how_much_there_is() {
        let mut source = AudioSource::from_reader(&[0_u8; 6][..]);
        let error = source.skip(5).await.expect_err("three samples");
        assert_eq!(error.to_string(), "-: has only 3 samples, but 5 were to be skipped");
    }
}
