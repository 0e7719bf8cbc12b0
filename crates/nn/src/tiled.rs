//! A block with everything but attention computed tile by tile.
//!
//! All but attention is token by token, so that its intermediate values need to exist for some
//! tokens at a time only; attention itself takes memory linear in the tokens. What remains for all of
//! them are the block's input and result, the projection and what attention gives. The gradients
//! are the same (as with the tiled MLP of Bekman et al., "Arctic Long Sequence Training", 2025).

use crate::block::{Attention, Block, Context, Earlier};
use crate::param::Gradients;
use aios_tensor::Ops;
use aios_tensor::attention::{KeysValues, concatenated};
use burn::tensor::Tensor;

impl<B: Ops> Block<B> {
    /// Attention, and the block's result `[T, hidden]`.
    pub(super) fn forward_tiled(
        &self,
        ctx: &Context<B>,
        x: &Tensor<B, 2>,
        earlier: Earlier<B>,
    ) -> (Attention<B>, Tensor<B, 2>) {
        let attention = self.attend(ctx, x, earlier);
        let y = tiles(ctx, x)
            .map(|at| self.mlp(rows(x, at), &rows(&attention.out, at)).y)
            .collect();
        (attention, joined(y))
    }

    /// Gradient with respect to the block's input `x`, given that of the result; adds those of the
    /// weights. Everything in between is computed anew, and what the queries of a chunk saw is handed
    /// to `seen` before it is gone.
    pub fn backward_tiled(
        &self,
        ctx: &Context<B>,
        x: &Tensor<B, 2>,
        earlier: Earlier<B>,
        dy: Tensor<B, 2>,
        grads: &mut Gradients<B>,
        seen: impl FnOnce(Option<&KeysValues<B>>),
    ) -> Tensor<B, 2> {
        let attention = self.attend(ctx, x, earlier);
        seen(attention.seen());
        let mut d_sums = Vec::new();
        let mut d_attended = Vec::new();
        for at in tiles(ctx, x) {
            let attended = rows(&attention.out, at);
            let mlp = self.mlp(rows(x, at), &attended);
            let (d_sum, d) = self.mlp_backward(&mlp, &attended, &rows(&dy, at), grads);
            d_sums.push(d_sum);
            d_attended.push(d);
        }
        drop(dy);
        let d_attended = joined(d_attended);
        let d_sum = joined(d_sums);
        self.attend_backward(ctx, x, attention, &d_attended, d_sum, grads)
    }
}

/// First row and number of rows of each tile.
fn tiles<B: Ops>(
    ctx: &Context<B>,
    x: &Tensor<B, 2>,
) -> impl Iterator<Item = (usize, usize)> + use<B> {
    let tokens = x.dims()[0];
    let tile = ctx.tile.unwrap_or(tokens);
    (0..tokens)
        .step_by(tile)
        .map(move |start| (start, tile.min(tokens - start)))
}

fn rows<B: Ops>(x: &Tensor<B, 2>, (start, n): (usize, usize)) -> Tensor<B, 2> {
    x.clone().narrow(0, start, n)
}

fn joined<B: Ops>(mut tiles: Vec<Tensor<B, 2>>) -> Tensor<B, 2> {
    match tiles.len() {
        1 => tiles.remove(0),
        _ => concatenated(tiles, 0),
    }
}
