//! Carries large messages past tonic's buffers.
//!
//! tonic copies each message in one go into a buffer of its stream, which stays as large as the largest message that was ever in
//! it. So code that already has a large message puts it here, and gives tonic a ticket instead: a message of eight bytes. The
//! codec, at the other end of tonic, exchanges the ticket for the message.
//!
//! Between the two, tonic only copies the ticket, in the same poll and so on the same thread: it asks for bytes only when it has no
//! complete message, and decodes a message as soon as it is complete. So each thread has one place for a parcel, and a peer's
//! message of eight bytes is never taken for a ticket: that place is then empty.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

/// Length of a ticket.
pub const TICKET_BYTES: usize = 8;

thread_local! {
    static PLACE: Cell<Option<(u64, Bytes)>> = const { Cell::new(None) };
}

/// Puts a message in this thread's place, and returns its ticket.
#[must_use]
#[inline]
pub fn send(message: Bytes) -> [u8; TICKET_BYTES] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let ticket = NEXT.fetch_add(1, Ordering::Relaxed);
    PLACE.set(Some((ticket, message)));
    ticket.to_be_bytes()
}

/// The message for this ticket; `None` if it is not a ticket but a message itself.
#[must_use]
#[inline]
pub fn receive(ticket: &[u8]) -> Option<Bytes> {
    let ticket = ticket.try_into().map(u64::from_be_bytes).ok()?;
    // A parcel that is not collected at once never will be.
    PLACE.take().and_then(|(expected, message)| (expected == ticket).then_some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_given_once_and_for_its_own_ticket_alone() {
        let ticket = send(Bytes::from_static(b"one"));
        assert_eq!(receive(&ticket).as_deref(), Some(&b"one"[..]));
        assert_eq!(receive(&ticket), None);
        let old = send(Bytes::from_static(b"two"));
        let new = send(Bytes::from_static(b"three"));
        assert_eq!(receive(&old), None);
        assert_eq!(receive(&new), None, "a parcel asked for wrongly is gone");
        assert_eq!(receive(b"seven.."), None);
    }
}
