//! Writing a model's folder.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use aios_base::error::{Error, Result, shown};
use aios_base::files::{rename, sync_dir};

use crate::folder::FolderFile;
use crate::names::{ADAPTER_CONFIG_FILE, ADAPTER_FILE, CONFIG_FILE, MODEL_FILE};
use crate::tensors::{TensorSource, write_tensors};

/// Writes a model as a folder that `from_pretrained` of transformers loads: the architecture, all tensors in one file, and
/// the files that travel along. One tensor is in memory at a time. The folder is written under
/// another name and has `dir` as its own once all of it is on the disk.
///
/// # Errors
/// A place that is taken or cannot be written, a tensor that cannot be fetched, or a
/// passenger that cannot be written. Nothing is left then.
pub fn write_folder<'a>(
    dir: &Path,
    config: &Value,
    tensors: impl IntoIterator<Item = TensorSource<'a>>,
    passengers: &[FolderFile],
) -> Result<()> {
    write_as(dir, [CONFIG_FILE, MODEL_FILE], config, tensors, passengers)
}

/// The same of an adapter, as PEFT's `from_pretrained` loads it.
///
/// # Errors
/// As [`write_folder`].
pub fn write_adapter<'a>(
    dir: &Path,
    config: &Value,
    tensors: impl IntoIterator<Item = TensorSource<'a>>,
    passengers: &[FolderFile],
) -> Result<()> {
    write_as(
        dir,
        [ADAPTER_CONFIG_FILE, ADAPTER_FILE],
        config,
        tensors,
        passengers,
    )
}

/// With files of these names for the description and the tensors.
fn write_as<'a>(
    dir: &Path,
    names: [&str; 2],
    config: &Value,
    tensors: impl IntoIterator<Item = TensorSource<'a>>,
    passengers: &[FolderFile],
) -> Result<()> {
    require_free(dir)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let create = |cause| Error::io(parent, "create", cause);
    fs::create_dir_all(parent).map_err(create)?;
    let aside = tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempdir_in(parent)
        .map_err(|cause| Error::io(parent, "write", cause))?;
    let tensors: Vec<TensorSource> = tensors.into_iter().collect();
    write_files(aside.path(), names, config, &tensors, passengers)?;
    // Windows does not rename over a folder, be it empty.
    let _ = fs::remove_dir(dir);
    rename(aside.path(), dir).map_err(|cause| Error::io(dir, "create", cause))?;
    // It is no longer there to be removed.
    let _ = aside.keep();
    sync_dir(parent)
}

fn require_free(dir: &Path) -> Result<()> {
    let taken = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => fs::symlink_metadata(dir).is_ok(),
    };
    match taken {
        false => Ok(()),
        true => Err(Error::invalid(format!(
            "{} is there already: give a folder that is not there or empty",
            shown(dir)
        ))),
    }
}

fn write_files(
    dir: &Path,
    [described, weights]: [&str; 2],
    config: &Value,
    tensors: &[TensorSource],
    passengers: &[FolderFile],
) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(config).map_err(Error::failed)?;
    text.push(b'\n');
    write(&dir.join(described), |file| file(&text))?;
    for passenger in passengers {
        let path = dir.join(&passenger.name);
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder).map_err(|cause| Error::io(folder, "create", cause))?;
        write(&path, |file| file(&passenger.bytes))?;
        sync_dir(folder)?;
    }
    write(&dir.join(weights), |file| write_tensors(tensors, file))?;
    readable(dir)?;
    sync_dir(dir)
}

/// Writes a new file by what it is given, and flushes it to the disk.
fn write(
    path: &Path,
    content: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let mut file = File::create_new(path).map_err(|cause| Error::io(path, "create", cause))?;
    content(&mut |bytes| {
        file.write_all(bytes)
            .map_err(|cause| Error::io(path, "write", cause))
    })?;
    file.sync_all()
        .map_err(|cause| Error::io(path, "flush to disk", cause))
}

/// Temporary folders are for their owner alone.
#[cfg(unix)]
fn readable(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir, everybody).map_err(|cause| Error::io(dir, "write", cause))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
