//! FlashAttention in WGSL: its kernels for a head and a number format, with tiles that fit into a
//! device's workgroup memory.

use crate::gpu::source::{Entry, Kernel, Part, Stage, shader};
use crate::gpu::tiles::WgslTile;

const COMMON: Part = shader!("flash_attention_common.wgsl");
static FORWARD: [Part; 2] = [COMMON, shader!("flash_attention_forward.wgsl")];
static DELTA: [Part; 2] = [COMMON, shader!("flash_attention_delta.wgsl")];
static BACKWARD: [Part; 2] = [COMMON, shader!("flash_attention_backward.wgsl")];

/// Invocations that share a row, as in the shaders.
const LANES: usize = 8;

/// What a device can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// Memory of a workgroup, in bytes.
    pub workgroup_bytes: usize,
    /// Invocations of a workgroup.
    pub threads: usize,
    /// Whether at least [`LANES`] invocations run in step and can exchange registers.
    pub subgroups: bool,
}

/// Whether subgroups of at least this size hold all invocations that share a row.
pub(super) fn shares_rows(smallest_subgroup: u32) -> bool {
    smallest_subgroup as usize >= LANES
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    pub head_dim: usize,
    /// f16 instead of f32.
    pub half: bool,
    /// Each query comes with the range of keys that it sees, instead of causality.
    pub ranges: bool,
    pub device: Device,
}

impl WgslTile {
    fn rows(&self) -> usize {
        self.threads / LANES * self.rows_per_thread
    }

    fn columns(&self) -> usize {
        LANES * self.columns_per_thread
    }
}

/// A row sum has no tile of its own: rows of a workgroup, eight lanes each.
const DELTA_TILE: WgslTile = WgslTile {
    head_dim: usize::MAX,
    threads: 64,
    rows_per_thread: 8,
    columns_per_thread: 1,
    staged: false,
};

/// Arrays in workgroup memory, in rows of the tile's two sides and in scores.
struct Arrays {
    own: usize,
    other: usize,
    scores: usize,
    /// One f32 for each row and lane.
    lanes: bool,
}

const FORWARD_ARRAYS: Arrays = Arrays {
    own: 1,
    other: 2,
    scores: 1,
    lanes: true,
};
const QUERIES_ARRAYS: Arrays = Arrays {
    own: 2,
    other: 2,
    scores: 1,
    lanes: false,
};
const KEYS_ARRAYS: Arrays = Arrays {
    scores: 2,
    ..QUERIES_ARRAYS
};

/// The structs that all workgroups have, and what a driver may align.
const FIXED_BYTES: usize = 128;

impl Variant {
    /// The kernel, if the device has the workgroup memory for it.
    pub fn stage(&self, entry: Entry) -> Option<Stage> {
        let (wgsl, tile): (&'static [Part], _) = match entry {
            Entry::Forward => (&FORWARD, self.tile(&FORWARD_ARRAYS)?),
            // An invocation for each row.
            Entry::Delta => (&DELTA, DELTA_TILE),
            Entry::BackwardQueries => (&BACKWARD, self.tile(&QUERIES_ARRAYS)?),
            Entry::BackwardKeys => (&BACKWARD, self.tile(&KEYS_ARRAYS)?),
        };
        let constants = [
            ("HEAD_DIM", self.head_dim),
            ("HALF", self.half.into()),
            ("SUBGROUPS", self.device.subgroups.into()),
            ("RANGES", self.ranges.into()),
            ("KEYS", (entry == Entry::BackwardKeys).into()),
            ("STAGED", tile.staged.into()),
            ("THREADS", tile.threads),
            ("ROWS_PER_THREAD", tile.rows_per_thread),
            ("COLUMNS_PER_THREAD", tile.columns_per_thread),
        ];
        let kernel = Kernel {
            name: entry.name(),
            constants: constants.map(|(name, value)| (name, value as u32)).to_vec(),
            wgsl,
            cuda: &[],
            threads: tile.threads as u32,
            cuda_shared_bytes: 0,
        };
        Some(Stage {
            kernel,
            rows: tile.rows(),
        })
    }

    /// The first tile that fits.
    fn tile(&self, arrays: &Arrays) -> Option<WgslTile> {
        let fits = |tile: &&WgslTile| {
            self.head_dim <= tile.head_dim
                && tile.threads <= self.device.threads
                && self.workgroup_bytes(tile, arrays) <= self.device.workgroup_bytes
        };
        WgslTile::all().iter().find(fits).copied()
    }

    fn workgroup_bytes(&self, tile: &WgslTile, arrays: &Arrays) -> usize {
        let element = if self.half { 2 } else { 4 };
        let (rows, columns) = (tile.rows(), tile.columns());
        let row = (self.head_dim.next_multiple_of(4 * LANES) + 4) * element;
        let lanes = match arrays.lanes && !self.device.subgroups {
            true => rows * LANES,
            false => 0,
        };
        let scores = arrays.scores * rows * columns;
        let own = if tile.staged { arrays.own * rows } else { 0 };
        (own + arrays.other * columns) * row + (scores + lanes) * 4 + FIXED_BYTES
    }
}
