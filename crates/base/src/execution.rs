//! How a model is run over sequences: on what kind of device, in which format, by which attention, whole or in chunks.

use serde::{Deserialize, Serialize};

/// The program interface a device is driven through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The host's own cores.
    Cpu,
    /// An NVIDIA GPU through the CUDA driver.
    Cuda,
    /// A GPU, or a software renderer, through Vulkan, Metal or Direct3D 12.
    Wgpu,
    /// The host's cores by plain tensor operations alone: the reference.
    Ndarray,
}

impl Kind {
    /// The word `--device` uses for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::Ndarray => "ndarray",
        }
    }

    /// Whether it has memory and a runtime of its own. All else lies on the heap, which is metered exactly.
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda | Self::Wgpu)
    }

    /// Name of the attention that it runs at best.
    pub fn flash_attention(self) -> &'static str {
        match self {
            Self::Cpu => "flash-cpu",
            Self::Cuda => "flash-cuda",
            Self::Wgpu => "flash-wgsl",
            Self::Ndarray => "sdpa",
        }
    }
}

/// Which implementation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionPath {
    /// Memory linear in the sequence length.
    Flash,
    /// Scaled dot-product attention in tensor operations, with all `seq²` scores.
    Sdpa,
}

impl AttentionPath {
    /// Lower-case name, as flags and tables have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flash => "flash",
            Self::Sdpa => "sdpa",
        }
    }
}

/// Number format of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit: 24 bits of precision.
    F32,
    /// IEEE binary16: 11 bits of precision, up to 65,504, so that gradients need a loss scale.
    F16,
    /// bfloat16: 8 bits of precision, the range of f32.
    Bf16,
}

impl Precision {
    /// Lower-case name, as flags and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Where tensors wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Device,
    Host,
}

impl Place {
    /// The host if it is asked for and another place than the device: on a CPU they are one.
    pub fn of(cpu_offload: bool, kind: Kind) -> Self {
        match cpu_offload && kind.is_gpu() {
            true => Self::Host,
            false => Self::Device,
        }
    }
}

/// Whether and how a sequence is computed in chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunking {
    /// As a whole.
    #[default]
    Off,
    /// Chunk after chunk, each forward and backward, seeing the keys and values of earlier chunks as
    /// constants: the same losses, gradients that end at a chunk's borders, and activations of one
    /// chunk.
    Truncated { size: usize },
    /// Everything but attention chunk by chunk: the same gradients, and the working memory of one
    /// chunk beside states and blocks' inputs of whole sequences.
    Exact { size: usize },
}

impl Chunking {
    /// The same for sequences of `seq` tokens: what has a single chunk is whole.
    pub fn of(self, seq: usize) -> Self {
        match self {
            Self::Truncated { size } | Self::Exact { size } if size < seq => self,
            _ => Self::Off,
        }
    }

    /// With chunks of half the size.
    pub fn halved(self) -> Self {
        match self {
            Self::Off => Self::Off,
            Self::Truncated { size } => Self::Truncated {
                size: size.div_ceil(2),
            },
            Self::Exact { size } => Self::Exact {
                size: size.div_ceil(2),
            },
        }
    }

    /// Tokens of a sequence that are forward and backward at once.
    pub fn at_once(self, seq: usize) -> usize {
        match self.of(seq) {
            Self::Truncated { size } => size,
            Self::Off | Self::Exact { .. } => seq,
        }
    }

    /// Rows of a tile in everything but attention, and the longest sequence that is computed as a whole. Chunks are small
    /// already, and a quarter of one is where what a tile holds falls behind what attention does.
    pub fn tiles(self) -> Option<(usize, usize)> {
        match self {
            Self::Exact { size } => Some((size, size)),
            Self::Truncated { size } => Some((size.div_ceil(4), size)),
            Self::Off => None,
        }
    }

    /// Rows of a tile for sequences of `seq` tokens, if they are computed in tiles.
    pub fn tile(self, seq: usize) -> Option<usize> {
        self.of(seq).tiles().map(|(rows, _)| rows)
    }
}

/// How a model runs over sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Execution {
    pub chunking: Chunking,
    /// Where what is not needed at once waits.
    pub place: Place,
    pub path: AttentionPath,
    /// Format of the activations.
    pub precision: Precision,
}
