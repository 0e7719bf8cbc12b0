//! Gradient checkpointing: of a layer only the input is kept, and in the backward pass it runs forward again.
//!
//! Around groups of blocks, one group's saved values are gone before the next group's are made (Chen et al., "Training
//! Deep Nets with Sublinear Memory Cost", 2016). The second run computes the very same numbers, so the gradients are equal
//! bit for bit.

use aios_nn::{Backward, Cached, Context, Format, Layer, Param, Saved, Saves, SharedLayer, Visit};
use aios_tensor::Ops;
use burn::tensor::Tensor;
use std::ops::Range;

/// What to keep of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All that the backward pass reads: fastest, largest.
    Everything,
    /// The input of every `every` blocks (1 at least), from which the rest is recomputed. More than
    /// one holds fewer inputs and more saved values at once.
    Inputs { every: usize },
}

impl Keep {
    /// The input of each block: the smallest for calls of few blocks.
    pub const EACH_INPUT: Self = Self::Inputs { every: 1 };

    /// What is kept of a call of so many blocks that save this.
    pub fn kept(self, block: &[Saves], blocks: usize) -> Vec<Saves> {
        match self {
            Self::Everything => block.repeat(blocks),
            Self::Inputs { every } => vec![input_of(block); blocks.div_ceil(every)],
        }
    }

    /// What a group of its blocks saves anew for its backward pass.
    pub fn recomputed(self, block: &[Saves], blocks: usize) -> Vec<Saves> {
        match self {
            Self::Everything => Vec::new(),
            Self::Inputs { every } => block.repeat(every.min(blocks)),
        }
    }
}

/// What the wrapper keeps of a layer, whatever that saves itself.
pub fn input_of(layer: &[Saves]) -> Saves {
    Saves {
        name: "input",
        numbers: layer.first().map_or(0, |first| first.numbers),
        format: Format::Activations,
        shared: false,
    }
}

/// A layer that is recomputed.
pub struct Checkpointed<B: Ops>(pub SharedLayer<B>);

impl<B: Ops> Visit<B> for Checkpointed<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.0.visit(each);
    }
}

impl<B: Ops> Layer<B> for Checkpointed<B> {
    fn forward(&self, ctx: &Context<B>, x: Tensor<B, 2>, cached: Cached<B>) -> Tensor<B, 2> {
        self.0.forward(ctx, x, cached)
    }

    fn forward_saving(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        mut cached: Cached<B>,
    ) -> (Tensor<B, 2>, Saved<B>) {
        // Kept with the input, so that what the blocks leave for the next chunk is left by the backward pass.
        let earlier = cached.take_all(self.blocks());
        let replay = Cached::Replay(self.blocks().start, &earlier);
        let y = self.0.forward(ctx, x.clone(), replay);
        (y, Saved::input(x, earlier))
    }

    fn backward(
        &self,
        ctx: &Context<B>,
        mut saved: Saved<B>,
        dy: Tensor<B, 2>,
        pass: &mut Backward<B>,
        cached: Cached<B>,
    ) -> Tensor<B, 2> {
        let [x] = saved.matrices();
        let earlier = saved.earlier;
        let replay = Cached::Replay(self.blocks().start, &earlier);
        let saved = self.0.save(ctx, x, replay);
        drop(earlier);
        self.0.backward(ctx, saved, dy, pass, cached)
    }

    fn saves(&self) -> Vec<Saves> {
        vec![input_of(&self.0.saves())]
    }

    fn blocks(&self) -> Range<usize> {
        self.0.blocks()
    }
}
