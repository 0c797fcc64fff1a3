//! Turns raw payloads into items on the way in, and model outputs into segments on the way out.
//!
//! Pure: bytes or numbers in, plain values out. Knows no model, no stream, no protocol and no clock; the caller decides how much is
//! buffered and when a feed ends.

mod container;
mod digest;
mod pcm;
mod segments;
mod sound;

pub use container::{Beginning, Container};
pub use digest::{PayloadDigest, PayloadExpectation, Received};
pub use pcm::{FramingRule, PcmFramer, Window, WindowPosition};
pub use segments::{Segment, SegmentEvent, SegmentEvents, SegmentFinder, SegmentRules};
pub use sound::{Converter, SampleFormat, Sound};
