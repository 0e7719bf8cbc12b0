//! Hugging Face model folders as files: found on the disk or the Hub, read tensor by tensor, and written.
//!
//! ```text
//! config.json                        the architecture: Folder::config
//! generation_config.json             ids of control tokens, settings of sampling: Folder::generation
//! model.safetensors                  all tensors, or
//! model.safetensors.index.json       which file has which, and model-00001-of-00002.safetensors ...: Weights
//! tokenizer.json ...                 what travels along into a saved copy: Folder::passengers
//! chat_template.jinja                Folder::chat_template
//! ```
//!
//! A GGUF file says the same in its own words, and is such a folder to whoever opens it.
//!
//! Such a folder comes from anybody: sizes, offsets, counts and names in its files are compared with what is there before
//! anything is made of them, and no name in it leads outside of it.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod dtype;
mod folder;
mod generation;
mod gguf;
mod header;
mod hub;
mod index;
mod json;
mod names;
mod save;
mod template;
mod tensors;
mod weights;

pub use dtype::{Dtype, encode};
pub use folder::{Folder, FolderFile, read_config};
pub use generation::Generation;
pub use gguf::{is_gguf, tokenizer_in_gguf};
pub use hub::{Hub, cache_folder, is_hub_id};
pub use names::{
    ADAPTER_CONFIG_FILE, ADAPTER_FILE, CHAT_TEMPLATE_FILE, CONFIG_FILE, GENERATION_FILE,
    MODEL_FILE, MORE_CHAT_TEMPLATES, OLD_CHAT_TEMPLATE_FILE, TOKENIZER_FILE, is_of_a_folder,
    is_template,
};
pub use save::{write_adapter, write_folder};
pub use tensors::{NamedTensor, TensorFile, TensorSource, write_tensors};
pub use weights::{InBlocks, InNf4, Weights};
