//! The texts of the CUDA attention kernels, and how they are launched.
//!
//! One text serves every head dimension, element and generation of GPU: what varies is defined in
//! front of it, and a kernel is compiled for exactly one combination, on first use. What a kernel
//! gets and gives is written at its entry point in `shaders/`; the words that all of them are told
//! come from `flash_info.rs`.

use crate::gpu::source::{Entry, Kernel, Part, Stage, shader};
use crate::gpu::tiles::CudaTile;

const COMMON: Part = shader!("flash_attention_common.cuh");
static FORWARD: [Part; 2] = [COMMON, shader!("flash_attention_forward.cu")];
static BACKWARD: [Part; 2] = [COMMON, shader!("flash_attention_backward.cu")];

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
    /// Each query comes with the range of keys that it sees, instead of causality.
    pub ranges: bool,
    /// Shared memory that a thread block of the GPU may have, in bytes.
    pub shared_limit: usize,
}

impl Variant {
    /// The kernel, if the GPU has the shared memory for it. Rows of a piece of its work are keys for
    /// [`Entry::BackwardKeys`], else queries.
    pub fn stage(&self) -> Option<Stage> {
        let tile = self.tile()?;
        let shared_bytes = self.shared_bytes(&tile);
        let constants = [
            ("HEAD_DIM", self.head_dim),
            ("ELEMENT", self.element as usize),
            ("TENSOR_CORES", usize::from(self.on_tensor_cores())),
            ("RANGES", self.ranges.into()),
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
        Some(Stage {
            kernel,
            rows: tile.own,
        })
    }

    /// Row sums have no use for them.
    fn on_tensor_cores(&self) -> bool {
        self.tensor_cores && self.entry != Entry::Delta
    }

    fn tile(&self) -> Option<CudaTile> {
        assert!(!(self.tensor_cores && self.element == Element::F32));
        let fits = |tile: &CudaTile| self.shared_bytes(tile) <= self.shared_limit;
        CudaTile::of(self.entry, self.on_tensor_cores(), self.head_dim, fits)
    }

    fn shared_bytes(&self, tile: &CudaTile) -> usize {
        tile.rows * self.shared_row_bytes() + tile.more
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
