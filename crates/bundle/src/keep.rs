//! Which checkpoints stay, which go, and what is swept away.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use aios_base::error::{Error, Result};

use crate::manifest::{MANIFEST, Manifest};
use crate::open::{Bundle, Candidate, Check, checkpoints, is_best};
use crate::publish::duplicate_files;
use crate::save::{ALWAYS_KEPT, BundleWriter};
use crate::{CHECKPOINTS, DAMAGED, EARLIER_RUN, disk};

/// Folders being written or removed begin so; what a dead process left of them is swept away.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// What a run that was started over has left.
#[derive(Debug, Clone, PartialEq)]
pub struct EarlierRun {
    /// Its newest checkpoint.
    pub path: PathBuf,
    /// Steps that it was trained for.
    pub step: u64,
    /// Length of the checkpoint's files together.
    pub bytes: u64,
}

/// Ends the name of the best checkpoint of a run that was set aside.
const BEST_OF_EARLIER: &str = "-best";

impl BundleWriter {
    /// Puts the newest checkpoint of an earlier run, and its best one, where this run's saves do not replace them, and says
    /// where; call it when a run starts over in a directory that has a bundle. Each run gets a place of its own. One of
    /// them is kept, and as many more as older checkpoints are: those that were trained least go first. A run that has
    /// not trained a step leaves nothing to set aside.
    ///
    /// # Errors
    /// A folder that cannot be renamed.
    pub fn set_earlier_run_aside(&self) -> Result<Option<EarlierRun>> {
        let trained = |found: &&Candidate| found.step() > 0 && !is_best(&found.path);
        let found = checkpoints(&self.dir);
        let Some(newest) = found.iter().find(trained) else {
            return Ok(None);
        };
        let run = |path: &Path| EarlierRun {
            path: path.to_path_buf(),
            step: newest.step(),
            bytes: newest.manifest.as_ref().map_or(0, Manifest::total_bytes),
        };
        if is_earlier_run(&newest.path) {
            return Ok(Some(run(&newest.path)));
        }
        let place = self.rename(&newest.path, EARLIER_RUN)?;
        for best in found.iter().filter(|found| is_best(&found.path)) {
            let name = place.file_name().unwrap_or_default().to_string_lossy();
            self.rename(&best.path, &format!("{name}{BEST_OF_EARLIER}"))?;
        }
        self.remove_earlier_runs(&place);
        Ok(Some(run(&place)))
    }

    /// All but those to be kept, and never the one that has just been set aside.
    fn remove_earlier_runs(&self, newest: &Path) {
        let runs = checkpoints(&self.dir).into_iter();
        let is_run = |path: &Path| is_earlier_run(path) && !is_best_of_earlier(path);
        let mut runs: Vec<Candidate> = runs.filter(|found| is_run(&found.path)).collect();
        let surplus = runs.len().saturating_sub(1 + self.older);
        runs.retain(|found| found.path != newest);
        runs.sort_by_key(|found| (found.step(), found.sequence()));
        for run in runs.into_iter().take(surplus) {
            let mut best = run.path.clone().into_os_string();
            best.push(BEST_OF_EARLIER);
            for path in [run.path.as_path(), Path::new(&best)] {
                self.remove_loudly(
                    path,
                    &format!(
                        "an earlier run, of {} steps; --keep-checkpoints keeps more of them",
                        run.step()
                    ),
                );
            }
        }
    }

    /// Renames the checkpoints that [`super::Bundle::open`] passes over for an older one: no save must take them for
    /// good ones and remove that older one in their stead. Where nothing is intact, all stays as it is.
    pub(super) fn set_damaged_aside(&self, check: Check) -> Result<()> {
        let mut damaged: Vec<(PathBuf, Error)> = Vec::new();
        // A manifest that cannot be read counts for nothing anyway, and a newer program may well be able to.
        let readable =
            |found: &Candidate| found.manifest.is_ok() || !found.path.join(MANIFEST).exists();
        for candidate in checkpoints(&self.dir).into_iter().filter(readable) {
            match Bundle::open_candidate(&candidate, check) {
                Ok(_) => {
                    let mut damaged = damaged.iter();
                    return damaged.try_for_each(|(path, cause)| self.mark_damaged(path, cause));
                }
                Err(cause) => damaged.push((candidate.path, cause)),
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
        disk::rename(path, &place).map_err(|cause| Error::io(path, "rename", cause))?;
        disk::sync_dir(&self.dir.join(CHECKPOINTS))?;
        Ok(place)
    }

    /// A bundle that was copied here, or whose `checkpoints` folder was removed, lies loose in the directory: the next
    /// save would replace its files. It gets a folder like every other checkpoint.
    pub(super) fn adopt_loose_checkpoint(&self, check: Check) -> Result<()> {
        let Some(loose) = Candidate::read(self.dir.clone()) else {
            return Ok(());
        };
        let Ok(manifest) = &loose.manifest else {
            return Ok(());
        };
        let found = checkpoints(&self.dir);
        if found
            .iter()
            .any(|twin| twin.manifest.as_ref().is_ok_and(|twin| twin == manifest))
        {
            return Ok(());
        }
        let folder = self.unfinished();
        let adopted = Bundle::open_candidate(&loose, check)
            .and_then(|_| duplicate_files(manifest, &self.dir, &folder))
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
        let apart = |path: &Path| is_earlier_run(path) || is_best(path);
        let older = checkpoints(&self.dir)
            .into_iter()
            .filter(|found| found.manifest.is_ok() && !apart(&found.path))
            .skip(ALWAYS_KEPT.saturating_add(self.older));
        for found in older {
            if let Err(cause) = self.remove(&found.path) {
                cannot_remove(&found.path, &cause);
            }
        }
    }

    fn remove_loudly(&self, path: &Path, what: &str) {
        if !path.exists() {
            return;
        }
        match self.remove(path) {
            Ok(()) => tracing::warn!("removed {}: {what}", path.display()),
            Err(cause) => cannot_remove(path, &cause),
        }
    }

    /// Removes a checkpoint so that it never looks like a damaged one, wherever this is cut short.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let doomed = self.checkpoint(&format!("{UNFINISHED}{name}"));
        remove_folder(&doomed)?;
        match disk::rename(path, &doomed) {
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
                cannot_remove(&entry.path(), &cause);
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
            disk::rename(&folder, &renamed).map_err(|cause| Error::io(&folder, "rename", cause))
        };
        let outcome = attempt();
        let cleaned = remove_folder(&folder).and_then(|()| remove_folder(&renamed));
        outcome.and(cleaned.map_err(|cause| Error::io(&renamed, "remove", cause)))
    }
}

fn cannot_remove(path: &Path, cause: &io::Error) {
    tracing::warn!("cannot remove {}: {cause}", path.display());
}

fn is_best_of_earlier(path: &Path) -> bool {
    is_earlier_run(path) && path.to_string_lossy().ends_with(BEST_OF_EARLIER)
}

pub(super) fn is_earlier_run(path: &Path) -> bool {
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
