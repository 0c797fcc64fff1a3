//! Answers to clients that broke HTTP's rules or ran out of time before they had asked for anything.

use axum::http::StatusCode;

use super::error::Refusal;
use crate::{
    domain::{Fault, FaultKind},
    frontend::heads::too_large,
    transport::http1::{Breach, FRAMING_BYTES_MAX, Limits},
};

/// The answer in full.
pub(super) fn answer(breach: Breach, limits: &Limits) -> Vec<u8> {
    refusal(breach, limits).to_http1()
}

fn refusal(breach: Breach, limits: &Limits) -> Refusal {
    match breach {
        Breach::HeadTooLate => {
            let seconds = limits.header_timeout.as_secs();
            let message =
                format!("the head of the request did not arrive within the {seconds} s that http.header_timeout_s allows");
            let fault = Fault::new(FaultKind::Expired, message).with_limit("http.header_timeout_s", seconds);
            Refusal::with_status(fault, StatusCode::REQUEST_TIMEOUT)
        }
        Breach::HeadTooLarge => too_large(limits.header_bytes_max),
        Breach::BareLineFeed => {
            let message =
                "a line of the request's head ends with a line feed alone; end each with a carriage return and a line feed";
            Fault::invalid("head", message).into()
        }
        Breach::BodyWithoutContent => {
            let message = format!(
                "more than {FRAMING_BYTES_MAX} bytes of the body arrived without any content, as if a chunk's size had no end"
            );
            Fault::invalid("body", message).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits = Limits {
        header_bytes_max: 1_024,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(120),
        unread_timeout: Duration::from_secs(300),
    };

    #[test]
    fn each_breach_names_the_limit_or_the_part_of_the_request() {
        let limit = |breach| refusal(breach, &LIMITS).fault.limit().map(|limit| (limit.name, limit.value));
        assert_eq!(limit(Breach::HeadTooLate), Some(("http.header_timeout_s", 10)));
        assert_eq!(limit(Breach::HeadTooLarge), Some(("http.max_header_bytes", 1_024)));
        let field = |breach| refusal(breach, &LIMITS).fault.field().map(str::to_owned);
        assert_eq!(field(Breach::BareLineFeed).as_deref(), Some("head"));
        assert_eq!(field(Breach::BodyWithoutContent).as_deref(), Some("body"));
    }
}
