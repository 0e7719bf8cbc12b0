//! Saving checkpoints into a bundle directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::{Error, Result};

use super::keep::{UNFINISHED, remove_folder};
use super::manifest::{FileEntry, MANIFEST, Manifest};
use super::open::{Candidate, candidates};
use super::{
    BundleContents, CHECKPOINTS, CONFIG, MODEL, OPTIMIZER, SaveReport, TOKENIZER, TRAINER, disk,
    lock, tensors, unusable,
};

/// The newest and the one before it: the second serves when the first turns out to be damaged.
const ALWAYS_KEPT: usize = 2;

/// The right to save into a bundle directory, held until dropped.
#[derive(Debug)]
pub struct BundleWriter {
    pub(super) dir: PathBuf,
    pub(super) keep: usize,
    next_sequence: u64,
    /// `None` where the file system cannot lock.
    lock: Option<File>,
}

impl BundleWriter {
    pub(super) fn prepare(dir: &Path, older: usize) -> Result<Self> {
        fs::create_dir_all(dir.join(CHECKPOINTS)).map_err(|cause| unusable(dir, &cause))?;
        let lock = lock::acquire(dir)?;
        let mut writer = Self {
            dir: dir.to_path_buf(),
            keep: older.saturating_add(ALWAYS_KEPT),
            next_sequence: 1,
            lock,
        };
        if writer.lock.is_some() {
            writer.sweep();
        }
        writer.probe().map_err(|cause| unusable(dir, &cause))?;
        writer.next_sequence += newest_sequence(&candidates(dir));
        writer.set_damaged_aside()?;
        writer.adopt_loose_checkpoint()?;
        Ok(writer)
    }

    /// The bundle directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Saves a checkpoint. When this returns it is on the disk and is what [`super::Bundle::open`] opens.
    ///
    /// # Errors
    /// A full disk or the like, or a tensor that cannot be fetched. Checkpoints saved before are untouched.
    pub fn save(&mut self, contents: &BundleContents) -> Result<SaveReport> {
        let started = Instant::now();
        let unfinished = self.unfinished();
        let saved = self
            .write_checkpoint(&unfinished, contents)
            .and_then(|manifest| Ok((self.commit(&unfinished, contents.step)?, manifest)));
        let (path, manifest) = saved.map_err(|cause| {
            // What was written so far only takes up space that the next attempt may need.
            let _ = fs::remove_dir_all(&unfinished);
            self.explain(contents.step, &cause)
        })?;
        if let Err(cause) = self.publish(&path, &manifest) {
            tracing::warn!(
                "{} is saved, but its copy in {} is not up to date: {cause}",
                path.display(),
                self.dir.display()
            );
        }
        self.remove_older();
        Ok(SaveReport {
            path,
            bytes: manifest.total_bytes(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    fn write_checkpoint(&mut self, folder: &Path, contents: &BundleContents) -> Result<Manifest> {
        remove_folder(folder).map_err(|cause| Error::io(folder, "remove", cause))?;
        fs::create_dir(folder).map_err(|cause| Error::io(folder, "create", cause))?;
        let trainer = serde_json::to_vec_pretty(&contents.trainer)
            .map_err(|cause| Error::failed(format!("cannot write {TRAINER}: {cause}")))?;
        let mut files = BTreeMap::from([
            (
                MODEL.to_string(),
                tensors::write(&folder.join(MODEL), &contents.model)?,
            ),
            (
                OPTIMIZER.to_string(),
                tensors::write(&folder.join(OPTIMIZER), &contents.optimizer)?,
            ),
            (
                TRAINER.to_string(),
                disk::write(&folder.join(TRAINER), &trainer)?,
            ),
            (
                CONFIG.to_string(),
                disk::write(&folder.join(CONFIG), contents.config_toml.as_bytes())?,
            ),
        ]);
        let tokenizer = folder.join(TOKENIZER);
        fs::create_dir(&tokenizer).map_err(|cause| Error::io(&tokenizer, "create", cause))?;
        (contents.tokenizer)(&tokenizer)?;
        add_folder(&tokenizer, TOKENIZER, &mut files)?;
        let manifest = Manifest::new(self.next_sequence, contents.step, files)?;
        // Used up even if the save fails from here on: it may fail after the rename, with the checkpoint in place.
        self.next_sequence += 1;
        manifest.write(folder)?;
        disk::sync_dir(folder)?;
        Ok(manifest)
    }

    /// The one rename that turns a folder into a checkpoint.
    pub(super) fn commit(&self, folder: &Path, step: u64) -> Result<PathBuf> {
        let target = self.checkpoint(&format!("step-{step:06}"));
        if target.exists() {
            // The same step of an earlier run. It stays a checkpoint, under a name that nothing else has.
            let other = self.free_name(&format!("step-{step:06}-replaced"));
            fs::rename(&target, &other).map_err(|cause| Error::io(&target, "rename", cause))?;
        }
        fs::rename(folder, &target).map_err(|cause| Error::io(folder, "rename", cause))?;
        disk::sync_dir(&self.dir.join(CHECKPOINTS))?;
        Ok(target)
    }

    /// Brings the files in the bundle directory itself up to date.
    fn publish(&self, checkpoint: &Path, manifest: &Manifest) -> Result<()> {
        let old = Manifest::read(&self.dir).ok().flatten();
        let within = |cause: io::Error| Error::io(&self.dir, "write", cause);
        // Without a manifest the directory counts as no checkpoint: nobody takes a mixture of two for one.
        disk::remove_if_there(&self.dir.join(MANIFEST)).map_err(within)?;
        let gone = old
            .iter()
            .flat_map(|old| old.files.keys())
            .filter(|name| !manifest.files.contains_key(*name));
        for name in gone {
            disk::remove_if_there(&self.dir.join(name)).map_err(within)?;
        }
        link_files(manifest, checkpoint, &self.dir)
    }

    /// Where this process writes; the number keeps two processes apart where nothing can be locked.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.checkpoint(&format!("{UNFINISHED}{}", std::process::id()))
    }

    /// A place that nothing has: `stem`, else `stem-2` and so on.
    pub(super) fn free_name(&self, stem: &str) -> PathBuf {
        let mut path = self.checkpoint(stem);
        let mut number = 1;
        while path.exists() {
            number += 1;
            path = self.checkpoint(&format!("{stem}-{number}"));
        }
        path
    }

    pub(super) fn checkpoint(&self, name: &str) -> PathBuf {
        self.dir.join(CHECKPOINTS).join(name)
    }

    fn explain(&self, step: u64, cause: &Error) -> Error {
        let kind = match cause {
            Error::Io { source, .. } => source.kind(),
            _ => ErrorKind::Other,
        };
        let way_out = match kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "; free some disk space or choose another --bundle-dir"
            }
            _ => "",
        };
        Error::failed(format!(
            "cannot save the checkpoint of step {step}: {cause}{way_out}; earlier checkpoints in {} are untouched",
            self.dir.display()
        ))
    }
}

fn newest_sequence(found: &[Candidate]) -> u64 {
    let readable = found
        .iter()
        .filter_map(|candidate| candidate.manifest.as_ref().ok());
    readable
        .map(|manifest| manifest.sequence)
        .max()
        .unwrap_or(0)
}

/// Links or copies a checkpoint's files into `to`, the manifest last.
pub(super) fn link_files(manifest: &Manifest, from: &Path, to: &Path) -> Result<()> {
    for name in manifest.files.keys().map(String::as_str).chain([MANIFEST]) {
        let target = to.join(name);
        let parent = target.parent().unwrap_or(to);
        fs::create_dir_all(parent).map_err(|cause| Error::io(parent, "create", cause))?;
        disk::link_or_copy(&from.join(name), &target)
            .map_err(|cause| Error::io(&target, "write", cause))?;
    }
    disk::sync_dir(to)
}

/// Flushes every file below `folder` and adds it to the list under `prefix`.
fn add_folder(folder: &Path, prefix: &str, files: &mut BTreeMap<String, FileEntry>) -> Result<()> {
    let unreadable = |cause| Error::io(folder, "read", cause);
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let name = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        if path.is_dir() {
            add_folder(&path, &name, files)?;
        } else {
            disk::sync_file(&path)?;
            let found = disk::read_entry(&path).map_err(|cause| Error::io(&path, "read", cause))?;
            files.insert(name, found);
        }
    }
    disk::sync_dir(folder)
}
