//! Layers, their parameters, and what they save for the backward pass.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod block;
pub mod init;
pub mod param;
pub mod past;
pub mod tiled;
pub mod watch;

pub use block::{Block, Context, Earlier, Saved};
pub use init::{Init, uniform};
pub use param::{Gradients, Param, ParamInfo};
pub use past::{Past, Pasts};
