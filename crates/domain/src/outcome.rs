//! How items end and why batches close: closed sets, for ledgers and metric labels.

/// The one way an item ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered with outputs.
    Ok,
    /// Never admitted: the request was wrong or too large, or a shared limit was reached. Or the model's engine cannot compute
    /// with its numbers, which shows only when the call is assembled.
    Refused,
    /// Given up for newer items of its stream, as its overflow policy asks.
    Dropped,
    /// Its deadline passed, or could no longer be met, before its model call began; or, if it gets several answers, before the
    /// last.
    Expired,
    /// Its stream ended first.
    Cancelled,
    /// Its model call failed.
    Failed,
}

impl Outcome {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 6] = [Self::Ok, Self::Refused, Self::Dropped, Self::Expired, Self::Cancelled, Self::Failed];

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Why an item was given up in favour of others of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// A newer item arrived, and the stream keeps only a limited number waiting.
    Overflow,
    /// Its result would have been older than the stream's `max_age`.
    MaxAge,
    /// It could not be in its model's next call in time, but its successor can.
    Late,
}

impl DropReason {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Overflow, Self::MaxAge, Self::Late];

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::MaxAge => "max_age",
            Self::Late => "late",
        }
    }
}

/// Why a batch was closed at the size it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// A lane was free and took everything ready.
    LaneFree,
    /// The manifest's largest batch.
    Full,
    /// The largest number of bytes in a call.
    Bytes,
    /// More items per call would gain no throughput.
    Knee,
    /// More items would have made one in the batch miss its deadline.
    Deadline,
    /// The model's `max_delay` ran out.
    Delay,
    /// The next item has a different shape.
    Shape,
    /// A fair share, so that the other lanes have work too.
    Share,
    /// The server is draining.
    Drain,
    /// An item of a failed batch, run again alone.
    Retry,
}

impl CloseReason {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
        Self::LaneFree,
        Self::Full,
        Self::Bytes,
        Self::Knee,
        Self::Deadline,
        Self::Delay,
        Self::Shape,
        Self::Share,
        Self::Drain,
        Self::Retry,
    ];

    /// Metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::LaneFree => "lane_free",
            Self::Full => "full",
            Self::Bytes => "bytes",
            Self::Knee => "knee",
            Self::Deadline => "deadline",
            Self::Delay => "delay",
            Self::Shape => "shape",
            Self::Share => "share",
            Self::Drain => "drain",
            Self::Retry => "retry",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_the_tables() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
