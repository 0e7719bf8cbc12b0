//! The kernel that decodes ggml's blocks, apart from any runtime: a text for all formats.

use crate::gpu::source::{Kernel, Part};

/// Formats by ggml's names, which are constants of the text.
const NAMES: [&str; 7] = ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];

const WGSL: &[Part] = &[Part::new(include_str!(
    "../../../../shaders/ggml_dense.wgsl"
))];
const CUDA: &[Part] = &[Part::new(include_str!("../../../../shaders/ggml_dense.cu"))];

/// Threads of a workgroup.
const THREADS: u32 = 256;

/// That of a format, whose blocks of so many values have so many bytes.
pub fn kernel(format: &str, block: u32, bytes: u32) -> Kernel {
    let is = NAMES.map(|name| (name, u32::from(name == format)));
    // Blocks with one scale for all values.
    let more = [
        ("SMALL", u32::from(block == 32)),
        ("BLOCK", block),
        ("BYTES", bytes),
    ];
    Kernel {
        name: "ggml_dense",
        constants: is.into_iter().chain(more).collect(),
        wgsl: WGSL,
        cuda: CUDA,
        threads: THREADS,
        cuda_shared_bytes: 0,
    }
}
