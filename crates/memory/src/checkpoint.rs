//! Gradient checkpointing: what a level call keeps for its backward pass.
//!
//! Either everything each block saves, or only the input of every so many blocks; then those blocks
//! run forward again in the backward pass, one group at a time, and their saved values are gone
//! before the next group's are made (Chen et al., "Training Deep Nets with Sublinear Memory Cost",
//! 2016). The second run computes the very same numbers, so the gradients are equal bit for bit.

use aios_base::execution::Place;
use aios_models::actv1::{Level, ModelConfig};
use aios_nn::watch::{Point, Watch};
use aios_nn::{Block, Context, Earlier, Gradients, Past, Saved};
use aios_tensor::Ops;
use aios_tensor::Stowed;
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

/// A group of blocks: what each saved, or the first one's input with what attention in each sees of
/// earlier chunks.
enum Kept<B: Backend> {
    Saved(Vec<Saved<B>>),
    Input(Stowed<B, 2>, Vec<Earlier<B>>),
}

/// One level call, waiting for its backward pass.
pub struct LevelTape<B: Backend> {
    groups: Vec<Kept<B>>,
    /// Blocks of a group.
    size: usize,
}

/// How a level call keeps what its backward pass needs.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    pub keep: Keep,
    /// Where inputs of blocks wait.
    pub place: Place,
}

impl<B: Ops> LevelTape<B> {
    /// Run the level on `z` (state plus injection) and keep what `keeping` says.
    ///
    /// With a `past` the tokens are a chunk. What its blocks saw of earlier chunks is then kept with
    /// the tape, so that what they leave for the next one is left by the backward pass.
    pub fn forward(
        level: &Level<B>,
        ctx: &Context<B>,
        z: Tensor<B, 2>,
        keeping: Keeping,
        mut past: Option<&mut Past<B>>,
    ) -> (Tensor<B, 2>, Self) {
        let size = match keeping.keep {
            Keep::Everything => 1,
            Keep::Inputs { every } => every.max(1),
        };
        let mut groups = Vec::with_capacity(level.blocks.len().div_ceil(size));
        let z = level.blocks.chunks(size).fold(z, |z, blocks| {
            let first = groups.len() * size;
            let take = |i| Past::take(&mut past, first + i);
            let earlier: Vec<_> = (0..blocks.len()).map(take).collect();
            match keeping.keep {
                Keep::Everything => {
                    let saved = forward_saving(blocks, ctx, z.clone(), earlier);
                    let y = saved.last().map_or(z, |saved| saved.y().clone());
                    groups.push(Kept::Saved(saved));
                    y
                }
                Keep::Inputs { .. } => {
                    let input = Stowed::new(z.clone(), keeping.place);
                    let with_earlier = blocks.iter().zip(earlier.clone());
                    groups.push(Kept::Input(input, earlier));
                    with_earlier.fold(z, |z, (block, earlier)| block.forward(ctx, z, earlier).0)
                }
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
        mut past: Option<&mut Past<B>>,
    ) -> Tensor<B, 2> {
        let groups = level.blocks.chunks(self.size).zip(self.groups);
        groups
            .enumerate()
            .rev()
            .fold(dy, |dy, (group, (blocks, kept))| {
                let first = group * self.size;
                let mut leave = |i, seen: Option<&_>| Past::leave(&mut past, first + i, ctx, seen);
                let saved = match (kept, ctx.tile) {
                    (Kept::Saved(saved), _) => saved,
                    (Kept::Input(x, earlier), None) => {
                        forward_saving(blocks, ctx, x.fetch(), earlier)
                    }
                    (Kept::Input(x, earlier), Some(_)) => {
                        let inputs = inputs(blocks, ctx, x.fetch(), &earlier);
                        let each = blocks.iter().zip(inputs).zip(earlier).enumerate().rev();
                        return each.fold(dy, |dy, (i, ((block, x), earlier))| {
                            watch.at(Point::Backward);
                            let leave = |seen: Option<&_>| leave(i, seen);
                            block.backward_tiled(ctx, &x, earlier, dy, grads, leave)
                        });
                    }
                };
                watch.at(Point::Backward);
                let each = blocks.iter().zip(saved).enumerate().rev();
                each.fold(dy, |dy, (i, (block, saved))| {
                    leave(i, saved.seen());
                    block.backward(ctx, saved, &dy, grads)
                })
            })
    }
}

/// Run some blocks one after the other and keep all that they save.
fn forward_saving<B: Ops>(
    blocks: &[Block<B>],
    ctx: &Context<B>,
    mut z: Tensor<B, 2>,
    earlier: Vec<Earlier<B>>,
) -> Vec<Saved<B>> {
    let save = |(block, earlier): (&Block<B>, Earlier<B>)| {
        let saved = block.forward_saving(ctx, z.clone(), earlier);
        z = saved.y().clone();
        saved
    };
    blocks.iter().zip(earlier).map(save).collect()
}

/// The input of each block, given that of the first.
fn inputs<B: Ops>(
    blocks: &[Block<B>],
    ctx: &Context<B>,
    x: Tensor<B, 2>,
    earlier: &[Earlier<B>],
) -> Vec<Tensor<B, 2>> {
    let mut inputs = vec![x];
    for (block, earlier) in blocks.iter().zip(earlier).take(blocks.len() - 1) {
        let x = inputs[inputs.len() - 1].clone();
        inputs.push(block.forward(ctx, x, earlier.clone()).0);
    }
    inputs
}
