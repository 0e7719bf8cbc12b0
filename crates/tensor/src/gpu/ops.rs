//! [`Ops`] of the GPU backends: their own kernels for attention, for what stands between the products of a block, for the
//! embedding's gradient, for the loss and for the optimizer; Burn's fused and tuned operations for the rest.

use crate::attention::{self, AttentionPath, AttentionShape, Visible};
use crate::gpu::kernel::KernelRuntime;
use crate::gpu::{
    adamw, adamw_8bit, cross_entropy, embedding, flash_attention, padded, product, rms_norm, rope,
    scaled_norm, stored, swiglu,
};
use crate::stored::{Blocks, Halves, Nf4, Q8_0};
use crate::{
    AdamWStep, AdamWUpdate, Affine, NormGradients, NormShape, Ops, Rope, State8bit, Turn, Updated,
    added, in_format, widened,
};
use burn::tensor::{DType, Int, Tensor};
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
    const DECODES_HALVES: bool = true;

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

    fn linear_backward_weight(
        sum: Option<Tensor<Self, 2>>,
        dy: &Tensor<Self, 2>,
        x: &Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        let (dy, x) = (dy.clone().transpose(), x.clone());
        let dw = match dy.dtype() {
            // Of which Burn may make one kernel with what follows.
            DType::F32 => dy.matmul(x),
            _ => product::in_f32(dy, x),
        };
        added(sum, dw)
    }

    fn nf4_dense(of: &Nf4<Self>, dims: [usize; 2], format: DType) -> Tensor<Self, 2> {
        stored::nf4(of, dims, format)
    }

    fn q8_0_dense(of: &Q8_0<Self>, dims: [usize; 2], format: DType) -> Tensor<Self, 2> {
        stored::q8_0(of, dims, format)
    }

    fn halves_dense(of: &Halves<Self>, dims: [usize; 2], format: DType) -> Tensor<Self, 2> {
        stored::halves(of, dims, format)
    }

    fn ggml_dense(of: &Blocks<Self>, dims: [usize; 2], format: DType) -> Tensor<Self, 2> {
        stored::ggml(of, dims, format)
    }

    fn add_rms_norm(
        x: Tensor<Self, 2>,
        a: Tensor<Self, 2>,
        eps: f32,
    ) -> (Tensor<Self, 2>, Tensor<Self, 2>) {
        let a = in_format(a, x.dtype());
        rms_norm::forward(x, a, eps)
    }

    fn add_rms_norm_backward(
        y: &Tensor<Self, 2>,
        scale: &Tensor<Self, 2>,
        dy: &Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        let dy = in_format(dy.clone(), y.dtype());
        rms_norm::backward(y.clone(), scale.clone(), dy, None)
    }

    fn add_rms_norm_backward_of_two(
        y: &Tensor<Self, 2>,
        scale: &Tensor<Self, 2>,
        parts: [Tensor<Self, 2>; 2],
    ) -> Tensor<Self, 2> {
        let [dy, more] = parts.map(|part| in_format(part, y.dtype()));
        rms_norm::backward(y.clone(), scale.clone(), dy, Some(more))
    }

    fn norm(x: &Tensor<Self, 2>, affine: Affine<Self>, shape: &NormShape) -> Tensor<Self, 2> {
        scaled_norm::forward(x.clone(), affine, shape)
    }

    fn norm_backward(
        x: &Tensor<Self, 2>,
        affine: Affine<Self>,
        shape: &NormShape,
        dy: &Tensor<Self, 2>,
        trained: bool,
    ) -> NormGradients<Self> {
        let dy = in_format(dy.clone(), x.dtype());
        scaled_norm::backward(x.clone(), affine, shape, dy, trained)
    }

    fn swiglu(gate_up: &Tensor<Self, 2>) -> Tensor<Self, 2> {
        swiglu::forward(gate_up.clone())
    }

    fn swiglu_backward(gate_up: &Tensor<Self, 2>, dy: &Tensor<Self, 2>) -> Tensor<Self, 2> {
        let dy = in_format(dy.clone(), gate_up.dtype());
        let [d_gate_up, _] = swiglu::backward(gate_up.clone(), dy);
        d_gate_up
    }

    fn back_through_swiglu(
        gate_up: &Tensor<Self, 2>,
        again: impl FnOnce(&Tensor<Self, 2>),
        dy: impl FnOnce() -> Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        let dy = in_format(dy(), gate_up.dtype());
        let [d_gate_up, y] = swiglu::backward(gate_up.clone(), dy);
        again(&y);
        d_gate_up
    }

    fn rope(
        qkv: Tensor<Self, 2>,
        table: &Rope<Self>,
        shape: &AttentionShape,
        turn: Turn,
    ) -> Tensor<Self, 2> {
        rope::rope(qkv, table, shape, turn)
    }

    fn padded(x: &Tensor<Self, 2>, rows: usize, format: DType) -> Tensor<Self, 2> {
        match x.dtype() {
            DType::F32 => padded::padded(x.clone(), rows, format),
            _ => crate::cross_entropy::padded(x, rows, format),
        }
    }

    fn softmax_cross_entropy(
        logits: Tensor<Self, 2>,
        vocabulary: usize,
        labels: Tensor<Self, 2, Int>,
        weights: Tensor<Self, 2>,
    ) -> [Tensor<Self, 2>; 2] {
        cross_entropy::softmax(logits, vocabulary, labels, weights)
    }

    fn embedding_gradient(
        sum: Option<Tensor<Self, 2>>,
        entries: usize,
        ids: &[i32],
        rows: Tensor<Self, 2>,
        scale: f32,
    ) -> Tensor<Self, 2> {
        let dims = [entries, rows.dims()[1]];
        let sum = sum.unwrap_or_else(|| Tensor::zeros(dims, &rows.device()));
        embedding::gradient(sum, ids, widened(rows), scale)
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

    fn squares(tensors: &[&Tensor<Self, 2>]) -> Vec<Tensor<Self, 1>> {
        match adamw::squares(tensors) {
            Some(squares) => vec![squares],
            None => crate::adamw::squares(tensors),
        }
    }

    fn adamw(
        parameter: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        moments: Option<[Tensor<Self, 2>; 2]>,
        step: &AdamWStep,
    ) -> (Tensor<Self, 2>, [Tensor<Self, 2>; 2]) {
        adamw::step(parameter, gradient, moments, step)
    }

    fn adamw_all(updates: Vec<AdamWUpdate<Self>>) -> Vec<Updated<Self>> {
        adamw::all(updates)
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
