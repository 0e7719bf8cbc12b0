//! Brain bundles: a training run on disk that no crash can lose.
//!
//! ```text
//! DIR/                            --bundle-dir; files of others in it are never touched
//!   checkpoints/step-000200/      one whole checkpoint: the newest, and at least the one before it
//!     model.safetensors  optimizer.safetensors  trainer.json  config.toml  tokenizer/
//!     manifest.json               length and hash of each of these files
//!   checkpoints/earlier-run/      what the run before this one left, if this one started over; then earlier-run-2 ...
//!   checkpoints/damaged-.../      a checkpoint that was passed over for an older one, for the user to look at
//!   model.safetensors ...         the newest checkpoint's files once more, as hard links (copies where there are none)
//!   .lock                         held by the process that trains into DIR
//! ```
//!
//! A checkpoint is written to a temporary folder next to its final place, every file and folder is flushed to the disk,
//! and one rename makes it a checkpoint. Only then are older ones removed. So at any instant at least one whole
//! checkpoint is there under its own name, and nothing is ever renamed over or out of the way of the last good one.
//! Opening reads every byte, compares it with the manifest, and goes back to the newest checkpoint that is intact.

mod disk;
mod keep;
mod lock;
mod manifest;
mod open;
mod save;
mod tensors;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub use open::Bundle;
pub use save::BundleWriter;
pub use tensors::{Dtype, NamedTensor, TensorFile, TensorSource};

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const TRAINER: &str = "trainer.json";
const CONFIG: &str = "config.toml";
const TOKENIZER: &str = "tokenizer";
const CHECKPOINTS: &str = "checkpoints";
const EARLIER_RUN: &str = "earlier-run";
const DAMAGED: &str = "damaged-";

/// All that a checkpoint holds, as the trainer hands it over.
pub struct BundleContents<'a> {
    /// Steps done so far; names the checkpoint.
    pub step: u64,
    /// The weights, under their published names.
    pub model: Vec<TensorSource<'a>>,
    /// The optimizer's state.
    pub optimizer: Vec<TensorSource<'a>>,
    /// Everything else that training needs to go on: random state, data position, schedule.
    pub trainer: serde_json::Value,
    /// The resolved configuration.
    pub config_toml: String,
    /// Writes the tokenizer's files into the folder it is given.
    pub tokenizer: &'a dyn Fn(&Path) -> Result<()>,
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

fn unusable(dir: &Path, cause: &dyn std::fmt::Display) -> Error {
    let dir = dir.display();
    Error::failed(format!(
        "cannot use the bundle directory {dir}: {cause}; choose another --bundle-dir"
    ))
}

#[cfg(test)]
mod tests;
