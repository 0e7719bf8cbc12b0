//! The list of a checkpoint's files with their lengths and hashes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use aios_base::error::{Error, Result};
use aios_hf::is_of_a_folder;

use crate::{ADAPTER, CONFIG, MODEL, OPTIMIZER, TOKENIZER, TRAINER, disk};

pub(super) const MANIFEST: &str = "manifest.json";

/// Raised when a change to the layout keeps older programs from reading it.
const FORMAT: u32 = 1;

/// Longest manifest: it has a line or three for each of a few files.
const LONGEST: u64 = 1 << 20;

/// Longest file but the tensors': a tokenizer of a million words takes a tenth of it.
const LONGEST_TEXT: u64 = 1 << 30;

/// All files together: no disk holds as much, and sums of it stay within an integer.
const MOST_BYTES: u64 = 1 << 60;

/// No number of saves gets as far; numbers from here on would soon leave the range of an integer.
pub(super) const LAST_SEQUENCE: u64 = 1 << 62;

/// What every checkpoint has, beside its weights.
const REQUIRED: [&str; 3] = [OPTIMIZER, TRAINER, CONFIG];

/// The weights, of which a checkpoint has one file.
const WEIGHTS: [&str; 2] = [MODEL, ADAPTER];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// Rises with every save into a directory, whatever the step: a run that starts over counts on.
    pub(super) sequence: u64,
    pub(super) step: u64,
    /// By path within the checkpoint, with `/` on every system.
    pub(super) files: BTreeMap<String, FileEntry>,
    /// Hash of this manifest with an empty `xxh3`.
    pub(super) xxh3: String,
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

    /// The files' names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The file with the weights.
    pub(super) fn weights(&self) -> &'static str {
        let there = WEIGHTS
            .into_iter()
            .find(|name| self.files.contains_key(*name));
        there.unwrap_or(MODEL)
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
        let text = match disk::read_small(&path, LONGEST) {
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

    /// Compares the length of every file in `folder` with its entry, and sees that it is a file.
    pub(super) fn verify_lengths(&self, folder: &Path) -> Result<()> {
        self.files
            .iter()
            .try_for_each(|(name, entry)| verify_length(folder, name, entry))
    }

    /// Compares the contents of the files in `folder` that are `wanted` with their entries.
    pub(super) fn verify(&self, folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let wanted = self.files.iter().filter(|(name, _)| wanted(name));
        let mut wanted = wanted.map(|(name, entry)| (folder.join(name), entry));
        wanted.try_for_each(|(path, entry)| verify_contents(&path, entry, &folder.join(MANIFEST)))
    }

    /// Names of the files that people may edit and that are not what was saved.
    pub(super) fn edited_texts(&self, folder: &Path) -> Vec<&str> {
        let texts = self.files.iter().filter(|(name, _)| is_text(name));
        let edited = texts.filter(|(name, entry)| {
            disk::read_entry(&folder.join(name)).is_ok_and(|found| found != **entry)
        });
        edited.map(|(name, _)| name.as_str()).collect()
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
        let damaged = |what: &str| {
            Err(Error::failed(format!(
                "{} is damaged: {what}",
                path.display()
            )))
        };
        if disk::hash_hex(&unsealed.to_json()?) != self.xxh3 {
            return damaged("its contents do not match its own hash");
        }
        if let Some(name) = self.files.keys().find(|name| !is_of_a_bundle(name)) {
            return damaged(&format!("it lists {name:?}, which no bundle has"));
        }
        let required = [&REQUIRED[..], &[self.weights()]].concat();
        if let Some(name) = required
            .iter()
            .find(|name| !self.files.contains_key(**name))
        {
            return damaged(&format!("it does not list {name}"));
        }
        let long =
            |(name, entry): &(&String, &FileEntry)| is_text(name) && entry.bytes > LONGEST_TEXT;
        if let Some((name, entry)) = self.files.iter().find(long) {
            return damaged(&format!("it says that {name} has {} bytes", entry.bytes));
        }
        let mut lengths = self.files.values().map(|entry| entry.bytes);
        let all = lengths.try_fold(0, u64::checked_add);
        if all.is_none_or(|all| all > MOST_BYTES) {
            return damaged("its files would have more bytes than any disk");
        }
        let most = self.sequence.max(self.step);
        if most >= LAST_SEQUENCE {
            return damaged(&format!("it counts to {most}"));
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

/// A bundle from elsewhere must not make this program read or remove files outside its folder, or others within it.
fn is_of_a_bundle(name: &str) -> bool {
    let tokenizer = name
        .strip_prefix(TOKENIZER)
        .is_some_and(|rest| rest.starts_with('/'));
    let own = REQUIRED.contains(&name) || WEIGHTS.contains(&name);
    disk::stays_inside(name) && (own || tokenizer || is_of_a_folder(name))
}

fn is_text(name: &str) -> bool {
    !matches!(name, MODEL | ADAPTER | OPTIMIZER)
}

fn verify_length(folder: &Path, name: &str, expected: &FileEntry) -> Result<()> {
    let path = folder.join(name);
    let damage = |what: String| Err(Error::failed(format!("{} {what}", path.display())));
    let found = disk::require_inside(folder, name).and_then(|()| disk::require_regular(&path));
    let length = match found.and_then(|()| fs::metadata(&path)) {
        Ok(metadata) => metadata.len(),
        Err(cause) if cause.kind() == ErrorKind::NotFound => return damage("is missing".into()),
        Err(cause) => return Err(Error::io(path, "read", cause)),
    };
    match length {
        _ if length == expected.bytes => Ok(()),
        _ if is_text(name) && is_edited(&path, &folder.join(MANIFEST)) => damage(edited()),
        _ if length < expected.bytes => damage(format!(
            "is truncated: {length} of {} bytes are left",
            expected.bytes
        )),
        _ => damage(format!(
            "is damaged: it is {length} bytes long and was {}",
            expected.bytes
        )),
    }
}

fn verify_contents(path: &Path, expected: &FileEntry, manifest: &Path) -> Result<()> {
    let found = disk::read_entry(path).map_err(|cause| Error::io(path, "read", cause))?;
    if found == *expected {
        return Ok(());
    }
    let text = path.extension().is_none_or(|end| end != "safetensors");
    let what = match text && is_edited(path, manifest) {
        true => edited(),
        false => format!("is damaged: its contents do not match the hash in {MANIFEST}"),
    };
    Err(Error::failed(format!("{} {what}", path.display())))
}

/// An edit leaves a text, and a time well after that of the manifest, which is written last; damage leaves neither.
fn is_edited(path: &Path, manifest: &Path) -> bool {
    const AT_ONCE: Duration = Duration::from_secs(1);
    let time = |path: &Path| fs::metadata(path).and_then(|found| found.modified());
    let later = match (time(path), time(manifest)) {
        (Ok(changed), Ok(saved)) => changed.duration_since(saved).is_ok_and(|by| by > AT_ONCE),
        _ => false,
    };
    let text = || disk::read_small(path, LONGEST).map(String::from_utf8);
    later && matches!(text(), Ok(Ok(text)) if !text.contains('\0'))
}

fn edited() -> String {
    "was changed after it was saved, so that the checkpoint is no longer what it was: put it back as it was; settings are \
     changed by flags, not in the bundle"
        .into()
}
