//! What a GGUF file says of a model, in the words of a Hugging Face folder, and the other way round.

mod config;
mod family;
mod fields;
mod keys;
mod out;
mod rope;
mod tensors;

pub use config::{config, generation_config};
pub use family::architectures;
pub use out::{extra_tensors, file_type, metadata_of, remarks};
pub use tensors::{Named, Tensors, is_always_f32, tensor_out, tensors};

pub(crate) use family::{Family, Role};
pub(crate) use fields::Fields;
pub(crate) use tensors::Names;

#[cfg(test)]
mod tests;
