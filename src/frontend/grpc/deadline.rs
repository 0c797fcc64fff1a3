//! The deadline of a whole call, from its `grpc-timeout` header.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tonic::metadata::MetadataMap;

use crate::{clock, domain::Timestamp};

const HEADER: HeaderName = HeaderName::from_static("grpc-timeout");

/// When the call ends; [`Timestamp::NEVER`] without the header, or with a malformed one, which gRPC servers ignore.
pub(super) fn ends_at(metadata: &MetadataMap) -> Timestamp {
    timeout(metadata.as_ref()).map_or(Timestamp::NEVER, |timeout| clock::now() + timeout)
}

/// How long the whole call may take; `None` where [`ends_at`] says never.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(HEADER)?.to_str().ok()?)
}

/// One to eight digits and a unit, as in the specification of gRPC over HTTP/2.
fn parse(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read() {
        let cases = [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("250m", Duration::from_millis(250)),
            ("1u", Duration::from_micros(1)),
            ("0n", Duration::ZERO),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_is_no_deadline() {
        for text in ["", "S", "123456789S", "-1S", "1.5S", "1s", "1", "1µ", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
