//! The bytes of a message, in pieces as they arrive: room is made, and charged, for what has arrived, never for what is
//! announced.

use bytes::Bytes;

use super::transfer::Charge;
use crate::domain::{Fault, FaultKind};

/// Smallest piece.
const PIECE_BYTES_MIN: usize = 1 << 10;
/// Largest piece: this much is copied, or found not to fit, at once.
pub(crate) const PIECE_BYTES_MAX: usize = 256 << 10;

/// A message, as far as it has arrived.
#[derive(Debug)]
pub(crate) struct Pieces {
    pieces: Vec<Vec<u8>>,
    bytes: usize,
    charge: Charge,
}

impl Pieces {
    pub(crate) const fn new(charge: Charge) -> Self {
        Self { pieces: Vec::new(), bytes: 0, charge }
    }

    /// Bytes that have arrived.
    pub(crate) const fn len(&self) -> usize {
        self.bytes
    }

    /// Appends `data`. Makes room for more only as far as `left` bytes, `data` included, may still arrive.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if the charge, or the machine, has no room.
    pub(crate) fn push(&mut self, mut data: &[u8], left: usize) -> Result<(), Fault> {
        let mut left = left.max(data.len());
        while !data.is_empty() {
            let spare = self.pieces.last().map_or(0, |piece| piece.capacity() - piece.len());
            if spare == 0 {
                // Twice as much each time, up to the limit for a piece.
                let wanted = data.len().max(self.bytes).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
                self.add_piece(wanted.min(left))?;
                continue;
            }
            let (now, later) = data.split_at(spare.min(data.len()));
            if let Some(piece) = self.pieces.last_mut() {
                piece.extend_from_slice(now);
            }
            (self.bytes, left, data) = (self.bytes + now.len(), left - now.len(), later);
        }
        Ok(())
    }

    fn add_piece(&mut self, bytes: usize) -> Result<(), Fault> {
        self.charge.grow(bytes)?;
        self.pieces.push(room_for(bytes)?);
        Ok(())
    }

    /// Everything that has arrived, in one piece, and its charge. Several pieces are copied.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] if the charge, or the machine, has no room for the copy.
    pub(crate) fn join(self) -> Result<(Bytes, Charge), Fault> {
        let Self { mut pieces, bytes, mut charge } = self;
        if pieces.len() <= 1 {
            return Ok((pieces.pop().unwrap_or_default().into(), charge));
        }
        charge.grow(bytes)?;
        let mut whole = room_for(bytes)?;
        pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        drop(pieces);
        charge.shrink_to(bytes);
        Ok((whole.into(), charge))
    }
}

fn room_for(bytes: usize) -> Result<Vec<u8>, Fault> {
    let mut room = Vec::new();
    match room.try_reserve_exact(bytes) {
        Ok(()) => Ok(room),
        Err(error) => {
            Err(Fault::new(FaultKind::Overloaded, format!("the machine has no memory for {bytes} more bytes: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{domain::Peer, telemetry::Gauge, transport::Transfer};

    fn pieces(budget: usize) -> (Transfer, Pieces) {
        let transfer = Transfer::new(budget, Gauge::noop());
        let pieces = Pieces::new(transfer.connection(Peer::default()).charge());
        (transfer, pieces)
    }

    #[test]
    fn what_is_announced_takes_no_room() {
        let (transfer, mut pieces) = pieces(64 << 20);
        pieces.push(b"a", 16 << 20).expect("room");
        assert_eq!(transfer.bytes(), PIECE_BYTES_MIN);
        pieces.push(&[0; 3_000], (16 << 20) - 1).expect("room");
        assert!(transfer.bytes() <= 2 * 3_001 + PIECE_BYTES_MIN, "{}", transfer.bytes());
    }

    #[test]
    fn the_last_piece_has_room_only_for_what_is_left() {
        let (transfer, mut pieces) = pieces(64 << 20);
        pieces.push(&[1; 100], 110).expect("room");
        assert_eq!(transfer.bytes(), 110);
        pieces.push(&[2; 10], 10).expect("room");
        assert_eq!(transfer.bytes(), 110);
        let (whole, charge) = pieces.join().expect("one piece");
        assert_eq!((&*whole, charge.bytes()), (&[[1; 100].as_slice(), &[2; 10]].concat()[..], 110));
    }

    #[test]
    fn without_room_it_is_refused() {
        let (transfer, mut pieces) = pieces(1 << 20);
        let fault = pieces.push(&vec![0; 2 << 20], 2 << 20).expect_err("more than there is");
        assert_eq!(fault.kind(), FaultKind::Overloaded);
        drop(pieces);
        assert_eq!(transfer.bytes(), 0);
    }

    proptest! {
        #[test]
        fn parts_join_to_what_was_sent(parts in vec(vec(any::<u8>(), 0..3_000), 0..40), announced in any::<bool>()) {
            let (transfer, mut pieces) = pieces(1 << 30);
            let sent = parts.concat();
            let mut left = sent.len();
            for part in &parts {
                pieces.push(part, if announced { left } else { usize::MAX }).expect("room");
                left -= part.len();
                prop_assert!(transfer.bytes() <= 2 * pieces.len() + 2 * PIECE_BYTES_MIN);
            }
            prop_assert_eq!(pieces.len(), sent.len());
            let (whole, charge) = pieces.join().expect("room");
            prop_assert_eq!(&*whole, &*sent);
            prop_assert!(charge.bytes() <= 2 * sent.len() + 2 * PIECE_BYTES_MIN);
            drop(charge);
            prop_assert_eq!(transfer.bytes(), 0);
        }
    }
}
