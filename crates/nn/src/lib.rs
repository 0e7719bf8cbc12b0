//! Layers, their parameters, and what they save for the backward pass.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod block;
mod cache;
mod init;
mod layer;
mod linear;
mod param;
pub mod watch;

pub use block::{Block, BlockShape, Context};
pub use cache::{Cached, Earlier, KvCaches};
pub use init::{Init, uniform};
pub use layer::{
    AttendThenEach, Attended, Backward, Format, Kept, Layer, Saved, Saves, SharedLayer, Stack,
    saved_bytes,
};
pub use linear::Linear;
pub use param::{Gradients, Param, ParamInfo, Visit};
