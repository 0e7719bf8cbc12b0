//! Gradient checkpointing: what a level call keeps for its backward pass.
//!
//! Either everything each block saves, or only each block's input; then the block runs forward
//! again in the backward pass, one block at a time, and its saved values are gone before the next
//! one's are made (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016). The second
//! run computes the very same numbers, so the gradients are equal bit for bit.

use crate::model::{Block, Context, Gradients, Level, Saved};
use crate::ops::Ops;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What to keep of each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All that the backward pass reads: fastest, largest.
    Everything,
    /// The block's input, from which the rest is recomputed.
    Inputs,
}

impl Keep {
    /// Floats kept for one block, a token, at this hidden size, inner width and number of heads.
    pub fn floats_per_token(self, hidden: usize, inner: usize, heads: usize) -> usize {
        match self {
            Self::Inputs => hidden,
            // x, qkv, attended, lse, middle, its scale, gate_up, y's scale; y is the next input.
            Self::Everything => 6 * hidden + 2 * inner + heads + 2,
        }
    }
}

enum Kept<B: Backend> {
    Saved(Box<Saved<B>>),
    Input(Tensor<B, 2>),
}

/// One level call, waiting for its backward pass.
pub struct LevelTape<B: Backend> {
    blocks: Vec<Kept<B>>,
}

impl<B: Ops> LevelTape<B> {
    /// Run the level on `z` (state plus injection) and keep what `keep` says.
    pub fn forward(
        level: &Level<B>,
        ctx: &Context<B>,
        z: Tensor<B, 2>,
        keep: Keep,
    ) -> (Tensor<B, 2>, Self) {
        let mut blocks = Vec::with_capacity(level.blocks.len());
        let z = level.blocks.iter().fold(z, |z, block| {
            let (y, kept) = run(block, ctx, z, keep);
            blocks.push(kept);
            y
        });
        (z, Self { blocks })
    }

    /// Gradient with respect to `z`; adds those of the weights.
    pub fn backward(
        self,
        level: &Level<B>,
        ctx: &Context<B>,
        dy: Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let blocks = level.blocks.iter().zip(self.blocks).rev();
        blocks.fold(dy, |dy, (block, kept)| {
            let saved = match kept {
                Kept::Saved(saved) => *saved,
                Kept::Input(x) => block.forward_saving(ctx, x).1,
            };
            block.backward(ctx, saved, &dy, grads)
        })
    }
}

fn run<B: Ops>(
    block: &Block<B>,
    ctx: &Context<B>,
    z: Tensor<B, 2>,
    keep: Keep,
) -> (Tensor<B, 2>, Kept<B>) {
    match keep {
        Keep::Everything => {
            let (y, saved) = block.forward_saving(ctx, z);
            (y, Kept::Saved(Box::new(saved)))
        }
        Keep::Inputs => (block.forward(ctx, z.clone()), Kept::Input(z)),
    }
}
