//! Attention of a block, on whole sequences or on a chunk of each.

use crate::block::Context;
use crate::cache::Earlier;
use aios_tensor::attention::{self, KeysValues, Room};
use aios_tensor::{AttentionShape, Ops};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What attention read and gave.
#[derive(Clone, Debug)]
pub struct Attended<B: Backend> {
    /// The fused projection of whole sequences, or the queries of a chunk.
    pub(crate) projected: Tensor<B, 2>,
    /// What the queries of a chunk saw: its own tokens' are the last.
    pub(crate) seen: Option<KeysValues<B>>,
    /// What the second half of the block reads.
    pub out: Tensor<B, 2>,
    pub(crate) lse: Tensor<B, 3>,
    /// The result before its gate, and the gate, if it has one.
    pub(crate) ungated: Option<Tensor<B, 2>>,
    pub(crate) gate: Option<Tensor<B, 2>>,
    /// The projection before queries and keys were normed, if they are.
    pub(crate) unplaced: Option<Tensor<B, 2>>,
}

impl<B: Ops> Attended<B> {
    /// Attend, given the fused projection of the tokens at hand.
    pub(crate) fn of(
        ctx: &Context<B>,
        shape: &AttentionShape,
        qkv: Tensor<B, 2>,
        earlier: Earlier<B>,
    ) -> Self {
        let visible = ctx.visible.as_ref();
        match earlier {
            Earlier::Whole => {
                let (out, lse) = B::attention_fused(&qkv, shape, visible, ctx.path);
                Self::again(qkv, None, out, lse)
            }
            Earlier::Chunks(past) => Self::of_chunk(ctx, shape, qkv, past, Room::Exact),
            Earlier::Growing(past) => Self::of_chunk(ctx, shape, qkv, past, Room::Spare),
        }
    }

    fn of_chunk(
        ctx: &Context<B>,
        shape: &AttentionShape,
        qkv: Tensor<B, 2>,
        past: Option<KeysValues<B>>,
        room: Room,
    ) -> Self {
        let (q, seen) = attention::split_chunk(qkv, past, shape, room);
        let (out, lse) = attention::chunk(&q, &seen, shape, ctx.visible.as_ref(), ctx.path);
        Self::again(q, Some(seen), out, lse)
    }

    /// Gradient with respect to the fused projection, given that of `out`.
    pub(crate) fn backward(
        &self,
        ctx: &Context<B>,
        shape: &AttentionShape,
        d: &Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let (visible, path) = (ctx.visible.as_ref(), ctx.path);
        let (projected, out, lse) = (&self.projected, &self.out, &self.lse);
        match &self.seen {
            None => B::attention_fused_backward(projected, out, lse, d, shape, visible, path),
            Some(seen) => {
                attention::chunk_backward(projected, seen, [out, d], lse, shape, visible, path)
            }
        }
    }
}

impl<B: Backend> Attended<B> {
    /// Put together again of what was saved.
    pub(crate) fn again(
        projected: Tensor<B, 2>,
        seen: Option<KeysValues<B>>,
        out: Tensor<B, 2>,
        lse: Tensor<B, 3>,
    ) -> Self {
        Self {
            projected,
            seen,
            out,
            lse,
            ungated: None,
            gate: None,
            unplaced: None,
        }
    }

    /// What the queries of a chunk saw.
    pub fn seen(&self) -> Option<&KeysValues<B>> {
        self.seen.as_ref()
    }
}
