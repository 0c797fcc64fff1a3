//! Counts what runs between two points: instructions with callgrind, allocations with a counting allocator.
//!
//! Only what a turn of a case marks is counted: collection is off from the start (`--collect-atstart=no`).

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

use mimalloc::MiMalloc;

/// Turns before anything is counted, in which buffers reach their size, and pools and caches fill.
const WARM_UP_TURNS: usize = 32;

thread_local! {
    /// Per thread, as with callgrind: another thread's occasional allocations belong to no item.
    static COUNTING: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// The server's allocator, with its calls counted.
pub(crate) struct CountingAllocator;

fn count(bytes: usize) {
    if COUNTING.get() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
// SAFETY: every call is passed on to an allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            count(size - layout.size());
        }
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}

/// Runs turns of a case and prints what one item takes, for the process that reads the output.
///
/// With [`counted`], a turn marks what is to be counted, for `items` items.
pub(crate) fn case(name: &str, items: usize, turns: usize, mut turn: impl FnMut()) {
    for _ in 0..WARM_UP_TURNS {
        turn();
    }
    callgrind::zero();
    ALLOCATIONS.store(0, Ordering::Relaxed);
    BYTES.store(0, Ordering::Relaxed);
    for _ in 0..turns {
        turn();
    }
    callgrind::dump(name);
    let [allocations, bytes] = [&ALLOCATIONS, &BYTES].map(|count| count.load(Ordering::Relaxed));
    println!("{name} {} {allocations} {bytes}", items * turns);
}

/// Counts `work`, even within a [`LeftOut`].
pub(crate) fn counted<R>(work: impl FnOnce() -> R) -> R {
    with(true, work)
}

fn with<R>(on: bool, work: impl FnOnce() -> R) -> R {
    let was = set(on);
    let result = work();
    set(was);
    result
}

/// Turns counting on or off, and says what it was. Callgrind can only be asked to toggle.
fn set(on: bool) -> bool {
    let was = COUNTING.get();
    if was && !on {
        callgrind::toggle();
    }
    COUNTING.set(on);
    if on && !was {
        callgrind::toggle();
    }
    was
}

/// A future that is not counted: the client of a server that is.
pub(crate) struct LeftOut<F>(Pin<Box<F>>);

impl<F: Future> LeftOut<F> {
    pub(crate) fn new(future: F) -> Self {
        Self(Box::pin(future))
    }
}

impl<F: Future> Future for LeftOut<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        with(false, || self.0.as_mut().poll(cx))
    }
}

/// Requests from a program to the callgrind that it runs under. Without callgrind, nothing happens.
mod callgrind {
    use std::{arch::asm, ffi::CString};

    /// 'C', 'T': where this tool's requests begin.
    const BASE: usize = 0x4354_0000;

    /// Sets all counts to zero.
    pub(super) fn zero() {
        request(BASE + 1, 0);
    }

    /// Starts or stops collecting on this thread.
    #[inline]
    pub(super) fn toggle() {
        request(BASE + 2, 0);
    }

    /// Writes the counts to a file that has the name of the case in it, and sets them to zero.
    pub(super) fn dump(case: &str) {
        let case = CString::new(case).unwrap_or_default();
        request(BASE + 3, case.as_ptr().addr());
    }

    #[inline]
    #[expect(unsafe_code, reason = "valgrind takes requests as a sequence of instructions")]
    fn request(number: usize, argument: usize) {
        let arguments = [number, argument, 0, 0, 0, 0];
        // SAFETY: the rotations cancel out, so without valgrind all this does is copy a zero. Valgrind recognises the sequence, reads six
        // words at `rax`, and writes its answer to `rdx`.
        unsafe {
            asm!(
                "rol rdi, 3",
                "rol rdi, 13",
                "rol rdi, 61",
                "rol rdi, 51",
                "xchg rbx, rbx",
                inout("rdx") 0_usize => _,
                in("rax") arguments.as_ptr(),
                inout("rdi") 0_usize => _,
            );
        }
    }
}
