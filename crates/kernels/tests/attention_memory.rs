//! Attention needs its results, a few numbers a query and one thread's scratch memory, at any length.

use aios_kernels::attention::{Heads, Saved, Shape, backward_fused, forward, scratch_bytes};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static HEAP: Counting = Counting;

// SAFETY: passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The most that `work` had at once beyond what was there before.
fn extra<R>(work: impl FnOnce() -> R) -> (R, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed) - before)
}

#[test]
fn scratch_memory_does_not_depend_on_the_length() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let (heads, head_dim) = (2, 16);
    for seq in [256, 1024, 4096] {
        let width = heads * head_dim;
        let qkv = vec![0.1_f32; seq * 3 * width];
        let d_out = vec![0.1_f32; seq * width];
        let view = |part: usize| Heads {
            data: &qkv[part * width..],
            batch_stride: seq * 3 * width,
            head_stride: head_dim,
            row_stride: 3 * width,
        };
        let (q, k, v) = (view(0), view(1), view(2));
        let shape = Shape {
            batch: 1,
            heads,
            seq_q: seq,
            seq_kv: seq,
            head_dim,
            causal: true,
            window: 0,
            scale: 0.25,
        };
        // The list of tasks, and a little that threads need to be woken.
        let tasks = 128 * heads * seq.div_ceil(128) + 4096;
        let ((out, lse), bytes) = pool.install(|| extra(|| forward(q, k, v, shape)));
        let results = 4 * seq * (width + heads);
        let most = results + scratch_bytes(head_dim) + tasks;
        assert!(
            bytes <= most,
            "forward at {seq}: {bytes} bytes, at most {most}"
        );

        let saved = Saved {
            q,
            k,
            v,
            out: &out,
            lse: &lse,
        };
        let (_, bytes) = pool.install(|| extra(|| backward_fused(saved, &d_out, shape)));
        let results = 4 * seq * (3 * width + heads);
        let most = results + scratch_bytes(head_dim) + tasks;
        assert!(
            bytes <= most,
            "backward at {seq}: {bytes} bytes, at most {most}"
        );
    }
}
