//! What the attention kernels, in either language, are told about the shape and the tensors.

use crate::gpu::source::Entry;
use std::ops::Range;

/// What a launch is told about the shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub batch: usize,
    pub heads: usize,
    /// Divides `heads`: so many query heads share one of keys and values.
    pub kv_heads: usize,
    pub seq_q: usize,
    /// At least `seq_q`: the queries are the last positions.
    pub seq_kv: usize,
    /// Without effect where each query comes with the range of keys that it sees.
    pub causal: bool,
    /// 0 for no limit.
    pub window: usize,
    /// Factor of the scores; positive.
    pub scale: f32,
}

impl Problem {
    /// Pieces of a kernel's work, of so many rows of a head each.
    pub fn work(&self, entry: Entry, rows: usize) -> usize {
        let (heads, seq) = match entry {
            Entry::BackwardKeys => (self.kv_heads, self.seq_kv),
            _ => (self.heads, self.seq_q),
        };
        self.batch * heads * seq.div_ceil(rows)
    }

    /// The work in launches that none takes long: Windows resets a GPU after two seconds at one, and macOS ends it, as a driver
    /// does that has a screen to serve as well.
    pub fn launches(
        &self,
        entry: Entry,
        rows: usize,
        head_dim: usize,
        size: LaunchSize,
    ) -> Vec<Range<usize>> {
        let work = self.work(entry, rows);
        let one = self.operations(entry, rows, head_dim).max(1);
        let most = (size.operations / one).max(size.pieces);
        let most = most.min(work.max(1) as u64) as usize;
        let even = work.div_ceil(work.div_ceil(most).max(1)).max(1);
        (0..work)
            .step_by(even)
            .map(|first| first..work.min(first + even))
            .collect()
    }

    /// Of a piece of work, at most: products over all that its rows may see, or be seen by.
    fn operations(&self, entry: Entry, rows: usize, head_dim: usize) -> u64 {
        let most = |seq: usize| match self.window {
            0 => seq,
            window => seq.min(window.saturating_add(rows)),
        };
        let (products, others) = match entry {
            Entry::Forward => (2, most(self.seq_kv)),
            Entry::Delta => (1, 1),
            Entry::BackwardQueries => (3, most(self.seq_kv)),
            Entry::BackwardKeys => (4, most(self.seq_q) * (self.heads / self.kv_heads)),
        };
        2 * products * (rows * head_dim) as u64 * others as u64
    }
}

/// How large a launch of attention is where the work is parted.
#[derive(Clone, Copy, Debug)]
pub struct LaunchSize {
    /// The most operations.
    pub operations: u64,
    /// Pieces of work that there are nevertheless, of the longest sequences too: with fewer a large GPU would be idle.
    pub pieces: u64,
}

impl LaunchSize {
    /// Of any GPU: under half a second at 100 GFLOP/s, which all of these years reach.
    pub const ANY: Self = Self {
        operations: 40_000_000_000,
        pieces: 64,
    };
    /// Of one with CUDA: half a second at the 1 TFLOP/s of the slowest that there is; more pieces than any runs at once.
    pub const CUDA: Self = Self {
        operations: 500_000_000_000,
        pieces: 512,
    };
}

/// Where a tensor's elements lie in its buffer: element (b, h, i, c) at `offset + b * batch_stride +
/// h * head_stride + i * row_stride + c`. All four are multiples of 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub offset: usize,
    pub batch_stride: usize,
    pub head_stride: usize,
    pub row_stride: usize,
}

/// The tensors of [`info`], in its order. Those that a kernel does not take may have any layout.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layouts {
    pub q: Layout,
    pub k: Layout,
    pub v: Layout,
    pub out: Layout,
    pub d_out: Layout,
    pub dq: Layout,
    pub dk: Layout,
    pub dv: Layout,
}

/// The last argument of every kernel, with the range of its work behind it; `None` if a number is beyond what the kernels count in.
pub(super) fn info(problem: &Problem, layouts: &Layouts) -> Option<Vec<u32>> {
    let Layouts {
        q,
        k,
        v,
        out,
        d_out,
        dq,
        dk,
        dv,
    } = *layouts;
    // Positions and the distances between them are signed there.
    let largest = (i32::MAX / 2) as usize;
    if problem.seq_kv > largest {
        return None;
    }
    let heads = [problem.batch, problem.heads, problem.kv_heads];
    let shape = heads.into_iter().chain([problem.seq_q, problem.seq_kv]);
    // A window that nothing lies outside of is none.
    let window = match problem.window <= problem.seq_kv {
        true => problem.window,
        false => 0,
    };
    let mask = [usize::from(problem.causal), window];
    let places = [q, k, v, out, d_out, dq, dk, dv]
        .map(|l| [l.offset, l.batch_stride, l.head_stride, l.row_stride]);
    if places.iter().any(|place| place[3] > i32::MAX as usize) {
        return None;
    }
    let scale = [problem.scale, f32::NEG_INFINITY].map(|number| number.to_bits() as usize);
    let words = shape.chain(mask).chain(scale);
    words
        .chain(places.into_iter().flatten())
        .map(|word| u32::try_from(word).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(seq_q: usize, seq_kv: usize) -> Problem {
        Problem {
            batch: 1,
            heads: 4,
            kv_heads: 2,
            seq_q,
            seq_kv,
            causal: true,
            window: usize::MAX,
            scale: 1.0,
        }
    }

    #[test]
    fn launches_are_all_of_the_work_and_none_is_long() {
        for size in [LaunchSize::ANY, LaunchSize::CUDA] {
            all_of_the_work(size);
        }
        let long = problem(300_000, 300_000);
        let launches = |size| long.launches(Entry::Forward, 64, 128, size).len();
        assert!(launches(LaunchSize::ANY) > 100);
        assert!((20..50).contains(&launches(LaunchSize::CUDA)));
    }

    fn all_of_the_work(size: LaunchSize) {
        for seq in [0, 1, 100, 5000, 40_000, 300_000] {
            let problem = problem(seq, seq);
            for entry in Entry::ALL {
                let work = problem.work(entry, 64);
                let launches = problem.launches(entry, 64, 128, size);
                let all: Vec<usize> = launches.iter().cloned().flatten().collect();
                assert_eq!(all, (0..work).collect::<Vec<_>>(), "{entry:?} of {seq}");
                for launch in &launches {
                    let pieces = launch.len() as u64;
                    let long = pieces * problem.operations(entry, 64, 128) > size.operations;
                    assert!(
                        !long || pieces <= size.pieces,
                        "{entry:?} of {seq}: {pieces}"
                    );
                }
                assert!(seq > 100 || launches.len() <= 1, "{entry:?} of {seq}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let problem = problem(2, 3);
        let layouts = Layouts::default();
        let words = info(&problem, &layouts).unwrap();
        assert_eq!(words.len(), 9 + 8 * 4);
        assert_eq!(words[..8], [1, 4, 2, 2, 3, 1, 0, 1.0_f32.to_bits()]);
        let far = Layout {
            offset: 1 << 32,
            ..Layout::default()
        };
        assert!(info(&problem, &Layouts { q: far, ..layouts }).is_none());
        let long = Problem {
            seq_kv: 1 << 31,
            ..problem
        };
        assert!(info(&long, &layouts).is_none());
    }
}
