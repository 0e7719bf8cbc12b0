//! File operations that have reached the disk when they return, and that never leave the folder they are meant for: a
//! bundle from elsewhere may hold links, pipes and devices.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use aios_base::error::{Error, Result};
use aios_base::files::read_limited;
pub(super) use aios_base::files::{rename, stays_inside, sync_dir, sync_file};

use crate::manifest::FileEntry;

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

/// Opens a file for reading if it is one: neither a link, which may lead anywhere, nor a pipe, which may keep its reader
/// waiting, nor a device, which may never end.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    require_regular(path)?;
    let mut options = OpenOptions::new();
    options.read(true);
    no_follow(&mut options);
    let file = options.open(path)?;
    // What was looked at and what was opened may be two things.
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(special(path)),
    }
}

/// Refuses what is there and is not a file itself.
pub(super) fn require_regular(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_file() {
        true => Ok(()),
        false => Err(special(path)),
    }
}

/// Refuses `name` below `root` where a folder on the way there is a link: it would lead outside. What does not exist is
/// fine.
pub(super) fn require_inside(root: &Path, name: &str) -> io::Result<()> {
    let mut path = root.to_path_buf();
    let parents = Path::new(name).parent().into_iter();
    for part in parents.flat_map(Path::components) {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(special(&path)),
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

fn special(path: &Path) -> io::Error {
    let link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    let what = match link {
        true => "it is a link",
        false => "it is neither a plain file nor a folder of its own",
    };
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("{what}, which a bundle must not hold"),
    )
}

/// Of a file that is opened: a link in its place is an error, a pipe does not wait.
pub(super) fn no_follow(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    #[cfg(windows)]
    {
        /// Opens a link itself, of which no data can be read.
        const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x0020_0000;
        std::os::windows::fs::OpenOptionsExt::custom_flags(options, FILE_FLAG_OPEN_REPARSE_POINT);
    }
}

/// The whole of a file of at most `limit` bytes.
pub(super) fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_limited(open_regular(path)?, limit)
}

/// A place in `folder` that nothing has: `stem`, else `stem-2` and so on.
pub(super) fn free_name(folder: &Path, stem: &str) -> PathBuf {
    let mut path = folder.join(stem);
    let mut number = 1;
    // A link to nothing has its place too.
    while fs::symlink_metadata(&path).is_ok() {
        number += 1;
        path = folder.join(format!("{stem}-{number}"));
    }
    path
}

/// Whether both are one file under two names, as far as the system tells.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::symlink_metadata(a), fs::symlink_metadata(b)) {
        (Ok(a), Ok(b)) => is_same(&a, &b),
        _ => false,
    }
}

#[cfg(unix)]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    false
}

/// Length and hash of a file as it is on disk.
pub(super) fn read_entry(path: &Path) -> io::Result<FileEntry> {
    let mut file = open_regular(path)?;
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

/// Puts `from` at `to` as well, in one instant: weights without taking space where the file system can, small files as a
/// copy, since people edit those, and an edit in place must not reach the checkpoint.
pub(super) fn duplicate(from: &Path, to: &Path) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".new-");
    name.push(to.file_name().unwrap_or_default());
    let temporary = to.with_file_name(name);
    remove_if_there(&temporary)?;
    let shared = || is_linked(from) && share(from, &temporary).is_ok();
    if !shared() {
        copy(from, &temporary)?;
    }
    rename(&temporary, to)?;
    // Renaming one link of a file over another of the same file does nothing on Unix, not even remove the source.
    remove_if_there(&temporary)
}

/// Whether a file is large and never edited by hand.
fn is_linked(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "safetensors")
}

/// A clone, which an edit in place leaves alone, or else a hard link.
fn share(from: &Path, to: &Path) -> io::Result<()> {
    match reflink_copy::reflink(from, to) {
        Ok(()) => File::open(to)?.sync_all(),
        Err(_) => fs::hard_link(from, to),
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut new = File::create_new(to)?;
    io::copy(&mut open_regular(from)?, &mut new)?;
    new.sync_all()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn links_pipes_and_devices_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        let pipe = std::ffi::CString::new(path("pipe").to_str().unwrap()).unwrap();
        // SAFETY: a valid string that ends with NUL.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        assert!(open_regular(&path("file")).is_ok());
        for name in [
            path("link"),
            path("pipe"),
            "/dev/zero".into(),
            dir.path().into(),
        ] {
            let error = open_regular(&name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}", name.display());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_is_a_link_leads_outside() {
        let [dir, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(other.path(), dir.path().join("tokenizer")).unwrap();
        assert!(require_inside(dir.path(), "tokenizer/tokenizer.json").is_err());
        assert!(require_inside(dir.path(), "model.safetensors").is_ok());
        assert!(require_inside(dir.path(), "none/yet").is_ok());
    }

    #[test]
    fn a_file_beyond_its_limit_is_not_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        let error = read_small(file.path(), 100).unwrap_err().to_string();
        assert!(error.contains("longer than 100 bytes"), "{error}");
    }
}
