//! Models: structure, names in files, cost, and what a training step computes of a batch.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod actv1;
mod objective;

pub use objective::{Denominators, LossSums, Objective, Read, Reading, Recipe, StepPart};

use actv1::{ActV1, ModelConfig, ParamSource};
use aios_base::error::Result;
use aios_nn::{BlockShape, ParamInfo};
use aios_tensor::Ops;
use std::fmt::Debug;

/// What a model is as far as files and memory go, without a device.
pub trait Architecture: Debug {
    /// Every parameter, in the order of their index.
    fn parameters(&self) -> Vec<ParamInfo>;

    /// Numbers in the parameters that are trained.
    fn trained(&self) -> usize;

    /// Numbers in what else is there for as long as the model is: fixed parameters, tables of positions.
    fn fixed(&self) -> usize;

    /// Tokens that there are.
    fn vocabulary(&self) -> usize;

    /// The longest sequence.
    fn max_seq_len(&self) -> usize;

    /// A token sees this many tokens, itself included; 0 for all.
    fn window(&self) -> usize;

    /// The embedding's table is the head's weight too.
    fn is_tied(&self) -> bool;

    /// Sizes of every block.
    fn block(&self) -> BlockShape;

    /// Blocks of each call that goes backward.
    fn backward_calls(&self) -> Vec<usize>;

    /// Blocks of all calls of a pass, each of which leaves keys and values for the next chunk.
    fn cached_blocks(&self) -> usize;

    /// The same for sequences of half the length.
    fn halved(&self) -> Box<dyn Architecture>;
}

/// A model on a device, for sequences of no more than `positions` tokens, from a source of values.
///
/// # Errors
/// An impossible configuration, or whatever the source reports.
pub fn build<B: Ops>(
    model: &ModelConfig,
    positions: usize,
    device: &B::Device,
    source: ParamSource,
) -> Result<Box<dyn Objective<B>>> {
    let model = ActV1::<B>::build_for(model, positions, device, source)?;
    Ok(Box::new(model))
}
