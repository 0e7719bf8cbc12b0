//! Finding and checking the checkpoint to go on from.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::manifest::Manifest;
use super::save::BundleWriter;
use super::tensors::TensorFile;
use super::{CHECKPOINTS, CONFIG, DAMAGED, MODEL, OPTIMIZER, TOKENIZER, TRAINER};

/// A checkpoint on disk whose every file has been checked.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    step: u64,
    trainer: serde_json::Value,
    config_toml: String,
}

/// A folder that may hold a checkpoint.
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    /// The manifest, or why it cannot be read.
    pub(super) manifest: Result<Manifest>,
}

impl Candidate {
    /// Higher is newer. A manifest that cannot be read might be the newest one's, so it is not passed over in silence.
    pub(super) fn sequence(&self) -> u64 {
        self.manifest
            .as_ref()
            .map_or(u64::MAX, |manifest| manifest.sequence)
    }

    fn read(path: PathBuf) -> Option<Self> {
        let manifest = Manifest::read(&path).transpose()?;
        Some(Self { path, manifest })
    }
}

impl Bundle {
    /// Makes `dir` ready to be saved into and holds it against other processes. The newest checkpoint and the one
    /// before it are always kept, and `older` more.
    ///
    /// # Errors
    /// A directory that cannot be created or written, or that another process is training into.
    pub fn prepare(dir: &Path, older: usize) -> Result<BundleWriter> {
        BundleWriter::prepare(dir, older)
    }

    /// Opens the newest intact checkpoint in a bundle directory, or the one checkpoint whose folder is given.
    ///
    /// A damaged checkpoint is passed over with a warning that names the file.
    ///
    /// # Errors
    /// No checkpoint there, or none that is intact.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut first_damage: Option<Error> = None;
        for candidate in candidates(dir) {
            match Self::open_candidate(candidate) {
                Ok(bundle) => {
                    if let Some(damage) = first_damage {
                        tracing::warn!(
                            "{damage}; using {} (step {})",
                            bundle.path.display(),
                            bundle.step
                        );
                    }
                    return Ok(bundle);
                }
                Err(damage) => first_damage = first_damage.or(Some(damage)),
            }
        }
        let dir = dir.display();
        Err(match first_damage {
            Some(damage) => Error::failed(format!("no checkpoint in {dir} is intact: {damage}")),
            None => Error::failed(format!(
                "no bundle in {dir}: check the path, or train one first"
            )),
        })
    }

    /// Whether there is anything in `dir` that [`Bundle::open`] would look at.
    pub fn exists(dir: &Path) -> bool {
        !candidates(dir).is_empty()
    }

    /// The folder the files are read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Steps done when the checkpoint was saved.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The weights.
    pub fn model_tensors(&self) -> Result<TensorFile> {
        TensorFile::open(&self.path.join(MODEL))
    }

    /// The optimizer's state.
    pub fn optimizer_tensors(&self) -> Result<TensorFile> {
        TensorFile::open(&self.path.join(OPTIMIZER))
    }

    /// The trainer's state, as it was saved.
    pub fn trainer(&self) -> &serde_json::Value {
        &self.trainer
    }

    /// The configuration, as it was saved.
    pub fn config_toml(&self) -> &str {
        &self.config_toml
    }

    /// The folder with the tokenizer's files.
    pub fn tokenizer_dir(&self) -> PathBuf {
        self.path.join(TOKENIZER)
    }

    fn open_candidate(candidate: Candidate) -> Result<Self> {
        let path = candidate.path;
        let manifest = candidate.manifest?;
        manifest.verify(&path)?;
        let bundle = Self {
            step: manifest.step,
            trainer: read_json(&path.join(TRAINER))?,
            config_toml: read_text(&path.join(CONFIG))?,
            path,
        };
        bundle.model_tensors()?;
        bundle.optimizer_tensors()?;
        Ok(bundle)
    }
}

/// Every checkpoint in `dir`, newest first; `dir` itself comes before its twin.
pub(super) fn candidates(dir: &Path) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Candidate::read(dir.to_path_buf()).into_iter().collect();
    found.extend(checkpoints(dir));
    found.sort_by_key(|candidate| Reverse(candidate.sequence()));
    found
}

/// The checkpoints in their own folders, newest first, without those known to be damaged.
pub(super) fn checkpoints(dir: &Path) -> Vec<Candidate> {
    let entries = fs::read_dir(dir.join(CHECKPOINTS))
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<Candidate> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            !name.starts_with('.') && !name.starts_with(DAMAGED)
        })
        .filter_map(|entry| Candidate::read(entry.path()))
        .collect();
    found.sort_by_key(|candidate| Reverse(candidate.sequence()));
    found
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|cause| Error::io(path, "read", cause))
}

fn read_json(path: &Path) -> Result<serde_json::Value> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|cause| Error::failed(format!("{} is not valid JSON: {cause}", path.display())))
}
