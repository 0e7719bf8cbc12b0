//! The number format of activations, and the conversion between formats.
//!
//! Operations compute in the format of the activations they are given, as autocast does: matrix
//! products and attention in that format; norms, softmax and loss in f32 inside, whatever it is.
//! Weights and their gradients are always f32.

use super::Ops;
use burn::tensor::{DType, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

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

    /// The tensor library's name for it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
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
