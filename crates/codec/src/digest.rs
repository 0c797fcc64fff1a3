//! Length and checksums of a payload, computed while it arrives and checked against what the client declared.
//!
//! Knows nothing about chunks, messages or windows: only the bytes, in order.

use sha2::{Digest as _, Sha256};
use tidemill_domain::{Fault, FaultKind};

const TOTAL_BYTES: &str = "total_bytes";
const CRC32C: &str = "crc32c";
const SHA256: &str = "sha256";

/// The client's declarations about its payload; `None` for those that it left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PayloadExpectation {
    /// Number of bytes.
    pub total_bytes: Option<u64>,
    /// CRC-32C (Castagnoli).
    pub crc32c: Option<u32>,
    /// SHA-256.
    pub sha256: Option<[u8; 32]>,
}

impl PayloadExpectation {
    /// Both declarations in one: the client may know at the end what it did not know at the opening.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] with the field's name, if both declare a field with different values.
    pub fn merge(self, later: Self) -> Result<Self, Fault> {
        Ok(Self {
            total_bytes: agreed(TOTAL_BYTES, self.total_bytes, later.total_bytes, u64::to_string)?,
            crc32c: agreed(CRC32C, self.crc32c, later.crc32c, |crc| hex(&crc.to_be_bytes()))?,
            sha256: agreed(SHA256, self.sha256, later.sha256, |sha| hex(sha))?,
        })
    }
}

/// Counts and hashes a payload as it arrives.
#[derive(Debug, Clone)]
pub struct PayloadDigest {
    total_bytes: u64,
    crc32c: u32,
    sha256: Option<Sha256>,
}

impl PayloadDigest {
    /// An empty payload. SHA-256 costs several times as much as everything else together, so it can be left out; without it, a SHA-256 that
    /// the client declares later cannot be verified.
    #[must_use]
    pub fn new(with_sha256: bool) -> Self {
        Self { total_bytes: 0, crc32c: 0, sha256: with_sha256.then(Sha256::new) }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.total_bytes = self.total_bytes.saturating_add(bytes.len() as u64);
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// Bytes so far.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// CRC-32C of the bytes so far.
    #[must_use]
    pub const fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// Checks early whether more bytes have arrived than were declared, so that a stream that can only fail ends at once.
    ///
    /// # Errors
    /// [`FaultKind::DataLoss`] with the field `total_bytes`.
    pub fn over(&self, expectation: &PayloadExpectation) -> Result<(), Fault> {
        match expectation.total_bytes {
            Some(declared) if self.total_bytes > declared => Err(Fault::new(
                FaultKind::DataLoss,
                format!("{} bytes have arrived, but only {declared} were declared", self.total_bytes),
            )
            .with_field(TOTAL_BYTES)),
            _ => Ok(()),
        }
    }

    /// Everything that was received.
    #[must_use]
    pub fn finish(self) -> Received {
        Received {
            total_bytes: self.total_bytes,
            crc32c: self.crc32c,
            sha256: self.sha256.map(|sha256| sha256.finalize().into()),
        }
    }
}

/// Length and checksums of a payload that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Number of bytes.
    pub total_bytes: u64,
    /// CRC-32C (Castagnoli).
    pub crc32c: u32,
    /// SHA-256, if it was computed.
    pub sha256: Option<[u8; 32]>,
}

impl Received {
    /// Checks what was received against what was declared.
    ///
    /// # Errors
    /// [`FaultKind::DataLoss`] with the first field that differs and both values; [`FaultKind::Invalid`] with the field `sha256`, if one
    /// was declared but none was computed.
    pub fn verify(&self, expectation: &PayloadExpectation) -> Result<(), Fault> {
        matching(TOTAL_BYTES, expectation.total_bytes, self.total_bytes, u64::to_string)?;
        matching(CRC32C, expectation.crc32c, self.crc32c, |crc| hex(&crc.to_be_bytes()))?;
        match (expectation.sha256, self.sha256) {
            (Some(_), None) => Err(Fault::invalid(
                SHA256,
                "sha256 was declared only after the payload had begun, and was not computed; declare it at the opening, or declare \
                 crc32c",
            )),
            (declared, Some(received)) => matching(SHA256, declared, received, |sha| hex(sha)),
            (None, None) => Ok(()),
        }
    }
}

fn agreed<T: PartialEq>(
    field: &'static str,
    first: Option<T>,
    later: Option<T>,
    show: impl Fn(&T) -> String,
) -> Result<Option<T>, Fault> {
    match (first, later) {
        (Some(first), Some(later)) if first != later => Err(Fault::invalid(
            field,
            format!("{field} was declared as {} and later as {}; declare it once", show(&first), show(&later)),
        )),
        (first, later) => Ok(first.or(later)),
    }
}

fn matching<T: PartialEq>(
    field: &'static str,
    declared: Option<T>,
    received: T,
    show: impl Fn(&T) -> String,
) -> Result<(), Fault> {
    match declared {
        Some(declared) if declared != received => Err(Fault::new(
            FaultKind::DataLoss,
            format!("{field} of what arrived is {}, but {} was declared", show(&received), show(&declared)),
        )
        .with_field(field)),
        _ => Ok(()),
    }
}

/// `bytes` as lower-case hexadecimal digits, first byte first.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of the nine bytes "123456789", as the catalogue of CRCs and the SHA-256 standard's tools give them.
    const DIGITS: &[u8] = b"123456789";
    const DIGITS_CRC32C: u32 = 0xe306_9283;
    const DIGITS_SHA256: &str = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";

    fn received(payload: &[u8]) -> Received {
        let mut digest = PayloadDigest::new(true);
        digest.update(payload);
        digest.finish()
    }

    fn everything(received: &Received) -> PayloadExpectation {
        PayloadExpectation { total_bytes: Some(received.total_bytes), crc32c: Some(received.crc32c), sha256: received.sha256 }
    }

    #[test]
    fn known_values() {
        let digits = received(DIGITS);
        assert_eq!(digits.total_bytes, 9);
        assert_eq!(digits.crc32c, DIGITS_CRC32C);
        assert_eq!(hex(&digits.sha256.expect("asked for")), DIGITS_SHA256);
    }

    #[test]
    fn sha256_is_computed_only_on_request() {
        let mut digest = PayloadDigest::new(false);
        digest.update(DIGITS);
        assert_eq!(digest.finish().sha256, None);
    }

    #[test]
    fn each_mismatch_is_data_loss_with_its_field_and_both_values() {
        let digits = received(DIGITS);
        let good = everything(&digits);
        let cases = [
            (PayloadExpectation { total_bytes: Some(10), ..good }, TOTAL_BYTES, "is 9, but 10 was declared".to_owned()),
            (PayloadExpectation { crc32c: Some(0xa), ..good }, CRC32C, "is e3069283, but 0000000a was declared".to_owned()),
            (
                PayloadExpectation { sha256: Some([0xab; 32]), ..good },
                SHA256,
                format!("is {DIGITS_SHA256}, but {} was declared", "ab".repeat(32)),
            ),
        ];
        for (expectation, field, message) in cases {
            let fault = digits.verify(&expectation).expect_err("must differ");
            assert_eq!((fault.kind(), fault.field()), (FaultKind::DataLoss, Some(field)));
            assert!(fault.message().contains(&message), "{fault}");
        }
    }

    #[test]
    fn a_sha256_that_was_not_computed_is_refused_rather_than_believed() {
        let mut digest = PayloadDigest::new(false);
        digest.update(DIGITS);
        let fault = digest.finish().verify(&everything(&received(DIGITS))).expect_err("not computed");
        assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some(SHA256)));
    }

    #[test]
    fn too_many_bytes_show_before_the_end() {
        let mut digest = PayloadDigest::new(false);
        let expectation = PayloadExpectation { total_bytes: Some(9), ..PayloadExpectation::default() };
        digest.update(DIGITS);
        assert_eq!(digest.over(&expectation), Ok(()));
        digest.update(b"0");
        let fault = digest.over(&expectation).expect_err("10 of 9 bytes");
        assert_eq!((fault.kind(), fault.field()), (FaultKind::DataLoss, Some(TOTAL_BYTES)));
        assert_eq!(digest.over(&PayloadExpectation::default()), Ok(()));
    }

    #[test]
    fn declarations_complete_each_other() {
        let at_open = PayloadExpectation { total_bytes: Some(9), crc32c: Some(1), sha256: None };
        let at_end = PayloadExpectation { total_bytes: Some(9), crc32c: None, sha256: Some([7; 32]) };
        let both = PayloadExpectation { total_bytes: Some(9), crc32c: Some(1), sha256: Some([7; 32]) };
        assert_eq!(at_open.merge(at_end), Ok(both));
    }

    #[test]
    fn declarations_that_contradict_each_other_are_invalid_by_field() {
        let first = PayloadExpectation { total_bytes: Some(9), crc32c: Some(1), sha256: Some([7; 32]) };
        let cases = [
            (PayloadExpectation { total_bytes: Some(8), ..first }, TOTAL_BYTES, "as 9 and later as 8"),
            (PayloadExpectation { crc32c: Some(2), ..first }, CRC32C, "as 00000001 and later as 00000002"),
            (PayloadExpectation { sha256: Some([8; 32]), ..first }, SHA256, "and later as 0808"),
        ];
        for (later, field, message) in cases {
            let fault = first.merge(later).expect_err("must conflict");
            assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some(field)));
            assert!(fault.message().contains(message), "{fault}");
        }
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_digest(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let mut digest = PayloadDigest::new(true);
            for chunk in &chunks {
                digest.update(chunk);
            }
            let whole = received(&chunks.concat());
            prop_assert_eq!(digest.crc32c(), whole.crc32c);
            prop_assert_eq!(digest.total_bytes(), whole.total_bytes);
            prop_assert_eq!(digest.finish(), whole);
            prop_assert_eq!(whole.verify(&everything(&whole)), Ok(()));
        }

        #[test]
        fn a_flipped_bit_is_found_by_each_checksum_alone(payload in prop::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), bit in 0..8) {
            let sent = received(&payload);
            let mut damaged = payload;
            let at = at.index(damaged.len());
            damaged[at] ^= 1_u8 << bit;
            let arrived = received(&damaged);
            let by_crc = PayloadExpectation { crc32c: Some(sent.crc32c), ..PayloadExpectation::default() };
            let by_sha = PayloadExpectation { sha256: sent.sha256, ..PayloadExpectation::default() };
            prop_assert!(arrived.verify(&by_crc).is_err());
            prop_assert!(arrived.verify(&by_sha).is_err());
        }
    }
}
