//! A layer with everything but attention computed tile by tile.
//!
//! All but attention is token by token, so that its intermediate values need to exist for some
//! tokens at a time only; attention itself takes memory linear in the tokens. What remains for all of
//! them are the block's input and result, the projection and what attention gives. The gradients
//! are the same (as with the tiled MLP of Bekman et al., "Arctic Long Sequence Training", 2025).

use crate::checkpoint::input_of;
use aios_nn::{
    AttendThenEach, Backward, Cached, Context, Earlier, Layer, Param, Saved, Saves, SharedLayer,
    Visit,
};
use aios_tensor::Ops;
use aios_tensor::attention::concatenated;
use burn::tensor::Tensor;
use std::ops::Range;

/// A layer in tiles, of which only the input is kept; or, if it `keeps`, of whose passes only those without a backward
/// pass are in tiles.
pub struct Tiled<B: Ops> {
    pub layer: SharedLayer<B>,
    /// Rows of a tile.
    pub rows: usize,
    /// Sequences no longer than this are computed as a whole.
    pub longest_whole: usize,
    pub keeps: bool,
}

impl<B: Ops> Tiled<B> {
    /// The two halves of the layer, where these tokens are to be computed in tiles.
    fn halves(&self, ctx: &Context<B>) -> Option<&dyn AttendThenEach<B>> {
        match ctx.length > self.longest_whole {
            true => self.layer.as_attend_then_each(),
            false => None,
        }
    }

    fn number(&self) -> usize {
        self.blocks().start
    }

    /// First row and number of rows of each tile.
    fn tiles(&self, x: &Tensor<B, 2>) -> impl Iterator<Item = (usize, usize)> + use<B> {
        let (tokens, rows) = (x.dims()[0], self.rows);
        let starts = (0..tokens).step_by(rows);
        starts.map(move |start| (start, rows.min(tokens - start)))
    }

    fn forward_tiled(
        &self,
        halves: &dyn AttendThenEach<B>,
        ctx: &Context<B>,
        x: &Tensor<B, 2>,
        earlier: Earlier<B>,
        cached: &mut Cached<B>,
    ) -> Tensor<B, 2> {
        let attended = halves.attend(ctx, x, earlier);
        let tile =
            |at: (usize, usize)| halves.each(ctx, at.0, rows(x, at), &rows(&attended.out, at));
        let y = joined(self.tiles(x).map(tile).collect());
        halves.leave(ctx, &attended, cached);
        y
    }
}

impl<B: Ops> Visit<B> for Tiled<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.layer.visit(each);
    }
}

impl<B: Ops> Layer<B> for Tiled<B> {
    fn forward(&self, ctx: &Context<B>, x: Tensor<B, 2>, mut cached: Cached<B>) -> Tensor<B, 2> {
        match self.halves(ctx) {
            None => self.layer.forward(ctx, x, cached),
            Some(halves) => {
                let earlier = cached.take(self.number());
                self.forward_tiled(halves, ctx, &x, earlier, &mut cached)
            }
        }
    }

    fn forward_saving(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        mut cached: Cached<B>,
    ) -> (Tensor<B, 2>, Saved<B>) {
        let Some(halves) = self.halves(ctx).filter(|_| !self.keeps) else {
            return self.layer.forward_saving(ctx, x, cached);
        };
        let earlier = vec![cached.take(self.number())];
        let mut replay = Cached::Replay(self.number(), &earlier);
        let y = self.forward_tiled(halves, ctx, &x, earlier[0].clone(), &mut replay);
        (y, Saved::input(x, earlier))
    }

    fn save(&self, ctx: &Context<B>, x: Tensor<B, 2>, mut cached: Cached<B>) -> Saved<B> {
        match self.halves(ctx).filter(|_| !self.keeps) {
            None => self.layer.save(ctx, x, cached),
            Some(_) => Saved::input(x, vec![cached.take(self.number())]),
        }
    }

    fn backward(
        &self,
        ctx: &Context<B>,
        mut saved: Saved<B>,
        dy: Tensor<B, 2>,
        pass: &mut Backward<B>,
        mut cached: Cached<B>,
    ) -> Tensor<B, 2> {
        let Some(halves) = self.halves(ctx).filter(|_| !self.keeps) else {
            return self.layer.backward(ctx, saved, dy, pass, cached);
        };
        let [x] = saved.matrices();
        let earlier = saved.earlier.pop().expect("kept with the input");
        pass.begins();
        let attended = halves.attend(ctx, &x, earlier);
        halves.leave(ctx, &attended, &mut cached);
        let (mut d_sums, mut d_attended) = (Vec::new(), Vec::new());
        for at in self.tiles(&x) {
            let out = rows(&attended.out, at);
            let (x, dy) = (rows(&x, at), rows(&dy, at));
            let [d_sum, d] = halves.each_backward(ctx, at.0, x, &out, &dy, pass.grads);
            d_sums.push(d_sum);
            d_attended.push(d);
        }
        drop(dy);
        let d_attended = joined(d_attended);
        let gradients = [joined(d_sums), d_attended];
        let dx = halves.attend_backward(ctx, &x, attended, gradients, pass.grads);
        pass.done(self);
        dx
    }

    fn saves(&self) -> Vec<Saves> {
        match self.keeps {
            true => self.layer.saves(),
            false => vec![input_of(&self.layer.saves())],
        }
    }

    fn blocks(&self) -> Range<usize> {
        self.layer.blocks()
    }
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
