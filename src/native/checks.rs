//! What messages may hold, beyond what their types enforce.

use std::time::Duration;

use crate::{domain::Fault, session::PayloadKind};

/// Longest id of an item or flush: ids are kept until they are echoed, and do not count towards the window.
pub const ID_BYTES_MAX: usize = 256;

/// Longest deadline or age: a year, plus the extra day of a leap year.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if the id is longer than [`ID_BYTES_MAX`].
pub fn check_id(field: &'static str, id: String) -> Result<String, Fault> {
    if id.len() <= ID_BYTES_MAX {
        return Ok(id);
    }
    Err(Fault::invalid(field, format!("the id has {} bytes; at most {ID_BYTES_MAX} are allowed", id.len())))
}

/// The duration of `seconds` and `nanos`.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if it is negative or longer than [`DURATION_MAX`], or if `nanos`
/// make a second or more.
pub fn duration(field: &'static str, seconds: i64, nanos: i32) -> Result<Duration, Fault> {
    let sound = || {
        let (seconds, nanos) = (u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos)).filter(|duration| *duration <= DURATION_MAX)
    };
    sound().ok_or_else(|| {
        Fault::invalid(field, format!("{field} is {seconds} s and {nanos} ns, which is not between zero and a year"))
    })
}

/// The payload kind of a request that holds the whole payload.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if the request states another kind than it holds.
pub fn payload(field: &'static str, stated: Option<PayloadKind>, held: PayloadKind) -> Result<PayloadKind, Fault> {
    match stated {
        Some(stated) if stated != held => {
            let found = match held {
                PayloadKind::Tensors => "items of tensors",
                PayloadKind::PcmS16le => "pcm_s16le",
            };
            let message = format!("{field} is {}, but the request holds {found}; leave it unspecified", stated.name());
            Err(Fault::invalid(field, message))
        }
        _ => Ok(held),
    }
}

/// The fault that a message opens a stream already open.
#[must_use]
pub fn open_twice() -> Fault {
    Fault::invalid("open", "the stream is already open; only the first message may be `open`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_lie_between_zero_and_a_year() {
        assert_eq!(duration("deadline", 1, 500_000_000), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("deadline", 0, 0), Ok(Duration::ZERO));
        assert_eq!(duration("deadline", 366 * 24 * 3600, 0), Ok(DURATION_MAX));
        for (seconds, nanos) in
            [(-1, 0), (0, -1), (0, 1_000_000_000), (366 * 24 * 3600, 1), (i64::MAX, 999_999_999), (i64::MIN, i32::MIN)]
        {
            let fault = duration("deadline", seconds, nanos).expect_err("no such deadline");
            assert_eq!(fault.field(), Some("deadline"));
            assert!(fault.message().contains(&format!("{seconds} s and {nanos} ns")), "{fault}");
        }
    }

    #[test]
    fn an_id_is_bounded() {
        assert_eq!(check_id("id", "i".repeat(256)).as_deref(), Ok("i".repeat(256).as_str()));
        let fault = check_id("flush.id", "i".repeat(257)).expect_err("one more");
        assert_eq!((fault.field(), fault.message()), (Some("flush.id"), "the id has 257 bytes; at most 256 are allowed"));
    }
}
