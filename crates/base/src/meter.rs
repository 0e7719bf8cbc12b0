//! Bytes on the heap, counted exactly, and what the operating system says about the process.
//!
//! On the CPU backend every tensor lives on the heap, so the live and peak bytes counted here are the memory figures
//! of training. The allocator underneath is mimalloc, which keeps the pages of freed tensors for the next ones.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use aios_kernels::buffer::{Purpose, purpose};
use mimalloc::MiMalloc;
use sysinfo::{
    CpuRefreshKind, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind,
    System,
};

/// A mimalloc heap that counts the bytes asked for: those live now and the most that ever were.
///
/// A limit holds for the buffers of the kernels, which can cope with a refusal; whatever else is
/// asked for is given.
pub struct CountingAllocator {
    live: Counter,
    /// Since the lap began.
    peak: Counter,
    /// The peak of the laps before.
    earlier: Counter,
    /// The most that buffers may bring `live` to.
    limit: Counter,
    /// The system has refused memory to code that cannot do without.
    refused: AtomicBool,
}

/// A counter in a cache line of its own: `live` changes at every allocation, `peak` is mostly only read.
#[repr(align(64))]
struct Counter(AtomicUsize);

static HEAP: CountingAllocator = CountingAllocator::new();

/// Number of mimalloc's option `purge_delay`, for which its crate has no name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Milliseconds after which mimalloc gives the pages of freed memory back to the system.
const KEEP: std::ffi::c_long = 60_000;

/// Gives the pages of what is freed by now back to the system, and from here on keeps freed ones for a minute rather than a
/// second, unless `MIMALLOC_PURGE_DELAY` says otherwise: for when a model is loaded and its steps begin. A step takes what the
/// one before it freed; where steps take longer than a second, the system would clear all of it anew each time, which was a
/// quarter of the processor's time of a fine-tuning.
pub fn keep_freed_pages() {
    // SAFETY: the first gives back what nobody holds, the second sets a number that is read whenever something is freed.
    unsafe {
        libmimalloc_sys::mi_collect(true);
        libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEEP);
    }
}

/// Heap bytes in use now by the whole process.
pub fn live_bytes() -> u64 {
    HEAP.live() as u64
}

/// The most heap bytes in use at once since the start or the last [`reset_peak`].
pub fn peak_bytes() -> u64 {
    HEAP.peak() as u64
}

/// Lets the peak start anew from what is in use now.
pub fn reset_peak() {
    HEAP.reset_peak();
}

/// Begins a lap, whose peak is [`lap_peak_bytes`]; [`peak_bytes`] stays what it was.
pub fn begin_lap() {
    HEAP.begin_lap();
}

/// The most heap bytes in use at once since the last [`begin_lap`].
pub fn lap_peak_bytes() -> u64 {
    HEAP.lap_peak() as u64
}

/// Refuses buffers that would bring the heap beyond this many bytes; `None` lifts the limit.
pub fn set_limit(bytes: Option<u64>) {
    let bytes = bytes.map_or(usize::MAX, |b| usize::try_from(b).unwrap_or(usize::MAX));
    HEAP.set_limit(bytes);
}

/// Whether the system has refused memory to code that ends the program for it.
pub fn was_refused() -> bool {
    HEAP.refused.load(Relaxed)
}

/// Resident memory of this process in bytes, as the operating system counts it; 0 if it does not tell.
pub fn process_rss() -> u64 {
    static SYSTEM: Mutex<Option<System>> = Mutex::new(None);
    let Ok(pid) = sysinfo::get_current_pid() else {
        return 0;
    };
    let mut guard = SYSTEM
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let system = guard.get_or_insert_with(System::new);
    resident(system, pid)
}

/// Memory this process may use in bytes: the machine's, or its container's limit if that is lower.
pub fn host_total() -> u64 {
    let system = refreshed_memory();
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 => system.total_memory().min(limits.total_memory),
        _ => system.total_memory(),
    }
}

/// Memory that can still be had in bytes without swapping, within the container's limit if there is one.
pub fn host_available() -> u64 {
    let system = refreshed_memory();
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 && limits.total_memory < system.total_memory() => {
            system.available_memory().min(limits.free_memory)
        }
        _ => system.available_memory(),
    }
}

/// Cores of the host that are switched on, whichever of them this process may use.
pub fn host_cores() -> usize {
    let cores = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    System::new_with_specifics(cores).cpus().len().max(1)
}

/// Share of the host's memory (or of its container's) that is in use, by whichever process.
pub fn host_share_in_use() -> f64 {
    1.0 - host_available() as f64 / host_total().max(1) as f64
}

/// A size for people, in binary units: `1.23 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

fn resident(system: &mut System, pid: Pid) -> u64 {
    let memory_only = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, memory_only);
    system.process(pid).map_or(0, |process| process.memory())
}

fn refreshed_memory() -> System {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    system
}

impl CountingAllocator {
    /// A heap that has handed out nothing yet.
    pub const fn new() -> Self {
        Self {
            live: Counter(AtomicUsize::new(0)),
            peak: Counter(AtomicUsize::new(0)),
            earlier: Counter(AtomicUsize::new(0)),
            limit: Counter(AtomicUsize::new(usize::MAX)),
            refused: AtomicBool::new(false),
        }
    }

    /// Bytes handed out and not yet taken back.
    pub fn live(&self) -> usize {
        self.live.0.load(Relaxed)
    }

    /// The most bytes that were live at once since the start or the last reset.
    pub fn peak(&self) -> usize {
        self.lap_peak().max(self.earlier.0.load(Relaxed))
    }

    /// Lets the peak start anew from what is live now.
    pub fn reset_peak(&self) {
        self.earlier.0.store(0, Relaxed);
        self.peak.0.store(self.live(), Relaxed);
    }

    /// Begins a lap; the peak of all of them stays.
    pub fn begin_lap(&self) {
        let earlier = self.peak.0.swap(self.live(), Relaxed);
        self.earlier.0.fetch_max(earlier, Relaxed);
    }

    /// The most bytes that were live at once in this lap.
    pub fn lap_peak(&self) -> usize {
        self.peak.0.load(Relaxed)
    }

    /// Refuses buffers that would bring the live bytes beyond `bytes`.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.0.store(bytes, Relaxed);
    }

    fn refuses(&self, bytes: usize) -> bool {
        let limit = self.limit.0.load(Relaxed);
        limit != usize::MAX
            && purpose() != Purpose::Ordinary
            && self.live().saturating_add(bytes) > limit
    }

    fn grow(&self, bytes: usize) {
        let live = self.live.0.fetch_add(bytes, Relaxed) + bytes;
        // Nearly every allocation is below the peak: a plain load then leaves the cache line shared between cores.
        if live > self.peak.0.load(Relaxed) && purpose() != Purpose::Probe {
            self.peak.0.fetch_max(live, Relaxed);
        }
    }

    fn shrink(&self, bytes: usize) {
        self.live.0.fetch_sub(bytes, Relaxed);
    }

    fn counted(&self, pointer: *mut u8, bytes: usize) -> *mut u8 {
        match pointer.is_null() {
            false => self.grow(bytes),
            // Others than the kernels' buffers end the program for it.
            true if purpose() == Purpose::Ordinary => self.refused.store(true, Relaxed),
            true => {}
        }
        pointer
    }
}

impl Default for CountingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every call goes unchanged to mimalloc, which upholds the contract; counting touches no memory of the caller
// and does not allocate.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are passed on.
        self.counted(unsafe { MiMalloc.alloc(layout) }, layout.size())
    }

    // Passed on for speed: mimalloc knows which pages are still zero from the system and need no clearing.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if self.refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are passed on.
        self.counted(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { MiMalloc.dealloc(pointer, layout) };
        self.shrink(layout.size());
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        let moved = unsafe { MiMalloc.realloc(pointer, layout, new_size) };
        match moved.is_null() {
            true => self.refused.store(true, Relaxed),
            false if new_size >= layout.size() => self.grow(new_size - layout.size()),
            false => self.shrink(layout.size() - new_size),
        }
        moved
    }
}

/// The heap of the whole process, which [`live_bytes`] and its like read: for the program to make its global allocator.
/// Without that they are zero and no limit holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessHeap;

// SAFETY: every call goes unchanged to `HEAP`, which upholds the contract.
unsafe impl GlobalAlloc for ProcessHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { HEAP.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { HEAP.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { HEAP.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { HEAP.realloc(pointer, layout, new_size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: ProcessHeap = ProcessHeap;

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 8).unwrap()
    }

    #[test]
    fn counts_a_known_pattern_to_the_byte() {
        let heap = CountingAllocator::new();
        // SAFETY: each pointer is used with the layout it was allocated with.
        unsafe {
            let small = heap.alloc(layout(100));
            let large = heap.alloc(layout(1000));
            assert_eq!((heap.live(), heap.peak()), (1100, 1100));
            heap.dealloc(large, layout(1000));
            assert_eq!((heap.live(), heap.peak()), (100, 1100));
            heap.dealloc(small, layout(100));
        }
        assert_eq!((heap.live(), heap.peak()), (0, 1100));
    }

    #[test]
    fn growing_and_shrinking_in_place_is_counted() {
        let heap = CountingAllocator::new();
        // SAFETY: each pointer is used with the layout it last had.
        unsafe {
            let pointer = heap.alloc(layout(64));
            let grown = heap.realloc(pointer, layout(64), 4096);
            assert_eq!((heap.live(), heap.peak()), (4096, 4096));
            let shrunk = heap.realloc(grown, layout(4096), 16);
            assert_eq!((heap.live(), heap.peak()), (16, 4096));
            heap.dealloc(shrunk, layout(16));
        }
        assert_eq!(heap.live(), 0);
    }

    #[test]
    fn zeroed_memory_is_zero_and_counted() {
        let heap = CountingAllocator::new();
        // SAFETY: 512 bytes were allocated and are read within their bounds.
        unsafe {
            let pointer = heap.alloc_zeroed(layout(512));
            let bytes = std::slice::from_raw_parts(pointer, 512);
            assert!(bytes.iter().all(|&byte| byte == 0));
            assert_eq!(heap.live(), 512);
            heap.dealloc(pointer, layout(512));
        }
        assert_eq!(heap.live(), 0);
    }

    #[test]
    fn a_failed_allocation_is_not_counted() {
        let heap = CountingAllocator::new();
        let absurd = Layout::from_size_align(isize::MAX as usize - 7, 8).unwrap();
        // SAFETY: the layout is valid and not empty; the null pointer it yields is not used.
        let pointer = unsafe { heap.alloc(absurd) };
        assert!(pointer.is_null());
        assert_eq!((heap.live(), heap.peak()), (0, 0));
    }

    #[test]
    fn the_limit_refuses_buffers_and_nothing_else() {
        let heap = CountingAllocator::new();
        heap.set_limit(1000);
        // SAFETY: the layout is not empty; the pointer is used with it.
        unsafe {
            let ordinary = heap.alloc(layout(2000));
            assert!(!ordinary.is_null());
            heap.dealloc(ordinary, layout(2000));
        }
        assert!(!heap.refuses(2000), "not a buffer");
    }

    #[test]
    fn the_peak_starts_anew_from_what_is_live() {
        let heap = CountingAllocator::new();
        // SAFETY: each pointer is used with the layout it was allocated with.
        unsafe {
            let kept = heap.alloc(layout(10));
            let dropped = heap.alloc(layout(90));
            heap.dealloc(dropped, layout(90));
            heap.reset_peak();
            assert_eq!(heap.peak(), 10);
            heap.dealloc(kept, layout(10));
        }
    }

    #[test]
    fn a_lap_has_a_peak_of_its_own() {
        let heap = CountingAllocator::new();
        // SAFETY: each pointer is used with the layout it was allocated with.
        unsafe {
            heap.dealloc(heap.alloc(layout(90)), layout(90));
            heap.begin_lap();
            heap.dealloc(heap.alloc(layout(30)), layout(30));
            assert_eq!((heap.lap_peak(), heap.peak()), (30, 90));
        }
        heap.reset_peak();
        assert_eq!((heap.lap_peak(), heap.peak()), (0, 0));
    }

    #[test]
    fn threads_are_counted_together() {
        let heap = CountingAllocator::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        // SAFETY: allocated and freed with the same layout.
                        unsafe { heap.dealloc(heap.alloc(layout(32)), layout(32)) };
                    }
                });
            }
        });
        assert_eq!(heap.live(), 0);
        assert!((32..=4 * 32).contains(&heap.peak()), "peak {}", heap.peak());
    }

    #[test]
    fn the_process_heap_is_metered() {
        let buffer = vec![1u8; 64 << 20];
        assert!(live_bytes() >= buffer.len() as u64);
        assert!(peak_bytes() >= live_bytes().min(buffer.len() as u64));
    }

    #[test]
    fn the_host_has_more_memory_than_the_process_uses() {
        assert!(process_rss() > 0);
        assert!(process_rss() < host_total());
        assert!(host_available() <= host_total());
    }

    #[test]
    fn sizes_read_in_binary_units() {
        assert_eq!(format_bytes(1_320_702_444), "1.23 GiB");
    }
}
