//! Sound in the forms that clients send, as 16-bit samples at a model's rate.
//!
//! A [`Converter`] takes one mono stream in pieces of any size: where they are cut changes no sample. Filters are made once for each pair of
//! rates and shared by all streams that need them ([`filter`]).

mod converter;
mod filter;
mod format;

pub use converter::Converter;
pub use format::{SampleFormat, Sound};

/// Lowest and highest sample rate that is converted.
pub const RATES_HZ: std::ops::RangeInclusive<u32> = 8_000..=192_000;
