//! Brain bundles: a training run on disk that no crash can lose.
//!
//! ```text
//! DIR/                            --bundle-dir; files of others in it are never touched
//!   checkpoints/step-000200/      one whole checkpoint: the newest, and at least the one before it
//!     model.safetensors  optimizer.safetensors  trainer.json  config.toml  tokenizer/
//!     adapter_model.safetensors  adapter_config.json  in place of the model where an adapter is trained
//!     config.json  tokenizer.json ...  of a model of a Hugging Face family: the checkpoint is such a folder
//!     manifest.json               length and hash of each of these files
//!   checkpoints/best-step-000150/ the checkpoint of the best evaluation, with --keep-best, and best.json with its loss
//!   checkpoints/earlier-run/      what the run before this one left, if this one started over; then earlier-run-2 ...
//!   checkpoints/damaged-.../      a checkpoint that was passed over for an older one, for the user to look at
//!   model.safetensors ...         the newest checkpoint's files once more, for people and other programs: weights as
//!                                 clones or hard links, the rest as copies
//!   .lock                         held by the process that trains into DIR
//! ```
//!
//! A checkpoint is written to a temporary folder next to its final place, every file and folder is flushed to the disk,
//! and one rename makes it a checkpoint. Only then are older ones removed. So at any instant at least one whole
//! checkpoint is there under its own name, and nothing is ever renamed over or out of the way of the last good one.
//! Opening reads every byte of one checkpoint's folder, compares it with its manifest, and goes back to the newest
//! checkpoint that is intact. The files in DIR itself are only read where there is no such folder.
//!
//! A bundle may come from elsewhere: nothing in it is followed that leads outside, links and special files are refused,
//! and lengths are compared before anything is read.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod best;
mod disk;
mod keep;
mod lock;
mod manifest;
mod open;
mod place;
mod publish;
mod room;
mod save;
mod tensors;

use std::path::{Path, PathBuf};

use aios_base::error::{Error, Result};
use aios_hf::{ADAPTER_CONFIG_FILE, ADAPTER_FILE, MORE_CHAT_TEMPLATES, is_of_a_folder};

pub use aios_hf::{Dtype, FolderFile, NamedTensor, TensorFile, TensorSource};
pub use best::Best;
pub use keep::EarlierRun;
pub use lock::Lock;
pub use open::{Bundle, Check};
pub use save::BundleWriter;

const MODEL: &str = "model.safetensors";
/// In its place where what is trained is an adapter, by PEFT's name.
const ADAPTER: &str = ADAPTER_FILE;
const OPTIMIZER: &str = "optimizer.safetensors";
const TRAINER: &str = "trainer.json";
const CONFIG: &str = "config.toml";
const TOKENIZER: &str = "tokenizer";
const CHECKPOINTS: &str = "checkpoints";
const EARLIER_RUN: &str = "earlier-run";
const DAMAGED: &str = "damaged-";
const BEST: &str = "best-";
const STEP: &str = "step-";

/// All that a checkpoint holds, as the trainer hands it over.
pub struct BundleContents<'a> {
    /// Steps done so far; names the checkpoint.
    pub step: u64,
    /// The weights, under their published names; an adapter's, if `adapter_config.json` is in the folder.
    pub model: Vec<TensorSource<'a>>,
    /// The optimizer's state.
    pub optimizer: Vec<TensorSource<'a>>,
    /// Everything else that training needs to go on: random state, data position, schedule.
    pub trainer: serde_json::Value,
    /// The resolved configuration.
    pub config_toml: String,
    /// Writes the tokenizer's files into the folder it is given.
    pub tokenizer: &'a dyn Fn(&Path) -> Result<()>,
    /// What makes the checkpoint a folder that other programs load, beside the weights: `config.json` and what travels along
    /// with a model. Empty for a model that only this program knows.
    pub folder: &'a [FolderFile],
}

/// What a save did.
#[derive(Debug, Clone, PartialEq)]
pub struct SaveReport {
    /// The checkpoint's own folder.
    pub path: PathBuf,
    /// Length of its files together.
    pub bytes: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

impl BundleContents<'_> {
    /// The name of the file with the weights.
    fn weights_file(&self) -> &'static str {
        let is_adapter = |file: &FolderFile| file.name == ADAPTER_CONFIG_FILE;
        match self.folder.iter().any(is_adapter) {
            true => ADAPTER,
            false => MODEL,
        }
    }
}

/// Whether a save writes a file of this name into the bundle directory itself.
pub fn is_a_file_of(name: &str) -> bool {
    [
        MODEL,
        ADAPTER,
        OPTIMIZER,
        TRAINER,
        CONFIG,
        manifest::MANIFEST,
        lock::LOCK,
    ]
    .contains(&name)
        || is_of_a_folder(name)
}

/// Whether a save writes into a folder of this name in the bundle directory.
pub fn is_a_folder_of(name: &str) -> bool {
    [TOKENIZER, CHECKPOINTS, MORE_CHAT_TEMPLATES].contains(&name)
}

fn unusable(dir: &Path, cause: &dyn std::fmt::Display) -> Error {
    let dir = dir.display();
    Error::failed(format!(
        "cannot use the bundle directory {dir}: {cause}; choose another --save-dir or --bundle-dir"
    ))
}

#[cfg(test)]
mod tests;
