//! Memory for batches: aligned buffers, and a bounded pool to which shared output bytes return.
//!
//! Knows only bytes: no tensors, no engines.

use std::{
    collections::VecDeque,
    mem,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;
use parking_lot::Mutex;

/// Where buffers start: a cache line, and the widest vector register of today's processors.
pub(crate) const ALIGNMENT: usize = 64;

/// Requests below this size may be served with a buffer of up to this size times [`WASTE_MAX`].
const SMALL_BYTES: usize = 4096;

/// A pooled buffer is at most this many times as large as what was requested.
const WASTE_MAX: usize = 4;

/// A buffer of this size is kept whether it is used or not.
const KEPT_BYTES: usize = 64 << 10;

/// A growable byte buffer that starts at a multiple of [`ALIGNMENT`] bytes.
#[derive(Debug)]
pub struct AlignedBuffer {
    /// Initialised bytes; those from `len` on are left over from earlier use.
    bytes: AVec<u8, ConstAlign<ALIGNMENT>>,
    len: usize,
    /// The longest that it was since it was last trimmed.
    longest: usize,
}

impl AlignedBuffer {
    /// An empty buffer that holds `capacity` bytes before it grows.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: AVec::with_capacity(ALIGNMENT, capacity), len: 0, longest: 0 }
    }

    /// Bytes that fit before it grows.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Empties the buffer but keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.len = 0;
    }

    /// Appends `more`.
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        self.bytes.truncate(self.len);
        self.bytes.extend_from_slice(more);
        self.len = self.bytes.len();
        self.longest = self.longest.max(self.len);
    }

    /// Makes the buffer `len` bytes long, for a caller that writes every one of them: what they hold is left over from earlier
    /// use, so that a buffer in steady use is never filled with zeros first.
    pub fn overwrite(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        self.len = len;
        self.longest = self.longest.max(len);
        &mut self.bytes[..len]
    }

    /// Gives up its content, and its memory too if that is far more than anything needed since this was last called.
    pub fn trim(&mut self) {
        let longest = mem::take(&mut self.longest);
        if self.capacity() > longest.saturating_mul(WASTE_MAX).max(KEPT_BYTES) {
            *self = Self::default();
        }
    }
}

impl Default for AlignedBuffer {
    /// An empty buffer without memory.
    fn default() -> Self {
        Self { bytes: AVec::new(ALIGNMENT), len: 0, longest: 0 }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// Buffers that come back when the last [`Bytes`] made from them is dropped.
///
/// Both limits hold at all times; the least recently used of the retained buffers leaves first, and so do those that are
/// [no longer used](BufferPool::trim).
#[derive(Debug)]
pub(crate) struct BufferPool {
    retained: Mutex<Retained>,
    buffers_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Retained {
    /// In the order in which they came back.
    buffers: VecDeque<Unused>,
    bytes: usize,
    /// How often the pool was trimmed.
    round: u64,
}

#[derive(Debug)]
struct Unused {
    buffer: AlignedBuffer,
    /// The round in which it came back.
    since: u64,
}

impl BufferPool {
    /// A pool that retains at most `buffers_max` unused buffers with at most `bytes_max` bytes in all.
    #[must_use]
    pub(crate) fn new(buffers_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { retained: Mutex::default(), buffers_max, bytes_max })
    }

    /// An empty buffer with room for `capacity` bytes: the tightest retained one, or a new one.
    #[must_use]
    pub(crate) fn take(self: &Arc<Self>, capacity: usize) -> PooledBuffer {
        let mut buffer = self.take_retained(capacity).unwrap_or_else(|| AlignedBuffer::with_capacity(capacity));
        buffer.len = 0;
        PooledBuffer { buffer, pool: Arc::clone(self) }
    }

    fn take_retained(&self, capacity: usize) -> Option<AlignedBuffer> {
        let wanted = capacity..=capacity.max(SMALL_BYTES).saturating_mul(WASTE_MAX);
        let mut retained = self.retained.lock();
        let capacities = retained.buffers.iter().map(|unused| unused.buffer.capacity()).enumerate();
        let (index, _) = capacities.filter(|(_, capacity)| wanted.contains(capacity)).min_by_key(|(_, capacity)| *capacity)?;
        let Unused { buffer, .. } = retained.buffers.remove(index)?;
        retained.bytes -= buffer.capacity();
        Some(buffer)
    }

    fn give_back(&self, buffer: AlignedBuffer) {
        let capacity = buffer.capacity();
        if capacity == 0 || capacity > self.bytes_max || self.buffers_max == 0 {
            return;
        }
        let mut retained = self.retained.lock();
        while retained.buffers.len() >= self.buffers_max || retained.bytes > self.bytes_max - capacity {
            let Some(oldest) = retained.buffers.pop_front() else { break };
            retained.bytes -= oldest.buffer.capacity();
        }
        retained.bytes += capacity;
        let since = retained.round;
        retained.buffers.push_back(Unused { buffer, since });
    }

    /// Lets go of the buffers that nobody took between the last two calls of this.
    pub(crate) fn trim(&self) {
        let mut retained = self.retained.lock();
        let round = retained.round;
        let stale = retained.buffers.iter().take_while(|unused| unused.since < round).count();
        let stale: Vec<_> = retained.buffers.drain(..stale).collect();
        retained.bytes -= stale.iter().map(|unused| unused.buffer.capacity()).sum::<usize>();
        retained.round += 1;
        // Their memory is given back once the lock is.
        drop(retained);
    }
}

/// A buffer on loan from a [`BufferPool`]; dropping it returns it.
#[derive(Debug)]
pub(crate) struct PooledBuffer {
    buffer: AlignedBuffer,
    pool: Arc<BufferPool>,
}

impl PooledBuffer {
    /// The content as shared bytes, without a copy; the memory returns to the pool when the last of them is dropped.
    #[must_use]
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Deref for PooledBuffer {
    type Target = AlignedBuffer;

    fn deref(&self) -> &AlignedBuffer {
        &self.buffer
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut AlignedBuffer {
        &mut self.buffer
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.pool.give_back(mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retained(pool: &BufferPool) -> (usize, usize) {
        let retained = pool.retained.lock();
        assert_eq!(retained.bytes, retained.buffers.iter().map(|unused| unused.buffer.capacity()).sum::<usize>());
        (retained.buffers.len(), retained.bytes)
    }

    #[test]
    fn buffers_start_aligned_however_they_grow() {
        let mut buffer = AlignedBuffer::default();
        for size in [1, 63, 64, 65, 5000] {
            buffer.clear();
            buffer.extend_from_slice(&vec![7; size]);
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!(buffer[..], vec![7; size]);
        }
    }

    #[test]
    fn overwriting_keeps_old_bytes_and_appending_follows_the_new_end() {
        let mut buffer = AlignedBuffer::default();
        buffer.extend_from_slice(b"abcdef");
        assert_eq!(buffer.overwrite(2), b"ab");
        assert_eq!(buffer.overwrite(4), b"abcd");
        buffer.extend_from_slice(b"X");
        assert_eq!(buffer[..], *b"abcdX");
        assert_eq!(buffer.overwrite(7), b"abcdX\0\0");
    }

    #[test]
    fn memory_comes_back_when_the_last_slice_is_dropped() {
        let pool = BufferPool::new(4, 1 << 20);
        let mut buffer = pool.take(100);
        buffer.extend_from_slice(b"0123456789");
        let address = buffer.as_ptr();
        let bytes = buffer.freeze();
        let tail = bytes.slice(8..);
        drop(bytes);
        assert_eq!(retained(&pool).0, 0);
        assert_eq!(tail, "89");
        drop(tail);
        assert_eq!(retained(&pool).0, 1);
        let again = pool.take(100);
        assert_eq!(again.as_ptr(), address);
        assert!(again.is_empty());
    }

    #[test]
    fn a_request_is_served_by_the_tightest_buffer_that_is_not_wastefully_large() {
        let pool = BufferPool::new(4, 1 << 30);
        let sizes = [100_000, 6_000, 9_000];
        let taken: Vec<_> = sizes.iter().map(|size| pool.take(*size)).collect();
        drop(taken);
        assert_eq!(pool.take(5_000).capacity(), 6_000);
        assert_eq!(pool.take(8_000).capacity(), 9_000);
        assert_eq!(pool.take(10).capacity(), 6_000);
        assert_eq!(pool.take(20_000).capacity(), 20_000);
    }

    #[test]
    fn limits_hold_and_the_least_recently_used_leaves_first() {
        let pool = BufferPool::new(2, 300);
        let (a, b, c) = (pool.take(64), pool.take(128), pool.take(192));
        drop(pool.take(301));
        assert_eq!(retained(&pool), (0, 0), "larger than the whole pool");
        drop(a);
        drop(b);
        assert_eq!(retained(&pool), (2, 192));
        drop(c);
        assert_eq!(retained(&pool), (1, 192), "the two older ones had to go");
    }

    #[test]
    fn what_a_large_batch_took_goes_once_there_are_only_small_ones() {
        let mut buffer = AlignedBuffer::default();
        buffer.overwrite(8 * KEPT_BYTES).fill(1);
        buffer.trim();
        assert!(buffer.capacity() >= 8 * KEPT_BYTES, "it was needed");
        buffer.overwrite(3 * KEPT_BYTES);
        buffer.trim();
        assert!(buffer.capacity() >= 8 * KEPT_BYTES, "it is not much larger than what was needed");
        buffer.overwrite(KEPT_BYTES);
        buffer.trim();
        assert_eq!(buffer.capacity(), 0);
        buffer.overwrite(KEPT_BYTES / 2);
        buffer.trim();
        buffer.trim();
        assert!(buffer.capacity() >= KEPT_BYTES / 2, "so little is kept, used or not");
    }

    #[test]
    fn pooled_buffers_that_nobody_takes_go() {
        let pool = BufferPool::new(4, 1 << 20);
        let (a, b) = (pool.take(100), pool.take(6_000));
        drop((a, b));
        pool.trim();
        assert_eq!(retained(&pool), (2, 6_100), "they have just come back");
        drop(pool.take(6_000));
        pool.trim();
        assert_eq!(retained(&pool), (1, 6_000));
        pool.trim();
        assert_eq!(retained(&pool), (0, 0));
    }

    #[test]
    fn a_pool_of_nothing_keeps_nothing() {
        let none = BufferPool::new(0, 300);
        drop(none.take(10));
        assert_eq!(retained(&none), (0, 0));
    }
}
