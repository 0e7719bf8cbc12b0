//! One training process per bundle directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aios_base::error::{Error, Result};

use crate::{disk, place, unusable};

/// The file that is locked. It holds the number of the process that has it, for messages.
pub(super) const LOCK: &str = ".lock";

/// How long another process may hold the lock: a training that stops needs a moment to save, a process whose parent was
/// killed one to follow it, and Windows one to let go of a dead process's locks.
const PATIENCE: Duration = Duration::from_secs(2);

const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// More digits than a process number has.
const LONGEST_NOTE: u64 = 20;

/// The right to save into a bundle directory, held until dropped; the system lets go of it however the process ends.
/// What was read of the directory before it was taken may be out of date.
#[derive(Debug)]
pub struct Lock {
    pub(super) dir: PathBuf,
    /// Whether the checkpoints are Hugging Face's folders.
    pub(super) of_folders: bool,
    /// `None` where the file system cannot lock.
    file: Option<File>,
}

impl Lock {
    /// Makes the directory if need be, and takes it.
    ///
    /// # Errors
    /// A directory that cannot be created or written, that holds files of others which a save would replace, or links,
    /// or that another process is training into.
    pub fn acquire(dir: &Path) -> Result<Self> {
        Self::take(dir, false)
    }

    /// The same for checkpoints that are Hugging Face's folders: their files are not to replace others' either, such as
    /// those of the very model that a run begins with.
    ///
    /// # Errors
    /// As there.
    pub fn acquire_for_folders(dir: &Path) -> Result<Self> {
        Self::take(dir, true)
    }

    pub(super) fn acquire_again(&self) -> Result<Self> {
        Self::take(&self.dir, self.of_folders)
    }

    fn take(dir: &Path, of_folders: bool) -> Result<Self> {
        place::make(dir, of_folders)?;
        let mut file = open(dir).map_err(|cause| unusable(dir, &cause))?;
        let file = match patiently(&file) {
            Ok(()) => {
                note_owner(&mut file);
                Some(file)
            }
            Err(TryLockError::WouldBlock) => return Err(in_use(dir, &mut file)),
            Err(TryLockError::Error(cause)) => {
                tracing::warn!(
                    "cannot lock {} ({cause}): make sure that no other process trains into it",
                    dir.display()
                );
                None
            }
        };
        Ok(Self {
            dir: dir.to_path_buf(),
            of_folders,
            file,
        })
    }

    /// Whether no other process can be at work in the directory.
    pub(super) fn is_exclusive(&self) -> bool {
        self.file.is_some()
    }

    /// Whether the directory is still the one that was taken: it may have been removed, or replaced by another.
    pub(super) fn is_in_place(&self) -> bool {
        let there = fs::symlink_metadata(self.dir.join(LOCK));
        match (&self.file, there) {
            (_, Err(_)) => false,
            (None, Ok(_)) => true,
            (Some(file), Ok(there)) => file.metadata().is_ok_and(|held| same(&held, &there)),
        }
    }
}

#[cfg(unix)]
fn same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// A file that is open cannot be replaced there.
#[cfg(not(unix))]
fn same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

fn open(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    disk::no_follow(&mut options);
    let checked = |path: &Path| match disk::require_regular(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        found => found,
    };
    let mut file = checked(&path)
        .and_then(|()| options.open(&path))
        .map_err(|cause| Error::io(&path, "write", cause))?;
    match is_ours(&mut file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(Error::failed(format!(
            "{} is a file of another program",
            path.display()
        ))),
        Err(cause) => Err(Error::io(&path, "read", cause)),
    }
}

/// Whether the file is empty or holds a process number: anything else would be lost.
fn is_ours(file: &mut File) -> io::Result<bool> {
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 1 {
        return Ok(false);
    }
    let mut text = Vec::new();
    // Windows does not let others read a locked file.
    match file.take(LONGEST_NOTE + 1).read_to_end(&mut text) {
        Err(_) if cfg!(windows) => Ok(true),
        Err(cause) => Err(cause),
        Ok(length) => Ok(length as u64 <= LONGEST_NOTE && text.iter().all(u8::is_ascii_digit)),
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
        .and_then(|()| file.rewind())
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
        "{owner} is training into {}: wait for it, stop it, or choose another --save-dir or --bundle-dir",
        dir.display()
    ))
}
