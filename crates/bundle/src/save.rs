//! Saving checkpoints into a bundle directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aios_base::error::{Error, Result};
use aios_hf::{FolderFile, is_of_a_folder};

use crate::keep::{UNFINISHED, remove_folder};
use crate::lock::{LOCK, Lock};
use crate::manifest::{FileEntry, LAST_SEQUENCE, Manifest};
use crate::open::{Candidate, Check, candidates, checkpoints};
use crate::{
    BundleContents, CHECKPOINTS, CONFIG, OPTIMIZER, STEP, SaveReport, TOKENIZER, TRAINER, disk,
    place, tensors, unusable,
};

/// The newest and the one before it: the second serves when the first turns out to be damaged.
pub(super) const ALWAYS_KEPT: usize = 2;

/// Fewer saves than this are left before their numbers end: such a directory's manifests tell no truth.
const ROOM_FOR_SAVES: u64 = 1 << 40;

/// Saves into a bundle directory.
#[derive(Debug)]
pub struct BundleWriter {
    pub(super) dir: PathBuf,
    /// Checkpoints to keep beside those that are always kept.
    pub(super) older: usize,
    next_sequence: u64,
    /// The newest of this process's own, or what it found when it began.
    newest: Option<Manifest>,
    lock: Lock,
}

impl BundleWriter {
    /// Makes a directory that was taken ready to be saved into. The newest checkpoint and the one before it are always
    /// kept, and `older` more. A checkpoint that is damaged, or that `check` finds wanting, is put aside.
    ///
    /// # Errors
    /// A directory that cannot be written, or that holds what no saves can have left.
    pub fn new(lock: Lock, older: usize, check: Check) -> Result<Self> {
        let dir = lock.dir.clone();
        let mut writer = Self {
            dir: dir.clone(),
            older,
            next_sequence: 1,
            newest: None,
            lock,
        };
        if writer.lock.is_exclusive() {
            writer.sweep();
        }
        writer.probe().map_err(|cause| unusable(&dir, &cause))?;
        let newest = newest_sequence(&candidates(&dir));
        if newest > LAST_SEQUENCE - ROOM_FOR_SAVES {
            let cause = format!("a manifest in it counts {newest} saves");
            return Err(unusable(&dir, &cause));
        }
        writer.next_sequence += newest;
        writer.set_damaged_aside(check)?;
        writer.adopt_loose_checkpoint(check)?;
        writer.finish_publishing();
        let newest = checkpoints(&dir).into_iter().next();
        writer.newest = newest.and_then(|newest| newest.manifest.ok());
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
        self.restore_place()
            .map_err(|cause| self.explain(contents.step, cause))?;
        // Somebody may have copied checkpoints in: this save is newer than all of them.
        let newest = newest_sequence(&candidates(&self.dir)).min(LAST_SEQUENCE - ROOM_FOR_SAVES);
        self.next_sequence = self.next_sequence.max(newest + 1);
        let unfinished = self.unfinished();
        let saved = self
            .write_checkpoint(&unfinished, contents)
            .and_then(|manifest| Ok((self.commit(&unfinished, contents.step)?, manifest)));
        let (path, manifest) = saved.map_err(|cause| {
            // What was written so far only takes up space that the next attempt may need.
            let _ = fs::remove_dir_all(&unfinished);
            self.explain(contents.step, cause)
        })?;
        self.try_to_publish(&path, &manifest);
        self.remove_older();
        let bytes = manifest.total_bytes();
        self.newest = Some(manifest);
        Ok(SaveReport {
            path,
            bytes,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The directory, or its folder of checkpoints, may have been removed under a training that goes on for days.
    fn restore_place(&mut self) -> Result<()> {
        let folder = self.dir.join(CHECKPOINTS);
        let in_place = self.lock.is_in_place();
        if in_place && folder.is_dir() {
            return Ok(());
        }
        match in_place {
            true => place::make(&self.dir, self.lock.of_folders)?,
            false => self.lock = self.lock.acquire_again()?,
        }
        let found = checkpoints(&self.dir);
        let dir = if in_place { &folder } else { &self.dir }.display();
        let is_own = |found: &Candidate| found.manifest.as_ref().ok() == self.newest.as_ref();
        if found.is_empty() {
            tracing::warn!(
                "{dir} was removed: it is made anew, and earlier checkpoints in it are gone"
            );
        } else if found.iter().any(is_own) {
            tracing::warn!("{dir} was moved, or its {LOCK} removed: it is taken anew");
        } else {
            let aside = self.set_earlier_run_aside()?;
            let aside = aside.map_or(String::new(), |run| {
                format!(", whose newest checkpoint is now in {}", run.path.display())
            });
            tracing::warn!("{dir} was replaced by that of another run{aside}");
        }
        Ok(())
    }

    fn write_checkpoint(&mut self, folder: &Path, contents: &BundleContents) -> Result<Manifest> {
        remove_folder(folder).map_err(|cause| Error::io(folder, "remove", cause))?;
        fs::create_dir(folder).map_err(|cause| Error::io(folder, "create", cause))?;
        let trainer = serde_json::to_vec_pretty(&contents.trainer)
            .map_err(|cause| Error::failed(format!("cannot write {TRAINER}: {cause}")))?;
        let weights = contents.weights_file();
        let mut files = BTreeMap::from([
            (
                weights.to_string(),
                tensors::write(&folder.join(weights), &contents.model)?,
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
        write_folder_files(folder, contents.folder, &mut files)?;
        let manifest = Manifest::new(self.next_sequence, contents.step, files)?;
        // Used up even if the save fails from here on: it may fail after the rename, with the checkpoint in place.
        self.next_sequence += 1;
        manifest.write(folder)?;
        disk::sync_dir(folder)?;
        Ok(manifest)
    }

    /// The one rename that turns a folder into a checkpoint.
    pub(super) fn commit(&self, folder: &Path, step: u64) -> Result<PathBuf> {
        let target = self.checkpoint(&format!("{STEP}{step:06}"));
        if target.exists() {
            // The same step of an earlier run. It stays a checkpoint, under a name that nothing else has.
            let other = self.free_name(&format!("{STEP}{step:06}-replaced"));
            disk::rename(&target, &other).map_err(|cause| Error::io(&target, "rename", cause))?;
        }
        disk::rename(folder, &target).map_err(|cause| Error::io(folder, "rename", cause))?;
        disk::sync_dir(&self.dir.join(CHECKPOINTS))?;
        Ok(target)
    }

    /// Where this process writes; the number keeps two processes apart where nothing can be locked.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.checkpoint(&format!("{UNFINISHED}{}", std::process::id()))
    }

    /// A place among the checkpoints that nothing has: `stem`, else `stem-2` and so on.
    pub(super) fn free_name(&self, stem: &str) -> PathBuf {
        disk::free_name(&self.dir.join(CHECKPOINTS), stem)
    }

    pub(super) fn checkpoint(&self, name: &str) -> PathBuf {
        self.dir.join(CHECKPOINTS).join(name)
    }

    /// What could not be written is told apart from what could not be fetched.
    fn explain(&self, step: u64, cause: Error) -> Error {
        let kind = match &cause {
            Error::Io { source, .. } => source.kind(),
            Error::Device(_) | Error::OutOfMemory(_) => return cause,
            _ => ErrorKind::Other,
        };
        let way_out = match kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "; free some disk space or choose another --save-dir or --bundle-dir"
            }
            ErrorKind::FileTooLarge => "; raise the limit on the size of files (ulimit -f)",
            _ => "",
        };
        Error::NotWritten(format!(
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

/// Writes what makes a checkpoint one of Hugging Face's folders, and adds it to the list.
fn write_folder_files(
    folder: &Path,
    contents: &[FolderFile],
    files: &mut BTreeMap<String, FileEntry>,
) -> Result<()> {
    for FolderFile { name, bytes } in contents {
        if !is_of_a_folder(name) {
            return Err(Error::failed(format!(
                "{name:?} is not a file of a model's folder"
            )));
        }
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|cause| Error::io(parent, "create", cause))?;
        files.insert(name.clone(), disk::write(&path, bytes)?);
        disk::sync_dir(parent)?;
    }
    Ok(())
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
