//! Raw audio instead of tensors: what its chunks hold, and which answers are theirs.
//!
//! A server cuts chunks into the model's windows and answers windows, so a chunk may complete none, one or several. Knows nothing about how
//! chunks are sent.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use super::recorder::{Answer, End, Timing};

/// How many different chunks there are before they repeat.
const CHUNKS: usize = 16;

/// Largest chunk: what a message to a server may hold by default.
const CHUNK_BYTES_MAX: usize = 4 << 20;

const SAMPLE_RATE_HZ_MAX: u32 = 768_000;

/// Loudness of noise and tones, out of 32,767: faint, like [`Fill::Noise`](super::file::Fill::Noise).
const AMPLITUDE: i16 = 3_277;

/// The approximate pitch of the tone: it is tuned so that it continues without a break when the chunks repeat.
const TONE_HZ: f64 = 440.0;

/// The audio of a load: mono, 16 bits per sample.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pcm {
    #[serde(default)]
    sound: Sound,
    /// Length of a chunk; either this or `chunk_bytes` is given.
    chunk_ms: Option<f64>,
    /// Size of a chunk; may split a sample.
    chunk_bytes: Option<usize>,
    /// The model's.
    #[serde(default = "default_sample_rate_hz")]
    pub(crate) sample_rate_hz: u32,
}

/// The kind of sound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sound {
    /// Random, from the scenario's seed.
    #[default]
    Noise,
    Silence,
    Tone,
}

const fn default_sample_rate_hz() -> u32 {
    16_000
}

impl Pcm {
    pub(crate) fn chunk_bytes(&self) -> usize {
        match (self.chunk_bytes, self.chunk_ms) {
            (Some(bytes), _) => bytes,
            // Values that are not numbers, or too large, are checked after the cast.
            (None, Some(millis)) => (millis * f64::from(self.sample_rate_hz) / 1e3).round() as usize * size_of::<i16>(),
            (None, None) => 0,
        }
    }

    /// The faults in it, each with its key.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.chunk_ms.is_some() == self.chunk_bytes.is_some() {
            faults.push("pcm.chunk_ms and pcm.chunk_bytes: one of them is needed".to_owned());
        } else if !(1..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes()) {
            faults.push(format!("pcm: a chunk has {} bytes: 1 to {CHUNK_BYTES_MAX} is allowed", self.chunk_bytes()));
        }
        if !(1..=SAMPLE_RATE_HZ_MAX).contains(&self.sample_rate_hz) {
            faults.push(format!("pcm.sample_rate_hz = {}: 1 to {SAMPLE_RATE_HZ_MAX} is allowed", self.sample_rate_hz));
        }
        faults
    }

    /// The chunks of a stream; after the last one, the first follows again.
    pub(crate) fn chunks(&self, seed: u64) -> Vec<Bytes> {
        let (bytes, mut random) = (self.chunk_bytes(), fastrand::Rng::with_seed(seed));
        let samples = bytes * CHUNKS / size_of::<i16>();
        let seconds = samples as f64 / f64::from(self.sample_rate_hz);
        let turns = (TONE_HZ * seconds).round().max(1.0);
        let sample = |place: usize| match self.sound {
            Sound::Silence => 0,
            Sound::Noise => random.i16(-AMPLITUDE..=AMPLITUDE),
            Sound::Tone => {
                let turn = turns * place as f64 / samples as f64;
                ((turn * std::f64::consts::TAU).sin() * f64::from(AMPLITUDE)) as i16
            }
        };
        let mut audio: BytesMut = (0..samples).map(sample).flat_map(i16::to_le_bytes).collect();
        (0..CHUNKS).map(|_| audio.split_to(bytes).freeze()).collect()
    }
}

/// Finds the chunk that each answer is for.
///
/// A chunk that completes windows is answered with the last of them, and counts as many items. One that completes none has no item and no
/// latency, and is answered together with the next that does, well or badly.
#[derive(Debug)]
pub(crate) struct Chunks {
    chunk_bytes: u64,
    window_bytes: u64,
    /// The first chunk without an answer.
    next: u64,
    /// Windows of the current chunk that have outputs.
    items: u32,
    /// The first error of the current chunk.
    error: Option<End>,
}

impl Chunks {
    /// For windows with `window_bytes` new bytes.
    pub(crate) fn new(chunk_bytes: usize, window_bytes: u64) -> Self {
        Self { chunk_bytes: chunk_bytes.max(1) as u64, window_bytes: window_bytes.max(1), next: 0, items: 0, error: None }
    }

    /// How many chunks have to be in flight for a window to be complete.
    pub(crate) fn in_flight_min(&self) -> u64 {
        self.window_bytes.div_ceil(self.chunk_bytes)
    }

    /// Window number `window` has ended, in turn; `sent` chunks have been sent. Returns the chunks that this answers.
    pub(crate) fn answered(&mut self, window: u64, sent: u64, end: End, timing: Option<Timing>) -> Vec<Answer> {
        match end {
            End::Outputs => self.items += 1,
            error @ End::Error(_) => {
                self.error.get_or_insert(error);
            }
        }
        let window_end = window.saturating_add(1).saturating_mul(self.window_bytes);
        // The server pads the last window of a stream: its end lies beyond what was sent.
        let chunk = ((window_end - 1) / self.chunk_bytes).min(sent.saturating_sub(1));
        let chunk_end = (chunk + 1).saturating_mul(self.chunk_bytes);
        let completes_another = window_end.saturating_add(self.window_bytes) <= chunk_end;
        if completes_another || chunk < self.next {
            return Vec::new();
        }
        let end = self.error.take().unwrap_or(End::Outputs);
        let without = (self.next..chunk).map(|seq| Answer { seq, end: end.clone(), timing: None, items: 0 });
        let mut answers: Vec<_> = without.collect();
        answers.push(Answer { seq: chunk, end, timing, items: std::mem::take(&mut self.items) });
        self.next = chunk + 1;
        answers
    }

    /// The stream has ended well: what is left of the `sent` chunks completed no window, and is owed no answer.
    pub(crate) fn completed(&mut self, sent: u64) -> Vec<Answer> {
        let left = (self.next..sent).map(|seq| Answer { seq, end: End::Outputs, timing: None, items: 0 }).collect();
        self.next = sent;
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Pcm = Pcm { sound: Sound::Noise, chunk_ms: Some(20.0), chunk_bytes: None, sample_rate_hz: 16_000 };

    /// Which chunks are answered, with how many items, by each of `windows` windows.
    fn answers(chunk_bytes: usize, window_bytes: u64, windows: u64) -> Vec<Vec<(u64, u32)>> {
        let mut chunks = Chunks::new(chunk_bytes, window_bytes);
        let each = |window| chunks.answered(window, u64::MAX, End::Outputs, None);
        (0..windows).map(each).map(|answers| answers.iter().map(|answer| (answer.seq, answer.items)).collect()).collect()
    }

    #[test]
    fn a_chunk_of_a_window_is_answered_by_it() {
        assert_eq!(answers(1024, 1024, 3), [[(0, 1)], [(1, 1)], [(2, 1)]]);
    }

    #[test]
    fn small_chunks_without_a_window_wait_for_one_that_completes_it() {
        // Windows end at 1024, 2048 and 3072; chunks at 640, 1280, 1920, 2560 and 3200.
        assert_eq!(answers(640, 1024, 3), [vec![(0, 0), (1, 1)], vec![(2, 0), (3, 1)], vec![(4, 1)]]);
    }

    #[test]
    fn large_chunks_are_answered_by_the_last_window_that_they_complete() {
        // Chunks end at 2500, 5000 and 7500.
        assert_eq!(answers(2500, 1024, 7), [vec![], vec![(0, 2)], vec![], vec![(1, 2)], vec![], vec![], vec![(2, 3)]]);
    }

    #[test]
    fn an_error_is_that_of_all_chunks_of_its_window() {
        let mut chunks = Chunks::new(512, 1024);
        let lost = End::Error("ABORTED".into());
        let answers = chunks.answered(0, 2, lost.clone(), None);
        assert_eq!(answers.iter().map(|answer| &answer.end).collect::<Vec<_>>(), [&lost, &lost]);
        assert_eq!(chunks.answered(1, 4, End::Outputs, None)[0].end, End::Outputs, "the next is well again");
    }

    #[test]
    fn the_last_window_is_that_of_the_last_chunk_and_what_is_left_is_owed_none() {
        let mut chunks = Chunks::new(400, 1024);
        let seqs = |answers: Vec<Answer>| answers.iter().map(|answer| (answer.seq, answer.items)).collect::<Vec<_>>();
        assert_eq!(seqs(chunks.answered(0, 4, End::Outputs, None)), [(0, 0), (1, 0), (2, 1)]);
        assert_eq!(seqs(chunks.answered(1, 4, End::Outputs, None)), [(3, 1)], "filled up");
        assert_eq!(seqs(chunks.completed(6)), [(4, 0), (5, 0)]);
        assert_eq!(chunks.in_flight_min(), 3);
    }

    #[test]
    fn chunks_follow_from_the_seed_and_have_their_size() {
        assert_eq!(SECOND.chunk_bytes(), 640);
        assert!(SECOND.chunks(1).iter().all(|chunk| chunk.len() == 640));
        assert_eq!(SECOND.chunks(1), SECOND.chunks(1));
        assert_ne!(SECOND.chunks(1), SECOND.chunks(2));
        let silent = Pcm { sound: Sound::Silence, ..SECOND };
        assert!(silent.chunks(1).concat().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_tone_goes_on_where_the_chunks_begin_again() {
        for bytes in [641, 640, 3] {
            let tone = Pcm { sound: Sound::Tone, chunk_ms: None, chunk_bytes: Some(bytes), ..SECOND };
            let audio = tone.chunks(1).concat();
            let (samples, rest) = audio.as_chunks();
            let samples: Vec<i32> = samples.iter().map(|sample| i16::from_le_bytes(*sample).into()).collect();
            assert!(rest.is_empty());
            let steps = samples.iter().zip(samples.iter().cycle().skip(1)).map(|(one, next)| (next - one).abs());
            let turns = (TONE_HZ * samples.len() as f64 / 16_000.0).round().max(1.0);
            let steepest = f64::from(AMPLITUDE) * turns * std::f64::consts::TAU / samples.len() as f64;
            assert!(steps.max().is_some_and(|step| f64::from(step) <= steepest + 2.0), "{bytes}");
            assert!(samples.iter().any(|sample| sample.abs() > i32::from(AMPLITUDE) / 2), "{bytes}");
        }
    }
}
