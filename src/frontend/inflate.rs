//! Compressed messages: inflated into room that grows with what comes out, up to limits.
//!
//! Knows neither gRPC nor HTTP. It is slow, so large messages are inflated on a [side
//! thread](crate::side::SideThreads).

use std::io::{self, Read};

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status, read::MultiGzDecoder};

use crate::{
    domain::{Fault, FaultKind},
    transport::{Account, Charge, Pieces},
};

/// From this many inflated bytes on, the ratio to the compressed bytes is limited.
const RATIO_BYTES_MIN: usize = 1 << 20;

/// How much is inflated in one step.
const STEP_BYTES: usize = 16 << 10;

/// Smallest limit on a zstd window, as a power of two: 8 MiB, which the format asks every decoder to support.
const WINDOW_LOG_MIN: u32 = 23;

/// How a message is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    /// With a zlib header, which is what HTTP and gRPC mean by it.
    Deflate,
    Zstd,
}

/// How much may come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InflateLimits {
    /// What is being inflated, for errors: `message` or `body`.
    pub(super) what: &'static str,
    pub(super) bytes_max: usize,
    /// The key that sets it.
    pub(super) bytes_key: &'static str,
    /// Inflated bytes for each compressed one, once it is more than a MiB (`message.max_inflate_ratio`).
    pub(super) ratio_max: usize,
}

/// Why it was not inflated.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotInflated {
    /// It is longer than the caller wanted to inflate here and now.
    Long,
    Refused(Fault),
}

impl From<Fault> for NotInflated {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

/// What `compressed` holds, and its charge; [`NotInflated::Long`] if that is more than `here_max` bytes.
pub(super) fn inflate(
    encoding: Encoding,
    compressed: &[u8],
    here_max: usize,
    limits: &InflateLimits,
    account: &Account,
) -> Result<(Bytes, Charge), NotInflated> {
    match encoding {
        Encoding::Gzip => read_all(MultiGzDecoder::new(compressed), compressed.len(), here_max, limits, account),
        Encoding::Deflate => read_all(Zlib::new(compressed), compressed.len(), here_max, limits, account),
        Encoding::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(compressed).map_err(|error| broken(limits.what, &error))?;
            // The window is made as large as the message says, before anything comes out.
            let log = limits.bytes_max.next_power_of_two().ilog2().max(WINDOW_LOG_MIN);
            decoder.window_log_max(log).map_err(|error| broken(limits.what, &error))?;
            read_all(decoder, compressed.len(), here_max, limits, account)
        }
    }
}

/// A zlib stream. flate2's own reader takes a truncated one for a complete one.
struct Zlib<'a> {
    state: Decompress,
    rest: &'a [u8],
    ended: bool,
}

impl<'a> Zlib<'a> {
    fn new(compressed: &'a [u8]) -> Self {
        Self { state: Decompress::new(true), rest: compressed, ended: false }
    }
}

impl Read for Zlib<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.ended || room.is_empty() {
            return Ok(0);
        }
        let (taken, given) = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(self.rest, room, FlushDecompress::None).map_err(io::Error::other)?;
        let taken = (self.state.total_in() - taken) as usize;
        let given = (self.state.total_out() - given) as usize;
        self.rest = &self.rest[taken..];
        self.ended = status == Status::StreamEnd;
        if given == 0 && !self.ended {
            // There is room to write, so what is missing is input.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(given)
    }
}

fn read_all(
    mut decoder: impl Read,
    compressed: usize,
    here_max: usize,
    limits: &InflateLimits,
    account: &Account,
) -> Result<(Bytes, Charge), NotInflated> {
    let InflateLimits { what, bytes_max, ratio_max, .. } = *limits;
    let mut inflated = Pieces::new(account.charge());
    let mut step = [0; STEP_BYTES];
    loop {
        let bytes = match decoder.read(&mut step) {
            Ok(0) => break,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(what, &error).into()),
        };
        let sum = inflated.len() + bytes;
        if sum > bytes_max {
            return Err(too_large(limits).into());
        }
        if sum > RATIO_BYTES_MIN && sum / ratio_max > compressed {
            return Err(too_dense(what, compressed, ratio_max).into());
        }
        if sum > here_max {
            return Err(NotInflated::Long);
        }
        inflated.push(&step[..bytes], bytes_max - inflated.len())?;
    }
    Ok(inflated.join()?)
}

fn broken(what: &'static str, error: &io::Error) -> Fault {
    Fault::invalid(what, format!("the {what} cannot be inflated: {error}"))
}

fn too_large(limits: &InflateLimits) -> Fault {
    let InflateLimits { what, bytes_max, bytes_key, .. } = *limits;
    let message = format!("the {what} is larger than the {bytes_max} bytes that {bytes_key} allows, counted after inflating");
    Fault::new(FaultKind::TooLarge, message).with_limit(bytes_key, bytes_max as u64)
}

fn too_dense(what: &'static str, compressed: usize, ratio_max: usize) -> Fault {
    let message = format!(
        "the {what} inflates to more than {ratio_max} times its {compressed} bytes, which message.max_inflate_ratio does not allow \
         beyond 1 MiB; send it less compressed, or in parts"
    );
    Fault::new(FaultKind::TooLarge, message).with_limit("message.max_inflate_ratio", ratio_max as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::{domain::Peer, telemetry::Gauge, transport::Transfer};

    const ALL: [Encoding; 3] = [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd];

    fn deflated(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::new(6);
        match encoding {
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).expect("into memory");
                encoder.finish().expect("into memory")
            }
            Encoding::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).expect("into memory");
                encoder.finish().expect("into memory")
            }
            Encoding::Zstd => zstd::stream::encode_all(bytes, 3).expect("into memory"),
        }
    }

    fn limits(bytes_max: usize, ratio_max: usize) -> InflateLimits {
        InflateLimits { what: "message", bytes_max, bytes_key: "grpc.max_message_bytes", ratio_max }
    }

    fn inflated(encoding: Encoding, compressed: &[u8], limits: InflateLimits) -> Result<Bytes, NotInflated> {
        let transfer = Transfer::new(1 << 30, Gauge::noop());
        let found = inflate(encoding, compressed, usize::MAX, &limits, &transfer.connection(Peer::default()));
        let found = found.map(|(bytes, charge)| {
            assert_eq!(transfer.bytes(), charge.bytes());
            bytes
        });
        assert_eq!(transfer.bytes(), 0);
        found
    }

    fn limit_of(found: Result<Bytes, NotInflated>) -> &'static str {
        match found {
            Err(NotInflated::Refused(fault)) => fault.limit().expect("a limit").name,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn as_much_as_is_allowed_comes_out_and_not_a_byte_more() {
        for encoding in ALL {
            let compressed = deflated(encoding, &[7; 1_000]);
            assert_eq!(inflated(encoding, &compressed, limits(1_000, 200)).expect("within the limit"), vec![7; 1_000]);
            assert_eq!(limit_of(inflated(encoding, &compressed, limits(999, 200))), "grpc.max_message_bytes");
        }
    }

    #[test]
    fn the_ratio_counts_beyond_a_mib_alone() {
        for encoding in ALL {
            let zeros = |bytes: usize| deflated(encoding, &vec![0; bytes]);
            assert!(inflated(encoding, &zeros(1 << 20), limits(4 << 20, 10)).is_ok());
            let dense = inflated(encoding, &zeros((1 << 20) + 1), limits(4 << 20, 10));
            assert_eq!(limit_of(dense), "message.max_inflate_ratio");
        }
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..2 << 20).map(|_| random.u8(..)).collect();
        let compressed = deflated(Encoding::Gzip, &noise);
        assert_eq!(inflated(Encoding::Gzip, &compressed, limits(4 << 20, 10)).expect("hardly compressed").len(), noise.len());
    }

    #[test]
    fn what_is_long_is_left_for_another_thread() {
        let transfer = Transfer::new(1 << 30, Gauge::noop());
        let compressed = deflated(Encoding::Zstd, &[1; 5_000]);
        let here = |bytes| {
            inflate(Encoding::Zstd, &compressed, bytes, &limits(10_000, 200), &transfer.connection(Peer::default()))
                .map(|(bytes, _)| bytes.len())
        };
        assert_eq!((here(4_999), here(5_000)), (Err(NotInflated::Long), Ok(5_000)));
    }

    #[test]
    fn a_window_that_is_announced_is_not_made() {
        // A zstd frame whose window is 2^31 bytes.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
        match inflated(Encoding::Zstd, &frame, limits(16 << 20, 200)) {
            Err(NotInflated::Refused(fault)) => assert_eq!(fault.kind(), FaultKind::Invalid, "{fault}"),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn broken_and_cut_messages_are_the_senders_fault() {
        for encoding in ALL {
            let whole = deflated(encoding, b"some bytes that are cut off in their middle");
            for compressed in [&whole[..whole.len() / 2], &b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b"[..]] {
                match inflated(encoding, compressed, limits(1_000, 200)) {
                    Err(NotInflated::Refused(fault)) => assert_eq!(fault.kind(), FaultKind::Invalid, "{encoding:?}: {fault}"),
                    other => unreachable!("{encoding:?}: {other:?}"),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_out(bytes in proptest::collection::vec(0_u8..4, 0..5_000), kind in 0_usize..3) {
            let compressed = deflated(ALL[kind], &bytes);
            prop_assert_eq!(inflated(ALL[kind], &compressed, limits(5_000, 200)).expect("within the limits"), bytes);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_usize..3) {
            let _ = inflated(ALL[kind], &bytes, limits(1 << 16, 200));
        }
    }
}
