//! Recordings: finding out what they are, and reading them to the end at another rate.

use std::io::Cursor;

use tidemill::codec::{Beginning, Container};
use tidemill_recording::{Input, Opened, open};

/// A file of some KiB may hold hours of silence.
const SAMPLES_MAX: usize = 1 << 20;

pub(crate) fn run(data: &[u8]) {
    let _ = Container::of(data);
    let mut beginning = Beginning::default();
    for byte in data.iter().take(2 * Container::BYTES) {
        let _ = beginning.push(std::slice::from_ref(byte));
    }
    let Ok(Opened::Recording(mut recording)) = open(Input::Memory(Cursor::new(data.to_vec()))) else { return };
    let _ = (recording.describe(), recording.channels(), recording.samples_total());
    if recording.at_rate(16_000).is_err() {
        return;
    }
    let mut samples = 0;
    while let Ok(chunk) = recording.next_chunk(1_600) {
        if chunk.is_empty() || samples > SAMPLES_MAX {
            break;
        }
        assert_eq!(chunk.len() % 2, 0);
        samples += chunk.len() / 2;
    }
    let _ = recording.flaw().map(|flaw| flaw.to_string());
}
