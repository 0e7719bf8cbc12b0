//! A layer whose saved matrices are kept in another way than it saved them.

use aios_nn::{Backward, Cached, Context, Kept, Layer, Param, Saved, Saves, SharedLayer, Visit};
use aios_tensor::Ops;
use burn::tensor::Tensor;
use std::ops::Range;

/// A layer, how its matrices are kept, and what that costs instead.
pub(crate) struct SavedAs<B: Ops> {
    pub layer: SharedLayer<B>,
    pub keep: fn(Tensor<B, 2>) -> Kept<B>,
    pub cost: fn(Vec<Saves>) -> Vec<Saves>,
}

impl<B: Ops> Visit<B> for SavedAs<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.layer.visit(each);
    }
}

impl<B: Ops> Layer<B> for SavedAs<B> {
    fn forward(&self, ctx: &Context<B>, x: Tensor<B, 2>, cached: Cached<B>) -> Tensor<B, 2> {
        self.layer.forward(ctx, x, cached)
    }

    fn forward_saving(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        cached: Cached<B>,
    ) -> (Tensor<B, 2>, Saved<B>) {
        let (y, saved) = self.layer.forward_saving(ctx, x, cached);
        (y, saved.kept_as(&mut { self.keep }))
    }

    fn backward(
        &self,
        ctx: &Context<B>,
        saved: Saved<B>,
        dy: Tensor<B, 2>,
        pass: &mut Backward<B>,
        cached: Cached<B>,
    ) -> Tensor<B, 2> {
        self.layer.backward(ctx, saved, dy, pass, cached)
    }

    fn saves(&self) -> Vec<Saves> {
        (self.cost)(self.layer.saves())
    }

    fn blocks(&self) -> Range<usize> {
        self.layer.blocks()
    }
}
