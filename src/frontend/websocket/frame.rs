//! What the two ends of a WebSocket say to each other, in the form that the wires above it know.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::domain::Fault;

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

/// Why a connection carries nothing more.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum SocketError {
    /// The client broke a rule or a limit; the close code says which.
    #[error("{0}")]
    Refused(#[from] Fault),
    /// The connection broke off.
    #[error("the connection broke off")]
    Broken,
}
