//! The kernel that decodes ggml's blocks, apart from any runtime: a text for all formats.

use crate::gpu::row_texts::{Elements, GGML_DENSE};
use crate::gpu::source::Kernel;

/// Formats by ggml's names, which are constants of the text.
const NAMES: [&str; 7] = ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];

/// That of a format, whose blocks of so many values have so many bytes, into elements of this format by number.
pub fn kernel(name: &str, block: u32, bytes: u32, format: u32) -> Kernel {
    let quads = true;
    let mut kernel = GGML_DENSE.kernel(Elements { format, quads });
    let is = NAMES.map(|other| (other, u32::from(other == name)));
    // Blocks with one scale for all values.
    let more = [
        ("SMALL", u32::from(block == 32)),
        ("BLOCK", block),
        ("BYTES", bytes),
    ];
    kernel.constants.extend(is.into_iter().chain(more));
    kernel
}
