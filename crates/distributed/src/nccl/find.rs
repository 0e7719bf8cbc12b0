//! Where the driver's library and NCCL's are.

use crate::dynamic;
use aios_base::error::{Error, Result};
use aios_base::nvidia::{self, NCCL as FILE};
use libloading::Library;
use std::ffi::CStr;
use std::path::{Path, PathBuf};

/// Names NCCL's library, or a folder that has it, such as a virtual environment of Python's.
pub const NCCL: &str = "AIOS_NCCL_LIBRARY";

/// Names the driver's library.
pub const CUDA: &str = "AIOS_CUDA_LIBRARY";

/// Where PyPI's packages have it below a folder of Python's packages.
const PACKAGE: &str = "nvidia/nccl/lib";

/// A library that is loaded for good: it has threads.
pub struct Found {
    pub library: &'static Library,
    pub file: PathBuf,
}

/// NCCL's library: the one that the environment names, or else the system's, or that of Python's environment which the
/// process was started in.
pub fn nccl() -> Result<Found> {
    if let Some(named) = variable(NCCL) {
        let tried = match named.is_dir() {
            true => within(&named),
            false => vec![named.clone()],
        };
        return first(&tried).map_err(|tried| {
            let named = named.display();
            Error::failed(format!(
                "{NCCL}={named} is no NCCL library, nor a folder with one: {tried}"
            ))
        });
    }
    if !cfg!(target_os = "linux") {
        return Err(Error::failed("NCCL is for Linux"));
    }
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(variable);
    let mut files = vec![PathBuf::from(FILE)];
    files.extend(environments.flat_map(|folder| within(&folder)));
    first(&files).map_err(|tried| {
        Error::failed(format!(
            "no NCCL library is found: {tried}. To have one, `pip install nvidia-nccl-cu12` and set {NCCL} to the virtual \
             environment, or install the system's package"
        ))
    })
}

/// The driver's library.
pub fn cuda() -> Result<Found> {
    let file = variable(CUDA).unwrap_or_else(|| nvidia::DRIVER.into());
    first(&[file]).map_err(|tried| Error::failed(format!("no NVIDIA driver is found: {tried}")))
}

/// The function `name` of a library.
///
/// # Errors
/// There is none.
///
/// # Safety
/// `F` has to be the type of a pointer to it.
pub unsafe fn function<F: Copy>(library: &Library, name: &CStr) -> Result<F> {
    // SAFETY: as the caller promises; the library stays loaded.
    unsafe { dynamic::function(library, name, "it is too old") }
}

fn variable(name: &str) -> Option<PathBuf> {
    let set = std::env::var_os(name).filter(|text| !text.is_empty());
    set.map(PathBuf::from)
}

/// Places for the file in `folder`, of which there are those that exist.
fn within(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![
        folder.to_path_buf(),
        folder.join("lib"),
        folder.join(PACKAGE),
    ];
    for lib in ["lib", "lib64"] {
        let pythons = std::fs::read_dir(folder.join(lib))
            .into_iter()
            .flatten()
            .flatten();
        let mut pythons: Vec<_> = pythons.map(|entry| entry.path()).collect();
        pythons.sort();
        folders.extend(
            pythons
                .into_iter()
                .map(|python| python.join("site-packages").join(PACKAGE)),
        );
    }
    let files = folders.into_iter().map(|folder| folder.join(FILE));
    files.filter(|file| file.exists()).collect()
}

/// The first of `files` that can be loaded, or why none can.
fn first(files: &[PathBuf]) -> Result<Found, String> {
    let mut tried = Vec::new();
    for file in files {
        // SAFETY: it is a library of NVIDIA's by its name or by the user's word; what such a one does when loaded is fit
        // for any process.
        match unsafe { Library::new(file) } {
            Ok(library) => {
                return Ok(Found {
                    library: Box::leak(Box::new(library)),
                    file: file.clone(),
                });
            }
            Err(e) => tried.push(because(file, &e)),
        }
    }
    match tried.is_empty() {
        true => Err(format!("no {FILE} is in it")),
        false => Err(tried.join("; ")),
    }
}

/// The system's own words, which mostly name the file.
fn because(file: &Path, error: &libloading::Error) -> String {
    let words = dynamic::because(error);
    let file = file.display().to_string();
    match words.contains(&file) {
        true => words,
        false => format!("{file}: {words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_environment_is_looked_through() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder
            .path()
            .join("lib/python3.12/site-packages")
            .join(PACKAGE);
        std::fs::create_dir_all(&packages).unwrap();
        assert!(within(folder.path()).is_empty());
        let file = packages.join(FILE);
        std::fs::write(&file, "no library").unwrap();
        let files = [file];
        assert_eq!(within(folder.path()), files);
        let why = first(&files).map(drop).unwrap_err();
        assert!(why.contains(FILE), "{why}");
    }
}
