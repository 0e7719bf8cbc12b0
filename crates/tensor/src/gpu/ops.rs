//! [`Ops`] of the GPU backends: their own kernels for attention and the 8-bit optimizer, Burn's fused and tuned operations
//! for the rest.

use crate::attention::{self, AttentionPath, AttentionShape, Visible};
use crate::gpu::kernel::KernelRuntime;
use crate::gpu::{adamw_8bit, flash_attention, stored};
use crate::stored::{Blocks, Nf4, Q8_0};
use crate::{AdamWStep, Ops, State8bit};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::element::BoolElement;
use burn_fusion::{Fusion, get_client};

/// What CUDA's pool of pinned memory has a page of 35 to 150 MB for, by the size of the GPU; a read of 100 MB would make it
/// take, and keep, one of gigabytes. More at a time would be no faster.
const READ_BYTES: usize = 8 << 20;

/// Whether the attention kernels of a device take such heads.
fn takes<R: KernelRuntime>(device: &R::Device, shape: &AttentionShape, format: DType) -> bool {
    let size = attention::flash_refusal(shape.head_dim);
    size.is_none() && flash_attention::refusal::<R>(device, shape.head_dim, format).is_none()
}

// Generic, so that it is compiled where a backend is used and nowhere else.
impl<R: KernelRuntime, BT: BoolElement> Ops for Fusion<CubeBackend<R, f32, i32, BT>> {
    fn read_bytes() -> Option<usize> {
        Some(READ_BYTES)
    }

    fn send(device: &R::Device) {
        get_client::<CubeBackend<R, f32, i32, BT>>(device).sync(|| ());
    }

    fn flash_refusal(device: &R::Device, head_dim: usize, format: DType) -> Option<String> {
        let size = attention::flash_refusal(head_dim);
        size.or_else(|| flash_attention::refusal::<R>(device, head_dim, format))
    }

    fn nf4_dense(of: &Nf4<Self>, dims: [usize; 2]) -> Tensor<Self, 2> {
        stored::nf4(of, dims)
    }

    fn q8_0_dense(of: &Q8_0<Self>, dims: [usize; 2]) -> Tensor<Self, 2> {
        stored::q8_0(of, dims)
    }

    fn ggml_dense(of: &Blocks<Self>, dims: [usize; 2]) -> Tensor<Self, 2> {
        stored::ggml(of, dims)
    }

    fn flash_attention(
        q: &Tensor<Self, 4>,
        k: &Tensor<Self, 4>,
        v: &Tensor<Self, 4>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
    ) -> Option<(Tensor<Self, 4>, Tensor<Self, 3>)> {
        let takes = takes::<R>(&q.device(), shape, q.dtype());
        takes.then(|| flash_attention::forward([q, k, v], shape, visible))
    }

    fn flash_attention_backward(
        saved: &attention::Saved<Self>,
        d_out: &Tensor<Self, 4>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
    ) -> Option<[Tensor<Self, 4>; 3]> {
        let takes = takes::<R>(&saved.q.device(), shape, saved.q.dtype());
        takes.then(|| flash_attention::backward(saved, d_out, shape, visible))
    }

    fn attention_fused(
        qkv: &Tensor<Self, 2>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
        path: AttentionPath,
    ) -> (Tensor<Self, 2>, Tensor<Self, 3>) {
        match path {
            AttentionPath::Flash if takes::<R>(&qkv.device(), shape, qkv.dtype()) => {
                flash_attention::forward_fused(qkv, shape, visible)
            }
            _ => attention::fused(qkv, shape, visible, path),
        }
    }

    fn attention_fused_backward(
        qkv: &Tensor<Self, 2>,
        out: &Tensor<Self, 2>,
        lse: &Tensor<Self, 3>,
        d_out: &Tensor<Self, 2>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
        path: AttentionPath,
    ) -> Tensor<Self, 2> {
        match path {
            AttentionPath::Flash if takes::<R>(&qkv.device(), shape, qkv.dtype()) => {
                flash_attention::backward_fused([qkv, out, d_out], lse, shape, visible)
            }
            _ => attention::fused_backward(qkv, out, lse, d_out, shape, visible, path),
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
