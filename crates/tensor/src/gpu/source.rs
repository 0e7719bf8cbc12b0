//! Texts of kernels and how they are to be launched, apart from any runtime.

use crate::gpu::wgsl;
use std::fmt;

/// A kernel's texts and how it is launched. Compiled kernels are kept by all of it, on disk too, so that another text under
/// the same name is compiled anew.
#[derive(Clone, Debug)]
pub struct Kernel {
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

    /// What its texts are put together of, as a part of a key.
    pub fn texts(&self) -> Texts {
        Texts([self.wgsl, self.cuda])
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

/// Parts of texts, compared and hashed as a whole. Hashing takes microseconds for the longest, which is once a launch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Texts([&'static [&'static str]; 2]);

impl fmt::Debug for Texts {
    /// Only how long they are: keys of kernels are in messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self
            .0
            .iter()
            .flat_map(|parts| parts.iter())
            .map(|part| part.len())
            .sum();
        write!(f, "{bytes} bytes")
    }
}

/// A kernel with what one piece of its work is.
#[derive(Clone, Debug)]
pub struct Stage {
    pub kernel: Kernel,
    /// Rows of a head that a workgroup takes at a time.
    pub rows: usize,
}

/// The kernels of attention. A kernel in WGSL or CUDA takes these buffers in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// `(q, k, v, out, lse, info)`, or `(q, k, v, first, end, out, lse, info)` with the range of keys
    /// that each query sees, i32 `[batch, seq_q]`.
    Forward,
    /// `(out, d_out, lse, stats, info)`, or `(out, d_out, lse, first, end, stats, info)`; `stats` is
    /// `[2, batch, heads, seq_q]`, `lse` and `rowsum(d_out * out)`, and with ranges then `[2, batch,
    /// seq_q]` integers, the ranges within the window.
    Delta,
    /// `(q, k, v, d_out, stats, dq, info)`
    BackwardQueries,
    /// `(q, k, v, d_out, stats, dk, dv, info)`
    BackwardKeys,
}

impl Entry {
    pub const ALL: [Self; 4] = [
        Self::Forward,
        Self::Delta,
        Self::BackwardQueries,
        Self::BackwardKeys,
    ];

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
