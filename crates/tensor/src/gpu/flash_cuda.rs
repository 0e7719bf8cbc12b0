//! The texts of the CUDA attention kernels, and how they are launched.
//!
//! One text serves every head dimension, element and generation of GPU: what varies is defined in
//! front of it, and a kernel is compiled for exactly one combination, on first use. What a kernel
//! gets and gives is written at its entry point in `shaders/`; the words that all of them are told
//! come from `flash_info.rs`.

use crate::gpu::source::{Entry, Kernel, Stage};
use crate::gpu::tiles::CudaTile;

const COMMON: &str = include_str!("../../../../shaders/flash_attention_common.cuh");
static FORWARD: [&str; 2] = [
    COMMON,
    include_str!("../../../../shaders/flash_attention_forward.cu"),
];
static BACKWARD: [&str; 2] = [
    COMMON,
    include_str!("../../../../shaders/flash_attention_backward.cu"),
];

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

impl Variant {
    /// The kernel. Rows of a piece of its work are keys for [`Entry::BackwardKeys`], else queries.
    pub fn stage(&self) -> Stage {
        let tile = self.tile();
        let shared_bytes = tile.rows * self.shared_row_bytes() + tile.more;
        let constants = [
            ("HEAD_DIM", self.head_dim),
            ("ELEMENT", self.element as usize),
            ("TENSOR_CORES", usize::from(self.on_tensor_cores())),
            ("ENTRY", self.entry as usize),
            ("OWN_ROWS", tile.own),
            ("OTHER_ROWS", tile.other),
            ("THREADS", tile.threads),
            ("MIN_BLOCKS", tile.blocks),
            ("SHARED_BYTES", shared_bytes),
        ];
        let kernel = Kernel {
            name: self.entry.name(),
            constants: constants.map(|(name, value)| (name, value as u32)).to_vec(),
            wgsl: &[],
            cuda: match self.entry {
                Entry::Forward => &FORWARD,
                Entry::Delta | Entry::BackwardQueries | Entry::BackwardKeys => &BACKWARD,
            },
            threads: tile.threads as u32,
            cuda_shared_bytes: shared_bytes,
        };
        Stage {
            kernel,
            rows: tile.own,
        }
    }

    /// Row sums have no use for them.
    fn on_tensor_cores(&self) -> bool {
        self.tensor_cores && self.entry != Entry::Delta
    }

    fn tile(&self) -> CudaTile {
        assert!(!(self.tensor_cores && self.element == Element::F32));
        CudaTile::of(self.entry, self.on_tensor_cores(), self.head_dim)
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
