//! Large messages past tonic's buffers.
//!
//! tonic gathers each message in a buffer of its stream, which stays as large as the largest message that was ever in it, and copies it
//! there in one go. So whoever has a large message in hand already puts it here, and gives tonic a ticket in its place: a message of
//! eight bytes. The codec, at the other end of tonic, takes the message for the ticket.
//!
//! Between the two, tonic does nothing but to copy the ticket, in the same poll and so on the same thread: it asks for bytes only when it
//! has no whole message, and decodes a message as soon as it is whole. So there is one place for a parcel on each thread, and what
//! a peer sends as a message of eight bytes is never taken for a ticket: that place is empty then.

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

/// Puts a message in its place on this thread, and gives the ticket for it.
#[must_use]
#[inline]
pub fn send(message: Bytes) -> [u8; TICKET_BYTES] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let ticket = NEXT.fetch_add(1, Ordering::Relaxed);
    PLACE.set(Some((ticket, message)));
    ticket.to_be_bytes()
}

/// The message that was put in its place for this ticket; `None` if it is none, but a message itself.
#[must_use]
#[inline]
pub fn receive(ticket: &[u8]) -> Option<Bytes> {
    let ticket = ticket.try_into().map(u64::from_be_bytes).ok()?;
    // What is not asked for by its ticket at once never will be.
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
        assert_eq!(receive(&new), None, "what was asked for wrongly is gone");
        assert_eq!(receive(b"seven.."), None);
    }
}
