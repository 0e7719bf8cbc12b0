//! Which checkpoints stay, which go, and what is swept away.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::manifest::Manifest;
use super::open::{Candidate, checkpoints};
use super::save::{BundleWriter, link_files};
use super::{CHECKPOINTS, DAMAGED, EARLIER_RUN, disk};

/// Folders being written or removed begin so; what a dead process left of them is swept away.
pub(super) const UNFINISHED: &str = ".unfinished-";

impl BundleWriter {
    /// Puts the newest checkpoint of an earlier run where this run's saves do not replace it, and says where; call it
    /// when a run starts over in a directory that has a bundle. Each run gets a place of its own, and none is ever
    /// removed. A run that has not trained a step leaves nothing to set aside.
    ///
    /// # Errors
    /// A folder that cannot be renamed.
    pub fn set_earlier_run_aside(&self) -> Result<Option<PathBuf>> {
        let trained = |found: &Candidate| found.manifest.as_ref().is_ok_and(|m| m.step > 0);
        let Some(newest) = checkpoints(&self.dir).into_iter().find(trained) else {
            return Ok(None);
        };
        if is_earlier_run(&newest.path) {
            return Ok(Some(newest.path));
        }
        self.rename(&newest.path, EARLIER_RUN).map(Some)
    }

    /// Renames the checkpoints that [`super::Bundle::open`] passes over for an older one: no save must take them for
    /// good ones and remove that older one in their stead. Where nothing is intact, all stays as it is.
    pub(super) fn set_damaged_aside(&self) -> Result<()> {
        let mut damaged: Vec<(PathBuf, Error)> = Vec::new();
        for Candidate { path, manifest } in checkpoints(&self.dir) {
            // Without a manifest it counts for nothing anyway, and a newer program may well be able to read it.
            let Ok(manifest) = manifest else { continue };
            match manifest.verify(&path) {
                Ok(()) => {
                    let mut damaged = damaged.iter();
                    return damaged.try_for_each(|(path, cause)| self.mark_damaged(path, cause));
                }
                Err(cause) => damaged.push((path, cause)),
            }
        }
        Ok(())
    }

    fn mark_damaged(&self, path: &Path, cause: &Error) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let place = self.rename(path, &format!("{DAMAGED}{name}"))?;
        tracing::warn!(
            "{cause}; that checkpoint is now in {}: remove it when you no longer need it",
            place.display()
        );
        Ok(())
    }

    /// Gives a checkpoint's folder the name `stem`, or `stem` and a number if that is taken, and says where it is.
    fn rename(&self, path: &Path, stem: &str) -> Result<PathBuf> {
        let place = self.free_name(stem);
        fs::rename(path, &place).map_err(|cause| Error::io(path, "rename", cause))?;
        disk::sync_dir(&self.dir.join(CHECKPOINTS))?;
        Ok(place)
    }

    /// A bundle that was copied here, or whose `checkpoints` folder was removed, lies loose in the directory: the next
    /// save would replace its files. It gets a folder like every other checkpoint.
    pub(super) fn adopt_loose_checkpoint(&self) -> Result<()> {
        let Ok(Some(manifest)) = Manifest::read(&self.dir) else {
            return Ok(());
        };
        let found = checkpoints(&self.dir);
        if found
            .iter()
            .any(|twin| twin.manifest.as_ref().is_ok_and(|twin| *twin == manifest))
        {
            return Ok(());
        }
        let folder = self.unfinished();
        let adopted = manifest
            .verify(&self.dir)
            .and_then(|()| link_files(&manifest, &self.dir, &folder))
            .and_then(|()| self.commit(&folder, manifest.step));
        if let Err(cause) = adopted {
            tracing::warn!(
                "the bundle in {} is not whole and will be replaced: {cause}",
                self.dir.display()
            );
            remove_folder(&folder).map_err(|cause| Error::io(&folder, "remove", cause))?;
        }
        Ok(())
    }

    /// Removes all but the newest checkpoints; those that cannot be read are left for the user to look at.
    pub(super) fn remove_older(&self) {
        let older = checkpoints(&self.dir)
            .into_iter()
            .filter(|found| found.manifest.is_ok() && !is_earlier_run(&found.path))
            .skip(self.keep);
        for found in older {
            if let Err(cause) = self.remove(&found.path) {
                tracing::warn!(
                    "cannot remove the old checkpoint {}: {cause}",
                    found.path.display()
                );
            }
        }
    }

    /// Removes a checkpoint so that it never looks like a damaged one, wherever this is cut short.
    fn remove(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let doomed = self.checkpoint(&format!("{UNFINISHED}{name}"));
        remove_folder(&doomed)?;
        match fs::rename(path, &doomed) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(cause),
            Ok(()) => remove_folder(&doomed),
        }
    }

    /// Removes what processes that were killed have left. The lock says that no other process is at work here.
    pub(super) fn sweep(&self) {
        let entries = fs::read_dir(self.dir.join(CHECKPOINTS))
            .into_iter()
            .flatten()
            .flatten();
        for entry in
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED))
        {
            if let Err(cause) = remove_folder(&entry.path()) {
                tracing::warn!(
                    "cannot remove the unfinished checkpoint {}: {cause}",
                    entry.path().display()
                );
            }
        }
    }

    /// Finds out before training whether saving will work: a write, a flush, a rename and a removal.
    pub(super) fn probe(&self) -> Result<()> {
        let folder = self.unfinished();
        let renamed = self.checkpoint(&format!("{UNFINISHED}{}-renamed", std::process::id()));
        let attempt = || {
            fs::create_dir(&folder).map_err(|cause| Error::io(&folder, "create", cause))?;
            disk::write(&folder.join("probe"), &[0; 4096])?;
            disk::sync_dir(&folder)?;
            fs::rename(&folder, &renamed).map_err(|cause| Error::io(&folder, "rename", cause))
        };
        let outcome = attempt();
        let cleaned = remove_folder(&folder).and_then(|()| remove_folder(&renamed));
        outcome.and(cleaned.map_err(|cause| Error::io(&renamed, "remove", cause)))
    }
}

fn is_earlier_run(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(EARLIER_RUN)
}

/// Removes a folder; that there is none is fine.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}
