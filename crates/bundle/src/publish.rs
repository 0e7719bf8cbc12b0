//! The newest checkpoint's files once more, in the bundle directory itself, for people and other programs.

use std::fs;
use std::path::Path;

use aios_base::error::{Error, Result};

use crate::disk;
use crate::manifest::{FileEntry, MANIFEST, Manifest};
use crate::open::{Candidate, checkpoints, is_best};
use crate::save::BundleWriter;

impl BundleWriter {
    /// What a process that was killed after its save has not come to: the run may have been at its end, so that no other
    /// save brings the directory's own files up to date.
    pub(super) fn finish_publishing(&self) {
        let found = checkpoints(&self.dir);
        let Some(newest) = found.iter().find(|found| !is_best(&found.path)) else {
            return;
        };
        let Ok(manifest) = &newest.manifest else {
            return;
        };
        let here = Candidate::read(self.dir.clone());
        if here.is_none_or(|here| here.sequence() < manifest.sequence) {
            self.try_to_publish(&newest.path, manifest);
        }
    }

    /// The checkpoint is what counts: where its copy cannot be made there is a warning.
    pub(super) fn try_to_publish(&self, checkpoint: &Path, manifest: &Manifest) {
        if let Err(cause) = self.publish(checkpoint, manifest) {
            tracing::warn!(
                "{} is saved, but its copy in {} is not up to date: {cause}",
                checkpoint.display(),
                self.dir.display()
            );
        }
    }

    /// Brings the files in the bundle directory itself up to date. What others have put in their place is kept.
    fn publish(&self, checkpoint: &Path, manifest: &Manifest) -> Result<()> {
        let old = Manifest::read(&self.dir).ok().flatten();
        let within = |cause| Error::io(&self.dir, "write", cause);
        let gone: Vec<&str> = old.iter().flat_map(Manifest::names).collect();
        let known = checkpoints(&self.dir);
        for name in gone.iter().copied().chain(manifest.names()) {
            disk::require_inside(&self.dir, name).map_err(within)?;
            self.keep_if_changed(name, old.as_ref(), &known)?;
        }
        // Without a manifest the directory counts as no checkpoint: nobody takes a mixture of two for one.
        disk::remove_if_there(&self.dir.join(MANIFEST)).map_err(within)?;
        for name in gone
            .into_iter()
            .filter(|name| !manifest.files.contains_key(*name))
        {
            disk::remove_if_there(&self.dir.join(name)).map_err(within)?;
        }
        duplicate_files(manifest, checkpoint, &self.dir)
    }

    /// Renames a file that is not what any save has put there: an edit, or another model's weights.
    fn keep_if_changed(
        &self,
        name: &str,
        old: Option<&Manifest>,
        known: &[Candidate],
    ) -> Result<()> {
        let path = self.dir.join(name);
        let is_link = || {
            known
                .iter()
                .any(|found| disk::same_file(&path, &found.path.join(name)))
        };
        if fs::symlink_metadata(&path).is_err() || is_link() {
            return Ok(());
        }
        let manifests = known
            .iter()
            .filter_map(|found| found.manifest.as_ref().ok());
        let mut saved = manifests
            .chain(old)
            .filter_map(|manifest| manifest.files.get(name));
        let mut is_saved = |entry: &FileEntry| saved.any(|saved| saved == entry);
        if disk::read_entry(&path).is_ok_and(|entry| is_saved(&entry)) {
            return Ok(());
        }
        let place = disk::free_name(&self.dir, &format!("{name}.changed"));
        disk::rename(&path, &place).map_err(|cause| Error::io(&path, "rename", cause))?;
        tracing::warn!(
            "{} was changed by somebody since it was saved: what it was is kept in {}",
            path.display(),
            place.display()
        );
        Ok(())
    }
}

/// Links or copies a checkpoint's files into `to`, the manifest last.
pub(super) fn duplicate_files(manifest: &Manifest, from: &Path, to: &Path) -> Result<()> {
    for name in manifest.names().chain([MANIFEST]) {
        let target = to.join(name);
        let parent = target.parent().unwrap_or(to);
        fs::create_dir_all(parent).map_err(|cause| Error::io(parent, "create", cause))?;
        disk::duplicate(&from.join(name), &target)
            .map_err(|cause| Error::io(&target, "write", cause))?;
    }
    disk::sync_dir(to)
}
