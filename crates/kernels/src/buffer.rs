//! Large buffers whose allocation may fail without ending the process.
//!
//! Rust's collections abort when the allocator has nothing left. A trainer can do better (redo the
//! step with less at once), so the kernels take their buffers here: a refusal is a panic with an
//! [`OutOfMemory`], which unwinds to whoever catches it.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::Cell;

/// Why a kernel gave up: the payload of its panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Size of the buffer that was not to be had.
    pub bytes: usize,
}

/// What the allocation that a thread makes at the moment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Anything: a refusal ends the process.
    Ordinary,
    /// A buffer of a kernel: may be refused, which is how a counting allocator enforces a limit.
    Buffer,
    /// To see whether as much can be had; given back at once, and never written to.
    Probe,
}

thread_local! {
    static PURPOSE: Cell<Purpose> = const { Cell::new(Purpose::Ordinary) };
}

/// The purpose of this thread's allocation, for the allocator to ask.
pub fn purpose() -> Purpose {
    // A thread that is being torn down still frees and allocates.
    PURPOSE.try_with(Cell::get).unwrap_or(Purpose::Ordinary)
}

/// `n` elements that the caller writes before anything reads them: zeroing what a product
/// overwrites at once would cost a pass over memory.
///
/// # Panics
/// With [`OutOfMemory`].
#[allow(clippy::uninit_vec)]
pub(crate) fn uninit<T: Plain>(n: usize) -> Vec<T> {
    let mut v = reserved(n, Purpose::Buffer);
    // SAFETY: the capacity is `n`, every bit pattern is a T, and each caller fills all of it.
    unsafe { v.set_len(n) };
    v
}

/// `n` zeros.
///
/// # Panics
/// With [`OutOfMemory`].
pub fn zeros<T: Plain>(n: usize) -> Vec<T> {
    let Ok(layout) = Layout::array::<T>(n) else {
        give_up::<T>(n)
    };
    if layout.size() == 0 {
        return Vec::new();
    }
    // SAFETY: the layout is not empty.
    let data = with_purpose(Purpose::Buffer, || unsafe { alloc_zeroed(layout) });
    if data.is_null() {
        give_up::<T>(n);
    }
    // SAFETY: the global allocator gave `data` for exactly `n` elements of T, and zero is a T.
    unsafe { Vec::from_raw_parts(data.cast(), n, n) }
}

/// Fail now if `bytes` more are not to be had, before code is called that would abort.
///
/// # Panics
/// With [`OutOfMemory`].
pub fn require(bytes: usize) {
    // An allocation that nothing uses might be optimised away.
    drop(std::hint::black_box(reserved::<u8>(bytes, Purpose::Probe)));
}

fn reserved<T>(n: usize, purpose: Purpose) -> Vec<T> {
    let mut v = Vec::new();
    let outcome = with_purpose(purpose, || v.try_reserve_exact(n));
    outcome.unwrap_or_else(|_| give_up::<T>(n));
    v
}

fn with_purpose<R>(purpose: Purpose, allocate: impl FnOnce() -> R) -> R {
    PURPOSE.set(purpose);
    let outcome = allocate();
    PURPOSE.set(Purpose::Ordinary);
    outcome
}

fn give_up<T>(n: usize) -> ! {
    let bytes = n.saturating_mul(size_of::<T>());
    std::panic::panic_any(OutOfMemory { bytes })
}

/// Numbers of which every bit pattern is one and zero bits are zero.
pub trait Plain: Copy + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for u16 {}
    impl Sealed for f32 {}
}

impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for f32 {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(work: impl FnOnce() + std::panic::UnwindSafe) -> Option<OutOfMemory> {
        let payload = std::panic::catch_unwind(work).unwrap_err();
        payload.downcast_ref().copied()
    }

    #[test]
    fn what_cannot_be_had_is_a_panic_that_says_how_much() {
        const ABSURD: usize = 1 << 60;
        let required = refused(|| require(ABSURD));
        assert_eq!(required, Some(OutOfMemory { bytes: ABSURD }));
        let zeros = refused(|| drop(std::hint::black_box(zeros::<f32>(ABSURD))));
        assert_eq!(zeros.map(|o| o.bytes), Some(ABSURD * 4));
        assert_eq!(purpose(), Purpose::Ordinary);
    }

    #[test]
    fn zeros_are_zero_and_may_be_none() {
        assert!(zeros::<f32>(100_000).iter().all(|&v| v == 0.0));
        assert!(zeros::<u16>(0).is_empty());
    }
}
