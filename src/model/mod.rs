//! HRM ACT-v1 (Wang et al., "Hierarchical Reasoning Model", 2025) as a causal language model.
//!
//! Plain structs of matrices with explicit forward and backward passes. What is kept for the
//! backward pass is up to the caller (see `memory::checkpoint`), and whether a sequence is computed
//! as a whole or in chunks is as well (see [`Pasts`]).

mod act;
mod block;
mod config;
mod init;
mod layout;
mod param;
mod past;
mod reader;
mod tiled;

pub use act::{ActV1, Carry, Level, ParamSource, Question};
pub use block::{Block, Context, Earlier, Saved};
pub use config::{ModelConfig, PosEncodings, TrainedTensor};
pub use init::{Init, uniform};
pub use layout::layout;
pub use param::{Gradients, Param, ParamInfo};
pub use past::{Past, Pasts};
pub use reader::Reader;
