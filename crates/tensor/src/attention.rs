//! Attention: its shape, the SDPA fallback in plain tensor operations, and the fused-projection
//! form that the model uses.

use crate::{Ops, in_format, widened};
pub use aios_base::execution::AttentionPath;
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Int, Tensor};

/// Shape of self-attention over `batch` sequences of `seq` tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Token i sees token j only if j <= i.
    pub causal: bool,
    /// Token i sees token j only if i - j < window; 0 for no limit.
    pub window: usize,
}

impl AttentionShape {
    /// Factor of the scores.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Numbers in the largest tensor that the GPU kernels take: they count in 32 bits.
pub const GPU_INDEXABLE: u64 = 1 << 32;

/// Why the GPU kernels cannot take heads of this size.
pub fn flash_refusal(head_dim: usize) -> Option<String> {
    let fits = head_dim.is_multiple_of(8) && (8..=128).contains(&head_dim);
    (!fits).then(|| {
        format!(
            "the kernels take heads of 8 to 128 numbers in multiples of 8, not of {head_dim} \
             (--hidden-size / --num-heads)"
        )
    })
}

/// Buffers of the size of all f32 scores that [`sdpa`] and [`sdpa_backward`] hold at once.
pub const SDPA_FORWARD_BUFFERS: usize = 3;
pub const SDPA_BACKWARD_BUFFERS: usize = 4;
/// The same for both on the CPU, where more is done in place.
pub const SDPA_CPU_BUFFERS: usize = 3;

fn score_bytes<B: Backend>(q: &Tensor<B, 4>, k: &Tensor<B, 4>) -> usize {
    let [batch, heads, seq_q, _] = q.dims();
    4 * batch * heads * seq_q * k.dims()[2]
}

/// What the forward pass got and gave: q, k, v and out `[batch, heads, seq, head_dim]`, lse
/// `[batch, heads, seq_q]` in f32.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    pub q: Tensor<B, 4>,
    pub k: Tensor<B, 4>,
    pub v: Tensor<B, 4>,
    pub out: Tensor<B, 4>,
    pub lse: Tensor<B, 3>,
}

/// Attention by plain tensor operations: output `[batch, heads, seq_q, head_dim]` and the
/// log-sum-exp of the scaled scores `[batch, heads, seq_q]`, in f32 as the softmax is.
///
/// `k` and `v` may be longer than `q` (`seq_kv >= seq_q`): the queries are the last positions.
pub fn sdpa<B: Ops>(
    q: &Tensor<B, 4>,
    k: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
    shape: &AttentionShape,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    B::require(SDPA_CPU_BUFFERS * score_bytes(q, k));
    let scores = scores(q, k, shape);
    let top = scores.clone().max_dim(3);
    let lse = (scores.clone() - top.clone()).exp().sum_dim(3).log() + top;
    let p = (scores - lse.clone()).exp();
    let out = in_format(p, v.dtype()).matmul(v.clone());
    (out, lse.squeeze_dim(3))
}

/// Gradients of [`sdpa`] with respect to q, k and v.
pub fn sdpa_backward<B: Ops>(
    saved: &Saved<B>,
    d_out: &Tensor<B, 4>,
    shape: &AttentionShape,
) -> [Tensor<B, 4>; 3] {
    B::require(SDPA_CPU_BUFFERS * score_bytes(&saved.q, &saved.k));
    let scores = scores(&saved.q, &saved.k, shape);
    let p = (scores - saved.lse.clone().unsqueeze_dim(3)).exp();
    let format = saved.q.dtype();
    let half = in_format(p.clone(), format);
    let dv = half.swap_dims(2, 3).matmul(d_out.clone());
    let dp = widened(d_out.clone().matmul(saved.v.clone().swap_dims(2, 3)));
    let delta = (widened(d_out.clone()) * widened(saved.out.clone())).sum_dim(3);
    let ds = in_format(p * (dp - delta) * shape.scale(), format);
    let dq = ds.clone().matmul(saved.k.clone());
    let dk = ds.swap_dims(2, 3).matmul(saved.q.clone());
    [dq, dk, dv]
}

/// Scaled scores with -inf where a query does not see a key.
fn scores<B: Ops>(q: &Tensor<B, 4>, k: &Tensor<B, 4>, shape: &AttentionShape) -> Tensor<B, 4> {
    // Scaled before the product, whose sums might otherwise be beyond what f16 holds.
    let scores = widened((q.clone() * shape.scale()).matmul(k.clone().swap_dims(2, 3)));
    let (seq_q, seq_kv) = (q.dims()[2], k.dims()[2]);
    match unseen(seq_q, seq_kv, shape, &q.device()) {
        Some(mask) => scores.mask_fill(mask, f32::NEG_INFINITY),
        None => scores,
    }
}

/// `[1, 1, seq_q, seq_kv]`, true where a query does not see a key; `None` if it sees all.
fn unseen<B: Backend>(
    seq_q: usize,
    seq_kv: usize,
    shape: &AttentionShape,
    device: &B::Device,
) -> Option<Tensor<B, 4, Bool>> {
    let positions =
        |from: usize, to: usize| Tensor::<B, 1, Int>::arange(from as i64..to as i64, device);
    let i = positions(seq_kv - seq_q, seq_kv).reshape([1, 1, seq_q, 1]);
    let j = positions(0, seq_kv).reshape([1, 1, 1, seq_kv]);
    let distance: Tensor<B, 4, Int> =
        i.expand([1, 1, seq_q, seq_kv]) - j.expand([1, 1, seq_q, seq_kv]);
    let future = shape.causal.then(|| distance.clone().lower_elem(0));
    let past = (shape.window > 0).then(|| distance.greater_equal_elem(shape.window as i64));
    match (future, past) {
        (Some(future), Some(past)) => Some(future.bool_or(past)),
        (future, past) => future.or(past),
    }
}

/// q, k and v of a fused projection, `[batch, heads, seq, head_dim]` each.
fn split<B: Backend>(qkv: &Tensor<B, 2>, shape: &AttentionShape) -> [Tensor<B, 4>; 3] {
    let width = shape.heads * shape.head_dim;
    [0, 1, 2].map(|part| heads(qkv.clone().narrow(1, part * width, width), shape))
}

fn heads<B: Backend>(x: Tensor<B, 2>, shape: &AttentionShape) -> Tensor<B, 4> {
    x.reshape([shape.batch, shape.seq, shape.heads, shape.head_dim])
        .swap_dims(1, 2)
}

fn tokens<B: Backend>(x: Tensor<B, 4>, shape: &AttentionShape) -> Tensor<B, 2> {
    x.swap_dims(1, 2)
        .reshape([shape.batch * shape.seq, shape.heads * shape.head_dim])
}

/// Keys and values that queries see, `[batch, tokens, heads head_dim]` each: the queries' own tokens
/// are the last.
#[derive(Clone, Debug)]
pub struct KeysValues<B: Backend> {
    pub k: Tensor<B, 3>,
    pub v: Tensor<B, 3>,
}

impl<B: Ops> KeysValues<B> {
    /// Those of the last `most` tokens (2 at least), in memory of their own.
    pub fn tail(&self, most: usize) -> Self {
        let tail = |x: &Tensor<B, 3>| {
            let tokens = x.dims()[1];
            let kept = most.max(2);
            if tokens <= kept {
                return x.clone();
            }
            copied(x.clone().narrow(1, tokens - kept, kept), 1)
        };
        Self {
            k: tail(&self.k),
            v: tail(&self.v),
        }
    }
}

/// Put together along a dimension, with the memory for it asked for first.
pub fn concatenated<B: Ops, const D: usize>(parts: Vec<Tensor<B, D>>, dim: usize) -> Tensor<B, D> {
    let numbers = |x: &Tensor<B, D>| x.shape().num_elements();
    let format = parts[0].dtype();
    B::require(parts.iter().map(numbers).sum::<usize>() * format.size());
    Tensor::cat(parts, dim)
}

/// A part of a tensor in memory of its own: the part alone may keep the whole alive. What is put
/// together from two pieces is new.
fn copied<B: Ops, const D: usize>(part: Tensor<B, D>, dim: usize) -> Tensor<B, D> {
    let size = part.dims()[dim];
    if size < 2 {
        return part;
    }
    let pieces = [(0, 1), (1, size - 1)].map(|(at, n)| part.clone().narrow(dim, at, n));
    concatenated(pieces.to_vec(), dim)
}

/// Queries `[T, heads head_dim]` of a chunk's fused projection, and what they see: keys and values
/// of earlier chunks (`past`), then the chunk's own.
pub fn split_chunk<B: Ops>(
    qkv: Tensor<B, 2>,
    past: Option<KeysValues<B>>,
    shape: &AttentionShape,
) -> (Tensor<B, 2>, KeysValues<B>) {
    let width = shape.heads * shape.head_dim;
    let part = |part: usize| qkv.clone().narrow(1, part * width, width);
    let own = |n| part(n).reshape([shape.batch, shape.seq, width]);
    let seen = match past {
        None => KeysValues {
            k: copied(own(1), 1),
            v: copied(own(2), 1),
        },
        Some(past) => KeysValues {
            k: concatenated(vec![past.k, own(1)], 1),
            v: concatenated(vec![past.v, own(2)], 1),
        },
    };
    (copied(part(0), 0), seen)
}

fn seen_heads<B: Backend>(x: &Tensor<B, 3>, shape: &AttentionShape) -> Tensor<B, 4> {
    let [batch, tokens, _] = x.dims();
    x.clone()
        .reshape([batch, tokens, shape.heads, shape.head_dim])
        .swap_dims(1, 2)
}

/// Attention of a chunk's queries: output `[T, heads head_dim]` and log-sum-exp
/// `[batch, heads, seq]`.
pub fn chunk<B: Ops>(
    q: &Tensor<B, 2>,
    seen: &KeysValues<B>,
    shape: &AttentionShape,
    path: AttentionPath,
) -> (Tensor<B, 2>, Tensor<B, 3>) {
    let q = heads(q.clone(), shape);
    let [k, v] = [&seen.k, &seen.v].map(|x| seen_heads(x, shape));
    let (out, lse) = forward(&q, &k, &v, shape, path);
    (tokens(out, shape), lse)
}

/// Gradient of [`chunk`] with respect to the chunk's fused projection; earlier chunks' keys and
/// values are constants.
pub fn chunk_backward<B: Ops>(
    q: &Tensor<B, 2>,
    seen: &KeysValues<B>,
    out: &Tensor<B, 2>,
    lse: &Tensor<B, 3>,
    d_out: &Tensor<B, 2>,
    shape: &AttentionShape,
    path: AttentionPath,
) -> Tensor<B, 2> {
    let [k, v] = [&seen.k, &seen.v].map(|x| seen_heads(x, shape));
    let saved = Saved {
        q: heads(q.clone(), shape),
        k,
        v,
        out: heads(out.clone(), shape),
        lse: lse.clone(),
    };
    let grads = backward(&saved, &heads(d_out.clone(), shape), shape, path);
    let own = |g: Tensor<B, 4>| {
        let all = g.dims()[2];
        tokens(g.narrow(2, all - shape.seq, shape.seq), shape)
    };
    Tensor::cat(grads.map(own).to_vec(), 1)
}

fn forward<B: Ops>(
    q: &Tensor<B, 4>,
    k: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
    shape: &AttentionShape,
    path: AttentionPath,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    let flash = match path {
        AttentionPath::Flash => B::flash_attention(q, k, v, shape),
        AttentionPath::Sdpa => None,
    };
    flash.unwrap_or_else(|| sdpa(q, k, v, shape))
}

fn backward<B: Ops>(
    saved: &Saved<B>,
    d_out: &Tensor<B, 4>,
    shape: &AttentionShape,
    path: AttentionPath,
) -> [Tensor<B, 4>; 3] {
    let flash = match path {
        AttentionPath::Flash => B::flash_attention_backward(saved, d_out, shape),
        AttentionPath::Sdpa => None,
    };
    flash.unwrap_or_else(|| sdpa_backward(saved, d_out, shape))
}

pub(super) fn fused<B: Ops>(
    qkv: &Tensor<B, 2>,
    shape: &AttentionShape,
    path: AttentionPath,
) -> (Tensor<B, 2>, Tensor<B, 3>) {
    let [q, k, v] = split(qkv, shape);
    let (out, lse) = forward(&q, &k, &v, shape, path);
    (tokens(out, shape), lse)
}

pub(super) fn fused_backward<B: Ops>(
    qkv: &Tensor<B, 2>,
    out: &Tensor<B, 2>,
    lse: &Tensor<B, 3>,
    d_out: &Tensor<B, 2>,
    shape: &AttentionShape,
    path: AttentionPath,
) -> Tensor<B, 2> {
    let [q, k, v] = split(qkv, shape);
    let saved = Saved {
        q,
        k,
        v,
        out: heads(out.clone(), shape),
        lse: lse.clone(),
    };
    let grads = backward(&saved, &heads(d_out.clone(), shape), shape, path);
    Tensor::cat(grads.map(|g| tokens(g, shape)).to_vec(), 1)
}
