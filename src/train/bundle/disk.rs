//! File operations that have reached the disk when they return.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

use super::manifest::FileEntry;

/// A new file that hashes what is written to it.
pub(super) struct HashedFile {
    path: PathBuf,
    file: File,
    hash: Xxh3,
    bytes: u64,
}

impl HashedFile {
    pub(super) fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            file: File::create_new(path).map_err(|cause| Error::io(path, "create", cause))?,
            hash: Xxh3::new(),
            bytes: 0,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|cause| Error::io(&self.path, "write", cause))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Flushes to the disk and says what was written.
    pub(super) fn finish(self) -> Result<FileEntry> {
        self.file
            .sync_all()
            .map_err(|cause| Error::io(&self.path, "flush to disk", cause))?;
        Ok(FileEntry {
            bytes: self.bytes,
            xxh3: hex(&self.hash),
        })
    }
}

/// Writes a whole new file.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<FileEntry> {
    let mut file = HashedFile::create(path)?;
    file.write(bytes)?;
    file.finish()
}

/// Flushes a file that another writer made.
pub(super) fn sync_file(path: &Path) -> Result<()> {
    // Windows flushes only through a handle that may write.
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.sync_all())
        .map_err(|cause| Error::io(path, "flush to disk", cause))
}

/// Flushes a folder's entries: without this a rename may not outlive a power cut.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
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
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => Ok(()),
        _ => Err(cause),
    }
}

/// Length and hash of a file as it is on disk.
pub(super) fn read_entry(path: &Path) -> io::Result<FileEntry> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
    Ok(FileEntry {
        bytes,
        xxh3: hex(&hash),
    })
}

/// Puts `from` at `to` as well, in one instant: as a hard link, or as a copy where the file system has no links.
pub(super) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".new-");
    name.push(to.file_name().unwrap_or_default());
    let temporary = to.with_file_name(name);
    remove_if_there(&temporary)?;
    if fs::hard_link(from, &temporary).is_err() {
        fs::copy(from, &temporary)?;
        fs::OpenOptions::new()
            .write(true)
            .open(&temporary)?
            .sync_all()?;
    }
    fs::rename(&temporary, to)?;
    // Renaming one link of a file over another of the same file does nothing on Unix, not even remove the source.
    remove_if_there(&temporary)
}

/// Removes a file; that there is none is fine.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

pub(super) fn hash_hex(bytes: &[u8]) -> String {
    let mut hash = Xxh3::new();
    hash.update(bytes);
    hex(&hash)
}

fn hex(hash: &Xxh3) -> String {
    format!("{:032x}", hash.digest128())
}
