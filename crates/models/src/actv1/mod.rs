//! HRM ACT-v1 (Wang et al., "Hierarchical Reasoning Model", 2025) as a causal language model.
//!
//! Plain structs of matrices with explicit forward and backward passes. What is kept for the
//! backward pass is up to the caller (see ``aios_memory``), and whether a sequence is computed
//! as a whole or in chunks is as well (see [`aios_nn::KvCaches`]).

mod act;
mod chunked;
mod config;
mod halting;
mod layout;
mod objective;
mod reader;
mod supervision;
mod tally;

pub use act::{ActV1, Carry, Level};
pub use chunked::Chunked;
pub use config::{ModelConfig, PosEncodings};
pub use halting::{Answers, HaltingLogits, binary_cross_entropy, target};
pub use layout::layout;
pub use reader::Reader;
pub use supervision::Supervisor;
