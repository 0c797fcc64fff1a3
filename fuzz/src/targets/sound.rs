//! Audio of any rate and format: however it is cut into chunks, the same comes out, and as much as its length says.
//!
//! First six bytes: format, rate, the model's rate, and where chunks end.

use tidemill::codec::{Converter, SampleFormat, Sound};

pub(crate) fn run(data: &[u8]) {
    let [format, low, middle, high, to, cut, audio @ ..] = data else { return };
    let format = SampleFormat::ALL[usize::from(*format) % SampleFormat::ALL.len()];
    let rate_hz = u32::from_le_bytes([*low, *middle, *high, 0]);
    let to_hz = [8_000, 16_000, 48_000, 22_050][usize::from(*to) % 4];
    let from = Sound { format, rate_hz };
    let Some(whole) = converted(from, to_hz, [audio]) else { return };
    let size = usize::from(*cut) * 7 % 61 + 1;
    assert_eq!(converted(from, to_hz, audio.chunks(size)).as_ref(), Some(&whole));
    let samples = (audio.len() / format.sample_bytes()) as u64;
    assert_eq!(whole.len() as u64, 2 * from.samples_at(to_hz, samples));
}

/// `None` if the rates are out of range, or a float is no sample.
fn converted<'a>(from: Sound, to_hz: u32, chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut converter = Converter::new(from, to_hz).ok()?;
    let mut output = Vec::new();
    for chunk in chunks {
        output.extend_from_slice(&converter.push(chunk).ok()?);
    }
    output.extend_from_slice(&converter.flush());
    let _ = converter.check_end();
    Some(output)
}
