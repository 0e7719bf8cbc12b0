//! The GPU backends run the reference operations, which Burn fuses and tunes, and kernels of our
//! own from `shaders/`.

mod adamw_8bit;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod emulator;
mod flash_attention;
mod flash_cuda;
mod flash_info;
mod flash_wgsl;
mod fused;
mod kernel;
mod source;
mod wgsl;

use super::attention::{self, AttentionPath, AttentionShape};
use super::{AdamWStep, Ops, State8bit};
use crate::backend::{CudaBackend, WgpuBackend};
use burn::tensor::Tensor;

/// Whether the attention kernels take such heads.
fn takes(shape: &AttentionShape) -> bool {
    attention::flash_refusal(shape.head_dim).is_none()
}

macro_rules! gpu_ops {
    ($backend:ty) => {
        impl Ops for $backend {
            fn flash_attention(
                q: &Tensor<Self, 4>,
                k: &Tensor<Self, 4>,
                v: &Tensor<Self, 4>,
                shape: &AttentionShape,
            ) -> Option<(Tensor<Self, 4>, Tensor<Self, 3>)> {
                takes(shape).then(|| flash_attention::forward([q, k, v], shape))
            }

            fn flash_attention_backward(
                saved: &attention::Saved<Self>,
                d_out: &Tensor<Self, 4>,
                shape: &AttentionShape,
            ) -> Option<[Tensor<Self, 4>; 3]> {
                takes(shape).then(|| flash_attention::backward(saved, d_out, shape))
            }

            fn attention_fused(
                qkv: &Tensor<Self, 2>,
                shape: &AttentionShape,
                path: AttentionPath,
            ) -> (Tensor<Self, 2>, Tensor<Self, 3>) {
                match path {
                    AttentionPath::Flash if takes(shape) => {
                        flash_attention::forward_fused(qkv, shape)
                    }
                    _ => attention::fused(qkv, shape, path),
                }
            }

            fn attention_fused_backward(
                qkv: &Tensor<Self, 2>,
                out: &Tensor<Self, 2>,
                lse: &Tensor<Self, 3>,
                d_out: &Tensor<Self, 2>,
                shape: &AttentionShape,
                path: AttentionPath,
            ) -> Tensor<Self, 2> {
                match path {
                    AttentionPath::Flash if takes(shape) => {
                        flash_attention::backward_fused([qkv, out, d_out], lse, shape)
                    }
                    _ => attention::fused_backward(qkv, out, lse, d_out, shape, path),
                }
            }

            fn adamw_8bit(
                parameter: Tensor<Self, 2>,
                gradient: Tensor<Self, 2>,
                state: State8bit<Self>,
                step: &AdamWStep,
            ) -> (Tensor<Self, 2>, State8bit<Self>) {
                adamw_8bit::step(parameter, gradient, state, step)
            }
        }
    };
}

gpu_ops!(WgpuBackend);
gpu_ops!(CudaBackend);
