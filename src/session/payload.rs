//! What a client says about its payload when a stream opens.

/// How a stream's items are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// Named tensors.
    Tensors,
    /// Mono 16-bit little-endian samples in chunks of any size.
    PcmS16le,
}

impl PayloadKind {
    /// The name that clients use for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensors => "tensors",
            Self::PcmS16le => "pcm_s16le",
        }
    }
}

/// What a client says about its raw audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PcmOptions {
    /// Samples per second; `None` if it does not say.
    pub sample_rate_hz: Option<u32>,
    /// Whether bytes that begin like a file are to be taken as samples.
    pub accept_container_bytes: bool,
}
