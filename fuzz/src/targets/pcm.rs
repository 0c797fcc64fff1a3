//! Windows of raw audio: however a feed is cut into chunks, its windows are the same.
//!
//! First three bytes: samples of a window, samples of context, and where chunks end.

use bytes::Bytes;
use tidemill::codec::{FramingRule, PcmFramer, Window};

pub(crate) fn run(data: &[u8]) {
    let [window, context, cut, audio @ ..] = data else { return };
    let rule = FramingRule::new(16_000, u32::from(*window) + 1, u32::from(*context)).expect("within the limits");
    let whole = windows(rule, [audio]);
    let size = usize::from(*cut) * 7 % 61 + 1;
    let pieces = windows(rule, audio.chunks(size));
    assert_eq!(whole, pieces);
    let samples = audio.len() / 2;
    let new: u64 = whole.iter().map(|window| window.position.end_sample - window.position.start_sample).sum();
    assert_eq!(new, samples as u64, "every sample is in one window");
}

fn windows<'a>(rule: FramingRule, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Window> {
    let mut framer = PcmFramer::new(rule);
    let mut found = Vec::new();
    for chunk in chunks {
        framer.push(Bytes::copy_from_slice(chunk));
        found.extend(std::iter::from_fn(|| framer.next_window()));
    }
    found.extend(framer.flush());
    let _ = framer.finish();
    found
}
