//! The cache: files by their content, and links to them by name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aios_base::error::{Error, Result, shown};

use super::{Download, Hub};

impl Hub {
    pub(super) fn repository(&self, id: &str) -> PathBuf {
        self.cache
            .join(format!("models--{}", id.replace('/', "--")))
    }

    /// Where the names of a commit's files are.
    pub(super) fn snapshot(&self, id: &str, commit: &str) -> PathBuf {
        self.repository(id).join("snapshots").join(commit)
    }

    /// Where a file's bytes are.
    pub(super) fn blob(&self, id: &str, etag: &str) -> PathBuf {
        self.repository(id).join("blobs").join(etag)
    }

    /// The commit that a branch, a tag or itself was when the cache was last brought up to date.
    pub(super) fn commit(&self, id: &str, revision: &str) -> Option<String> {
        if self.snapshot(id, revision).is_dir() {
            return Some(revision.to_string());
        }
        let text = fs::read_to_string(self.repository(id).join("refs").join(revision)).ok()?;
        let commit = text.trim();
        super::request::is_name(commit).then(|| commit.to_string())
    }

    /// Notes the commit of a branch or a tag.
    pub(super) fn note_commit(&self, id: &str, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.repository(id).join("refs").join(revision);
        self.write(&path, commit.as_bytes())
    }

    /// Puts a file into the cache; gives its path there.
    pub(super) fn keep(&self, id: &str, name: &str, file: &Download) -> Result<PathBuf> {
        let blob = self.blob(id, &file.etag);
        if !blob.is_file() {
            self.write(&blob, &file.bytes)?;
        }
        self.name(id, &file.commit, name, &file.etag)
    }

    /// Gives a file whose bytes are in the cache its name.
    pub(super) fn name(&self, id: &str, commit: &str, name: &str, etag: &str) -> Result<PathBuf> {
        let path = self.snapshot(id, commit).join(name);
        if path.is_file() {
            return Ok(path);
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(folder).map_err(|error| self.cannot_keep(&error))?;
        // A link that leads nowhere any more is in the way of a new one.
        let _ = fs::remove_file(&path);
        let up = Path::new(name).components().count() + 1;
        let target: PathBuf = std::iter::repeat_n("..", up)
            .chain(["blobs", etag])
            .collect();
        let blob = self.blob(id, etag);
        // On Windows not everybody may make links.
        link(&target, &path)
            .or_else(|_| fs::hard_link(&blob, &path))
            .or_else(|_| fs::copy(&blob, &path).map(drop))
            .map_err(|error| self.cannot_keep(&error))?;
        Ok(path)
    }

    /// Writes a file aside and renames it.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let write = || {
            fs::create_dir_all(folder)?;
            let aside = tempfile::Builder::new()
                .suffix(".incomplete")
                .tempfile_in(folder)?;
            io::Write::write_all(&mut aside.as_file(), bytes)?;
            readable(aside.as_file())?;
            aside.persist(path).map(drop).map_err(|error| error.error)
        };
        write().map_err(|error| self.cannot_keep(&error))
    }

    pub(super) fn cannot_keep(&self, cause: &io::Error) -> Error {
        Error::failed(format!(
            "cannot write to the Hugging Face cache {}: {cause}; set HF_HOME to a folder that can be written",
            shown(&self.cache)
        ))
    }
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Temporary files are for their owner alone; the cache is shared.
#[cfg(unix)]
fn readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &File) -> io::Result<()> {
    Ok(())
}
