//! Texts of kernels and how they are to be launched, apart from any runtime.

use crate::gpu::wgsl;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A part of a text. It is known by a fingerprint made when the program is compiled: a kernel is looked up at each launch, and
/// some parts are tens of KB.
#[derive(Clone, Copy)]
pub struct Part {
    pub text: &'static str,
    fingerprint: u64,
}

impl Part {
    /// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>).
    pub const fn new(text: &'static str) -> Self {
        let bytes = text.as_bytes();
        let (mut at, mut fingerprint) = (0, 0xcbf2_9ce4_8422_2325_u64);
        while at < bytes.len() {
            fingerprint = (fingerprint ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        Self { text, fingerprint }
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        (self.fingerprint, self.text.len()) == (other.fingerprint, other.text.len())
    }
}

impl Eq for Part {}

impl Hash for Part {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl fmt::Debug for Part {
    /// Only how long it is: keys of kernels are in messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.text.len())
    }
}

/// What a file in `shaders/` has.
macro_rules! shader {
    ($file:literal) => {
        $crate::gpu::source::Part::new(include_str!(concat!("../../../../shaders/", $file)))
    };
}
pub(crate) use shader;

/// A kernel's texts and how it is launched. Compiled kernels are kept by all of it, on disk too, so that another text under
/// the same name is compiled anew.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The entry point, in both texts.
    pub name: &'static str,
    /// What the texts are compiled for: constants in WGSL, macros in CUDA.
    pub constants: Vec<(&'static str, u32)>,
    /// Parts of the WGSL text, in the dialect of `wgsl.rs`.
    pub wgsl: &'static [Part],
    /// Parts of the CUDA text.
    pub cuda: &'static [Part],
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
            .chain(self.cuda.iter().map(|part| part.text.to_string()))
            .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_all_of_their_text() {
        // <http://www.isthe.com/chongo/src/fnv/test_fnv.c>
        assert_eq!(Part::new("").fingerprint, 0xcbf2_9ce4_8422_2325);
        assert_eq!(Part::new("foobar").fingerprint, 0x8594_4171_f739_67e8);
        assert_eq!(Part::new("a"), Part::new("a"));
        assert_ne!(Part::new("ab"), Part::new("ba"));
    }
}
