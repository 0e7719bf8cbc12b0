//! Finding and checking the checkpoint to go on from.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aios_base::error::{Error, Result};
use aios_hf::{ADAPTER_CONFIG_FILE, CONFIG_FILE, TensorFile};

use crate::keep::is_earlier_run;
use crate::manifest::{MANIFEST, Manifest};
use crate::{
    ADAPTER, BEST, CHECKPOINTS, CONFIG, DAMAGED, MODEL, OPTIMIZER, STEP, TOKENIZER, TRAINER, disk,
};

/// Longest settings and trainer's state: both are a few kilobytes.
const LONGEST_TEXT: u64 = 1 << 20;

/// How long to look again for a checkpoint where a training removes each that was found before it was read.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a checkpoint whose files are those that were saved is also one that can be gone on from; as an error, what is
/// wrong with it. Asked before the large files are read.
pub type Check<'a> = &'a dyn Fn(&Bundle) -> Result<()>;

/// A checkpoint on disk whose every file has been checked.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    step: u64,
    fingerprint: String,
    trainer: serde_json::Value,
    config_toml: String,
    // Open from before they are checked: a training may remove the checkpoint while it is read.
    model: TensorFile,
    optimizer: TensorFile,
}

/// A folder that may hold a checkpoint.
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    /// The manifest, or why it cannot be read.
    pub(super) manifest: Result<Manifest, String>,
}

impl Candidate {
    /// Higher is newer. A manifest that cannot be read might be the newest one's, so it is not passed over in silence.
    pub(super) fn sequence(&self) -> u64 {
        self.manifest
            .as_ref()
            .map_or(u64::MAX, |manifest| manifest.sequence)
    }

    /// A folder that is a checkpoint by its name: it is complete when it gets it, and its manifest with it.
    fn of_step(path: PathBuf) -> Option<Self> {
        let has_parts = || {
            [MODEL, ADAPTER, TRAINER]
                .iter()
                .any(|name| path.join(name).exists())
        };
        let named = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(STEP)
        };
        match Self::read(path.clone()) {
            None if named(&path) && has_parts() => Some(Self {
                manifest: Err(format!("{} is missing", path.join(MANIFEST).display())),
                path,
            }),
            found => found,
        }
    }

    pub(super) fn read(path: PathBuf) -> Option<Self> {
        let manifest = Manifest::read(&path).transpose()?;
        let manifest = manifest.map_err(|cause| cause.to_string());
        Some(Self { path, manifest })
    }

    /// Steps it was saved at; 0 if its manifest cannot be read.
    pub(super) fn step(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.step)
    }
}

impl Bundle {
    /// Opens the newest intact checkpoint in a bundle directory, or the one checkpoint whose folder is given. The files
    /// are those of one save, also while a training saves into the directory.
    ///
    /// A damaged checkpoint, or one that `check` finds wanting, is passed over with a warning that names the file.
    ///
    /// # Errors
    /// No checkpoint there, or none that is intact.
    pub fn open(dir: &Path, check: Check) -> Result<Self> {
        let started = Instant::now();
        loop {
            match Self::open_newest(dir, check) {
                Search::Found(bundle) => return Ok(*bundle),
                Search::Nothing(error) => return Err(error),
                Search::Moved(error) if started.elapsed() > PATIENCE => return Err(error),
                Search::Moved(_) => {}
            }
        }
    }

    fn open_newest(dir: &Path, check: Check) -> Search {
        let mut first_damage: Option<Error> = None;
        for candidate in candidates(dir) {
            match Self::open_candidate(&candidate, check) {
                Ok(bundle) => {
                    match first_damage {
                        Some(damage) => tracing::warn!(
                            "{damage}; using {} (step {}){}",
                            bundle.path.display(),
                            bundle.step,
                            match is_earlier_run(&bundle.path) {
                                true => ", which is of another run, that was started over",
                                false => "",
                            }
                        ),
                        None => warn_of_edits(dir, &candidate),
                    }
                    return Search::Found(Box::new(bundle));
                }
                Err(error) if has_moved(&candidate) => return Search::Moved(error),
                Err(damage) => first_damage = first_damage.or(Some(damage)),
            }
        }
        let dir = dir.display();
        Search::Nothing(Error::failed(match first_damage {
            Some(damage) => format!("no checkpoint in {dir} is intact: {damage}"),
            None => format!("no bundle in {dir}: check the path, or train one first"),
        }))
    }

    /// Whether there is anything in `dir` that [`Bundle::open`] would look at.
    pub fn exists(dir: &Path) -> bool {
        !candidates(dir).is_empty()
    }

    /// The configuration of the newest checkpoint, unchecked, as far as it can be read.
    pub fn newest_config(dir: &Path) -> Option<String> {
        let newest = candidates(dir).into_iter().next()?;
        read_text(&newest.path.join(CONFIG)).ok()
    }

    /// The folder the files are read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same for the same files only.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Steps done when the checkpoint was saved.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The weights.
    pub fn model_tensors(&self) -> Result<TensorFile> {
        self.model.try_clone()
    }

    /// The optimizer's state.
    pub fn optimizer_tensors(&self) -> Result<TensorFile> {
        self.optimizer.try_clone()
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

    /// The small files first, and the large ones only if those and their headers make sense of them: a file of any
    /// length can be made in an instant.
    pub(super) fn open_candidate(candidate: &Candidate, check: Check) -> Result<Self> {
        let path = candidate.path.clone();
        let manifest = candidate.manifest.as_ref().map_err(Error::failed)?;
        manifest.verify_lengths(&path)?;
        manifest.verify(&path, is_read_first)?;
        let bundle = Self {
            step: manifest.step,
            fingerprint: manifest.xxh3.clone(),
            trainer: read_json(&path.join(TRAINER))?,
            config_toml: read_text(&path.join(CONFIG))?,
            model: TensorFile::open(&path.join(manifest.weights()))?,
            optimizer: TensorFile::open(&path.join(OPTIMIZER))?,
            path,
        };
        check(&bundle)?;
        manifest.verify(&bundle.path, |name| !is_read_first(name))?;
        bundle.model_tensors()?.require(f32::is_finite)?;
        // A moment may have overflowed, which only stops its weight.
        bundle
            .optimizer_tensors()?
            .require(|value| !value.is_nan())?;
        Ok(bundle)
    }
}

/// What says what the large files have to be.
fn is_read_first(name: &str) -> bool {
    [TRAINER, CONFIG, CONFIG_FILE, ADAPTER_CONFIG_FILE].contains(&name)
}

/// What came of a look for the newest checkpoint.
enum Search {
    Found(Box<Bundle>),
    Nothing(Error),
    /// One that was there was removed or replaced meanwhile, as a training does with old ones.
    Moved(Error),
}

fn has_moved(candidate: &Candidate) -> bool {
    match (&candidate.manifest, Manifest::read(&candidate.path)) {
        (Ok(read), Ok(Some(now))) => now != *read,
        (Ok(_), Ok(None)) | (Err(_), Ok(Some(_))) => true,
        (Err(_), Ok(None)) => !candidate.path.exists(),
        (Ok(_), Err(_)) => true,
        (Err(_), Err(_)) => false,
    }
}

/// The files in the directory itself are for people and other programs; this one goes by the checkpoint's own.
fn warn_of_edits(dir: &Path, used: &Candidate) {
    let Ok(manifest) = &used.manifest else { return };
    if used.path == dir || !matches!(Manifest::read(dir), Ok(Some(top)) if top == *manifest) {
        return;
    }
    let edited = manifest.edited_texts(dir);
    // A save may have replaced them since.
    if !edited.is_empty() && matches!(Manifest::read(dir), Ok(Some(top)) if top == *manifest) {
        tracing::warn!(
            "{} in {} was changed after it was saved, which counts for nothing: the checkpoint's own in {} is used; give \
             settings as flags",
            edited.join(", "),
            dir.display(),
            used.path.display()
        );
    }
}

/// Every checkpoint in `dir`, newest first. The files in `dir` itself come after the folder of which they are a copy: they
/// are replaced one after the other at each save.
pub(super) fn candidates(dir: &Path) -> Vec<Candidate> {
    // Read first: the folder of which it is the copy outlives at least one more save.
    let loose = Candidate::read(dir.to_path_buf());
    let mut found = checkpoints(dir);
    let counts = |loose: &Candidate| loose.manifest.is_ok() || found.is_empty();
    let loose = loose.filter(counts);
    found.extend(loose);
    found.sort_by_key(|candidate| (Reverse(candidate.sequence()), candidate.path == dir));
    found
}

/// The checkpoints in their own folders, newest first, without those known to be damaged and without links.
pub(super) fn checkpoints(dir: &Path) -> Vec<Candidate> {
    let folder = dir.join(CHECKPOINTS);
    if disk::require_inside(dir, &format!("{CHECKPOINTS}/any")).is_err() {
        return Vec::new();
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<Candidate> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            !name.starts_with('.') && !name.starts_with(DAMAGED)
        })
        .filter_map(|entry| Candidate::of_step(entry.path()))
        .collect();
    // The best one is the same save as a checkpoint of its own for a while: that comes first.
    found.sort_by_key(|candidate| (Reverse(candidate.sequence()), is_best(&candidate.path)));
    found
}

/// Whether a checkpoint's folder is the one of the best evaluation.
pub(super) fn is_best(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(BEST)
}

fn read_text(path: &Path) -> Result<String> {
    let bytes =
        disk::read_small(path, LONGEST_TEXT).map_err(|cause| Error::io(path, "read", cause))?;
    String::from_utf8(bytes)
        .map_err(|_| Error::failed(format!("{} is not UTF-8 text", path.display())))
}

fn read_json(path: &Path) -> Result<serde_json::Value> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|cause| Error::failed(format!("{} is not valid JSON: {cause}", path.display())))
}
