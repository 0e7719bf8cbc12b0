//! HRM ACT-v1 (Wang et al., "Hierarchical Reasoning Model", 2025) as a causal language model.
//!
//! Plain structs of matrices with explicit forward and backward passes. The model knows no memory
//! feature: what is kept for the backward pass is up to the caller (see `memory::checkpoint`).

mod act;
mod block;
mod config;
mod init;
mod param;

pub use act::{ActV1, Carry, Level, ParamSource, Question};
pub use block::{Block, Context, Saved};
pub use config::{ModelConfig, PosEncodings, TrainedTensor};
pub use init::{Init, uniform};
pub use param::{Gradients, Param, ParamInfo};
