//! [`Ops`] of the GPU backends: their own kernels for attention and the 8-bit optimizer, Burn's fused and tuned operations
//! for the rest.

use crate::attention::{self, AttentionPath, AttentionShape};
use crate::gpu::kernel::KernelRuntime;
use crate::gpu::{adamw_8bit, flash_attention};
use crate::{AdamWStep, Ops, State8bit};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::element::BoolElement;
use burn_fusion::Fusion;

/// Whether the attention kernels take such heads.
fn takes(shape: &AttentionShape) -> bool {
    attention::flash_refusal(shape.head_dim).is_none()
}

// Generic, so that it is compiled where a backend is used and nowhere else.
impl<R: KernelRuntime, BT: BoolElement> Ops for Fusion<CubeBackend<R, f32, i32, BT>> {
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
            AttentionPath::Flash if takes(shape) => flash_attention::forward_fused(qkv, shape),
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
