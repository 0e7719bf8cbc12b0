//! Whether a directory may be saved into, and making it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use aios_base::error::{Error, Result, dangling};
use aios_hf::{MORE_CHAT_TEMPLATES, is_of_a_folder};

use crate::manifest::{MANIFEST, Manifest};
use crate::open::checkpoints;
use crate::{
    ADAPTER, BEST, CHECKPOINTS, CONFIG, EARLIER_RUN, MODEL, OPTIMIZER, STEP, TOKENIZER, TRAINER,
    disk, unusable,
};

/// Files in the directory itself that a save replaces.
const REPLACED: [&str; 6] = [MODEL, ADAPTER, OPTIMIZER, TRAINER, CONFIG, MANIFEST];

/// Makes a directory ready for checkpoints, which are Hugging Face's folders or not; on the disk when this returns.
///
/// # Errors
/// A place that cannot be written, links in it, or files of others that a save would replace.
pub(super) fn make(dir: &Path, of_folders: bool) -> Result<()> {
    if let Some(why) = dangling(dir) {
        return Err(unusable(dir, &why));
    }
    refuse_links(dir).map_err(|cause| unusable(dir, &cause))?;
    refuse_files_of_others(dir, of_folders)?;
    create(&dir.join(CHECKPOINTS)).map_err(|cause| unusable(dir, &cause))
}

/// What is written through a link lands elsewhere.
fn refuse_links(dir: &Path) -> Result<()> {
    let absent_or = |path: PathBuf, found: io::Result<()>| match found {
        Err(cause) if !is_absent(&cause) => Err(Error::io(path, "use", cause)),
        _ => Ok(()),
    };
    for name in REPLACED {
        let path = dir.join(name);
        let found = disk::require_regular(&path);
        absent_or(path, found)?;
    }
    for name in [CHECKPOINTS, TOKENIZER, MORE_CHAT_TEMPLATES] {
        let found = disk::require_inside(dir, &format!("{name}/any"));
        absent_or(dir.join(name), found)?;
    }
    Ok(())
}

fn is_absent(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Refuses a directory that holds files by the names of a bundle's and is none: another program's model, say, or the
/// very weights or settings that this run is to begin with.
fn refuse_files_of_others(dir: &Path, of_folders: bool) -> Result<()> {
    if is_bundle(dir) {
        return Ok(());
    }
    let names = REPLACED.into_iter().chain([TOKENIZER]).map(String::from);
    let mut there: Vec<String> = names.filter(|name| dir.join(name).exists()).collect();
    there.extend(checkpoints_of_others(dir));
    if of_folders {
        there.extend(folder_of_others(dir));
    }
    if there.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} holds {} and is no bundle of this program: saving would replace what is there; give another --save-dir or \
         --bundle-dir",
        dir.display(),
        there.join(", ")
    )))
}

/// Files of a model's folder.
fn folder_of_others(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_of_model = |name: &String| {
        is_of_a_folder(name)
            || name == MORE_CHAT_TEMPLATES
            || name == "model.safetensors.index.json"
    };
    let mut names: Vec<String> = names.filter(is_of_model).collect();
    names.sort();
    names
}

/// Folders by the names of this program's checkpoints. What is unfinished has no manifest yet.
fn checkpoints_of_others(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join(CHECKPOINTS))
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let ours = |name: &String| {
        [STEP, BEST, EARLIER_RUN]
            .iter()
            .any(|stem| name.starts_with(stem))
    };
    names
        .filter(ours)
        .map(|name| format!("{CHECKPOINTS}/{name}"))
        .collect()
}

fn is_bundle(dir: &Path) -> bool {
    // A checkpoint outlives a manifest that a crash or an edit took from the directory itself.
    matches!(Manifest::read(dir), Ok(Some(_))) || !checkpoints(dir).is_empty()
}

/// Creates a folder and those above it, each of them safe against a power cut.
fn create(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|folder| !folder.exists());
    let missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
    fs::create_dir_all(path)?;
    for folder in missing {
        let parent = folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        disk::sync_dir(parent.unwrap_or(Path::new("."))).map_err(io::Error::other)?;
    }
    Ok(())
}
