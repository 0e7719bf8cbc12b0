//! The number format of activations, and the conversion between formats.
//!
//! Operations compute in the format of the activations they are given, as autocast does: matrix
//! products and attention in that format; norms, softmax and loss in f32 inside, whatever it is.
//! Weights may be held in bf16; their gradients are always f32.

use crate::Ops;
pub use aios_base::execution::Precision;
use burn::tensor::{DType, FloatDType, Tensor};

/// The tensor library's name for a format.
pub fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Bf16 => DType::BF16,
    }
}

/// The tensor in f32; itself if it is.
pub fn widened<B: Ops, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
    in_format(tensor, DType::F32)
}

/// The tensor in the format of another; itself if it is.
///
/// # Panics
/// If `dtype` is no floating-point format.
pub fn in_format<B: Ops, const D: usize>(tensor: Tensor<B, D>, dtype: DType) -> Tensor<B, D> {
    match tensor.dtype() == dtype {
        true => tensor,
        false => B::convert(tensor, FloatDType::from(dtype)),
    }
}

/// Autocast around what needs the precision of f32, as norms and activations do: it gets its inputs in f32, and its result
/// is in the format of the first of them.
pub(crate) fn in_f32<B: Ops, const N: usize>(
    inputs: [Tensor<B, 2>; N],
    work: impl FnOnce([Tensor<B, 2>; N]) -> Tensor<B, 2>,
) -> Tensor<B, 2> {
    let format = inputs[0].dtype();
    in_format(work(inputs.map(widened)), format)
}
