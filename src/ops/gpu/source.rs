//! Texts of kernels and how they are to be launched, apart from any runtime.

use super::wgsl;

/// A kernel's texts and how it is launched. Compiled kernels are cached by all but the texts, which
/// the rest determines.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// The entry point, in both texts.
    pub name: &'static str,
    /// What the texts are compiled for: constants in WGSL, macros in CUDA.
    pub constants: Vec<(&'static str, u32)>,
    /// Parts of the WGSL text, in the dialect of `wgsl.rs`.
    pub wgsl: &'static [&'static str],
    /// Parts of the CUDA text.
    pub cuda: &'static [&'static str],
    /// Threads of a workgroup, in one dimension.
    pub threads: u32,
    /// What the CUDA kernel gets as `extern __shared__`, in bytes.
    pub cuda_shared_bytes: usize,
}

impl Kernel {
    /// The WGSL text.
    pub fn wgsl_text(&self) -> String {
        wgsl::text(self.wgsl, &self.constants)
    }

    /// The CUDA text.
    pub fn cuda_text(&self) -> String {
        let define = |(name, value): &(&str, u32)| format!("#define {name} {value}\n");
        let defines = self.constants.iter().map(define);
        defines
            .chain(self.cuda.iter().map(|part| part.to_string()))
            .collect()
    }
}

/// A kernel with what one piece of its work is.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub kernel: Kernel,
    /// Rows of a head that a workgroup takes at a time.
    pub rows: usize,
}

/// The kernels of attention for a device, a head and a number format.
#[derive(Clone, Debug)]
pub(super) struct Stages {
    pub forward: Stage,
    pub delta: Stage,
    pub backward_queries: Stage,
    pub backward_keys: Stage,
}
