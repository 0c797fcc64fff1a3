//! How long a payload is, according to headers, as far as they can be trusted.

/// How long a payload is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// As long as its header says.
    Stated(u64),
    /// Its header says this, but may come from a program that cannot go back and write the real length.
    Placeholder(u64),
    /// To the end of the input.
    ToTheEnd,
}

impl Length {
    /// From here on, a 32-bit length has not been measured: sox writes this one to a pipe, arecord 0x80000000, ffmpeg 0xFFFFFFFF.
    const PLACEHOLDER_32_MIN: u64 = 0x7fff_f000;
    /// The same for 64-bit lengths.
    const PLACEHOLDER_64_MIN: u64 = 1 << 62;
    /// What writers of 64-bit lengths that compute in 32 bits put there, headers included.
    const PLACEHOLDER_32_WRITTEN_AS_64: [std::ops::RangeInclusive<u64>; 2] =
        [0x7fff_f000..=0x7fff_f080, 0xffff_ff00..=0xffff_ffff];

    /// A length of 32 bits.
    pub(super) fn of_32(stated: u32) -> Self {
        let stated = u64::from(stated);
        if stated == 0 || stated >= Self::PLACEHOLDER_32_MIN { Self::Placeholder(stated) } else { Self::Stated(stated) }
    }

    /// A length of 64 bits.
    pub(super) fn of_64(stated: u64) -> Self {
        let is_placeholder = stated == 0
            || stated >= Self::PLACEHOLDER_64_MIN
            || Self::PLACEHOLDER_32_WRITTEN_AS_64.iter().any(|range| range.contains(&stated));
        if is_placeholder { Self::Placeholder(stated) } else { Self::Stated(stated) }
    }
}
