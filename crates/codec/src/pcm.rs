//! Cuts raw 16-bit audio into the model's windows.
//!
//! Chunks come in at any size, even cut within a sample; windows go out as FP32 tensors of `[context + window]` samples. Knows nothing
//! about how many windows may be in flight: samples are converted when a window is asked for, so a caller that asks for none holds what it
//! pushed and no more.

use std::{collections::VecDeque, mem};

use bytes::{Buf as _, Bytes, BytesMut};
use smallvec::smallvec;
use tidemill_domain::{Datatype, Fault, Tensor};

const SAMPLE_BYTES: usize = size_of::<i16>();
const VALUE_BYTES: usize = size_of::<f32>();

/// A block is what one window may keep in memory: the window's own bytes are a slice of it.
const BLOCK_WINDOWS_MAX: usize = 32;
/// The same for long windows; a window longer than this is a separate block.
const BLOCK_SAMPLES_MAX: usize = 64 * 1024;

/// A smaller chunk costs less to copy than to keep.
const SMALL_CHUNK_BYTES: usize = 2 * 1024;
/// When the copies of small chunks become a chunk themselves, so that growing them stays linear.
const TAIL_BYTES_MAX: usize = 8 * 1024;

/// How a raw payload becomes items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramingRule {
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// New samples per window; at least 1.
    pub window_samples: u32,
    /// Earlier samples that precede the new ones in the model's input; may be 0.
    pub context_samples: u32,
}

impl FramingRule {
    /// Highest sample rate.
    pub const SAMPLE_RATE_HZ_MAX: u32 = 768_000;
    /// Longest window, and longest context.
    const WINDOW_SAMPLES_MAX: u32 = 1 << 20;

    /// A rule within its limits.
    ///
    /// # Errors
    /// All faults in one sentence, each with the key, its value and its limits.
    pub fn new(sample_rate_hz: u32, window_samples: u32, context_samples: u32) -> Result<Self, String> {
        let limits = [
            ("sample_rate_hz", sample_rate_hz, 1, Self::SAMPLE_RATE_HZ_MAX),
            ("window_samples", window_samples, 1, Self::WINDOW_SAMPLES_MAX),
            ("context_samples", context_samples, 0, Self::WINDOW_SAMPLES_MAX),
        ];
        let faults: Vec<String> = limits
            .into_iter()
            .filter(|(_, value, least, most)| !(least..=most).contains(&value))
            .map(|(key, value, least, most)| format!("{key} is {value}; it must be {least} to {most}"))
            .collect();
        if faults.is_empty() { Ok(Self { sample_rate_hz, window_samples, context_samples }) } else { Err(faults.join(", and ")) }
    }
}

/// Where a window is in its feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowPosition {
    /// Number of the window, from 0.
    pub index: u64,
    /// First new sample.
    pub start_sample: u64,
    /// One past the last sample; for a padded window, one past the last that was sent.
    pub end_sample: u64,
}

/// One item cut out of a raw payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// FP32 of shape `[context + window]`, each value a sample divided by 32768.
    pub tensor: Tensor,
    /// Where it is in the feed.
    pub position: WindowPosition,
}

/// Cuts one feed of mono signed 16-bit little-endian samples into overlapping windows.
///
/// Window `k` holds `context_samples` samples from before it (zeros before the feed began), then its new ones. After a
/// [flush](Self::flush) the next window begins at the next sample sent; padding never becomes context.
#[derive(Debug)]
pub struct PcmFramer {
    window_samples: usize,
    block_windows_max: usize,
    queue: ByteQueue,
    /// Context, then whole windows not handed out yet; empty if there is none.
    block: Bytes,
    /// The last samples converted, as FP32. A copy: a slice would keep the block for as long as the feed is idle.
    context: Box<[u8]>,
    next_index: u64,
    next_sample: u64,
    total_bytes: u64,
}

impl PcmFramer {
    /// A feed that has not begun.
    #[must_use]
    pub fn new(rule: FramingRule) -> Self {
        // A rule assembled by hand may hold a 0, which would mean endless windows.
        let window_samples = rule.window_samples.max(1) as usize;
        Self {
            window_samples,
            block_windows_max: (BLOCK_SAMPLES_MAX / window_samples).clamp(1, BLOCK_WINDOWS_MAX),
            queue: ByteQueue::default(),
            block: Bytes::new(),
            context: vec![0; rule.context_samples as usize * VALUE_BYTES].into(),
            next_index: 0,
            next_sample: 0,
            total_bytes: 0,
        }
    }

    /// Takes in the next bytes of the feed, however many.
    pub fn push(&mut self, chunk: Bytes) {
        self.total_bytes = self.total_bytes.saturating_add(chunk.len() as u64);
        self.queue.push(chunk);
    }

    /// The next full window, if there is one.
    pub fn next_window(&mut self) -> Option<Window> {
        if self.block.is_empty() {
            let windows = (self.queue.samples() / self.window_samples).min(self.block_windows_max);
            if windows == 0 {
                return None;
            }
            self.block = self.convert(windows * self.window_samples, 0);
        }
        let tensor_bytes = self.context.len() + self.window_samples * VALUE_BYTES;
        let data = if self.block.len() == tensor_bytes {
            mem::take(&mut self.block)
        } else {
            let data = self.block.slice(..tensor_bytes);
            self.block.advance(self.window_samples * VALUE_BYTES);
            data
        };
        Some(self.place(data, self.window_samples))
    }

    /// The rest of the feed so far, zero-padded to a full window, if a whole sample is left. An odd byte stays for the next
    /// chunk. Full windows that were not asked for come first, so calling until `None` always empties the framer.
    pub fn flush(&mut self) -> Option<Window> {
        if self.has_window() {
            return self.next_window();
        }
        let rest = self.queue.samples();
        if rest == 0 {
            return None;
        }
        let data = self.convert(rest, self.window_samples - rest);
        Some(self.place(data, rest))
    }

    /// Checks that the feed ended between two samples.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](tidemill_domain::FaultKind::Invalid) with the field `chunk`, if it has an odd number of bytes.
    pub fn finish(&self) -> Result<(), Fault> {
        if self.total_bytes.is_multiple_of(SAMPLE_BYTES as u64) {
            return Ok(());
        }
        Err(Fault::invalid(
            "chunk",
            format!("the payload has {} bytes, which is odd; 16-bit samples take two bytes each", self.total_bytes),
        ))
    }

    /// Whole samples pushed so far, whether or not they were handed out.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.total_bytes / SAMPLE_BYTES as u64
    }

    /// Bytes pushed and not yet handed out in a window.
    #[cfg(test)]
    fn buffered_bytes(&self) -> usize {
        let converted = self.block.len().saturating_sub(self.context.len()) / VALUE_BYTES;
        self.queue.bytes + converted * SAMPLE_BYTES
    }

    /// Whether [`next_window`](Self::next_window) has one.
    fn has_window(&self) -> bool {
        !self.block.is_empty() || self.queue.samples() >= self.window_samples
    }

    /// The next `samples` samples as FP32, after their context and before `padding` zeros.
    fn convert(&mut self, samples: usize, padding: usize) -> Bytes {
        let context_bytes = self.context.len();
        let end = context_bytes + samples * VALUE_BYTES;
        let mut block = vec![0; end + padding * VALUE_BYTES];
        block[..context_bytes].copy_from_slice(&self.context);
        self.queue.take(block[context_bytes..end].as_chunks_mut().0);
        self.context.copy_from_slice(&block[end - context_bytes..end]);
        if self.queue.samples() < self.window_samples {
            self.queue.detach();
        }
        block.into()
    }

    fn place(&mut self, data: Bytes, new_samples: usize) -> Window {
        let position = WindowPosition {
            index: self.next_index,
            start_sample: self.next_sample,
            end_sample: self.next_sample + new_samples as u64,
        };
        self.next_index += 1;
        self.next_sample = position.end_sample;
        let tensor =
            Tensor::new(Datatype::Fp32, smallvec![data.len() / VALUE_BYTES], data).expect("the shape was computed from the data");
        Window { tensor, position }
    }
}

/// Bytes in order of arrival: large chunks as they came, small ones copied together.
#[derive(Debug, Default)]
struct ByteQueue {
    chunks: VecDeque<Bytes>,
    /// The bytes after the last of `chunks`.
    tail: BytesMut,
    bytes: usize,
}

impl ByteQueue {
    const fn samples(&self) -> usize {
        self.bytes / SAMPLE_BYTES
    }

    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        if chunk.len() < SMALL_CHUNK_BYTES {
            self.tail.extend_from_slice(&chunk);
            if self.tail.len() >= TAIL_BYTES_MAX {
                self.seal_tail();
            }
        } else {
            self.seal_tail();
            self.chunks.push_back(chunk);
        }
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(mem::take(&mut self.tail).freeze());
        }
    }

    /// Converts the next samples into `values`. The caller asks for no more than there are; what is missing would stay zero.
    fn take(&mut self, mut values: &mut [[u8; VALUE_BYTES]]) {
        while !values.is_empty() {
            let front: &[u8] = self.chunks.front().map_or(&self.tail, |chunk| chunk);
            let samples = front.as_chunks::<SAMPLE_BYTES>().0;
            let count = samples.len().min(values.len());
            if count > 0 {
                for (value, sample) in values.iter_mut().zip(samples) {
                    *value = converted(*sample);
                }
                values = &mut values[count..];
                self.skip(count * SAMPLE_BYTES);
            } else {
                // The next sample is split between two chunks, or its second half has not come.
                let (Some(low), Some(high)) = (self.take_byte(), self.take_byte()) else { return };
                values[0] = converted([low, high]);
                values = &mut values[1..];
            }
        }
    }

    fn take_byte(&mut self) -> Option<u8> {
        let byte = *self.chunks.front().map_or(&self.tail[..], |chunk| chunk).first()?;
        self.skip(1);
        Some(byte)
    }

    /// Drops `count` bytes, which the front chunk holds.
    fn skip(&mut self, count: usize) {
        self.bytes -= count;
        match self.chunks.front_mut() {
            Some(front) if front.len() > count => front.advance(count),
            Some(_) => drop(self.chunks.pop_front()),
            None => self.tail.advance(count),
        }
    }

    /// Copies what remains out of its chunks: the few bytes after the last window must not keep a large message alive.
    fn detach(&mut self) {
        if self.chunks.is_empty() {
            return;
        }
        let mut rest = BytesMut::with_capacity(self.bytes);
        for chunk in self.chunks.drain(..) {
            rest.extend_from_slice(&chunk);
        }
        rest.extend_from_slice(&self.tail);
        self.tail = rest;
    }
}

/// Exact: the divisor is a power of two.
fn converted(sample: [u8; SAMPLE_BYTES]) -> [u8; VALUE_BYTES] {
    (f32::from(i16::from_le_bytes(sample)) * (1.0 / 32768.0)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use tidemill_domain::FaultKind;

    fn framer(window_samples: u32, context_samples: u32) -> PcmFramer {
        PcmFramer::new(FramingRule::new(16_000, window_samples, context_samples).expect("within limits"))
    }

    /// Samples 1, 2, 3 and so on, `count` of them.
    fn ramp(count: i16) -> Bytes {
        (1..=count).flat_map(i16::to_le_bytes).collect()
    }

    fn values(window: &Window) -> Vec<f32> {
        window.tensor.iter_f32().expect("an FP32 tensor").map(|value| value * 32768.0).collect()
    }

    fn position(index: u64, start_sample: u64, end_sample: u64) -> WindowPosition {
        WindowPosition { index, start_sample, end_sample }
    }

    #[test]
    fn a_window_is_its_context_and_its_new_samples() {
        let mut framer = framer(4, 2);
        framer.push(ramp(9));
        let windows: Vec<Window> = std::iter::from_fn(|| framer.next_window()).collect();
        assert_eq!(windows.len(), 2);
        assert_eq!(values(&windows[0]), [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(values(&windows[1]), [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(windows[1].position, position(1, 4, 8));
        assert_eq!((framer.samples(), framer.buffered_bytes(), framer.has_window()), (9, 2, false));
    }

    #[test]
    fn the_extremes_of_a_sample_are_minus_one_and_just_under_one() {
        let mut framer = framer(3, 0);
        framer.push([i16::MIN, 0, i16::MAX].into_iter().flat_map(i16::to_le_bytes).collect());
        let window = framer.next_window().expect("three samples");
        assert_eq!(window.tensor, Tensor::from_f32(&[-1.0, 0.0, 32767.0 / 32768.0]));
    }

    #[test]
    fn a_flush_pads_with_zeros_that_never_become_context() {
        let mut framer = framer(4, 2);
        framer.push(ramp(5));
        framer.next_window().expect("a full window");
        let padded = framer.flush().expect("one sample");
        assert_eq!(values(&padded), [3.0, 4.0, 5.0, 0.0, 0.0, 0.0]);
        assert_eq!(padded.position, position(1, 4, 5));
        assert_eq!(framer.flush(), None);

        framer.push(ramp(4));
        let next = framer.next_window().expect("a full window");
        assert_eq!(values(&next), [4.0, 5.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(next.position, position(2, 5, 9));
    }

    #[test]
    fn a_flush_hands_out_full_windows_first() {
        let mut framer = framer(4, 0);
        framer.push(ramp(9));
        let ends: Vec<u64> = std::iter::from_fn(|| framer.flush()).map(|window| window.position.end_sample).collect();
        assert_eq!(ends, [4, 8, 9]);
    }

    #[test]
    fn an_odd_byte_survives_a_flush_and_fails_the_end() {
        let mut framer = framer(4, 0);
        framer.push(Bytes::from_static(&[1, 0, 2]));
        assert_eq!(values(&framer.flush().expect("one sample")), [1.0, 0.0, 0.0, 0.0]);
        let fault = framer.finish().expect_err("3 bytes");
        assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("chunk")));
        assert!(fault.message().contains("3 bytes"), "{fault}");

        framer.push(Bytes::from_static(&[0]));
        assert_eq!(values(&framer.flush().expect("the other sample")), [2.0, 0.0, 0.0, 0.0]);
        assert_eq!(framer.finish(), Ok(()));
    }

    #[test]
    fn overlapping_windows_are_slices_of_a_block_of_at_most_32() {
        let mut framer = framer(512, 64);
        framer.push(Bytes::from(vec![0; 40 * 1024]));
        let windows: Vec<Window> = std::iter::from_fn(|| framer.next_window()).collect();
        assert_eq!(windows.len(), 40);
        let neighbours: Vec<bool> = windows
            .windows(2)
            .map(|pair| pair[0].tensor.data().as_ptr().wrapping_add(512 * 4) == pair[1].tensor.data().as_ptr())
            .collect();
        assert_eq!(neighbours.iter().position(|shared| !shared), Some(31), "window 32 is the first of the second block");
        assert_eq!(neighbours.iter().filter(|shared| !**shared).count(), 1);
    }

    #[test]
    fn long_windows_make_shorter_blocks() {
        assert_eq!(framer(512, 64).block_windows_max, 32);
        assert_eq!(framer(30_000, 0).block_windows_max, 2);
        assert_eq!(framer(FramingRule::WINDOW_SAMPLES_MAX, 0).block_windows_max, 1);
    }

    #[test]
    fn tiny_chunks_are_copied_together() {
        let mut framer = framer(512, 64);
        for _ in 0..100_000 {
            framer.push(Bytes::from_static(&[1]));
        }
        assert_eq!(framer.queue.chunks.len(), 100_000 / TAIL_BYTES_MAX);
        assert_eq!(framer.buffered_bytes(), 100_000);
    }

    #[test]
    fn the_rest_after_the_last_window_does_not_keep_a_large_chunk_alive() {
        struct Message(Vec<u8>, #[expect(dead_code, reason = "its count shows whether the message is still alive")] Arc<()>);
        impl AsRef<[u8]> for Message {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let alive = Arc::new(());
        let mut framer = framer(512, 64);
        framer.push(Bytes::from_owner(Message(vec![7; 100_001], Arc::clone(&alive))));
        assert_eq!(Arc::strong_count(&alive), 2);
        while framer.next_window().is_some() {}
        assert_eq!(Arc::strong_count(&alive), 1);
        assert_eq!(framer.buffered_bytes(), 100_001 % 1024);
    }

    #[test]
    fn a_rule_beyond_its_limits_is_refused_with_every_key() {
        assert!(FramingRule::new(16_000, 512, 0).is_ok());
        let message = FramingRule::new(0, 0, FramingRule::WINDOW_SAMPLES_MAX + 1).expect_err("all three");
        for part in ["sample_rate_hz is 0", "window_samples is 0", "context_samples is 1048577; it must be 0 to 1048576"] {
            assert!(message.contains(part), "{message}");
        }
        let by_hand = FramingRule { sample_rate_hz: 0, window_samples: 0, context_samples: 0 };
        let mut framer = PcmFramer::new(by_hand);
        assert_eq!(framer.next_window(), None);
    }

    /// What a caller may do between the beginning and the end of a feed.
    #[derive(Debug, Clone)]
    enum Step {
        Push(Vec<u8>),
        Next,
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Step::Push),
            1 => prop::collection::vec(any::<u8>(), 2_000..5_000).prop_map(Step::Push),
            4 => Just(Step::Next),
            1 => Just(Step::Flush),
        ]
    }

    /// Keeps every sample of the feed and cuts each window out of the whole.
    struct Naive {
        window: usize,
        context: usize,
        bytes: Vec<u8>,
        windows: u64,
        done: usize,
    }

    impl Naive {
        fn next(&mut self, least: usize) -> Option<Window> {
            let samples: Vec<f32> =
                self.bytes.chunks_exact(2).map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32768.0).collect();
            let new = self.window.min(samples.len() - self.done);
            if new < least {
                return None;
            }
            let end = self.done + new;
            let mut values = vec![0.0; self.context];
            values.extend(&samples[..end]);
            values.drain(..self.done);
            values.resize(self.context + self.window, 0.0);
            let position = position(self.windows, self.done as u64, end as u64);
            self.windows += 1;
            self.done = end;
            Some(Window { tensor: Tensor::from_f32(&values), position })
        }
    }

    proptest! {
        #[test]
        fn any_steps_give_the_windows_of_the_naive_framer(
            window in 1_u32..40,
            context in 0_u32..60,
            steps in prop::collection::vec(step(), 0..40),
        ) {
            let mut framer = framer(window, context);
            let mut naive = Naive { window: window as usize, context: context as usize, bytes: Vec::new(), windows: 0, done: 0 };
            for step in steps.into_iter().chain([Step::Next, Step::Flush]) {
                match step {
                    Step::Push(chunk) => {
                        naive.bytes.extend(&chunk);
                        framer.push(chunk.into());
                    }
                    Step::Next => prop_assert_eq!(framer.next_window(), naive.next(naive.window)),
                    Step::Flush => prop_assert_eq!(framer.flush(), naive.next(1)),
                }
                prop_assert_eq!(framer.buffered_bytes(), naive.bytes.len() - 2 * naive.done);
                prop_assert_eq!(framer.samples(), naive.bytes.len() as u64 / 2);
                prop_assert_eq!(framer.has_window(), naive.bytes.len() / 2 - naive.done >= naive.window);
                prop_assert_eq!(framer.finish().is_ok(), naive.bytes.len().is_multiple_of(2));
            }
        }

        #[test]
        fn any_chunking_gives_the_same_windows(
            payload in prop::collection::vec(any::<u8>(), 0..20_000),
            sizes in prop::collection::vec(prop_oneof![0_usize..5, 0_usize..5_000], 1..50),
        ) {
            let mut whole = framer(64, 16);
            whole.push(payload.clone().into());
            let mut chunked = framer(64, 16);
            let mut rest = Bytes::from(payload);
            let mut windows = Vec::new();
            for size in sizes {
                chunked.push(rest.split_to(size.min(rest.len())));
                windows.extend(std::iter::from_fn(|| chunked.next_window()));
            }
            chunked.push(rest);
            windows.extend(std::iter::from_fn(|| chunked.flush()));
            prop_assert_eq!(windows, std::iter::from_fn(|| whole.flush()).collect::<Vec<_>>());
        }
    }
}
