//! Layers, their parameters, and what they save for the backward pass.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod attended;
pub mod block;
mod cache;
mod decoder;
mod draws;
mod head;
mod init;
mod layer;
mod linear;
mod norm;
mod param;
mod projection;
pub mod watch;

pub use attended::Attended;
pub use block::{Block, BlockShape, Context};
pub use cache::{Cached, Earlier, KvCaches};
pub use decoder::{DecoderBlock, DecoderShape, QkNorm};
pub use draws::Draws;
pub use head::head_loss;
pub use init::{Init, uniform};
pub use layer::{
    AttendThenEach, Backward, Format, Kept, Layer, Saved, Saves, SharedLayer, Stack, saved_bytes,
    shared,
};
pub use linear::{Adapter, Linear};
pub use norm::Norm;
pub use param::{Gradients, Param, ParamInfo, Visit};
pub use projection::Projection;
