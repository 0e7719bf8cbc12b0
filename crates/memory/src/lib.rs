//! Decorators that shrink what training keeps in memory.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod bf16_inputs;
pub mod bf16_weights;
pub mod checkpoint;
mod decorate;
mod eight_bit;
pub mod loss_scale;
pub mod moments;
pub mod offload;
pub mod record;
mod saved_as;
pub mod tiles;

pub use decorate::{Decoration, Refusal};
