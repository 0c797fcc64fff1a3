//! A recording's bytes on their way from the body to the decoder, which reads them on another thread.
//!
//! The decoder blocks its thread, so it must never wait for a client: it is let run only when enough bytes are there, and a read that finds
//! none, although more may come, fails and is noted.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;

/// Bytes that have arrived and not been read. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Fed(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    has_ended: bool,
    is_starved: bool,
}

impl Fed {
    /// What has arrived so far.
    pub(super) fn of(pieces: &[Bytes], has_ended: bool) -> Self {
        let bytes = pieces.iter().map(Bytes::len).sum();
        let pieces = pieces.iter().cloned().collect();
        Self(Arc::new(Mutex::new(Inside { pieces, bytes, has_ended, is_starved: false })))
    }

    pub(super) fn push(&self, piece: Bytes) {
        let mut inside = self.0.lock();
        inside.bytes += piece.len();
        inside.pieces.push_back(piece);
    }

    /// No more will come.
    pub(super) fn end(&self) {
        self.0.lock().has_ended = true;
    }

    /// Bytes that are there.
    pub(super) fn available(&self) -> usize {
        self.0.lock().bytes
    }

    /// Whether so many bytes, or all that are left, are there.
    pub(super) fn has(&self, bytes: usize) -> bool {
        let inside = self.0.lock();
        inside.has_ended || inside.bytes >= bytes
    }

    /// Whether a read found nothing although more may come. What was read since is worth nothing.
    pub(super) fn is_starved(&self) -> bool {
        self.0.lock().is_starved
    }
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inside = self.0.lock();
        let Inside { pieces, bytes, has_ended, is_starved } = &mut *inside;
        let mut filled = 0;
        while filled < buffer.len()
            && let Some(piece) = pieces.front_mut()
        {
            let count = piece.len().min(buffer.len() - filled);
            piece.copy_to_slice(&mut buffer[filled..filled + count]);
            filled += count;
            if piece.is_empty() {
                pieces.pop_front();
            }
        }
        *bytes -= filled;
        if filled == 0 && !buffer.is_empty() && !*has_ended {
            *is_starved = true;
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "more of the recording is yet to arrive"));
        }
        Ok(filled)
    }
}

/// Puts the bytes of 16-bit samples in the other order, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Swapper {
    /// The first byte of a sample whose second has not come.
    odd: Option<u8>,
}

impl Swapper {
    /// The samples that are whole now.
    pub(super) fn swap(&mut self, piece: &[u8]) -> Bytes {
        let mut bytes: Vec<u8> = self.odd.take().into_iter().chain(piece.iter().copied()).collect();
        if bytes.len() % 2 == 1 {
            self.odd = bytes.pop();
        }
        bytes.chunks_exact_mut(2).for_each(|sample| sample.swap(0, 1));
        bytes.into()
    }

    /// Half a sample at the end.
    pub(super) fn rest(self) -> Bytes {
        self.odd.map_or_else(Bytes::new, |byte| vec![byte].into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn what_has_not_arrived_is_an_error_and_what_has_ended_is_not() {
        let fed = Fed::of(&[Bytes::from_static(b"ab"), Bytes::from_static(b"c")], false);
        let mut buffer = [0; 8];
        assert_eq!((fed.clone().read(&mut buffer).expect("bytes"), &buffer[..3]), (3, &b"abc"[..]));
        assert!(!fed.is_starved());
        assert_eq!(fed.clone().read(&mut buffer).expect_err("more may come").kind(), io::ErrorKind::WouldBlock);
        assert!(fed.is_starved());
        fed.push(Bytes::from_static(b"d"));
        fed.end();
        assert_eq!((fed.available(), fed.has(1_000)), (1, true));
        assert_eq!(fed.clone().read(&mut buffer).expect("a byte"), 1);
        assert_eq!(fed.clone().read(&mut buffer).expect("the end"), 0);
    }

    proptest! {
        #[test]
        fn samples_are_swapped_however_they_are_cut(bytes in vec(any::<u8>(), 0..40), sizes in vec(1_usize..7, 1..8)) {
            let mut expected = bytes.clone();
            expected.chunks_exact_mut(2).for_each(|sample| sample.swap(0, 1));
            let (mut swapper, mut rest, mut swapped) = (Swapper::default(), bytes.as_slice(), Vec::new());
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, left) = rest.split_at((*size).min(rest.len()));
                swapped.extend_from_slice(&swapper.swap(piece));
                rest = left;
            }
            swapped.extend_from_slice(&swapper.rest());
            prop_assert_eq!(swapped, expected);
        }
    }
}
