//! Attention as the kernels of the CPU take it.

use super::rows::{Kept, Rows, read, tensor};
use super::{Matrix, bytes_of};
use crate::attention::{AttentionPath, AttentionShape, Saved, Visible};
use aios_kernels as kernels;
use burn::tensor::{DType, Tensor};
use burn_flex::Flex;
use kernels::attention::Heads;
use kernels::matmul::bf16;
use kernels::profile::{self, Note};

/// Attention of queries, keys and values that are apart.
pub(super) fn forward(
    path: AttentionPath,
    [q, k, v]: [&Tensor<Flex, 4>; 3],
    shape: &AttentionShape,
    visible: Option<&Visible<Flex>>,
) -> (Tensor<Flex, 4>, Tensor<Flex, 3>) {
    let (seq_q, seq_kv) = (q.dims()[2], k.dims()[2]);
    let visible = ranges(visible, shape, seq_q, seq_kv);
    let format = q.dtype();
    let kernel = kernel_shape(shape, [seq_q, seq_kv], visible, format);
    let _note = forward_note(path, &kernel, &[q, q, k, v]);
    let [q, k, v] = [q, k, v].map(position_major);
    let (out, lse) = forward_of(path)(
        rows_of(&q.all(), shape, shape.heads, seq_q),
        rows_of(&k.all(), shape, shape.kv_heads, seq_kv),
        rows_of(&v.all(), shape, shape.kv_heads, seq_kv),
        kernel,
    );
    let lse = tensor(lse, [shape.batch, shape.heads, seq_q]);
    (head_major(out, shape, shape.heads, format), lse)
}

pub(super) fn backward(
    path: AttentionPath,
    saved: &Saved<Flex>,
    d_out: &Tensor<Flex, 4>,
    shape: &AttentionShape,
    visible: Option<&Visible<Flex>>,
) -> [Tensor<Flex, 4>; 3] {
    let (seq_q, seq_kv) = (saved.q.dims()[2], saved.k.dims()[2]);
    let visible = ranges(visible, shape, seq_q, seq_kv);
    let format = saved.q.dtype();
    let kernel = kernel_shape(shape, [seq_q, seq_kv], visible, format);
    let of = [
        &saved.q, &saved.q, &saved.k, &saved.k, &saved.v, &saved.v, d_out,
    ];
    let _note = backward_note(path, &kernel, &of);
    let inputs = [&saved.q, &saved.k, &saved.v, &saved.out, d_out].map(position_major);
    let [q, k, v, out, d_out] = inputs.each_ref().map(Rows::all);
    let lse = read(&saved.lse);
    let lse = lse.all();
    let saved = kernels::attention::Saved {
        q: rows_of(&q, shape, shape.heads, seq_q),
        k: rows_of(&k, shape, shape.kv_heads, seq_kv),
        v: rows_of(&v, shape, shape.kv_heads, seq_kv),
        out: &out,
        lse: &lse,
    };
    let [dq, dk, dv] = match path {
        AttentionPath::Flash => kernels::attention::backward(saved, &d_out, kernel),
        AttentionPath::Sdpa => kernels::attention::plain::backward(saved, &d_out, kernel),
    };
    [
        head_major(dq, shape, shape.heads, format),
        head_major(dk, shape, shape.kv_heads, format),
        head_major(dv, shape, shape.kv_heads, format),
    ]
}

type Forward = fn(Heads, Heads, Heads, kernels::attention::Shape) -> (Vec<f32>, Vec<f32>);

fn forward_of(path: AttentionPath) -> Forward {
    match path {
        AttentionPath::Flash => kernels::attention::forward,
        AttentionPath::Sdpa => kernels::attention::plain::forward,
    }
}

/// Attention of a fused projection.
pub(super) fn fused(
    qkv: &Matrix,
    shape: &AttentionShape,
    visible: Option<&Visible<Flex>>,
    path: AttentionPath,
) -> (Matrix, Tensor<Flex, 3>) {
    let visible = ranges(visible, shape, shape.seq, shape.seq);
    let format = qkv.dtype();
    let kernel = kernel_shape(shape, [shape.seq; 2], visible, format);
    let _note = forward_note(path, &kernel, &[qkv]);
    let qkv = read(qkv);
    let mut lses = Kept::new(shape.batch * shape.heads * shape.seq, DType::F32);
    let out = qkv.map_sequences(shape, |qkv, rows, shape| {
        let [q, k, v] = parts(&qkv, shape);
        let visible = visible.map(|keys| &keys[rows.clone()]);
        let kernel = kernel_shape(shape, [shape.seq; 2], visible, format);
        let (out, lse) = forward_of(path)(q, k, v, kernel);
        lses.push(lse);
        out
    });
    (out, lses.tensor([shape.batch, shape.heads, shape.seq]))
}

/// Its gradient, given the projection, what attention gave and the gradient of that.
pub(super) fn fused_backward(
    [qkv, out, d_out]: [&Matrix; 3],
    lse: &Tensor<Flex, 3>,
    shape: &AttentionShape,
    visible: Option<&Visible<Flex>>,
    path: AttentionPath,
) -> Matrix {
    let visible = ranges(visible, shape, shape.seq, shape.seq);
    let format = qkv.dtype();
    let kernel = kernel_shape(shape, [shape.seq; 2], visible, format);
    let _note = backward_note(path, &kernel, &[qkv, qkv, out, d_out]);
    let (qkv, out, lse, d_out) = (read(qkv), read(out), read(lse), read(d_out));
    let tokens = shape.batch * shape.seq;
    qkv.map_sequences(shape, |qkv, rows, shape| {
        let (out, lse) = (out.rows(rows, tokens), lse.rows(rows, tokens));
        let [q, k, v] = parts(&qkv, shape);
        let saved = kernels::attention::Saved {
            q,
            k,
            v,
            out: &out,
            lse: &lse,
        };
        let visible = visible.map(|keys| &keys[rows.clone()]);
        let kernel = kernel_shape(shape, [shape.seq; 2], visible, format);
        let d_out = d_out.rows(rows, tokens);
        if path == AttentionPath::Flash {
            return kernels::attention::backward_fused(saved, &d_out, kernel);
        }
        let d = kernels::attention::plain::backward(saved, &d_out, kernel);
        let [q, k, v] = shape.parts().map(|(_, heads)| heads * shape.head_dim);
        let [dq, dk, dv] = d.each_ref().map(Vec::as_slice);
        kernels::rows::side_by_side(&[(dq, q), (dk, k), (dv, v)], rows.len())
    })
}

/// Two products of queries and keys that see each other. What goes through all scores counts its own.
fn forward_note<const D: usize>(
    path: AttentionPath,
    shape: &kernels::attention::Shape,
    tensors: &[&Tensor<Flex, D>],
) -> Note {
    note("attention", path, (4, shape), tensors)
}

/// Four: the scores are computed again, which is no part of the model's arithmetic.
fn backward_note<const D: usize>(
    path: AttentionPath,
    shape: &kernels::attention::Shape,
    tensors: &[&Tensor<Flex, D>],
) -> Note {
    note("attention, gradient", path, (8, shape), tensors)
}

fn note<const D: usize>(
    name: &'static str,
    path: AttentionPath,
    (products, shape): (usize, &kernels::attention::Shape),
    tensors: &[&Tensor<Flex, D>],
) -> Note {
    profile::note(name, || {
        let flops = match path {
            AttentionPath::Flash => products * shape.pairs(),
            AttentionPath::Sdpa => 0,
        };
        (flops, bytes_of(tensors))
    })
}

/// The keys that each query sees, for the kernels.
fn ranges<'a>(
    visible: Option<&'a Visible<Flex>>,
    shape: &AttentionShape,
    seq_q: usize,
    seq_kv: usize,
) -> Option<&'a [[u32; 2]]> {
    let visible = visible?;
    visible.assert_of(shape, seq_q, seq_kv);
    Some(visible.keys())
}

fn kernel_shape<'a>(
    shape: &AttentionShape,
    [seq_q, seq_kv]: [usize; 2],
    visible: Option<&'a [[u32; 2]]>,
    format: DType,
) -> kernels::attention::Shape<'a> {
    kernels::attention::Shape {
        batch: shape.batch,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        seq_q,
        seq_kv,
        head_dim: shape.head_dim,
        causal: shape.causal,
        window: shape.window,
        scale: shape.scale,
        visible,
        unit: (format == DType::BF16).then(bf16::unit).flatten(),
    }
}

/// q, k and v inside a fused projection's output, without copying.
fn parts<'a>(qkv: &'a [f32], shape: &AttentionShape) -> [Heads<'a>; 3] {
    let width = shape.qkv_width();
    shape.parts().map(|(column, _)| Heads {
        data: &qkv[column..],
        batch_stride: shape.seq * width,
        head_stride: shape.head_dim,
        row_stride: width,
    })
}

/// `[batch, heads, seq, head_dim]` as contiguous `[batch, seq, heads, head_dim]`.
fn position_major(t: &Tensor<Flex, 4>) -> Rows {
    read(&t.clone().swap_dims(1, 2))
}

fn rows_of<'a>(data: &'a [f32], shape: &AttentionShape, heads: usize, seq: usize) -> Heads<'a> {
    Heads::whole(data, heads, seq, shape.head_dim)
}

fn head_major(
    data: Vec<f32>,
    shape: &AttentionShape,
    heads: usize,
    format: DType,
) -> Tensor<Flex, 4> {
    let seq = data.len() / (shape.batch * heads * shape.head_dim).max(1);
    let mut kept = Kept::new(data.len(), format);
    kept.push(data);
    let shape = [shape.batch, seq, heads, shape.head_dim];
    kept.tensor(shape).swap_dims(1, 2)
}
