//! Decoders as Hugging Face's folders hold them: one block with switches where model families differ, and HRM-Text's two
//! stacks of the same block in cycles.

mod architecture;
mod build;
mod config;
mod fields;
mod layout;
mod model;
mod objective;
mod rope;
mod trunk;

pub use architecture::HfModel;
pub use config::{Cycles, DecoderConfig, MODEL_TYPES, Naming};
pub use layout::layout;
pub use model::Decoder;
