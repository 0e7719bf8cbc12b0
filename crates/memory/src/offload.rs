//! Offload: what a layer saved waits in host memory.

use aios_base::execution::Place;
use aios_nn::{
    Aside, Backward, Cached, Context, Kept, Layer, Param, Saved, Saves, SharedLayer, Visit,
};
use aios_tensor::{Ops, Placed};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::ops::Range;

/// A layer whose saved matrices wait on the host.
pub struct Offloaded<B: Ops>(pub SharedLayer<B>);

struct OnHost<B: Backend>(Placed<B, 2>);

impl<B: Backend> Aside<B> for OnHost<B> {
    fn fetch(self: Box<Self>) -> Tensor<B, 2> {
        self.0.fetch()
    }
}

fn to_host<B: Ops>(tensor: Tensor<B, 2>) -> Kept<B> {
    Kept::Aside(Box::new(OnHost(Placed::new(tensor, Place::Host))))
}

impl<B: Ops> Visit<B> for Offloaded<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.0.visit(each);
    }
}

impl<B: Ops> Layer<B> for Offloaded<B> {
    fn forward(&self, ctx: &Context<B>, x: Tensor<B, 2>, cached: Cached<B>) -> Tensor<B, 2> {
        self.0.forward(ctx, x, cached)
    }

    fn forward_saving(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        cached: Cached<B>,
    ) -> (Tensor<B, 2>, Saved<B>) {
        let (y, saved) = self.0.forward_saving(ctx, x, cached);
        (y, saved.kept_as(&mut to_host))
    }

    fn backward(
        &self,
        ctx: &Context<B>,
        saved: Saved<B>,
        dy: Tensor<B, 2>,
        pass: &mut Backward<B>,
        cached: Cached<B>,
    ) -> Tensor<B, 2> {
        self.0.backward(ctx, saved, dy, pass, cached)
    }

    fn saves(&self) -> Vec<Saves> {
        // Nothing of it is on the device.
        Vec::new()
    }

    fn blocks(&self) -> Range<usize> {
        self.0.blocks()
    }
}
