//! What the server waits for, for how long, and what happens to a client that takes longer.

use std::time::Duration;

/// hyper's own buffer. It and hyper's limit on heads are above ours, so that we also refuse longer heads; only requests sent
/// before the last one is answered can get past ours.
const BUFFER_BYTES_MIN: usize = 64 << 10;

/// How many bytes around a body's content may arrive before more content does. hyper goes on reading a chunk's size for as long
/// as it lasts, and leading zeros can go on for ever.
pub(crate) const FRAMING_BYTES_MAX: usize = 16 << 10;

/// How long a client may take, and for what.
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

/// What the server is waiting for the client to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// Nothing: the server is busy, or the reader of the request's body is waiting for it.
    Nothing,
    /// To begin its first request.
    First,
    /// To begin another request.
    Request,
    /// To send the rest of a request's head.
    Head,
    /// To send the rest of a request that has been answered.
    Rest,
    /// To make room for writing.
    Reader,
}

impl Awaited {
    /// Whether the next bytes belong to a request's head.
    pub(super) const fn is_head(self) -> bool {
        matches!(self, Self::First | Self::Request | Self::Head)
    }
}

/// Why the connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lapse {
    /// The client has kept the server waiting too long.
    Waited(Awaited),
    HeadTooLarge,
    BareLineFeed,
    BodyWithoutContent,
}

/// What a client did wrong, for which it gets a refusal before its connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breach {
    /// The head of its request took longer than [`Limits::header_timeout`].
    HeadTooLate,
    /// The head was larger than [`Limits::header_bytes_max`].
    HeadTooLarge,
    /// A line of the head ends with a line feed alone.
    BareLineFeed,
    /// More than [`FRAMING_BYTES_MAX`] of a body were not content.
    BodyWithoutContent,
}

impl Lapse {
    /// What to refuse; nothing if the client has not asked for anything, or would not read the refusal.
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
