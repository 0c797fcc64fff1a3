//! How sessions end that nobody has asked to end.

use std::time::Duration;

use crate::domain::{Fault, FaultKind};

pub(super) fn silent_for(timeout: Duration) -> Fault {
    let message = format!(
        "no message for {timeout:?} (session.idle_timeout_s); to keep a quiet stream open, send a keepalive or an empty chunk now and then"
    );
    Fault::new(FaultKind::Expired, message).with_limit("session.idle_timeout_s", timeout.as_secs())
}

pub(super) fn call_expired() -> Fault {
    Fault::new(FaultKind::Expired, "the deadline of the whole call passed")
}

pub(super) fn draining() -> Fault {
    Fault::new(FaultKind::Unavailable, "the server is draining; everything it had accepted has been answered; connect elsewhere")
}
