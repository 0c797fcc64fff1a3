//! The messages of a WebSocket, as far as the wires above it know them.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::domain::{Fault, FaultKind};

/// Longest reason of a close: a control frame has at most 125 bytes, and two of them are the code.
pub(super) const REASON_BYTES_MAX: usize = 123;

/// Everything has been said.
pub(super) const NORMAL: u16 = 1000;
/// The server, or this connection, is going away.
pub(super) const AWAY: u16 = 1001;
/// The client breaks the rules of frames.
pub(super) const PROTOCOL: u16 = 1002;
/// Its text is not UTF-8.
pub(super) const NOT_TEXT: u16 = 1007;
/// It does what it may not, and no other code says so.
pub(super) const POLICY: u16 = 1008;
/// Its message is too large.
pub(super) const TOO_LARGE: u16 = 1009;
/// The server failed.
pub(super) const FAILED: u16 = 1011;
/// The server has too much to do.
pub(super) const OVERLOADED: u16 = 1013;

/// A whole message, or the end of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// The last thing that either side says.
    Close {
        /// Why, as in RFC 6455, section 7.4.
        code: u16,
        /// The same in words, at most 123 bytes.
        reason: Utf8Bytes,
    },
}

impl Frame {
    /// The end, with this code and as much of the reason as there is room for.
    pub(super) fn close(code: u16, reason: &str) -> Self {
        let kept = reason.floor_char_boundary(REASON_BYTES_MAX);
        Self::Close { code, reason: reason[..kept].into() }
    }

    /// The end of a connection because of this fault. `name` is its code on the wire above.
    pub(super) fn refusing(fault: &Fault, name: &str) -> Self {
        Self::close(close_code(fault), &format!("{name}: {}", fault.message()))
    }
}

/// The code that fits a fault. Libraries try again after 1001, 1011 and 1013 and no other, so these are for what that can help.
pub(super) fn close_code(fault: &Fault) -> u16 {
    let is_idle = || fault.limit().is_some_and(|limit| limit.name == "session.idle_timeout_s");
    match fault.kind() {
        FaultKind::Unavailable | FaultKind::Cancelled => AWAY,
        FaultKind::Expired if is_idle() => AWAY,
        FaultKind::Overloaded => OVERLOADED,
        FaultKind::TooLarge => TOO_LARGE,
        FaultKind::Failed => FAILED,
        FaultKind::Invalid
        | FaultKind::NotFound
        | FaultKind::Expired
        | FaultKind::Dropped
        | FaultKind::Unauthenticated
        | FaultKind::Denied
        | FaultKind::DataLoss
        | FaultKind::Unsupported => POLICY,
    }
}

/// Why a connection carries nothing more.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum SocketError {
    /// The client broke a rule or a limit; the code of the close says which.
    #[error("{0}")]
    Refused(#[from] Fault),
    /// The connection broke off.
    #[error("the connection broke off")]
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_says_no_more_than_fits_and_cuts_no_letter() {
        let Frame::Close { code, reason } = Frame::close(POLICY, &"é".repeat(100)) else { panic!("a close") };
        assert_eq!((code, reason.len()), (POLICY, 122));
        let fault = Fault::new(FaultKind::Overloaded, "full");
        assert_eq!(Frame::refusing(&fault, "RESOURCE_EXHAUSTED"), Frame::close(1013, "RESOURCE_EXHAUSTED: full"));
    }

    #[test]
    fn libraries_come_back_only_where_that_helps() {
        for kind in FaultKind::ALL {
            let code = close_code(&Fault::new(kind, "why"));
            let helps = matches!(kind, FaultKind::Unavailable | FaultKind::Cancelled | FaultKind::Overloaded | FaultKind::Failed);
            assert_eq!(matches!(code, AWAY | FAILED | OVERLOADED), helps, "{kind:?}: {code}");
        }
        let idle = Fault::new(FaultKind::Expired, "silent").with_limit("session.idle_timeout_s", 300);
        assert_eq!(close_code(&idle), AWAY);
    }
}
