//! Kernels that were compiled once for CUDA wait on disk for the next process, which then need not compile them.
//!
//! The runtime keeps each by what it was made of: a kernel of this program's by its text, one of Burn's by its type and
//! parameters. For which GPU and by which compiler is in neither, and so is in the folder's name. Through Vulkan the runtime
//! could keep kernels as well, but would then hold on to all that it made them of, in memory and as long as the process lives:
//! half a gigabyte with a small model. Through Metal and Direct3D 12 it cannot.

use crate::Selected;
use aios_base::cache;
use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Free bytes below which nothing is kept: where the disk fills up as the runtime writes a kernel, it panics.
const LEAST_FREE_BYTES: u64 = 1 << 30;

/// Have the runtime keep what it compiles for `selected`. Its settings are the process's and are made when it first starts:
/// later calls change nothing, nor does this one if a `cubecl.toml` names another place.
pub(super) fn begin(selected: &Selected) {
    let Some(target) = target(selected) else {
        return;
    };
    let mut settings = CubeClRuntimeConfig::storage().lock();
    if settings.is_some() {
        return;
    }
    let mut own = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if own.compilation.cache.is_none() {
        own.compilation.cache = place(&target).map(CacheConfig::File);
    }
    *settings = Some(Arc::new(own));
}

/// The folder for kernels so compiled, made and tried; `None` where none can be kept.
fn place(target: &str) -> Option<PathBuf> {
    let folder = directory()?.join(format!("{}-{target}", env!("CARGO_PKG_VERSION")));
    match can_be_written(&folder) {
        Ok(true) => Some(folder),
        Ok(false) => {
            tracing::warn!(
                "{} has less than 1 GiB left: kernels are compiled anew at each start",
                folder.display()
            );
            None
        }
        Err(error) => {
            tracing::warn!(
                "{} cannot be written ({error}): kernels are compiled anew at each start; set {} to a folder that can",
                folder.display(),
                cache::VARIABLE
            );
            None
        }
    }
}

/// `$AIOS_CACHE_DIR/kernels`, else `aios/kernels` in the user's cache folder.
pub fn directory() -> Option<PathBuf> {
    let usual = || Some(dirs::cache_dir()?.join("aios"));
    Some(cache::named().or_else(usual)?.join("kernels"))
}

/// What kernels are compiled for, and by what.
fn target(selected: &Selected) -> Option<String> {
    match selected {
        Selected::Cuda(_) => crate::cuda::compiled_for(),
        _ => None,
    }
}

/// Whether there is room for kernels.
fn can_be_written(folder: &Path) -> io::Result<bool> {
    fs::create_dir_all(folder)?;
    let probe = folder.join(format!("probe-{}", std::process::id()));
    File::create(&probe)?;
    fs::remove_file(&probe)?;
    Ok(fs4::available_space(folder)? >= LEAST_FREE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_and_tried() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(can_be_written(&dir.path().join("a/b")).is_ok());
        let file = dir.path().join("file");
        fs::write(&file, "").expect("a file");
        assert!(can_be_written(&file.join("a")).is_err());
    }

    #[test]
    fn nothing_is_compiled_for_a_cpu() {
        assert_eq!(target(&Selected::Cpu), None);
    }
}
