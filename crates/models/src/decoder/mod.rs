//! Decoders as Hugging Face's folders hold them: one block with switches where model families differ, and HRM-Text's two
//! stacks of the same block in cycles.

mod architecture;
mod build;
mod config;
mod fields;
mod layout;
mod model;
mod objective;
mod parts;
mod quantization;
mod remarks;
mod rope;
mod ropes;
mod trunk;
mod usual;
mod windows;

pub use architecture::{Adapted, HfModel};
pub use config::{Cycles, DecoderConfig, MODEL_TYPES, Naming};
pub use layout::layout;
pub use model::Decoder;
pub use parts::{PartOf, part_of};
pub use quantization::{is_nf4, without_quantization};
pub use remarks::{dropouts, passed_over};
