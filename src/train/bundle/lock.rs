//! One training process per bundle directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

use super::unusable;

/// How long another process may hold the lock: a training process whose parent was killed needs a moment to follow it,
/// and Windows needs one to let go of a dead process's locks.
const PATIENCE: Duration = Duration::from_secs(2);

const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Locks the directory for as long as the returned file lives; the system lets go of it however the process ends.
/// `None` where the file system cannot lock.
pub(super) fn acquire(dir: &Path) -> Result<Option<File>> {
    let path = dir.join(".lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|cause| unusable(dir, &Error::io(&path, "write", cause)))?;
    match patiently(&file) {
        Ok(()) => {
            note_owner(&mut file);
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => Err(in_use(dir, &mut file)),
        Err(TryLockError::Error(cause)) => {
            tracing::warn!(
                "cannot lock {} ({cause}): make sure that no other process trains into it",
                dir.display()
            );
            Ok(None)
        }
    }
}

fn patiently(file: &File) -> Result<(), TryLockError> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => {
                std::thread::sleep(BETWEEN_TRIES);
            }
            outcome => return outcome,
        }
    }
}

/// The lock holds without the note; it only serves the message of [`in_use`].
fn note_owner(file: &mut File) {
    let _ = file
        .set_len(0)
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
}

fn in_use(dir: &Path, file: &mut File) -> Error {
    let mut text = String::new();
    // Windows does not let others read a locked file.
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let owner = match text.trim().parse::<u32>() {
        Ok(id) => format!("process {id}"),
        Err(_) => "another process".into(),
    };
    Error::failed(format!(
        "{owner} is training into {}: wait for it, stop it, or choose another --bundle-dir",
        dir.display()
    ))
}
