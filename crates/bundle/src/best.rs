//! The checkpoint of the best evaluation (`--keep-best`).

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use aios_base::error::{Error, Result};

use crate::keep::remove_folder;
use crate::manifest::Manifest;
use crate::open::{checkpoints, is_best};
use crate::publish::duplicate_files;
use crate::save::BundleWriter;
use crate::{BEST, CHECKPOINTS, disk};

/// Beside the checkpoint's own files: what it is the best by.
const NOTE: &str = "best.json";

/// More than the note takes.
const LONGEST_NOTE: u64 = 1 << 12;

/// An evaluation that a checkpoint was kept for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done.
    pub step: u64,
    /// Mean cross-entropy of a token of the evaluation file, in nats.
    pub loss: f64,
    /// What was evaluated, and how much of it: losses of other texts say nothing.
    #[serde(default)]
    pub evaluated: String,
}

impl BundleWriter {
    /// The evaluation of the checkpoint that is kept as the best one, if any is.
    pub fn best(&self) -> Option<Best> {
        let found = checkpoints(&self.dir).into_iter();
        let notes = found
            .filter(|found| is_best(&found.path))
            .map(|found| note(&found.path));
        notes.flatten().min_by(|a, b| a.loss.total_cmp(&b.loss))
    }

    /// Keeps a checkpoint as the best one, in a folder of its own, and lets go of the one before. The new one is there
    /// before the old one goes.
    ///
    /// # Errors
    /// A full disk or the like; the one before stays.
    pub fn keep_best(&self, checkpoint: &Path, best: Best) -> Result<PathBuf> {
        let older = checkpoints(&self.dir).into_iter();
        let older: Vec<_> = older.filter(|found| is_best(&found.path)).collect();
        let place = self.link_best(checkpoint, &best).map_err(|cause| {
            Error::NotWritten(format!(
                "cannot keep the checkpoint of step {} as the best one: {cause}",
                best.step
            ))
        })?;
        for found in older {
            if let Err(cause) = self.remove(&found.path) {
                tracing::warn!("cannot remove {}: {cause}", found.path.display());
            }
        }
        Ok(place)
    }

    fn link_best(&self, checkpoint: &Path, best: &Best) -> Result<PathBuf> {
        let manifest = Manifest::read(checkpoint)?
            .ok_or_else(|| Error::failed(format!("{} has gone", checkpoint.display())))?;
        let folder = self.unfinished();
        remove_folder(&folder).map_err(|cause| Error::io(&folder, "remove", cause))?;
        let text = serde_json::to_vec(best).map_err(Error::failed)?;
        fs::create_dir(&folder).map_err(|cause| Error::io(&folder, "create", cause))?;
        disk::write(&folder.join(NOTE), &text)?;
        duplicate_files(&manifest, checkpoint, &folder)?;
        let stem = format!("{BEST}step-{:06}", best.step);
        let place = disk::free_name(&self.dir.join(CHECKPOINTS), &stem);
        disk::rename(&folder, &place).map_err(|cause| Error::io(&folder, "rename", cause))?;
        disk::sync_dir(&self.dir.join(CHECKPOINTS))?;
        Ok(place)
    }
}

fn note(folder: &Path) -> Option<Best> {
    let text = disk::read_small(&folder.join(NOTE), LONGEST_NOTE).ok()?;
    let best: Best = serde_json::from_slice(&text).ok()?;
    best.loss.is_finite().then_some(best)
}
