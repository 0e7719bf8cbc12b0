//! Models: structure, names in files, cost, and what a training step computes of a batch.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod actv1;
pub mod decoder;
mod embedding;
mod losses;
mod model;
mod objective;
mod parameters;

pub use losses::{Loss, Losses};
pub use model::Model;
pub use objective::{Denominators, LossSums, Objective, Read, Reading, Recipe, StepPart};

pub use parameters::{Packed, ParamSource, Values, drawn};

use actv1::ActV1;
use aios_base::error::Result;
use aios_nn::{BlockShape, Format, ParamInfo, Saves};
use aios_tensor::{AttentionClass, Ops};
use decoder::Decoder;
use std::fmt::Debug;

/// What a model is as far as files and memory go, without a device.
pub trait Architecture: Debug {
    /// Every parameter, in the order of their index.
    fn parameters(&self) -> Vec<ParamInfo>;

    /// Numbers in the parameters that are trained.
    fn trained(&self) -> usize;

    /// Numbers in what else is there for as long as the model is: fixed parameters, tables of positions.
    fn fixed(&self) -> usize;

    /// Bytes of the same, where 16-bit numbers can be held as such if `halves`.
    fn fixed_bytes(&self, _halves: bool) -> u64 {
        4 * self.fixed() as u64
    }

    /// What is decoded for a product.
    fn decoded(&self) -> Decoded {
        Decoded::default()
    }

    /// Tokens that there are.
    fn vocabulary(&self) -> usize;

    /// The longest sequence.
    fn max_seq_len(&self) -> usize;

    /// A token sees this many tokens, itself included; 0 for all.
    fn window(&self) -> usize;

    /// The embedding's table is the head's weight too.
    fn is_tied(&self) -> bool;

    /// The head's weight is trained, rather than frozen.
    fn trains_head(&self) -> bool {
        true
    }

    /// The embedding's table is trained.
    fn trains_embedding(&self) -> bool {
        true
    }

    /// Kinds of attention that its blocks have, each once, for a device to be tried with.
    fn attention(&self) -> Vec<AttentionClass>;

    /// Sizes of every block.
    fn block(&self) -> BlockCosts;

    /// Blocks of each call that goes backward.
    fn backward_calls(&self) -> Vec<usize>;

    /// Blocks with weights of their own: fewer than those of all calls where some run more than once.
    fn distinct_blocks(&self) -> usize {
        self.backward_calls().iter().sum()
    }

    /// Numbers in the weights that a GPU keeps in the activations' format while a step is computed, beside those that are
    /// trained: of what many products read.
    fn kept_casts(&self) -> usize {
        0
    }

    /// An adapter drops some of what it reads.
    fn drops(&self) -> bool {
        false
    }

    /// Blocks of all calls of a pass, each of which leaves keys and values for the next chunk.
    fn cached_blocks(&self) -> usize;

    /// The same for sequences of half the length.
    fn halved(&self) -> Box<dyn Architecture>;
}

/// Numbers in the largest weight that is held in another format than the one it is multiplied in: 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Of those in 16 bits that are of blocks.
    pub halves: usize,
    /// Of those in few bits.
    pub quantized: usize,
    /// Of the head, if it is in 16 bits.
    pub head: usize,
}

/// What a block takes, as far as memory is planned by it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockCosts {
    pub hidden: usize,
    /// Inner width of the MLP.
    pub inner: usize,
    pub heads: usize,
    /// Width of a token's queries, and of what attention gives.
    pub q: usize,
    /// Width of the fused projection, with a gate of attention if there is one.
    pub qkv: usize,
    /// Width of a token's keys, and of its values.
    pub kv: usize,
    /// Width of what the MLP's first layer gives.
    pub up: usize,
    /// Numbers in its weights that are trained.
    pub parameters: usize,
    /// What it saves of each token.
    pub saves: Vec<Saves>,
}

impl BlockCosts {
    /// Numbers a token that a block saves of what follows attention.
    pub fn after_attention(&self) -> usize {
        let activations = self.saves.iter();
        let activations = activations.filter(|saves| saves.format == Format::Activations);
        let all: usize = activations.map(|saves| saves.numbers).sum();
        all.saturating_sub(self.hidden + self.qkv + self.q)
    }
}

impl From<BlockShape> for BlockCosts {
    fn from(block: BlockShape) -> Self {
        Self {
            hidden: block.hidden,
            inner: block.inner,
            heads: block.heads,
            q: block.q_width(),
            qkv: block.qkv_width(),
            kv: block.kv_width(),
            up: 2 * block.inner,
            parameters: block.parameters(),
            saves: block.saves().to_vec(),
        }
    }
}

/// A model on a device, for sequences of no more than `positions` tokens, from a source of values.
///
/// # Errors
/// An impossible configuration, or whatever the source reports.
pub fn build<B: Ops>(
    model: &Model,
    positions: usize,
    device: &B::Device,
    source: ParamSource,
) -> Result<Box<dyn Objective<B>>> {
    Ok(match model {
        Model::ActV1(model) => Box::new(ActV1::<B>::build_for(model, positions, device, source)?),
        Model::Decoder(model) => {
            let positions = positions.clamp(1, model.max_seq_len());
            Box::new(Decoder::<B>::build(model, positions, device, source)?)
        }
    })
}
