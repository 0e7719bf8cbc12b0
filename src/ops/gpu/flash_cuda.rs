//! The texts of the CUDA attention kernels, and how they are launched.
//!
//! One text serves every head dimension, element and generation of GPU: what varies is defined in
//! front of it, and a kernel is compiled for exactly one combination, on first use. What a kernel
//! gets and gives is written at its entry point in `shaders/`; the words that all of them are told
//! come from [`info`].

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

const COMMON: &str = include_str!("../../../shaders/flash_attention_common.cuh");
const FORWARD: &str = include_str!("../../../shaders/flash_attention_forward.cu");
const BACKWARD: &str = include_str!("../../../shaders/flash_attention_backward.cu");
const TILES: &str = include_str!("../../../shaders/flash_attention_tiles.txt");

/// Largest head dimension that the kernels are made for.
pub(super) const LARGEST_HEAD_DIM: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    /// `(q, k, v, out, lse, info)`
    Forward,
    /// `(out, d_out, lse, stats, info)`; `stats` is `[2, batch, heads, seq_q]`, `lse` and
    /// `rowsum(d_out * out)`.
    Delta,
    /// `(q, k, v, d_out, stats, dq, info)`
    BackwardQueries,
    /// `(q, k, v, d_out, stats, dk, dv, info)`
    BackwardKeys,
}

impl Entry {
    /// The entry point.
    pub fn name(self) -> &'static str {
        match self {
            Entry::Forward => "flash_attention_forward",
            Entry::Delta => "flash_attention_delta",
            Entry::BackwardQueries => "flash_attention_backward_queries",
            Entry::BackwardKeys => "flash_attention_backward_keys",
        }
    }
}

/// Format of all tensors but the statistics. The numbers are those that the texts know them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Element {
    F32 = 0,
    F16 = 1,
    /// From sm_80 on.
    Bf16 = 2,
}

/// One kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub entry: Entry,
    /// See [`supports`].
    pub head_dim: usize,
    pub element: Element,
    /// From sm_80 on, and not for f32.
    pub tensor_cores: bool,
}

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Rows of a piece of work: keys for [`Entry::BackwardKeys`], else queries. There are
    /// `batch * heads * seq.div_ceil(rows)` pieces.
    pub rows: usize,
    pub threads: u32,
    /// What the kernel gets as `extern __shared__`.
    pub shared_bytes: usize,
}

/// Whether there are kernels for this head dimension.
pub(super) fn supports(head_dim: usize) -> bool {
    head_dim.is_multiple_of(8) && (8..=LARGEST_HEAD_DIM).contains(&head_dim)
}

/// A line of the table of tiles.
struct Geometry {
    own: usize,
    other: usize,
    threads: u32,
    blocks: usize,
    shared_bytes: usize,
}

impl Variant {
    pub fn tile(&self) -> Tile {
        let geometry = self.geometry();
        Tile {
            rows: geometry.own,
            threads: geometry.threads,
            shared_bytes: geometry.shared_bytes,
        }
    }

    /// The text to compile, made once: it stays for the rest of the process, as the compiled kernel
    /// does.
    pub fn source(&self) -> &'static str {
        static SOURCES: LazyLock<Mutex<HashMap<Variant, &'static str>>> =
            LazyLock::new(Mutex::default);
        let mut sources = SOURCES.lock().unwrap_or_else(|e| e.into_inner());
        sources.entry(*self).or_insert_with(|| self.text().leak())
    }

    fn text(&self) -> String {
        let geometry = self.geometry();
        let defines = [
            ("HEAD_DIM", self.head_dim),
            ("ELEMENT", self.element as usize),
            ("TENSOR_CORES", usize::from(self.on_tensor_cores())),
            ("ENTRY", self.entry as usize),
            ("OWN_ROWS", geometry.own),
            ("OTHER_ROWS", geometry.other),
            ("THREADS", geometry.threads as usize),
            ("MIN_BLOCKS", geometry.blocks),
            ("SHARED_BYTES", geometry.shared_bytes),
        ];
        let defines = defines.map(|(name, value)| format!("#define {name} {value}\n"));
        let body = match self.entry {
            Entry::Forward => FORWARD,
            Entry::Delta | Entry::BackwardQueries | Entry::BackwardKeys => BACKWARD,
        };
        [&defines.concat(), COMMON, body].concat()
    }

    /// Row sums have no use for them.
    fn on_tensor_cores(&self) -> bool {
        self.tensor_cores && self.entry != Entry::Delta
    }

    /// The first line of the table that holds for this kernel.
    fn geometry(&self) -> Geometry {
        assert!(supports(self.head_dim) && !(self.tensor_cores && self.element == Element::F32));
        let entry = self.entry.name().trim_start_matches("flash_attention_");
        let path = match self.on_tensor_cores() {
            true => "tensor",
            false => "plain",
        };
        TILES
            .lines()
            .filter_map(|line| {
                let numbers = line.strip_prefix(entry)?.trim_start().strip_prefix(path)?;
                let numbers = numbers.split_whitespace().map(|word| word.parse().ok());
                <[usize; 7]>::try_from(numbers.collect::<Option<Vec<_>>>()?).ok()
            })
            .find(|[head_dim, ..]| self.head_dim <= *head_dim)
            .map(|[_, own, other, threads, blocks, rows, more]| Geometry {
                own,
                other,
                threads: threads as u32,
                blocks,
                shared_bytes: rows * self.shared_row_bytes() + more,
            })
            .expect("the table has a line for every kernel")
    }

    fn shared_row_bytes(&self) -> usize {
        match self.on_tensor_cores() {
            true => 2 * self.head_dim.next_multiple_of(16) + 16,
            false => 4 * self.head_dim.next_multiple_of(32) + 16,
        }
    }
}

/// What a launch is told about the shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub batch: usize,
    pub heads: usize,
    pub seq_q: usize,
    /// At least `seq_q`: the queries are the last positions.
    pub seq_kv: usize,
    pub causal: bool,
    /// 0 for no limit.
    pub window: usize,
    /// Factor of the scores; positive.
    pub scale: f32,
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

/// The last argument of every kernel; `None` if a number is beyond what the kernels count in.
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
    let shape = [problem.batch, problem.heads, problem.seq_q, problem.seq_kv];
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
    let scale = [problem.scale.to_bits() as usize, 0];
    let words = shape.into_iter().chain(mask).chain(scale);
    words
        .chain(places.into_iter().flatten())
        .map(|word| u32::try_from(word).ok())
        .collect()
}

#[cfg(test)]
mod tests;
