//! What is waited for, for how long, and what becomes of a client that takes longer.

use std::time::Duration;

/// hyper's own buffer. It and hyper's limit of the head are above ours, so that the refusal of a longer head is ours too; only
/// requests that are sent before the last one is answered can get beyond it.
const BUFFER_BYTES_MIN: usize = 64 << 10;

/// What may arrive of a body around its content before more content comes. hyper reads the size of a chunk for as long as it goes on,
/// and zeros in front of a number go on for ever.
pub(crate) const FRAMING_BYTES_MAX: usize = 16 << 10;

/// How long a client may take over what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a request's head.
    pub(crate) header_bytes_max: usize,
    /// For the head of a request, and for the first byte of the first one.
    pub(crate) header_timeout: Duration,
    /// For the first byte of another request.
    pub(crate) idle_timeout: Duration,
    /// To take anything of a response.
    pub(crate) unread_timeout: Duration,
}

impl Limits {
    /// hyper's own buffer.
    pub(super) fn buffer_bytes(&self) -> usize {
        BUFFER_BYTES_MIN.max(2 * self.header_bytes_max)
    }

    pub(super) const fn of(&self, awaited: Awaited) -> Option<Duration> {
        match awaited {
            Awaited::Nothing => None,
            Awaited::Request | Awaited::Rest => Some(self.idle_timeout),
            Awaited::First | Awaited::Head => Some(self.header_timeout),
            Awaited::Reader => Some(self.unread_timeout),
        }
    }
}

/// What is waited for that the client has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// It is the server's turn, or the request's body is awaited by whatever reads it.
    Nothing,
    /// The beginning of the first request.
    First,
    /// The beginning of another one.
    Request,
    /// The rest of a request's head.
    Head,
    /// The rest of a request that has been answered.
    Rest,
    /// Room to write into.
    Reader,
}

impl Awaited {
    /// Whether what comes next belongs to the head of a request.
    pub(super) const fn is_head(self) -> bool {
        matches!(self, Self::First | Self::Request | Self::Head)
    }
}

/// Why the connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lapse {
    /// The client has kept the server waiting for too long.
    Waited(Awaited),
    HeadTooLarge,
    BareLineFeed,
    BodyWithoutContent,
}

/// What a client has done wrong, and gets a refusal for before its connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breach {
    /// The head of its request took longer than [`Limits::header_timeout`].
    HeadTooLate,
    /// It was larger than [`Limits::header_bytes_max`].
    HeadTooLarge,
    /// A line of it ends with a line feed alone.
    BareLineFeed,
    /// More than [`FRAMING_BYTES_MAX`] of a body were no content.
    BodyWithoutContent,
}

impl Lapse {
    /// What is refused; nothing if the client has asked for nothing, or would not read the refusal.
    pub(super) const fn breach(self) -> Option<Breach> {
        match self {
            Self::Waited(Awaited::Head) => Some(Breach::HeadTooLate),
            Self::HeadTooLarge => Some(Breach::HeadTooLarge),
            Self::BareLineFeed => Some(Breach::BareLineFeed),
            Self::BodyWithoutContent => Some(Breach::BodyWithoutContent),
            Self::Waited(Awaited::Nothing | Awaited::First | Awaited::Request | Awaited::Rest | Awaited::Reader) => None,
        }
    }
}
