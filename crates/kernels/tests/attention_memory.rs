//! Attention needs its results, a few numbers a query and the threads' scratch memory, at any length.

use aios_kernels::attention::{Heads, Saved, Shape, backward_fused, forward, scratch_bytes};
use aios_kernels::team::threads;
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

/// Both passes over one sequence need their results, the threads' scratch and a list of tasks.
fn check(shape: Shape) {
    let Shape {
        heads,
        kv_heads,
        head_dim,
        seq_q: seq,
        ..
    } = shape;
    let (width, all) = (heads * head_dim, (heads + 2 * kv_heads) * head_dim);
    let qkv = vec![0.1_f32; seq * all];
    let d_out = vec![0.1_f32; seq * width];
    let view = |first: usize| Heads {
        data: &qkv[first * head_dim..],
        batch_stride: seq * all,
        head_stride: head_dim,
        row_stride: all,
    };
    let (q, k, v) = (view(0), view(heads), view(heads + kv_heads));
    // The list of tasks, and a little that threads need to be woken.
    let tasks = 128 * heads * seq.div_ceil(128) + 4096;
    let within = |pass: &str, bytes: usize, results: usize| {
        let most = 4 * results + threads() * scratch_bytes(head_dim) + tasks;
        assert!(
            bytes <= most,
            "{pass} at {seq}: {bytes} bytes, at most {most}"
        );
    };
    let ((out, lse), bytes) = extra(|| forward(q, k, v, shape));
    within("forward", bytes, seq * (width + heads));

    let saved = Saved {
        q,
        k,
        v,
        out: &out,
        lse: &lse,
    };
    let (_, bytes) = extra(|| backward_fused(saved, &d_out, shape));
    within("backward", bytes, seq * (all + heads));
}

/// One test, since the count is of the whole program.
#[test]
fn scratch_memory_does_not_depend_on_the_length() {
    for seq in [256, 1024, 4096] {
        let shape = Shape {
            batch: 1,
            heads: 2,
            kv_heads: 2,
            seq_q: seq,
            seq_kv: seq,
            head_dim: 16,
            causal: true,
            window: 0,
            scale: 0.25,
            visible: None,
            unit: None,
        };
        check(shape);
        let documents: Vec<[u32; 2]> = (0..seq as u32).map(|i| [i / 300 * 300, i + 1]).collect();
        check(Shape {
            visible: Some(&documents),
            ..shape
        });
        check(Shape {
            heads: 4,
            kv_heads: 1,
            head_dim: 256,
            window: 100,
            scale: 1.0 / 16.0,
            ..shape
        });
    }
    assert!(scratch_bytes(256) <= 1 << 20);
}
