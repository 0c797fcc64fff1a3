//! Sound to send: a recording of speech if there is a folder of them, otherwise a hum that the model responds to as well.

use std::{env, path::PathBuf};

use bytes::Bytes;

use tidemill::proto::v1::Item;

use crate::serving::item;

const RATE_HZ: u32 = 16_000;
const WINDOW: usize = 512;
const CONTEXT: usize = 64;

/// Names the folder of recordings.
const FOLDER_VARIABLE: &str = "TIDEMILL_TEST_ASSETS";
const RECORDING: &str = "sense_and_sensibility_01_austen_64kb-0880.wav";

/// This many samples at 16 kHz; each `stream` gets its own.
pub(crate) fn sound(samples: usize, stream: usize) -> Vec<i16> {
    let recorded = env::var_os(FOLDER_VARIABLE).map(|folder| recording(PathBuf::from(folder).join(RECORDING)));
    recorded.map_or_else(|| hum(samples, stream), |recorded| part(&recorded, samples, stream))
}

/// Little-endian bytes.
pub(crate) fn bytes(samples: &[i16]) -> Bytes {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// `samples` as the server's framing cuts them: windows with their context in front, the last one padded.
pub(crate) fn windows(samples: &[i16]) -> Vec<Item> {
    let mut padded = vec![0.0_f32; CONTEXT];
    padded.extend(samples.iter().map(|sample| f32::from(*sample) / 32_768.0));
    let count = samples.len().div_ceil(WINDOW);
    padded.resize(CONTEXT + count * WINDOW, 0.0);
    (0..count).map(|index| item("", &padded[index * WINDOW..][..CONTEXT + WINDOW])).collect()
}

fn recording(path: PathBuf) -> Vec<i16> {
    let reader = hound::WavReader::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let spec = reader.spec();
    assert_eq!((spec.sample_rate, spec.channels), (RATE_HZ, 1), "{}", path.display());
    reader.into_samples().map(|sample| sample.expect("16-bit samples")).collect()
}

/// Begins at a different place for each stream, and starts over where the recording ends.
fn part(recorded: &[i16], samples: usize, stream: usize) -> Vec<i16> {
    recorded.iter().cycle().skip(stream * 997 % recorded.len()).take(samples).copied().collect()
}

/// A voice-like hum with overtones that swells and fades, at the stream's own pitch.
fn hum(samples: usize, stream: usize) -> Vec<i16> {
    let pitch_hz = 110.0 + 7.0 * stream as f32;
    (0..samples)
        .map(|at| {
            let time = at as f32 / RATE_HZ as f32;
            let phase = time * pitch_hz * std::f32::consts::TAU;
            let voice = phase.sin() + 0.5 * (2.0 * phase).sin() + 0.3 * (3.0 * phase).sin() + 0.2 * (11.0 * phase).sin();
            (voice * (time * 9.0).sin() * 6_000.0) as i16
        })
        .collect()
}
