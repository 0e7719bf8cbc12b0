//! The operations of the model that go beyond a tensor library, forward and backward.
//!
//! [`Ops`] extends a Burn backend. Its default methods are plain tensor operations: the reference
//! for every backend, and what a backend without kernels of its own runs. `cpu.rs` replaces them
//! by the kernels of `aios-kernels`. Gradients are explicit functions rather than nodes of an
//! autodiff graph, so that a caller decides what is kept and what is recomputed.
//!
//! Matrices are `[tokens, features]`; weights are `[outputs, inputs]` as published. Activations and
//! their gradients are in any [`Precision`], and results come in that of the operands; weights are f32
//! or bf16, their gradients f32.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod activation;
mod adamw;
pub mod adamw_8bit;
pub mod attention;
mod backends;
mod cast;
mod check;
mod cpu;
mod cross_entropy;
mod dropout;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod gpu;
#[cfg(feature = "ndarray")]
mod ndarray;
mod norm;
mod placed;
mod read;
mod rope;
mod stochastic;
pub mod stored;

pub use activation::Activation;
pub use adamw::{AdamWStep, AdamWUpdate, TOGETHER, TOGETHER_ELEMENTS, Updated};
pub use adamw_8bit::{Codes, State8bit};
pub use attention::{AttentionPath, AttentionShape, Visible};
#[cfg(feature = "ndarray")]
pub use backends::NdarrayBackend;
pub use backends::{CpuBackend, asked, confirmed};
pub use cast::{Precision, dtype, in_format, widened};
pub use check::{AttentionClass, Check};
pub use cpu::{summed_rows, widened_rows};
pub use cross_entropy::{
    CrossEntropy, IGNORE, LossPath, PLAIN_LOSS_BUFFERS, SLICE_BYTES, TokenLosses, head_rows,
    slice_tokens,
};
pub use dropout::{Dropping, Share, token_to_drop};
#[cfg(feature = "cuda")]
pub use gpu::CudaBackend;
#[cfg(feature = "wgpu")]
pub use gpu::WgpuBackend;
pub use norm::{Affine, NormGradients, NormShape};
pub use placed::Placed;
pub use read::{floats, floats_of_all};
pub use rope::{Rope, Turn};
pub use stochastic::RoundingKey;
pub use stored::{Stored, stored_in};

use aios_base::error::Result;
use burn::tensor::activation::{sigmoid, silu};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData};
use cast::in_f32;

/// [`Ops::linear_forward_all`] as one operation after another.
fn one_by_one<B: Ops>(x: &Tensor<B, 2>, weights: &[SideBySide<B>]) -> Tensor<B, 2> {
    let each = weights.iter().map(|one| {
        let y = B::linear_forward(x, &(one.weight)());
        match &one.added {
            Some([x, w]) => B::add_linear_forward(y, x, w),
            None => y,
        }
    });
    B::side_by_side(each.collect())
}

/// One of several linear layers that read the same.
pub struct SideBySide<'a, B: Backend> {
    /// Rows of the weight.
    pub outputs: usize,
    /// Asked for when it is multiplied.
    pub weight: &'a dyn Fn() -> Tensor<B, 2>,
    /// `x` and `w` of a product `x wᵀ` that is added to the result.
    pub added: Option<[Tensor<B, 2>; 2]>,
}

/// Tokens up to which [`Ops::linear_forward_stored`] may do without a matrix in f32.
pub const FEW_TOKENS: usize = aios_kernels::few::MOST;

/// Operations of the model on a Burn backend.
pub trait Ops: Backend {
    /// Results are in the host's memory as they are computed: to read them costs no wait.
    const ON_HOST: bool = false;

    /// A kernel decodes frozen weights in 16 bits where the device has no such format, so that they need not be held in f32.
    const DECODES_HALVES: bool = false;

    /// Hand everything to the device that was asked for, without waiting for it.
    fn send(_device: &Self::Device) {}

    /// The tensor in another floating-point format.
    fn convert<const D: usize>(tensor: Tensor<Self, D>, format: FloatDType) -> Tensor<Self, D> {
        tensor.cast(format)
    }

    /// Fail now if `bytes` more are not to be had, before an operation is called that could not
    /// fail cleanly. Devices that report a failed allocation later do nothing.
    ///
    /// # Panics
    /// With `aios_kernels::buffer::OutOfMemory`, which [`crate::confirmed`] turns into an
    /// error.
    fn require(_bytes: usize) {}

    /// Most bytes of a tensor to read to the host at once; `None` for any. A runtime whose pool of page-locked host memory
    /// keeps what the largest read took is asked for little at a time.
    fn read_bytes() -> Option<usize> {
        None
    }

    /// Try something: [`Check::run`]. What a device is compared with is the CPU, and the reference is what that is
    /// compared with.
    ///
    /// # Errors
    /// Names what gives other numbers.
    fn self_check(check: Check, device: &Self::Device) -> Result<()> {
        check.against::<Self, CpuBackend>(device)
    }

    /// A matrix of NF4, in the format of what it is multiplied with, or else in f32.
    fn nf4_dense(of: &stored::Nf4<Self>, dims: [usize; 2], _format: DType) -> Tensor<Self, 2> {
        stored::reference::nf4_dense(of, dims)
    }

    /// The same of Q8_0.
    fn q8_0_dense(of: &stored::Q8_0<Self>, dims: [usize; 2], _format: DType) -> Tensor<Self, 2> {
        stored::reference::q8_0_dense(of, dims)
    }

    /// The same of numbers in 16 bits.
    fn halves_dense(
        of: &stored::Halves<Self>,
        dims: [usize; 2],
        _format: DType,
    ) -> Tensor<Self, 2> {
        stored::reference::halves_dense(of, dims)
    }

    /// The same of blocks of ggml.
    fn ggml_dense(of: &stored::Blocks<Self>, dims: [usize; 2], _format: DType) -> Tensor<Self, 2> {
        stored::ggml::dense(of, dims)
    }

    /// [`Ops::linear_forward`] by a matrix that is held in few bits; the same but for rounding.
    fn linear_forward_stored(x: &Tensor<Self, 2>, w: &Stored<Self>) -> Tensor<Self, 2> {
        Self::linear_forward(x, &w.dense_in(x.dtype()))
    }

    /// `x wᵀ`: `[T, in]` and `[out, in]` to `[T, out]`.
    fn linear_forward(x: &Tensor<Self, 2>, w: &Tensor<Self, 2>) -> Tensor<Self, 2> {
        x.clone()
            .matmul(in_format(w.clone(), x.dtype()).transpose())
    }

    /// `dy w`: gradient of [`Ops::linear_forward`] with respect to `x`.
    fn linear_backward_input(dy: &Tensor<Self, 2>, w: &Tensor<Self, 2>) -> Tensor<Self, 2> {
        dy.clone().matmul(in_format(w.clone(), dy.dtype()))
    }

    /// `sum + dyᵀ x`: gradient of [`Ops::linear_forward`] with respect to `w`, added to `sum` if given.
    fn linear_backward_weight(
        sum: Option<Tensor<Self, 2>>,
        dy: &Tensor<Self, 2>,
        x: &Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        added(sum, widened(dy.clone().transpose().matmul(x.clone())))
    }

    /// `sum + x wᵀ`: [`Ops::linear_forward`], added to what is there already.
    fn add_linear_forward(
        sum: Tensor<Self, 2>,
        x: &Tensor<Self, 2>,
        w: &Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        sum + Self::linear_forward(x, w)
    }

    /// `sum + dy w`: [`Ops::linear_backward_input`], added to what is there already.
    fn add_linear_backward_input(
        sum: Tensor<Self, 2>,
        dy: &Tensor<Self, 2>,
        w: &Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        sum + Self::linear_backward_input(dy, w)
    }

    /// [`Ops::linear_forward`] by some weights, side by side.
    fn linear_forward_all(x: &Tensor<Self, 2>, weights: &[SideBySide<Self>]) -> Tensor<Self, 2> {
        one_by_one(x, weights)
    }

    /// A matrix that will be read several times: in memory of its own, if it is some columns of a wider one and would be put
    /// together anew each time.
    fn read_often(columns: Tensor<Self, 2>) -> Tensor<Self, 2> {
        attention::copied(columns, 0)
    }

    /// `a + b`, two matrices of one shape.
    fn sum(a: Tensor<Self, 2>, b: &Tensor<Self, 2>) -> Tensor<Self, 2> {
        a + b.clone()
    }

    /// Matrices of as many rows, in one format, side by side; at least one.
    fn side_by_side(parts: Vec<Tensor<Self, 2>>) -> Tensor<Self, 2> {
        attention::concatenated(parts, 1)
    }

    /// `y = (x + a) * r` and `r = 1 / rms(x + a)`, `[T, 1]` in f32.
    fn add_rms_norm(
        x: Tensor<Self, 2>,
        a: Tensor<Self, 2>,
        eps: f32,
    ) -> (Tensor<Self, 2>, Tensor<Self, 2>) {
        let mut scale = None;
        let y = in_f32([x, a], |[x, a]| {
            let sum = x + a;
            let mean = (sum.clone() * sum.clone()).mean_dim(1);
            let r = scale.insert((mean + eps).sqrt().recip());
            sum * r.clone()
        });
        (y, scale.expect("set above"))
    }

    /// Gradient of [`Ops::add_rms_norm`] with respect to `x` (and to `a`, the same).
    fn add_rms_norm_backward(
        y: &Tensor<Self, 2>,
        scale: &Tensor<Self, 2>,
        dy: &Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        in_f32([y.clone(), dy.clone()], |[y, dy]| {
            let mean = (y.clone() * dy.clone()).mean_dim(1);
            (dy - y * mean) * scale.clone()
        })
    }

    /// The same, given the gradient of `y` in two parts.
    fn add_rms_norm_backward_of_two(
        y: &Tensor<Self, 2>,
        scale: &Tensor<Self, 2>,
        [dy, more]: [Tensor<Self, 2>; 2],
    ) -> Tensor<Self, 2> {
        Self::add_rms_norm_backward(y, scale, &(dy + more))
    }

    /// RMSNorm or LayerNorm of each row, with the statistics and the product by the weight in f32.
    fn norm(x: &Tensor<Self, 2>, affine: Affine<Self>, shape: &NormShape) -> Tensor<Self, 2> {
        norm::reference(x, affine, shape)
    }

    /// Gradients of [`Ops::norm`]; those of weight and bias only if these are trained.
    fn norm_backward(
        x: &Tensor<Self, 2>,
        affine: Affine<Self>,
        shape: &NormShape,
        dy: &Tensor<Self, 2>,
        trained: bool,
    ) -> NormGradients<Self> {
        norm::reference_backward(x, affine, shape, dy, trained)
    }

    /// An activation of each element.
    fn activation(x: &Tensor<Self, 2>, kind: Activation) -> Tensor<Self, 2> {
        in_f32([x.clone()], |[x]| activation::value(x, kind))
    }

    /// Gradient of [`Ops::activation`].
    fn activation_backward(
        x: &Tensor<Self, 2>,
        dy: &Tensor<Self, 2>,
        kind: Activation,
    ) -> Tensor<Self, 2> {
        let operands = [x.clone(), dy.clone()];
        in_f32(operands, |[x, dy]| dy * activation::slope(x, kind))
    }

    /// `activation(gate) * up`: `[T, 2 inner]` (gate, then up) to `[T, inner]`.
    fn gated(gate_up: &Tensor<Self, 2>, kind: Activation) -> Tensor<Self, 2> {
        match kind {
            Activation::Silu => Self::swiglu(gate_up),
            _ => in_f32(halves(gate_up), |[gate, up]| {
                activation::value(gate, kind) * up
            }),
        }
    }

    /// Gradient of [`Ops::gated`].
    fn gated_backward(
        gate_up: &Tensor<Self, 2>,
        dy: &Tensor<Self, 2>,
        kind: Activation,
    ) -> Tensor<Self, 2> {
        match kind {
            Activation::Silu => Self::swiglu_backward(gate_up, dy),
            _ => in_f32([gate_up.clone(), dy.clone()], |[gate_up, dy]| {
                let [gate, up] = halves(&gate_up);
                let d_up = dy.clone() * activation::value(gate.clone(), kind);
                let d_gate = dy * up * activation::slope(gate, kind);
                Tensor::cat(vec![d_gate, d_up], 1)
            }),
        }
    }

    /// `silu(gate) * up`: `[T, 2 inner]` (gate, then up) to `[T, inner]`.
    fn swiglu(gate_up: &Tensor<Self, 2>) -> Tensor<Self, 2> {
        in_f32(halves(gate_up), |[gate, up]| silu(gate) * up)
    }

    /// Gradient of [`Ops::swiglu`].
    fn swiglu_backward(gate_up: &Tensor<Self, 2>, dy: &Tensor<Self, 2>) -> Tensor<Self, 2> {
        in_f32([gate_up.clone(), dy.clone()], |[gate_up, dy]| {
            let [gate, up] = halves(&gate_up);
            let s = sigmoid(gate.clone());
            let d_up = dy.clone() * gate.clone() * s.clone();
            let slope = s.clone() * (gate * (-s + 1.0) + 1.0);
            let d_gate = dy * up * slope;
            Tensor::cat(vec![d_gate, d_up], 1)
        })
    }

    /// [`Ops::swiglu_backward`] by what `dy` gives, where `again` wants the result of [`Ops::swiglu`] as well: both are made of one
    /// reading where a kernel does so, and otherwise the result is gone before there is a gradient.
    fn back_through_swiglu(
        gate_up: &Tensor<Self, 2>,
        again: impl FnOnce(&Tensor<Self, 2>),
        dy: impl FnOnce() -> Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        again(&Self::swiglu(gate_up));
        Self::swiglu_backward(gate_up, &dy())
    }

    /// Rotate the query and key columns of `qkv` (`[T, (heads + 2 kv_heads) head_dim]`) by their
    /// positions.
    fn rope(
        qkv: Tensor<Self, 2>,
        table: &Rope<Self>,
        shape: &AttentionShape,
        turn: Turn,
    ) -> Tensor<Self, 2> {
        rope::reference(qkv, table, shape, turn)
    }

    /// Why [`Ops::flash_attention`] of a device does not take heads of so many numbers in a format.
    fn flash_refusal(_device: &Self::Device, _head_dim: usize, _format: DType) -> Option<String> {
        None
    }

    /// Attention in memory linear in the sequence length, if the backend has it: `None` sends the
    /// caller to the SDPA fallback. Shapes and results as [`attention::sdpa`].
    fn flash_attention(
        _q: &Tensor<Self, 4>,
        _k: &Tensor<Self, 4>,
        _v: &Tensor<Self, 4>,
        _shape: &AttentionShape,
        _visible: Option<&Visible<Self>>,
    ) -> Option<(Tensor<Self, 4>, Tensor<Self, 3>)> {
        None
    }

    /// Gradients of [`Ops::flash_attention`].
    fn flash_attention_backward(
        _saved: &attention::Saved<Self>,
        _d_out: &Tensor<Self, 4>,
        _shape: &AttentionShape,
        _visible: Option<&Visible<Self>>,
    ) -> Option<[Tensor<Self, 4>; 3]> {
        None
    }

    /// [`attention::sdpa`]: attention through all scores.
    fn sdpa(
        q: &Tensor<Self, 4>,
        k: &Tensor<Self, 4>,
        v: &Tensor<Self, 4>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
    ) -> (Tensor<Self, 4>, Tensor<Self, 3>) {
        attention::sdpa(q, k, v, shape, visible)
    }

    /// Gradients of [`Ops::sdpa`].
    fn sdpa_backward(
        saved: &attention::Saved<Self>,
        d_out: &Tensor<Self, 4>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
    ) -> [Tensor<Self, 4>; 3] {
        attention::sdpa_backward(saved, d_out, shape, visible)
    }

    /// Attention of a fused projection: `[T, (heads + 2 kv_heads) head_dim]`, queries, then keys, then
    /// values, to the output `[T, heads head_dim]` and the log-sum-exp `[batch, heads, seq]`.
    fn attention_fused(
        qkv: &Tensor<Self, 2>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
        path: AttentionPath,
    ) -> (Tensor<Self, 2>, Tensor<Self, 3>) {
        attention::fused(qkv, shape, visible, path)
    }

    /// Gradient of [`Ops::attention_fused`] with respect to `qkv`.
    fn attention_fused_backward(
        qkv: &Tensor<Self, 2>,
        out: &Tensor<Self, 2>,
        lse: &Tensor<Self, 3>,
        d_out: &Tensor<Self, 2>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
        path: AttentionPath,
    ) -> Tensor<Self, 2> {
        attention::fused_backward(qkv, out, lse, d_out, shape, visible, path)
    }

    /// Writes `tokens` `[batch, n, width]` over those from `at` on of `into` `[batch, capacity, width]`, of the same format.
    fn put_tokens(into: Tensor<Self, 3>, at: usize, tokens: Tensor<Self, 3>) -> Tensor<Self, 3> {
        let [batch, n, width] = tokens.dims();
        into.slice_assign([0..batch, at..at + n, 0..width], tokens)
    }

    /// The matrix in a format, with rows of zeros behind its own: so many in all, more than it has.
    fn padded(x: &Tensor<Self, 2>, rows: usize, format: DType) -> Tensor<Self, 2> {
        cross_entropy::padded(x, rows, format)
    }

    /// Cross-entropy of logits, `[n, vocabulary or more]`, with labels, `[n, 1]`: as [`TokenLosses::Queued`]; and the gradient
    /// `(softmax - one hot) * weight`, in the logits' format, for weights in f32, `[n, 1]`: zeros where the label is [`IGNORE`],
    /// and in columns behind the vocabulary, which are padding.
    fn softmax_cross_entropy(
        logits: Tensor<Self, 2>,
        vocabulary: usize,
        labels: Tensor<Self, 2, Int>,
        weights: Tensor<Self, 2>,
    ) -> [Tensor<Self, 2>; 2] {
        cross_entropy::softmax(logits, vocabulary, labels, weights)
    }

    /// Linear head and cross-entropy over slices of tokens, forward only; the logits never exist
    /// as a whole. A slice of them takes `slice_bytes`.
    fn cross_entropy(
        z: &Tensor<Self, 2>,
        w: &Tensor<Self, 2>,
        labels: &[i32],
        slice_bytes: usize,
    ) -> CrossEntropy {
        cross_entropy::forward(z, w, labels, slice_bytes)
    }

    /// The same with the gradients of `z` (in its format) and (added to `dw`) of `w`.
    ///
    /// `weights[t]` is the factor of token t's loss in the objective.
    fn cross_entropy_backward(
        z: &Tensor<Self, 2>,
        w: &Tensor<Self, 2>,
        labels: &[i32],
        weights: &[f32],
        dw: Option<Tensor<Self, 2>>,
        slice_bytes: usize,
    ) -> (TokenLosses<Self>, Tensor<Self, 2>, Tensor<Self, 2>) {
        cross_entropy::forward_backward(z, w, labels, weights, dw, slice_bytes)
    }

    /// [`Ops::cross_entropy_backward`] with all logits at once.
    fn cross_entropy_backward_plain(
        z: &Tensor<Self, 2>,
        w: &Tensor<Self, 2>,
        labels: &[i32],
        weights: &[f32],
        dw: Option<Tensor<Self, 2>>,
    ) -> (TokenLosses<Self>, Tensor<Self, 2>, Tensor<Self, 2>) {
        cross_entropy::forward_backward(z, w, labels, weights, dw, usize::MAX)
    }

    /// [`Ops::cross_entropy_backward`] with a frozen `w`, which costs no gradient: that of `z`, to the bit.
    fn cross_entropy_backward_input(
        z: &Tensor<Self, 2>,
        w: &Tensor<Self, 2>,
        labels: &[i32],
        weights: &[f32],
        slice_bytes: usize,
    ) -> (TokenLosses<Self>, Tensor<Self, 2>) {
        cross_entropy::backward_input(z, w, labels, weights, slice_bytes)
    }

    /// [`Ops::cross_entropy_backward_plain`] with a frozen `w`.
    fn cross_entropy_backward_input_plain(
        z: &Tensor<Self, 2>,
        w: &Tensor<Self, 2>,
        labels: &[i32],
        weights: &[f32],
    ) -> (TokenLosses<Self>, Tensor<Self, 2>) {
        cross_entropy::backward_input(z, w, labels, weights, usize::MAX)
    }

    /// Gradient of an embedding look-up: `sum[ids[i]] += scale * rows[i]`.
    ///
    /// `sum` starts as f32 zeros of `[entries, features]` if not given, and keeps its format.
    fn embedding_gradient(
        sum: Option<Tensor<Self, 2>>,
        entries: usize,
        ids: &[i32],
        rows: Tensor<Self, 2>,
        scale: f32,
    ) -> Tensor<Self, 2> {
        let device = rows.device();
        let sum = sum.unwrap_or_else(|| Tensor::zeros([entries, rows.dims()[1]], &device));
        let format = sum.dtype();
        sum.select_assign(
            0,
            ids_tensor(ids, &device),
            in_format(rows * scale, format),
            IndexingUpdateOp::Add,
        )
    }

    /// Add a row to one token of each sequence, the one at this position: to `x`, `[sequences * seq, features]`, `rows`,
    /// f32 `[sequences, features]`.
    fn add_at(
        x: Tensor<Self, 2>,
        seq: usize,
        position: usize,
        rows: Tensor<Self, 2>,
    ) -> Tensor<Self, 2> {
        let ([sequences, features], format) = (rows.dims(), x.dtype());
        let x = x.reshape([sequences, seq, features]);
        let place = [0..sequences, position..position + 1, 0..features];
        let sum = widened(x.clone().slice(place.clone())) + rows.reshape([sequences, 1, features]);
        x.slice_assign(place, in_format(sum, format))
            .reshape([sequences * seq, features])
    }

    /// Vectors whose elements add up to the sum of squares over all tensors, still on the device.
    fn squares(tensors: &[&Tensor<Self, 2>]) -> Vec<Tensor<Self, 1>> {
        adamw::squares(tensors)
    }

    /// Sum of squares over all tensors, for the global gradient norm.
    fn sum_of_squares(tensors: &[&Tensor<Self, 2>]) -> f64 {
        total(&floats_of_all(Self::squares(tensors)))
    }

    /// One AdamW step; returns the new parameter and moments. Missing moments are zeros.
    fn adamw(
        parameter: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        moments: Option<[Tensor<Self, 2>; 2]>,
        step: &AdamWStep,
    ) -> (Tensor<Self, 2>, [Tensor<Self, 2>; 2]) {
        adamw::adamw(parameter, gradient, moments, step)
    }

    /// [`Ops::adamw`] of some parameters, in their order; their steps differ in the weight decay alone.
    fn adamw_all(updates: Vec<AdamWUpdate<Self>>) -> Vec<Updated<Self>> {
        updates.into_iter().map(AdamWUpdate::alone).collect()
    }

    /// f32 in bf16, each number at one of its two neighbours, the nearer the more likely.
    fn rounded_stochastically(values: Tensor<Self, 2>, key: RoundingKey) -> Tensor<Self, 2> {
        stochastic::reference(values, key)
    }

    /// A matrix of which a share is dropped: numbers become zero, or are divided by the share that is kept; in the same
    /// buffer where nothing else holds it.
    fn dropped(x: Tensor<Self, 2>, dropping: &Dropping) -> Tensor<Self, 2> {
        dropout::reference(x, dropping)
    }

    /// One AdamW step with 8-bit state; returns the new parameter and state, in the same buffers
    /// where nothing else holds them.
    fn adamw_8bit(
        parameter: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        state: State8bit<Self>,
        step: &AdamWStep,
    ) -> (Tensor<Self, 2>, State8bit<Self>) {
        adamw_8bit::reference::step(parameter, gradient, state, step)
    }
}

/// A sum with another summand.
pub fn added<B: Backend>(sum: Option<Tensor<B, 2>>, own: Tensor<B, 2>) -> Tensor<B, 2> {
    match sum {
        Some(sum) => sum + own,
        None => own,
    }
}

/// Sum of numbers that were read.
pub fn total(read: &[Vec<f32>]) -> f64 {
    read.iter().flatten().map(|&value| f64::from(value)).sum()
}

/// Token ids as a one-dimensional tensor.
pub fn ids_tensor<B: Backend>(ids: &[i32], device: &B::Device) -> Tensor<B, 1, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), [ids.len()]), device)
}

fn halves<B: Backend>(x: &Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
    let inner = x.dims()[1] / 2;
    [
        x.clone().narrow(1, 0, inner),
        x.clone().narrow(1, inner, inner),
    ]
}
