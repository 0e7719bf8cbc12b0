//! Which MPI library there is.

use super::abi::Abi;
use super::functions;
use super::launcher::{self, Launcher};
use crate::dynamic::because;
use aios_base::error::{Error, Result};
use libloading::Library;
use std::path::{Path, PathBuf};

/// Names the library to take.
const VARIABLE: &str = "AIOS_MPI_LIBRARY";

/// A library that is loaded, and not started.
pub struct Found {
    pub library: Library,
    pub abi: Abi,
    pub file: PathBuf,
    pub version: String,
}

impl Found {
    /// Name, version and file.
    pub fn in_words(&self) -> String {
        format!("{} ({})", self.version, self.file.display())
    }
}

/// The library that the environment names, or else the first that there is of those that the launcher may have.
pub fn library() -> Result<Found> {
    if let Some(file) = std::env::var_os(VARIABLE).filter(|file| !file.is_empty()) {
        let file = PathBuf::from(file);
        let library = load(&file).map_err(|e| {
            let (file, why) = (file.display(), because(&e));
            Error::failed(format!(
                "{VARIABLE}={file} cannot be loaded: {why}; name the file of an MPI library, or unset it to have one looked for"
            ))
        })?;
        return opened(library, file);
    }
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut tried = Vec::new();
    for file in candidates(launcher::launcher(names), &launcher::folders()) {
        if file.is_absolute() && !file.exists() {
            continue;
        }
        match load(&file) {
            Ok(library) => return opened(library, file),
            Err(e) => tried.push(attempt(&file, &e)),
        }
    }
    Err(Error::failed(missing(&tried)))
}

/// What is asked of a library before it is started.
fn opened(library: Library, file: PathBuf) -> Result<Found> {
    let said = |e: Error| Error::failed(format!("{}: {e}", file.display()));
    let abi = Abi::of(&library, &file).map_err(said)?;
    let version = functions::version(&library).map_err(said)?;
    Ok(Found {
        library,
        abi,
        file,
        version,
    })
}

/// The file, and why it cannot be loaded, unless it is just not there.
fn attempt(file: &Path, why: &libloading::Error) -> String {
    let (file, why) = (file.display().to_string(), because(why));
    let absent = why.starts_with(&format!("{file}: cannot open")) || !cfg!(target_os = "linux");
    match absent && !Path::new(&file).is_absolute() {
        true => file,
        false => format!("{file} ({why})"),
    }
}

fn missing(tried: &[String]) -> String {
    let get = match cfg!(windows) {
        true => "install Microsoft MPI",
        false => {
            "install one (`pip install mpich` does, or the system's packages of MPICH or Open MPI)"
        }
    };
    format!(
        "no MPI library is found; tried: {}. To have one, {get}, or set {VARIABLE} to the file",
        tried.join(", ")
    )
}

/// Files in the order in which to try them: the launcher's family first, each in the launcher's folders and then wherever
/// the system has it.
fn candidates(launcher: Option<Launcher>, folders: &[PathBuf]) -> Vec<PathBuf> {
    let order = match launcher {
        Some(Launcher::OpenMpi) => [Abi::OpenMpi, Abi::Standard, Abi::Mpich],
        Some(Launcher::Mpich) | None => [Abi::Standard, Abi::Mpich, Abi::OpenMpi],
    };
    let mut files = Vec::new();
    for abi in order {
        let names = names(abi);
        let system = system().iter().map(PathBuf::from);
        let folders = folders
            .iter()
            .cloned()
            .chain([PathBuf::new()])
            .chain(system);
        files.extend(folders.flat_map(|folder| names.iter().map(move |name| folder.join(name))));
    }
    files
}

/// Folders that the system's loader does not look into by itself.
fn system() -> &'static [&'static str] {
    match cfg!(target_os = "macos") {
        true => &["/opt/homebrew/lib", "/usr/local/lib"],
        false => &[],
    }
}

/// What libraries of an interface are called.
fn names(abi: Abi) -> &'static [&'static str] {
    if cfg!(windows) {
        return match abi {
            Abi::Mpich => &["msmpi.dll"],
            Abi::Standard | Abi::OpenMpi => &[],
        };
    }
    match (abi, cfg!(target_os = "macos")) {
        (Abi::Standard, true) => &[
            "libmpi_abi.1.dylib",
            "libmpi_abi.0.dylib",
            "libmpi_abi.dylib",
        ],
        (Abi::Mpich, true) => &["libmpi.12.dylib"],
        (Abi::OpenMpi, true) => &["libmpi.40.dylib"],
        (Abi::Standard, false) => &["libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi_abi.so"],
        // The second is Debian's name.
        (Abi::Mpich, false) => &["libmpi.so.12", "libmpich.so.12"],
        (Abi::OpenMpi, false) => &["libmpi.so.40"],
    }
}

/// Load `file`, for all to see: plug-ins of Open MPI look for its symbols among those of the program.
#[cfg(unix)]
fn load(file: &Path) -> Result<Library, libloading::Error> {
    use libloading::os::unix;
    // SAFETY: it is an MPI library by its name or by the user's word; what such a one does when loaded is fit for any
    // process.
    unsafe { unix::Library::open(Some(file), unix::RTLD_NOW | unix::RTLD_GLOBAL) }
        .map(Library::from)
}

/// Load `file`; a bare name from the system's own folder, where Microsoft's installer puts it.
#[cfg(windows)]
fn load(file: &Path) -> Result<Library, libloading::Error> {
    use libloading::os::windows;
    let flags = match file.is_absolute() {
        true => windows::LOAD_WITH_ALTERED_SEARCH_PATH,
        false => windows::LOAD_LIBRARY_SEARCH_SYSTEM32,
    };
    // SAFETY: it is an MPI library by its name or by the user's word; what such a one does when loaded is fit for any
    // process.
    unsafe { windows::Library::load_with_flags(file, flags) }.map(Library::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_launchers_own_library_is_tried_first() {
        let folders = [PathBuf::from("/opt/x/lib")];
        let first = |launcher| candidates(launcher, &folders)[0].clone();
        assert_eq!(
            first(Some(Launcher::OpenMpi)),
            Path::new("/opt/x/lib/libmpi.so.40")
        );
        assert_eq!(
            first(Some(Launcher::Mpich)),
            Path::new("/opt/x/lib/libmpi_abi.so.1")
        );
        assert_eq!(first(None), Path::new("/opt/x/lib/libmpi_abi.so.1"));
        assert_eq!(
            candidates(None, &[]).last(),
            Some(&PathBuf::from("libmpi.so.40"))
        );
    }

    #[test]
    fn what_is_tried_is_said() {
        let text = missing(&["libmpi.so.12".to_string()]);
        assert!(text.contains("tried: libmpi.so.12."), "{text}");
        assert!(text.contains(VARIABLE), "{text}");
    }
}
