//! Which checkpoints stay, which go, and what is swept away.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::manifest::Manifest;
use super::open::checkpoints;
use super::save::{BundleWriter, link_files};
use super::{CHECKPOINTS, EARLIER_RUN, disk};

/// Folders being written or removed begin so; what a dead process left of them is swept away.
pub(super) const UNFINISHED: &str = ".unfinished-";

impl BundleWriter {
    /// Puts the newest checkpoint of an earlier run where this run's saves do not replace it, and says where; call it
    /// when a run starts over in a directory that has a bundle. There is one such place: the newest run wins it.
    ///
    /// # Errors
    /// A folder that cannot be renamed.
    pub fn set_earlier_run_aside(&self) -> Result<Option<PathBuf>> {
        let place = self.checkpoint(EARLIER_RUN);
        let found = checkpoints(&self.dir);
        let Some(newest) = found.iter().find(|candidate| candidate.manifest.is_ok()) else {
            return Ok(None);
        };
        if newest.path != place {
            self.remove(&place)
                .map_err(|cause| Error::io(&place, "remove", cause))?;
            fs::rename(&newest.path, &place)
                .map_err(|cause| Error::io(&newest.path, "rename", cause))?;
            disk::sync_dir(&self.dir.join(CHECKPOINTS))?;
        }
        Ok(Some(place))
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
        let adopted = link_files(&manifest, &self.dir, &folder)
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
        let earlier_run = self.checkpoint(EARLIER_RUN);
        let older = checkpoints(&self.dir)
            .into_iter()
            .filter(|found| found.manifest.is_ok() && found.path != earlier_run)
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

/// Removes a folder; that there is none is fine.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}
