//! Attention: its shape, the SDPA fallback in plain tensor operations, and the fused-projection
//! form that the model uses.

mod keys_values;
mod visible;

use crate::{Ops, in_format, widened};
pub use aios_base::execution::AttentionPath;
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Int, Tensor};
pub use keys_values::{KeysValues, Room};
pub use visible::Visible;

/// Shape of self-attention over `batch` sequences of `seq` tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    pub batch: usize,
    pub seq: usize,
    /// Query heads: a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values: query head h sees that of number `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Token i sees token j only if j <= i. Without effect where [`Visible`] says what is seen.
    pub causal: bool,
    /// Token i sees token j only if i - j < window; 0 for no limit.
    pub window: usize,
    /// Factor of the scores.
    pub scale: f32,
}

impl AttentionShape {
    /// The usual: causal, without a window, every head with keys and values of its own, scores scaled by
    /// `1 / sqrt(head_dim)`.
    pub fn new(batch: usize, seq: usize, heads: usize, head_dim: usize) -> Self {
        Self {
            batch,
            seq,
            heads,
            kv_heads: heads,
            head_dim,
            causal: true,
            window: 0,
            scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }

    /// Numbers in the queries of a token, and in the output.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers in the keys of a token, or in its values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers in the fused projection of a token: queries, then keys, then values.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }

    /// First column of each part of the fused projection, and its heads.
    pub(crate) fn parts(&self) -> [(usize, usize); 3] {
        let (q, kv) = (self.q_width(), self.kv_width());
        [(0, self.heads), (q, self.kv_heads), (q + kv, self.kv_heads)]
    }
}

/// Numbers in the largest tensor that the GPU kernels take: they count in 32 bits.
pub const GPU_INDEXABLE: u64 = 1 << 32;

/// Why the GPU kernels cannot take heads of this size.
pub fn flash_refusal(head_dim: usize) -> Option<String> {
    let fits = head_dim.is_multiple_of(8) && (8..=256).contains(&head_dim);
    (!fits).then(|| {
        format!(
            "the kernels take heads of 8 to 256 numbers in multiples of 8, not of {head_dim} \
             (a model's width by its heads)"
        )
    })
}

/// Buffers of the size of all f32 scores that [`sdpa`] and [`sdpa_backward`] hold at once.
pub const SDPA_FORWARD_BUFFERS: usize = 3;
pub const SDPA_BACKWARD_BUFFERS: usize = 4;
/// The same for both on the CPU, whose kernels do more in place: the forward pass holds one, the backward pass two.
pub const SDPA_CPU_BUFFERS: usize = 2;

fn score_bytes<B: Backend>(q: &Tensor<B, 4>, k: &Tensor<B, 4>) -> usize {
    let [batch, heads, seq_q, _] = q.dims();
    4 * batch * heads * seq_q * k.dims()[2]
}

/// What the forward pass got and gave: q and out `[batch, heads, seq_q, head_dim]`, k and v
/// `[batch, kv_heads, seq_kv, head_dim]`, lse `[batch, heads, seq_q]` in f32.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    pub q: Tensor<B, 4>,
    pub k: Tensor<B, 4>,
    pub v: Tensor<B, 4>,
    pub out: Tensor<B, 4>,
    pub lse: Tensor<B, 3>,
}

/// Attention by plain tensor operations: output `[batch, heads, seq_q, head_dim]` and the
/// log-sum-exp of the scaled scores `[batch, heads, seq_q]`, in f32 as the softmax is. A query that sees
/// no key gives zeros and -inf.
///
/// `k` and `v` may be longer than `q` (`seq_kv >= seq_q`): the queries are the last positions.
pub fn sdpa<B: Ops>(
    q: &Tensor<B, 4>,
    k: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    B::require(SDPA_FORWARD_BUFFERS * score_bytes(q, k));
    let scores = scores(q, k, shape, visible);
    let top = scores.clone().max_dim(3);
    // An infinity less itself would be no number.
    let base = finite(top, visible);
    let lse = (scores.clone() - base.clone()).exp().sum_dim(3).log() + base;
    let p = (scores - finite(lse.clone(), visible)).exp();
    let out = grouped(in_format(p, v.dtype()), shape).matmul(v.clone());
    (out.reshape(q.dims()), lse.squeeze_dim(3))
}

/// Gradients of [`sdpa`] with respect to q, k and v.
pub fn sdpa_backward<B: Ops>(
    saved: &Saved<B>,
    d_out: &Tensor<B, 4>,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
) -> [Tensor<B, 4>; 3] {
    let Saved { q, k, v, out, lse } = saved;
    B::require(SDPA_BACKWARD_BUFFERS * score_bytes(q, k));
    let scores = scores(q, k, shape, visible);
    let p = (scores - finite(lse.clone().unsqueeze_dim(3), visible)).exp();
    let format = q.dtype();
    let half = grouped(in_format(p.clone(), format), shape);
    let d_grouped = grouped(d_out.clone(), shape);
    let dv = half.swap_dims(2, 3).matmul(d_grouped.clone());
    let dp = widened(d_grouped.matmul(v.clone().swap_dims(2, 3)));
    let dp = dp.reshape(p.dims());
    let delta = (widened(d_out.clone()) * widened(out.clone())).sum_dim(3);
    let ds = grouped(in_format(p * (dp - delta) * shape.scale, format), shape);
    let dq = ds.clone().matmul(k.clone()).reshape(q.dims());
    let dk = ds.swap_dims(2, 3).matmul(grouped(q.clone(), shape));
    [dq, dk, dv]
}

/// The queries of all heads that share a head of keys one after another, `[batch, kv_heads, group
/// seq_q, ...]`: so keys and values are multiplied with as they are, and sums over a group's heads are
/// those of a product.
fn grouped<B: Backend>(x: Tensor<B, 4>, shape: &AttentionShape) -> Tensor<B, 4> {
    let [batch, heads, seq_q, columns] = x.dims();
    match heads == shape.kv_heads {
        true => x,
        false => x.reshape([
            batch,
            shape.kv_heads,
            heads / shape.kv_heads * seq_q,
            columns,
        ]),
    }
}

/// Below all scores that are numbers. An infinity is not compared with, since shaders may not know one.
const NOTHING: f32 = -1e38;

/// Zero in place of the -inf of queries that see nothing, of which there are some only where ranges say
/// so.
fn finite<B: Backend>(x: Tensor<B, 4>, visible: Option<&Visible<B>>) -> Tensor<B, 4> {
    match visible {
        None => x,
        Some(_) => {
            let nothing = x.clone().lower_elem(NOTHING);
            x.mask_fill(nothing, 0.0)
        }
    }
}

/// Scaled scores `[batch, heads, seq_q, seq_kv]` with -inf where a query does not see a key.
fn scores<B: Ops>(
    q: &Tensor<B, 4>,
    k: &Tensor<B, 4>,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
) -> Tensor<B, 4> {
    let ([batch, heads, seq_q, _], seq_kv) = (q.dims(), k.dims()[2]);
    // Scaled before the product, whose sums might otherwise be beyond what f16 holds.
    let q = grouped(q.clone() * shape.scale, shape);
    let scores = widened(q.matmul(k.clone().swap_dims(2, 3)));
    let scores = scores.reshape([batch, heads, seq_q, seq_kv]);
    match unseen(seq_q, seq_kv, shape, visible, &k.device()) {
        Some(mask) => scores.mask_fill(mask, f32::NEG_INFINITY),
        None => scores,
    }
}

/// `[1 or batch, 1, seq_q, seq_kv]`, true where a query does not see a key; `None` if it sees all.
fn unseen<B: Backend>(
    seq_q: usize,
    seq_kv: usize,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
    device: &B::Device,
) -> Option<Tensor<B, 4, Bool>> {
    let positions =
        |from: usize, to: usize| Tensor::<B, 1, Int>::arange(from as i64..to as i64, device);
    let batch = visible.map_or(1, |_| shape.batch);
    let i = positions(seq_kv - seq_q, seq_kv).reshape([1, 1, seq_q, 1]);
    let j = positions(0, seq_kv).reshape([1, 1, 1, seq_kv]);
    // Of each sequence the same.
    let alike = [1, 1, seq_q, seq_kv];
    let distance: Tensor<B, 4, Int> = i.expand(alike) - j.clone().expand(alike);
    let hidden = match visible {
        Some(visible) => {
            visible.assert_of(shape, seq_q, seq_kv);
            let dims = [batch, 1, seq_q, seq_kv];
            let bound = |x: &Tensor<B, 2, Int>| -> Tensor<B, 4, Int> {
                x.clone().reshape([batch, 1, seq_q, 1]).expand(dims)
            };
            let j = j.expand(dims);
            let before = j.clone().lower(bound(visible.first()));
            Some(before.bool_or(j.greater_equal(bound(visible.end()))))
        }
        None => shape.causal.then(|| distance.clone().lower_elem(0)),
    };
    let past = (shape.window > 0).then(|| {
        let past: Tensor<B, 4, Bool> = distance.greater_equal_elem(shape.window as i64);
        past.expand([batch, 1, seq_q, seq_kv])
    });
    match (hidden, past) {
        (Some(hidden), Some(past)) => Some(hidden.bool_or(past)),
        (hidden, past) => hidden.or(past),
    }
}

/// A part of a fused projection, `[T, heads head_dim]`.
fn part<B: Backend>(
    qkv: &Tensor<B, 2>,
    (column, heads): (usize, usize),
    shape: &AttentionShape,
) -> Tensor<B, 2> {
    qkv.clone().narrow(1, column, heads * shape.head_dim)
}

/// q `[batch, heads, seq, head_dim]`, k and v `[batch, kv_heads, seq, head_dim]` of a fused projection.
fn split<B: Backend>(qkv: &Tensor<B, 2>, shape: &AttentionShape) -> [Tensor<B, 4>; 3] {
    shape.parts().map(|of| heads(part(qkv, of, shape), shape))
}

fn heads<B: Backend>(x: Tensor<B, 2>, shape: &AttentionShape) -> Tensor<B, 4> {
    let heads = x.dims()[1] / shape.head_dim;
    x.reshape([shape.batch, shape.seq, heads, shape.head_dim])
        .swap_dims(1, 2)
}

fn tokens<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 2> {
    let [batch, heads, seq, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch * seq, heads * head_dim])
}

/// Put together along a dimension, with the memory for it asked for first; one alone is not copied.
pub fn concatenated<B: Ops, const D: usize>(
    mut parts: Vec<Tensor<B, D>>,
    dim: usize,
) -> Tensor<B, D> {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let numbers = |x: &Tensor<B, D>| x.shape().num_elements();
    let format = parts[0].dtype();
    B::require(parts.iter().map(numbers).sum::<usize>() * format.size());
    Tensor::cat(parts, dim)
}

/// A part of a tensor in memory of its own: the part alone may keep the whole alive. What is put
/// together from two pieces is new.
pub fn copied<B: Ops, const D: usize>(part: Tensor<B, D>, dim: usize) -> Tensor<B, D> {
    let size = part.dims()[dim];
    if size < 2 {
        return part;
    }
    let pieces = [(0, 1), (1, size - 1)].map(|(at, n)| part.clone().narrow(dim, at, n));
    concatenated(pieces.to_vec(), dim)
}

/// Queries `[T, heads head_dim]` of a chunk's fused projection, and what they see: keys and values
/// of earlier chunks (`past`), then the chunk's own, in memory that there may be `room` in.
pub fn split_chunk<B: Ops>(
    qkv: Tensor<B, 2>,
    past: Option<KeysValues<B>>,
    shape: &AttentionShape,
    room: Room,
) -> (Tensor<B, 2>, KeysValues<B>) {
    let [q, k, v] = shape.parts().map(|of| part(&qkv, of, shape));
    let own = |x: Tensor<B, 2>| x.reshape([shape.batch, shape.seq, shape.kv_width()]);
    let seen = KeysValues::followed(past, [own(k), own(v)], room);
    (copied(q, 0), seen)
}

fn seen_heads<B: Backend>(x: Tensor<B, 3>, shape: &AttentionShape) -> Tensor<B, 4> {
    let [batch, tokens, _] = x.dims();
    x.reshape([batch, tokens, shape.kv_heads, shape.head_dim])
        .swap_dims(1, 2)
}

/// Attention of a chunk's queries: output `[T, heads head_dim]` and log-sum-exp
/// `[batch, heads, seq]`.
pub fn chunk<B: Ops>(
    q: &Tensor<B, 2>,
    seen: &KeysValues<B>,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
    path: AttentionPath,
) -> (Tensor<B, 2>, Tensor<B, 3>) {
    let q = heads(q.clone(), shape);
    let [k, v] = seen.parts().map(|x| seen_heads(x, shape));
    let (out, lse) = forward(&q, &k, &v, shape, visible, path);
    (tokens(out), lse)
}

/// Gradient of [`chunk`], from its output and the gradient of that, with respect to the chunk's fused
/// projection; earlier chunks' keys and values are constants.
pub fn chunk_backward<B: Ops>(
    q: &Tensor<B, 2>,
    seen: &KeysValues<B>,
    [out, d_out]: [&Tensor<B, 2>; 2],
    lse: &Tensor<B, 3>,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
    path: AttentionPath,
) -> Tensor<B, 2> {
    let [k, v] = seen.parts().map(|x| seen_heads(x, shape));
    let saved = Saved {
        q: heads(q.clone(), shape),
        k,
        v,
        out: heads(out.clone(), shape),
        lse: lse.clone(),
    };
    let d_out = heads(d_out.clone(), shape);
    let grads = backward(&saved, &d_out, shape, visible, path);
    let own = |g: Tensor<B, 4>| {
        let all = g.dims()[2];
        tokens(g.narrow(2, all - shape.seq, shape.seq))
    };
    Tensor::cat(grads.map(own).to_vec(), 1)
}

fn forward<B: Ops>(
    q: &Tensor<B, 4>,
    k: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
    path: AttentionPath,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    let flash = match path {
        AttentionPath::Flash => B::flash_attention(q, k, v, shape, visible),
        AttentionPath::Sdpa => None,
    };
    flash.unwrap_or_else(|| B::sdpa(q, k, v, shape, visible))
}

fn backward<B: Ops>(
    saved: &Saved<B>,
    d_out: &Tensor<B, 4>,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
    path: AttentionPath,
) -> [Tensor<B, 4>; 3] {
    let flash = match path {
        AttentionPath::Flash => B::flash_attention_backward(saved, d_out, shape, visible),
        AttentionPath::Sdpa => None,
    };
    flash.unwrap_or_else(|| B::sdpa_backward(saved, d_out, shape, visible))
}

pub(super) fn fused<B: Ops>(
    qkv: &Tensor<B, 2>,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
    path: AttentionPath,
) -> (Tensor<B, 2>, Tensor<B, 3>) {
    let [q, k, v] = split(qkv, shape);
    let (out, lse) = forward(&q, &k, &v, shape, visible, path);
    (tokens(out), lse)
}

pub(super) fn fused_backward<B: Ops>(
    qkv: &Tensor<B, 2>,
    out: &Tensor<B, 2>,
    lse: &Tensor<B, 3>,
    d_out: &Tensor<B, 2>,
    shape: &AttentionShape,
    visible: Option<&Visible<B>>,
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
    let d_out = heads(d_out.clone(), shape);
    let grads = backward(&saved, &d_out, shape, visible, path);
    Tensor::cat(grads.map(tokens).to_vec(), 1)
}
