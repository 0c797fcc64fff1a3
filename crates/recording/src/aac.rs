//! Kinds of AAC that cannot be read, recognised before they are half decoded.
//!
//! HE-AAC is AAC at half the rate, with the upper half of the spectrum described separately. An old decoder plays the lower half
//! without noticing, so a file may say that it is plain AAC and still be HE-AAC.

/// Reads bits, the most significant first; beyond the end there are zeros.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> u32 {
        (0..count).fold(0, |value, _| {
            let bit = self.bytes.get(self.at / 8).map_or(0, |byte| byte >> (7 - self.at % 8) & 1);
            self.at += 1;
            value << 1 | u32::from(bit)
        })
    }

    fn object_type(&mut self) -> u32 {
        match self.take(5) {
            31 => 32 + self.take(6),
            object_type => object_type,
        }
    }

    fn skip_rate(&mut self) {
        if self.take(4) == 15 {
            self.take(24);
        }
    }
}

/// What the decoder's configuration (`AudioSpecificConfig`) describes, if it is not plain AAC.
pub(super) fn unread_kind(config: &[u8]) -> Option<&'static str> {
    const SYNC_EXTENSION: u32 = 0x2b7;
    let mut bits = Bits { bytes: config, at: 0 };
    let kind = |object_type: u32| match object_type {
        1 => Some("AAC Main"),
        2 => None,
        3 => Some("AAC SSR"),
        4 => Some("AAC LTP"),
        5 => Some("HE-AAC"),
        23 => Some("AAC-LD"),
        29 => Some("HE-AAC v2"),
        39 => Some("AAC-ELD"),
        42 => Some("xHE-AAC (USAC)"),
        _ => Some("MPEG-4 audio other than AAC-LC"),
    };
    let found = kind(bits.object_type());
    if found.is_some() {
        return found;
    }
    // Rate, channels and three bits for a plain decoder; what follows is for decoders that know more.
    bits.skip_rate();
    bits.take(4 + 3);
    let is_extended = bits.take(11) == SYNC_EXTENSION && bits.object_type() == 5 && bits.take(1) == 1;
    is_extended.then_some("HE-AAC")
}

/// Whether the first packets of a stream have spectral band replication that its configuration does not mention.
///
/// It is in a fill element, and only a decoder knows where that begins. But it ends where the packet does, except for the end mark, so it
/// is looked for from there. By chance one packet in 50 looks like this; with HE-AAC nearly all do.
pub(super) fn are_extended<'a>(packets: impl ExactSizeIterator<Item = &'a [u8]>) -> bool {
    const FEWEST: usize = 4;
    let count = packets.len();
    count >= FEWEST && packets.filter(|packet| ends_with_extension(packet)).count() * 4 > count * 3
}

/// Whether the last thing before the end is a fill element with spectral band replication.
fn ends_with_extension(packet: &[u8]) -> bool {
    const FILL: u32 = 6;
    const LONGEST: usize = 15 + 255 - 1;
    let Some(last) = packet.iter().rposition(|byte| *byte != 0) else { return false };
    // The end is three ones, then zeros to the end of the byte, and nothing else in the packet.
    let end = last * 8 + 8 - packet[last].trailing_zeros() as usize;
    if end < 3 || last + 1 != packet.len() || (Bits { bytes: packet, at: end - 3 }).take(3) != 7 {
        return false;
    }
    (1..=LONGEST).any(|bytes| {
        let header_bits = if bytes < 15 { 3 + 4 } else { 3 + 4 + 8 };
        let Some(begin) = (end - 3).checked_sub(bytes * 8 + header_bits) else { return false };
        let mut bits = Bits { bytes: packet, at: begin };
        let is_fill = bits.take(3) == FILL;
        let count = match bits.take(4) as usize {
            15 => 15 + bits.take(8) as usize - 1,
            count => count,
        };
        // 13 and 14 are its two kinds.
        is_fill && count == bytes && bits.at == begin + header_bits && matches!(bits.take(4), 13 | 14)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(fields: &[(u32, usize)]) -> Vec<u8> {
        let bits: Vec<u32> =
            fields.iter().flat_map(|(value, count)| (0..*count).rev().map(move |bit| value >> bit & 1)).collect();
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |value, (at, bit)| value | (*bit as u8) << (7 - at))).collect()
    }

    #[test]
    fn configurations_say_what_they_describe() {
        // AAC-LC of 16 kHz, mono; the same with an extension; with one that says no.
        let plain = [(2, 5), (8, 4), (1, 4), (0, 3)];
        assert_eq!(unread_kind(&packed(&plain)), None);
        assert_eq!(unread_kind(&packed(&[&plain[..], &[(0x2b7, 11), (5, 5), (1, 1), (5, 4)]].concat())), Some("HE-AAC"));
        assert_eq!(unread_kind(&packed(&[&plain[..], &[(0x2b7, 11), (5, 5), (0, 1)]].concat())), None);
        assert_eq!(unread_kind(&packed(&[(5, 5), (8, 4), (1, 4), (5, 4), (2, 5)])), Some("HE-AAC"));
        assert_eq!(unread_kind(&packed(&[(29, 5), (8, 4), (1, 4)])), Some("HE-AAC v2"));
        assert_eq!(unread_kind(&packed(&[(31, 5), (10, 6), (8, 4)])), Some("xHE-AAC (USAC)"));
        // A rate that is written out.
        assert_eq!(unread_kind(&packed(&[(2, 5), (15, 4), (16_001, 24), (1, 4), (0, 3)])), None);
        assert_eq!(unread_kind(b""), Some("MPEG-4 audio other than AAC-LC"));
    }

    /// A packet of some bits, then a fill element of that many bytes and kind, then the end.
    fn packet(bits_before: usize, bytes: usize, kind: u32) -> Vec<u8> {
        let mut fields = vec![(0b10, 3)];
        fields.extend((0..bits_before).map(|at| (u32::from(at % 3 == 0), 1)));
        fields.push((6, 3));
        if bytes < 15 {
            fields.push((bytes as u32, 4));
        } else {
            fields.extend([(15, 4), (bytes as u32 - 14, 8)]);
        }
        fields.push((kind, 4));
        fields.extend((0..bytes * 8 - 4).map(|at| (u32::from(at % 5 == 0), 1)));
        fields.push((7, 3));
        packed(&fields)
    }

    #[test]
    fn spectral_band_replication_is_found_where_it_is() {
        for (before, bytes) in [(100, 3), (101, 14), (777, 15), (778, 60), (779, 200)] {
            assert!(ends_with_extension(&packet(before, bytes, 13)), "{bytes} bytes after {before} bits");
            assert!(ends_with_extension(&packet(before, bytes, 14)));
            assert!(!ends_with_extension(&packet(before, bytes, 0)), "mere filling");
            assert!(!ends_with_extension(&packet(before, bytes, 11)), "dynamic range");
        }
        assert!(!ends_with_extension(&[]));
        assert!(!ends_with_extension(&[0; 9]));
    }

    #[test]
    fn one_packet_in_many_proves_nothing() {
        let (plain, extended) = (packet(90, 9, 0), packet(90, 9, 13));
        let are_extended = |packets: &[&Vec<u8>]| are_extended(packets.iter().map(|packet| packet.as_slice()));
        assert!(are_extended(&[&extended; 4]));
        assert!(are_extended(&[&plain, &extended, &extended, &extended, &extended]));
        assert!(!are_extended(&[&extended; 3]));
        assert!(!are_extended(&[&plain, &extended, &extended, &extended]));
        assert!(!are_extended(&[&plain; 8]));
    }
}
