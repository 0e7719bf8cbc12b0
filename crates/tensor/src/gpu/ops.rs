//! [`crate::Ops`] of a GPU backend.

use crate::AttentionShape;
use crate::attention;

/// Whether the attention kernels take such heads.
pub(super) fn takes(shape: &AttentionShape) -> bool {
    attention::flash_refusal(shape.head_dim).is_none()
}

macro_rules! gpu_ops {
    ($backend:ty) => {
        impl $crate::Ops for $backend {
            fn flash_attention(
                q: &burn::tensor::Tensor<Self, 4>,
                k: &burn::tensor::Tensor<Self, 4>,
                v: &burn::tensor::Tensor<Self, 4>,
                shape: &$crate::AttentionShape,
            ) -> Option<(burn::tensor::Tensor<Self, 4>, burn::tensor::Tensor<Self, 3>)> {
                $crate::gpu::ops::takes(shape)
                    .then(|| $crate::gpu::flash_attention::forward([q, k, v], shape))
            }

            fn flash_attention_backward(
                saved: &$crate::attention::Saved<Self>,
                d_out: &burn::tensor::Tensor<Self, 4>,
                shape: &$crate::AttentionShape,
            ) -> Option<[burn::tensor::Tensor<Self, 4>; 3]> {
                $crate::gpu::ops::takes(shape)
                    .then(|| $crate::gpu::flash_attention::backward(saved, d_out, shape))
            }

            fn attention_fused(
                qkv: &burn::tensor::Tensor<Self, 2>,
                shape: &$crate::AttentionShape,
                path: $crate::AttentionPath,
            ) -> (burn::tensor::Tensor<Self, 2>, burn::tensor::Tensor<Self, 3>) {
                match path {
                    $crate::AttentionPath::Flash if $crate::gpu::ops::takes(shape) => {
                        $crate::gpu::flash_attention::forward_fused(qkv, shape)
                    }
                    _ => $crate::attention::fused(qkv, shape, path),
                }
            }

            fn attention_fused_backward(
                qkv: &burn::tensor::Tensor<Self, 2>,
                out: &burn::tensor::Tensor<Self, 2>,
                lse: &burn::tensor::Tensor<Self, 3>,
                d_out: &burn::tensor::Tensor<Self, 2>,
                shape: &$crate::AttentionShape,
                path: $crate::AttentionPath,
            ) -> burn::tensor::Tensor<Self, 2> {
                match path {
                    $crate::AttentionPath::Flash if $crate::gpu::ops::takes(shape) => {
                        $crate::gpu::flash_attention::backward_fused([qkv, out, d_out], lse, shape)
                    }
                    _ => $crate::attention::fused_backward(qkv, out, lse, d_out, shape, path),
                }
            }

            fn adamw_8bit(
                parameter: burn::tensor::Tensor<Self, 2>,
                gradient: burn::tensor::Tensor<Self, 2>,
                state: $crate::State8bit<Self>,
                step: &$crate::AdamWStep,
            ) -> (burn::tensor::Tensor<Self, 2>, $crate::State8bit<Self>) {
                $crate::gpu::adamw_8bit::step(parameter, gradient, state, step)
            }
        }
    };
}

pub(super) use gpu_ops;
