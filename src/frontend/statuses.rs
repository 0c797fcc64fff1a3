//! The HTTP form of faults, which all that is said over HTTP shares: the status of each kind, and the headers that go with it.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use crate::domain::{Fault, FaultKind};

/// When a client refused for overload may try again, if nothing better is known.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// What a caller that is not known may send; every 401 says so.
const CHALLENGE: &str = "Bearer realm=\"tidemill\"";

/// The status of each kind. 499 is what proxies log for a client that went away, and the only code here that is not in a standard.
pub(super) const fn http(kind: FaultKind) -> u16 {
    match kind {
        FaultKind::Invalid | FaultKind::DataLoss => 400,
        FaultKind::Unauthenticated => 401,
        FaultKind::Denied => 403,
        FaultKind::NotFound => 404,
        FaultKind::Dropped => 409,
        FaultKind::TooLarge => 413,
        FaultKind::Overloaded => 429,
        FaultKind::Cancelled => 499,
        FaultKind::Failed => 500,
        FaultKind::Unsupported => 501,
        FaultKind::Unavailable => 503,
        FaultKind::Expired => 504,
    }
}

/// Adds what an answer with this fault says in its head besides its status: when to come back, and how to make oneself known.
pub(super) fn add_headers(headers: &mut HeaderMap, fault: &Fault) {
    add_headers_of(headers, fault.kind(), fault.retry_after());
}

/// The same for a fault of which only these are known.
pub(super) fn add_headers_of(headers: &mut HeaderMap, kind: FaultKind, retry_after: Option<Duration>) {
    let retry_after = retry_after.or((kind == FaultKind::Overloaded).then_some(RETRY_AFTER_DEFAULT));
    if let Some(delay) = retry_after {
        let seconds = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if kind == FaultKind::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statuses that a request over HTTP can end with are tested on the port.
    #[test]
    fn kinds_that_only_streams_have_over_grpc_have_a_status_of_the_same_meaning() {
        assert_eq!([FaultKind::DataLoss, FaultKind::Dropped, FaultKind::Cancelled].map(http), [400, 409, 499]);
    }

    #[test]
    fn who_is_to_come_back_is_told_when_in_whole_seconds() {
        let retry_after = |fault: &Fault| {
            let mut headers = HeaderMap::new();
            add_headers(&mut headers, fault);
            headers.get(header::RETRY_AFTER).map(|value| value.to_str().expect("a number").to_owned())
        };
        let overloaded = Fault::new(FaultKind::Overloaded, "full");
        assert_eq!(retry_after(&overloaded).as_deref(), Some("1"));
        assert_eq!(retry_after(&overloaded.clone().with_retry_after(Duration::ZERO)).as_deref(), Some("1"));
        assert_eq!(retry_after(&overloaded.with_retry_after(Duration::from_millis(2_001))).as_deref(), Some("3"));
        assert_eq!(retry_after(&Fault::new(FaultKind::Unavailable, "loading")), None);
    }
}
