//! GGUF files: the container, read and written, and what it says of a model in the words of a Hugging Face folder.
//!
//! ```text
//! GgufFile::open       key-values and tensors of a file or of all parts of a split one; bytes from a memory map
//! write                such a file, one tensor in memory at a time
//! model::config        config.json, and model::generation_config
//! model::tensors       the names that a folder's files have for its tensors, and what has to be done to each
//! model::metadata_of   the other way round, with model::tensor_out and model::extra_tensors
//! lora                 PEFT's adapters as GGUF
//! ```
//!
//! Such a file comes from anybody: counts, lengths and offsets are compared with what is there before anything is made of
//! them.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod change;
mod file;
mod header;
mod kind;
pub mod lora;
mod metadata;
pub mod model;
mod source;
mod split;
mod value;
mod write;

pub use change::{Change, permute, unpermute};
pub use file::{GgufFile, TensorInfo};
pub use kind::{Kind, Other};
pub use metadata::Metadata;
pub use split::is_first_part;
pub use value::{Array, Value};
pub use write::{Tensor, write};
