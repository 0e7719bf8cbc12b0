//! The texts of the CUDA attention kernels, and how they are launched.
//!
//! One text serves every head dimension, element and generation of GPU: what varies is defined in
//! front of it, and a kernel is compiled for exactly one combination, on first use. What a kernel
//! gets and gives is written at its entry point in `shaders/`; the words that all of them are told
//! come from `flash_info.rs`.

use crate::gpu::source::{Entry, Kernel, Stage};

const COMMON: &str = include_str!("../../../../shaders/flash_attention_common.cuh");
static FORWARD: [&str; 2] = [
    COMMON,
    include_str!("../../../../shaders/flash_attention_forward.cu"),
];
static BACKWARD: [&str; 2] = [
    COMMON,
    include_str!("../../../../shaders/flash_attention_backward.cu"),
];
const TILES: &str = include_str!("../../../../shaders/flash_attention_tiles.txt");

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
    pub head_dim: usize,
    pub element: Element,
    /// From sm_80 on, and not for f32.
    pub tensor_cores: bool,
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
    /// The kernel. Rows of a piece of its work are keys for [`Entry::BackwardKeys`], else queries.
    pub fn stage(&self) -> Stage {
        let geometry = self.geometry();
        let constants = [
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
        let kernel = Kernel {
            name: self.entry.name(),
            constants: constants.map(|(name, value)| (name, value as u32)).to_vec(),
            wgsl: &[],
            cuda: match self.entry {
                Entry::Forward => &FORWARD,
                Entry::Delta | Entry::BackwardQueries | Entry::BackwardKeys => &BACKWARD,
            },
            threads: geometry.threads,
            cuda_shared_bytes: geometry.shared_bytes,
        };
        Stage {
            kernel,
            rows: geometry.own,
        }
    }

    /// Row sums have no use for them.
    fn on_tensor_cores(&self) -> bool {
        self.tensor_cores && self.entry != Entry::Delta
    }

    /// The first line of the table that holds for this kernel.
    fn geometry(&self) -> Geometry {
        assert!(!(self.tensor_cores && self.element == Element::F32));
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

#[cfg(test)]
mod tests;
