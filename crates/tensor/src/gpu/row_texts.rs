//! The texts of kernels over rows of elements in any format, apart from any runtime.

use crate::gpu::source::{Kernel, Part, shader};

/// Threads of a workgroup: few enough that rows of 512 numbers, four a thread, leave none idle.
pub(super) const THREADS: u32 = 128;
/// The same where rows are as long as a vocabulary, and few; as many as WebGPU grants everywhere.
const THREADS_OF_LONG_ROWS: u32 = 256;

/// A kernel's texts, what it is told and what it is compiled for beside the elements.
pub(super) struct Texts {
    pub name: &'static str,
    pub wgsl: &'static [Part],
    pub cuda: &'static [Part],
    /// Numbers that it is told, at least.
    pub info_words: u32,
    pub constants: &'static [(&'static str, u32)],
    pub threads: u32,
}

/// Elements as a kernel reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Elements {
    /// By the number that the texts know: 0 f32, 1 f16, 2 bf16.
    pub format: u32,
    /// Four at a time: rows and their parts are multiples of four.
    pub quads: bool,
}

impl Elements {
    /// Pieces of so many elements.
    pub fn pieces(self, elements: usize) -> usize {
        if self.quads { elements / 4 } else { elements }
    }
}

impl Texts {
    /// The kernel for such elements.
    pub fn kernel(&self, elements: Elements) -> Kernel {
        let Elements { format, quads } = elements;
        let mut constants = vec![
            ("ELEMENT", format),
            ("HALF", u32::from(format == 1)),
            ("QUADS", u32::from(quads)),
            ("INFO_WORDS", self.info_words),
            ("THREADS", self.threads),
        ];
        constants.extend(self.constants);
        Kernel {
            name: self.name,
            constants,
            wgsl: self.wgsl,
            cuda: self.cuda,
            threads: self.threads,
            cuda_shared_bytes: 0,
        }
    }
}

const WGSL: Part = shader!("elements.wgsl");
const CUDA: Part = shader!("elements.cuh");
const WGSL_SUMS: Part = shader!("row_sums.wgsl");
const CUDA_SUMS: Part = shader!("row_sums.cuh");

/// `(x, a, y, scale)`; told rows, elements of a row, eps.
pub(super) static ADD_RMS_NORM: Texts = Texts {
    name: "add_rms_norm",
    wgsl: &[WGSL, WGSL_SUMS, shader!("add_rms_norm.wgsl")],
    cuda: &[CUDA, CUDA_SUMS, shader!("add_rms_norm.cu")],
    info_words: 4,
    constants: &[],
    threads: THREADS,
};

const RMS_BACKWARD_WGSL: &[Part] = &[WGSL, WGSL_SUMS, shader!("add_rms_norm_backward.wgsl")];
const RMS_BACKWARD_CUDA: &[Part] = &[CUDA, CUDA_SUMS, shader!("add_rms_norm_backward.cu")];

/// `(y, dy, scale, dx)`; told rows, elements of a row.
pub(super) static ADD_RMS_NORM_BACKWARD: Texts = Texts {
    name: "add_rms_norm_backward",
    wgsl: RMS_BACKWARD_WGSL,
    cuda: RMS_BACKWARD_CUDA,
    info_words: 2,
    constants: &[("TWO", 0)],
    threads: THREADS,
};

/// `(y, dy, scale, more, dx)`, where `more` is a second part of `dy`; told the same.
pub(super) static ADD_RMS_NORM_BACKWARD_OF_TWO: Texts = Texts {
    name: "add_rms_norm_backward_of_two",
    wgsl: RMS_BACKWARD_WGSL,
    cuda: RMS_BACKWARD_CUDA,
    info_words: 2,
    constants: &[("TWO", 1)],
    threads: THREADS,
};

const WGSL_NORMS: Part = shader!("scaled_norm_common.wgsl");
const CUDA_NORMS: Part = shader!("scaled_norm_common.cuh");

/// `(x, weight, bias, y)`; told rows, elements of a row, eps, offset and the kind of norm, as in `scaled_norm.rs`.
pub(super) static SCALED_NORM: Texts = Texts {
    name: "scaled_norm",
    wgsl: &[WGSL, WGSL_SUMS, WGSL_NORMS, shader!("scaled_norm.wgsl")],
    cuda: &[CUDA, CUDA_SUMS, CUDA_NORMS, shader!("scaled_norm.cu")],
    info_words: 6,
    constants: &[],
    threads: THREADS,
};

/// `(x, dy, weight, dx, statistics)`; told the same.
pub(super) static SCALED_NORM_BACKWARD: Texts = Texts {
    name: "scaled_norm_backward",
    wgsl: &[
        WGSL,
        WGSL_SUMS,
        WGSL_NORMS,
        shader!("scaled_norm_backward.wgsl"),
    ],
    cuda: &[
        CUDA,
        CUDA_SUMS,
        CUDA_NORMS,
        shader!("scaled_norm_backward.cu"),
    ],
    info_words: 6,
    constants: &[],
    threads: THREADS,
};

/// `(x, dy, statistics, sums)`; told rows, elements of a row, rows of a part, sums of an element.
pub(super) static SCALED_NORM_SUMS: Texts = Texts {
    name: "scaled_norm_sums",
    wgsl: &[WGSL, shader!("scaled_norm_sums.wgsl")],
    cuda: &[CUDA, shader!("scaled_norm_sums.cu")],
    info_words: 4,
    constants: &[],
    threads: THREADS,
};

const SWIGLU_WGSL: &[Part] = &[WGSL, shader!("swiglu.wgsl")];
const SWIGLU_CUDA: &[Part] = &[CUDA, shader!("swiglu.cu")];

/// `(gate_up, y)`; told rows, elements of a row of the result.
pub(super) static SWIGLU: Texts = Texts {
    name: "swiglu",
    wgsl: SWIGLU_WGSL,
    cuda: SWIGLU_CUDA,
    info_words: 2,
    constants: &[("BACKWARD", 0)],
    threads: THREADS,
};

/// `(gate_up, dy, d_gate_up, y)`; told rows, elements of a row of `dy`.
pub(super) static SWIGLU_BACKWARD: Texts = Texts {
    name: "swiglu_backward",
    wgsl: SWIGLU_WGSL,
    cuda: SWIGLU_CUDA,
    info_words: 2,
    constants: &[("BACKWARD", 1)],
    threads: THREADS,
};

/// `(qkv, cosines, sines, turned)`; what it is told is in `rope.rs`.
pub(super) static ROPE: Texts = Texts {
    name: "rope",
    wgsl: &[WGSL, shader!("rope.wgsl")],
    cuda: &[CUDA, shader!("rope.cu")],
    info_words: 8,
    constants: &[],
    threads: THREADS,
};

/// `(rows, ids, sum)`; told how many ids occur, elements of a row, scale.
pub(super) static EMBEDDING_GRADIENT: Texts = Texts {
    name: "embedding_gradient",
    wgsl: &[WGSL, shader!("embedding_gradient.wgsl")],
    cuda: &[CUDA, shader!("embedding_gradient.cu")],
    info_words: 4,
    constants: &[],
    threads: THREADS,
};

/// `(logits, labels, weights, gradient, report)`; told rows, vocabulary, what is from a row to the next in the logits and in
/// the gradient, and elements of a row.
pub(super) static SOFTMAX_CROSS_ENTROPY: Texts = Texts {
    name: "softmax_cross_entropy",
    wgsl: &[WGSL, WGSL_SUMS, shader!("softmax_cross_entropy.wgsl")],
    cuda: &[CUDA, CUDA_SUMS, shader!("softmax_cross_entropy.cu")],
    info_words: 5,
    constants: &[],
    threads: THREADS_OF_LONG_ROWS,
};

/// Parts of a tensor whose squares are summed up: enough workgroups for a large GPU, and few numbers to read.
pub(super) const SQUARE_PARTS: u32 = 256;

/// `(values, parts)`; told elements and the place of the first part.
pub(super) static SQUARE_SUMS: Texts = Texts {
    name: "square_sums",
    wgsl: &[WGSL, WGSL_SUMS, shader!("square_sums.wgsl")],
    cuda: &[CUDA, CUDA_SUMS, shader!("square_sums.cu")],
    info_words: 2,
    constants: &[("PARTS", SQUARE_PARTS)],
    threads: THREADS,
};

/// `(four of them, parts)`; told the place of the first part and the elements of each.
pub(super) static SQUARE_SUMS_OF_FOUR: Texts = Texts {
    name: "square_sums_of_four",
    wgsl: &[WGSL, WGSL_SUMS, shader!("square_sums_of_four.wgsl")],
    cuda: &[CUDA, CUDA_SUMS, shader!("square_sums_of_four.cu")],
    info_words: 5,
    constants: &[("PARTS", SQUARE_PARTS)],
    threads: THREADS,
};

/// `(gradient, parameter, mean, square)`; what it is told is in `adamw.rs`.
pub(super) static ADAMW: Texts = Texts {
    name: "adamw",
    wgsl: &[WGSL, shader!("adamw_step.wgsl"), shader!("adamw.wgsl")],
    cuda: &[CUDA, shader!("adamw_step.cuh"), shader!("adamw.cu")],
    info_words: 8,
    constants: &[],
    threads: THREADS,
};

/// The same of four of them, one behind the other.
pub(super) static ADAMW_OF_FOUR: Texts = Texts {
    name: "adamw_of_four",
    wgsl: &[
        WGSL,
        shader!("adamw_step.wgsl"),
        shader!("adamw_of_four.wgsl"),
    ],
    cuda: &[CUDA, shader!("adamw_step.cuh"), shader!("adamw_of_four.cu")],
    info_words: 14,
    constants: &[],
    threads: THREADS,
};

/// `(numbers, result)`; told the elements of both.
pub(super) static PADDED: Texts = Texts {
    name: "padded",
    wgsl: &[WGSL, shader!("padded.wgsl")],
    cuda: &[CUDA, shader!("padded.cu")],
    info_words: 2,
    constants: &[],
    threads: THREADS,
};

/// Threads of a workgroup that decodes.
const THREADS_THAT_DECODE: u32 = 256;

/// `(codes, absmax, nested, dense, numbers)`: these are too many to travel with a launch, see `stored.rs`.
pub(super) static NF4_DENSE: Texts = Texts {
    name: "nf4_dense",
    wgsl: &[WGSL, shader!("nf4_dense.wgsl")],
    cuda: &[CUDA, shader!("nf4_dense.cu")],
    info_words: 1,
    constants: &[],
    threads: THREADS_THAT_DECODE,
};

/// `(codes, scales, dense)`; told how many numbers there are.
pub(super) static Q8_0_DENSE: Texts = Texts {
    name: "q8_0_dense",
    wgsl: &[WGSL, shader!("q8_0_dense.wgsl")],
    cuda: &[CUDA, shader!("q8_0_dense.cu")],
    info_words: 1,
    constants: &[],
    threads: THREADS_THAT_DECODE,
};

const HALVES_WGSL: &[Part] = &[WGSL, shader!("halves_dense.wgsl")];
const HALVES_CUDA: &[Part] = &[CUDA, shader!("halves_dense.cu")];

/// `(words, dense)`; told how many numbers there are.
pub(super) static BF16_DENSE: Texts = Texts {
    name: "bf16_dense",
    wgsl: HALVES_WGSL,
    cuda: HALVES_CUDA,
    info_words: 1,
    constants: &[("BFLOAT", 1)],
    threads: THREADS_THAT_DECODE,
};

/// The same of f16.
pub(super) static F16_DENSE: Texts = Texts {
    name: "f16_dense",
    wgsl: HALVES_WGSL,
    cuda: HALVES_CUDA,
    info_words: 1,
    constants: &[("BFLOAT", 0)],
    threads: THREADS_THAT_DECODE,
};

/// `(blocks, dense)`, in pieces of four, with constants of a format (`ggml.rs`); told how many numbers there are.
pub(super) static GGML_DENSE: Texts = Texts {
    name: "ggml_dense",
    wgsl: &[WGSL, shader!("ggml_dense.wgsl")],
    cuda: &[CUDA, shader!("ggml_dense.cu")],
    info_words: 1,
    constants: &[],
    threads: THREADS_THAT_DECODE,
};

/// All of them but that of ggml, for what goes through them without a device.
#[cfg(test)]
pub(super) static ALL: [&Texts; 20] = [
    &ADD_RMS_NORM,
    &ADD_RMS_NORM_BACKWARD,
    &ADD_RMS_NORM_BACKWARD_OF_TWO,
    &SCALED_NORM,
    &SCALED_NORM_BACKWARD,
    &SCALED_NORM_SUMS,
    &SWIGLU,
    &SWIGLU_BACKWARD,
    &ROPE,
    &EMBEDDING_GRADIENT,
    &SOFTMAX_CROSS_ENTROPY,
    &SQUARE_SUMS,
    &SQUARE_SUMS_OF_FOUR,
    &ADAMW,
    &ADAMW_OF_FOUR,
    &PADDED,
    &NF4_DENSE,
    &Q8_0_DENSE,
    &BF16_DENSE,
    &F16_DENSE,
];
