//! Bytes that can be looked at before they are read.
//!
//! Everything is read forwards and once, so that a pipe works as well as a file. Knows no format.

use std::{
    fmt, fs,
    io::{self, Read, Seek as _, SeekFrom},
};

use super::RecordingError;

/// Where a recording comes from.
#[derive(Debug)]
pub enum Input {
    /// A regular file, from its beginning.
    File(fs::File),
    /// Anything else that the system reads, only forwards.
    Pipe(fs::File),
    /// Bytes in memory.
    Memory(io::Cursor<Vec<u8>>),
    /// Anything else, only forwards.
    Other(Forwards),
}

/// Any reader.
pub struct Forwards(Box<dyn Read + Send + Sync>);

impl fmt::Debug for Forwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forwards")
    }
}

impl Input {
    /// The kind of an open file.
    ///
    /// # Errors
    /// Those from asking the system.
    pub fn of(file: fs::File) -> io::Result<Self> {
        Ok(if file.metadata()?.is_file() { Self::File(file) } else { Self::Pipe(file) })
    }

    /// What a reader gives, from here on.
    #[must_use]
    pub fn from_reader(reader: impl Read + Send + Sync + 'static) -> Self {
        Self::Other(Forwards(Box::new(reader)))
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) | Self::Pipe(file) => file.read(buffer),
            Self::Memory(bytes) => bytes.read(buffer),
            Self::Other(reader) => reader.0.read(buffer),
        }
    }
}

/// An input, and some of its next bytes, already read.
#[derive(Debug)]
pub(super) struct Source {
    input: Input,
    /// Read from the input, and given out up to `at`.
    ahead: Vec<u8>,
    at: usize,
    /// Given out.
    position: u64,
}

impl Source {
    pub(super) const fn new(input: Input) -> Self {
        Self { input, ahead: Vec::new(), at: 0, position: 0 }
    }

    /// A source of bytes that are all in memory.
    #[cfg(test)]
    pub(super) fn of(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(Input::Memory(io::Cursor::new(bytes.into())))
    }

    /// The next `count` bytes, fewer only if the input ends; they are not read yet.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        let missing = count.saturating_sub(self.ahead.len() - self.at);
        if missing > 0 {
            self.ahead.drain(..self.at);
            self.at = 0;
            read_up_to(&mut self.input, &mut self.ahead, missing)?;
        }
        let end = self.ahead.len().min(self.at + count);
        Ok(&self.ahead[self.at..end])
    }

    /// Reads until `buffer` is full or the input ends, and says how much that was.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// Skips `count` bytes, and says how many there were.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<u64> {
        io::copy(&mut self.take(count), &mut io::sink())
    }

    /// Bytes read so far.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// How long the input is, if that can be known.
    pub(super) fn length(&self) -> Option<u64> {
        match &self.input {
            Input::File(file) => file.metadata().ok().map(|metadata| metadata.len()),
            Input::Memory(bytes) => Some(bytes.get_ref().len() as u64),
            Input::Pipe(_) | Input::Other(_) => None,
        }
    }

    /// The file from its beginning again, if it is one.
    pub(super) fn rewound(&mut self) -> io::Result<Option<fs::File>> {
        match &mut self.input {
            Input::File(file) => {
                file.seek(SeekFrom::Start(0))?;
                file.try_clone().map(Some)
            }
            Input::Pipe(_) | Input::Memory(_) | Input::Other(_) => Ok(None),
        }
    }

    /// Everything that is left, if it is not more than `limit_bytes`.
    ///
    /// # Errors
    /// [`RecordingError::TooLongForAPipe`] if it is.
    pub(super) fn into_memory(mut self, limit_bytes: usize) -> Result<Vec<u8>, RecordingError> {
        let mut bytes = Vec::new();
        read_up_to(&mut self, &mut bytes, limit_bytes)?;
        if self.peek(1)?.is_empty() { Ok(bytes) } else { Err(RecordingError::TooLongForAPipe { limit_bytes }) }
    }

    /// The input, and what has been read of it but not given out.
    pub(super) fn into_parts(mut self) -> (Vec<u8>, Input) {
        (self.ahead.split_off(self.at), self.input)
    }

    /// Puts bytes before those that are next.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.ahead.splice(..self.at, bytes.iter().copied());
        self.at = 0;
        self.position = self.position.saturating_sub(bytes.len() as u64);
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &self.ahead[self.at..] {
            [] => loop {
                match self.input.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            },
            ahead => {
                let count = ahead.len().min(buffer.len());
                buffer[..count].copy_from_slice(&ahead[..count]);
                self.at += count;
                count
            }
        };
        self.position += count as u64;
        Ok(count)
    }
}

/// Appends `count` bytes of `input`, or as many as there are.
pub(super) fn read_up_to(input: &mut impl Read, bytes: &mut Vec<u8>, count: usize) -> io::Result<()> {
    input.take(count as u64).read_to_end(bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_is_still_read() {
        let mut source = Source::of(*b"0123456789");
        assert_eq!(source.peek(4).expect("bytes"), b"0123");
        assert_eq!(source.peek(2).expect("bytes"), b"01");
        let mut read = [0; 3];
        assert_eq!((source.fill(&mut read).expect("bytes"), read), (3, *b"012"));
        assert_eq!(source.peek(20).expect("all there is"), b"3456789");
        assert_eq!((source.skip(2).expect("bytes"), source.position()), (2, 5));
        source.put_back(b"4");
        assert_eq!(source.peek(2).expect("bytes"), b"45");
        assert_eq!(source.position(), 4);
        assert_eq!((source.skip(100).expect("what is left"), source.position()), (6, 10));
        assert_eq!(source.peek(1).expect("the end"), b"");
    }

    #[test]
    fn a_file_can_be_had_from_its_beginning_again() {
        use io::Write as _;
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("written");
        file.seek(SeekFrom::Start(0)).expect("rewound");
        let mut source = Source::new(Input::File(file));
        assert_eq!(source.skip(4).expect("bytes"), 4);
        assert_eq!(source.length(), Some(10));
        let mut all = Vec::new();
        source.rewound().expect("a file").expect("a file").read_to_end(&mut all).expect("bytes");
        assert_eq!(all, b"0123456789");
        assert!(Source::of(*b"0").rewound().expect("no error").is_none());
    }
}
