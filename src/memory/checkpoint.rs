//! Gradient checkpointing: what a level call keeps for its backward pass.
//!
//! Either everything each block saves, or only the input of every so many blocks; then those blocks
//! run forward again in the backward pass, one group at a time, and their saved values are gone
//! before the next group's are made (Chen et al., "Training Deep Nets with Sublinear Memory Cost",
//! 2016). The second run computes the very same numbers, so the gradients are equal bit for bit.

use super::watch::{Point, Watch};
use crate::model::{Block, Context, Gradients, Level, ModelConfig, Saved};
use crate::ops::Ops;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

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
    /// The input of each block: the smallest for levels of few blocks.
    pub const EACH_INPUT: Self = Self::Inputs { every: 1 };

    /// Elements kept for the backward pass of one call of a level, a token.
    pub fn kept(self, model: &ModelConfig, layers: usize) -> usize {
        match self {
            Self::Everything => layers * saved(model),
            Self::Inputs { every } => layers.div_ceil(every) * model.hidden_size,
        }
    }

    /// Elements that a group of blocks saves anew for its backward pass, a token.
    pub fn recomputed(self, model: &ModelConfig, layers: usize) -> usize {
        match self {
            Self::Everything => 0,
            Self::Inputs { every } => every.min(layers) * saved(model),
        }
    }
}

/// Elements a block saves for its backward pass, a token: x, qkv, attended, middle, gate_up; y is
/// the next block's x. The f32 statistics, a few a token, are left out.
fn saved(model: &ModelConfig) -> usize {
    6 * model.hidden_size + 2 * model.inner_size()
}

/// A group of blocks: what each saved, or the first one's input.
enum Kept<B: Backend> {
    Saved(Vec<Saved<B>>),
    Input(Tensor<B, 2>),
}

/// One level call, waiting for its backward pass.
pub struct LevelTape<B: Backend> {
    groups: Vec<Kept<B>>,
    /// Blocks of a group.
    size: usize,
}

impl<B: Ops> LevelTape<B> {
    /// Run the level on `z` (state plus injection) and keep what `keep` says.
    pub fn forward(
        level: &Level<B>,
        ctx: &Context<B>,
        z: Tensor<B, 2>,
        keep: Keep,
    ) -> (Tensor<B, 2>, Self) {
        let size = match keep {
            Keep::Everything => 1,
            Keep::Inputs { every } => every.max(1),
        };
        let mut groups = Vec::with_capacity(level.blocks.len().div_ceil(size));
        let z = level.blocks.chunks(size).fold(z, |z, blocks| match keep {
            Keep::Everything => {
                let (y, saved) = forward_saving(blocks, ctx, z);
                groups.push(Kept::Saved(saved));
                y
            }
            Keep::Inputs { .. } => {
                groups.push(Kept::Input(z.clone()));
                blocks.iter().fold(z, |z, block| block.forward(ctx, z))
            }
        });
        (z, Self { groups, size })
    }

    /// Gradient with respect to `z`; adds those of the weights.
    pub fn backward(
        self,
        level: &Level<B>,
        ctx: &Context<B>,
        dy: Tensor<B, 2>,
        grads: &mut Gradients<B>,
        watch: &dyn Watch,
    ) -> Tensor<B, 2> {
        let groups = level.blocks.chunks(self.size).zip(self.groups).rev();
        groups.fold(dy, |dy, (blocks, kept)| {
            let saved = match kept {
                Kept::Saved(saved) => saved,
                Kept::Input(x) => forward_saving(blocks, ctx, x).1,
            };
            watch.at(Point::Backward);
            let blocks = blocks.iter().zip(saved).rev();
            blocks.fold(dy, |dy, (block, saved)| {
                block.backward(ctx, saved, &dy, grads)
            })
        })
    }
}

/// Run some blocks one after the other and keep all that they save.
fn forward_saving<B: Ops>(
    blocks: &[Block<B>],
    ctx: &Context<B>,
    z: Tensor<B, 2>,
) -> (Tensor<B, 2>, Vec<Saved<B>>) {
    let mut all = Vec::with_capacity(blocks.len());
    let z = blocks.iter().fold(z, |z, block| {
        let (y, saved) = block.forward_saving(ctx, z);
        all.push(saved);
        y
    });
    (z, all)
}
