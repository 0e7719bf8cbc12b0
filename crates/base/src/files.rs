//! Files of the user's that may be anything, and changes that have reached the disk when they return.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Component, Path};
use std::time::Duration;

use crate::error::{Error, Result};

/// Flushes a file that another writer made.
///
/// # Errors
/// A disk that is full or gone.
pub fn sync_file(path: &Path) -> Result<()> {
    // Windows flushes only through a handle that may write.
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.sync_all())
        .map_err(|cause| Error::io(path, "flush to disk", cause))
}

/// Flushes a folder's entries: without this a rename may not outlive a power cut.
///
/// # Errors
/// A disk that is gone.
pub fn sync_dir(path: &Path) -> Result<()> {
    // Windows offers no such call and journals its folders itself.
    #[cfg(unix)]
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .or_else(unsupported_is_fine)
        .map_err(|cause| Error::io(path, "flush to disk", cause))?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Some network file systems cannot flush a folder; there is nothing to be done about it.
#[cfg(unix)]
fn unsupported_is_fine(cause: io::Error) -> io::Result<()> {
    match cause.kind() {
        ErrorKind::InvalidInput | ErrorKind::Unsupported => Ok(()),
        _ => Err(cause),
    }
}

/// Opens a file of the user's for reading, if it or what it links to is one: a pipe does not keep its reader waiting.
///
/// # Errors
/// What the system says, or that it is not a file.
pub fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "it is not a file")),
    }
}

/// All that is left of `file`, which is at most `limit` bytes.
///
/// # Errors
/// What the system says, or that there is more.
pub fn read_limited(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= limit {
        true => Ok(bytes),
        false => Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("it is longer than {limit} bytes, as none of its kind is"),
        )),
    }
}

/// Whether a name out of a file stays below the folder it is looked for in, on every system.
pub fn stays_inside(name: &str) -> bool {
    let plain = |part| matches!(part, Component::Normal(_));
    !name.is_empty() && !name.contains(['\\', ':', '\0']) && Path::new(name).components().all(plain)
}

/// Renames a file or a folder.
///
/// # Errors
/// What the system says.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    patiently(is_passing, || fs::rename(from, to))
}

/// Whether a scanner or an indexer may just have the file open, which Windows reports as lack of permission.
fn is_passing(cause: &io::Error) -> bool {
    cfg!(windows) && cause.kind() == ErrorKind::PermissionDenied
}

/// Tries again for about two seconds while what stands in the way may pass.
fn patiently<T>(
    passing: impl Fn(&io::Error) -> bool,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let mut pause = Duration::from_millis(10);
    while pause < Duration::from_millis(1500) {
        match attempt() {
            Err(cause) if passing(&cause) => std::thread::sleep(pause),
            outcome => return outcome,
        }
        pause *= 2;
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_known_on_every_system() {
        for name in ["model.safetensors", "tokenizer/tokenizer.json", "a b"] {
            assert!(stays_inside(name), "{name}");
        }
        for name in [
            "",
            "..",
            "../a",
            "/a",
            "a/../../b",
            "a\\b",
            "C:a",
            "a:b",
            ".",
        ] {
            assert!(!stays_inside(name), "{name}");
        }
    }

    #[test]
    fn what_passes_is_waited_for_and_what_stays_is_told() {
        let mut left = 3;
        let scanner = || io::Error::from(ErrorKind::PermissionDenied);
        let attempt = || {
            left -= 1;
            if left > 0 { Err(scanner()) } else { Ok(()) }
        };
        assert!(patiently(|_| true, attempt).is_ok());
        let mut tries = 0;
        let attempt = || {
            tries += 1;
            Err::<(), _>(scanner())
        };
        assert!(patiently(|_| false, attempt).is_err());
        assert_eq!(tries, 1);
    }
}
