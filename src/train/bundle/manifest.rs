//! The list of a checkpoint's files with their lengths and hashes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

use super::disk;

pub(super) const MANIFEST: &str = "manifest.json";

/// Raised when a change to the layout keeps older programs from reading it.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// Rises with every save into a directory, whatever the step: a run that starts over counts on.
    pub(super) sequence: u64,
    pub(super) step: u64,
    /// By path within the checkpoint, with `/` on every system.
    pub(super) files: BTreeMap<String, FileEntry>,
    /// Hash of this manifest with an empty `xxh3`.
    xxh3: String,
}

/// What a file has to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub(super) bytes: u64,
    /// XXH3, 128 bits, in hexadecimal.
    pub(super) xxh3: String,
}

impl Manifest {
    pub(super) fn new(
        sequence: u64,
        step: u64,
        files: BTreeMap<String, FileEntry>,
    ) -> Result<Self> {
        let mut manifest = Self {
            format: FORMAT,
            sequence,
            step,
            files,
            xxh3: String::new(),
        };
        manifest.xxh3 = disk::hash_hex(&manifest.to_json()?);
        Ok(manifest)
    }

    /// Length of all files together.
    pub(super) fn total_bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        disk::write(&folder.join(MANIFEST), &self.to_json()?).map(drop)
    }

    /// The manifest in `folder`; `None` if there is none, that is, if `folder` is not a checkpoint.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(cause)
                if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(cause) => return Err(Error::io(&path, "read", cause)),
        };
        let manifest: Self = serde_json::from_slice(&text).map_err(|cause| {
            Error::failed(format!(
                "{} is not a valid manifest: {cause}",
                path.display()
            ))
        })?;
        manifest.check(&path)?;
        Ok(Some(manifest))
    }

    /// Compares every file in `folder` with its entry.
    pub(super) fn verify(&self, folder: &Path) -> Result<()> {
        self.files
            .iter()
            .try_for_each(|(name, entry)| verify_file(&folder.join(name), entry))
    }

    fn check(&self, path: &Path) -> Result<()> {
        if self.format > FORMAT {
            return Err(Error::failed(format!(
                "{} has format {}, this program reads up to {FORMAT}: use a newer aios",
                path.display(),
                self.format
            )));
        }
        let unsealed = Self {
            xxh3: String::new(),
            ..self.clone()
        };
        let intact = disk::hash_hex(&unsealed.to_json()?) == self.xxh3;
        if !intact || !self.files.keys().all(|name| stays_inside(name)) {
            return Err(Error::failed(format!(
                "{} is damaged: its contents do not match its own hash",
                path.display()
            )));
        }
        Ok(())
    }

    fn to_json(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|cause| Error::failed(format!("cannot write {MANIFEST}: {cause}")))?;
        text.push(b'\n');
        Ok(text)
    }
}

/// A bundle from elsewhere must not make this program read or remove files outside its folder.
fn stays_inside(name: &str) -> bool {
    Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
}

fn verify_file(path: &Path, expected: &FileEntry) -> Result<()> {
    let damage = |what: String| Err(Error::failed(format!("{} {what}", path.display())));
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(cause) if cause.kind() == ErrorKind::NotFound => return damage("is missing".into()),
        Err(cause) => return Err(Error::io(path, "read", cause)),
    };
    if length < expected.bytes {
        return damage(format!(
            "is truncated: {length} of {} bytes are left",
            expected.bytes
        ));
    }
    let found = disk::read_entry(path).map_err(|cause| Error::io(path, "read", cause))?;
    if found != *expected {
        return damage(format!(
            "is damaged: its contents do not match the hash in {MANIFEST}"
        ));
    }
    Ok(())
}
