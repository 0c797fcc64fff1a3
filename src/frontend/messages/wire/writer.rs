//! Fields into a buffer.

use bytes::BufMut;
use prost::{Message, encoding::WireType};

/// Bytes that are gathered before they go into the buffer: the fields of a result around its data.
const SMALL_BYTES: usize = 128;
/// Longest number on the wire, in bytes.
const VARINT_BYTES_MAX: usize = 10;
/// A key: no field here has a number above 15.
pub(super) const KEY_BYTES: usize = 1;

/// Writes fields with numbers up to 15. Small ones are gathered: a growing buffer checks its capacity for each byte put into it.
pub(super) struct Writer<'a, B> {
    buf: &'a mut B,
    small: [u8; SMALL_BYTES],
    used: usize,
}

impl<'a, B: BufMut> Writer<'a, B> {
    /// End it with [`Writer::flush`].
    pub(super) const fn new(buf: &'a mut B) -> Self {
        Self { buf, small: [0; SMALL_BYTES], used: 0 }
    }

    /// Writes out what is left.
    pub(super) fn flush(&mut self) {
        self.buf.put_slice(&self.small[..self.used]);
        self.used = 0;
    }

    /// Fields `first` and so on, which are numbers; zeros are left out.
    pub(super) fn numbers(&mut self, first: u8, numbers: &[u64]) {
        (first..).zip(numbers).for_each(|(field, number)| self.number(field, *number));
    }

    /// A field that is a flag; one that is not set is left out.
    pub(super) fn flag(&mut self, field: u8, flag: bool) {
        if flag {
            self.make_room(KEY_BYTES + 1);
            self.push(field << 3 | WireType::Varint as u8);
            self.push(1);
        }
    }

    /// A field that is a number; zero is left out.
    pub(super) fn number(&mut self, field: u8, number: u64) {
        if number != 0 {
            self.key(field, WireType::Varint);
            self.varint(number);
        }
    }

    /// A field of text or bytes; an empty one is left out.
    pub(super) fn text(&mut self, field: u8, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.frame(field, bytes.len());
        if bytes.len() > SMALL_BYTES - self.used {
            self.flush();
            self.buf.put_slice(bytes);
        } else {
            self.small[self.used..self.used + bytes.len()].copy_from_slice(bytes);
            self.used += bytes.len();
        }
    }

    /// The head of a field; its bytes follow.
    pub(super) fn frame(&mut self, field: u8, bytes: usize) {
        self.key(field, WireType::LengthDelimited);
        self.varint(bytes as u64);
    }

    /// What follows a frame.
    pub(super) fn message(&mut self, message: &impl Message) {
        self.flush();
        message.encode_raw(self.buf);
    }

    /// A number of a packed field.
    pub(super) fn varint(&mut self, mut number: u64) {
        self.make_room(VARINT_BYTES_MAX);
        while number > 0x7f {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.push(number as u8);
    }

    fn key(&mut self, field: u8, wire_type: WireType) {
        self.make_room(1);
        self.push(field << 3 | wire_type as u8);
    }

    fn make_room(&mut self, bytes: usize) {
        if bytes > SMALL_BYTES - self.used {
            self.flush();
        }
    }

    fn push(&mut self, byte: u8) {
        self.small[self.used] = byte;
        self.used += 1;
    }
}
