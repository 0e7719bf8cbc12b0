//! A file that is appended to for days: it may be removed, renamed or replaced meanwhile, and its disk may be full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How far apart the same trouble is spoken of.
const SPEAK_EVERY: Duration = Duration::from_secs(600);

/// The file at a path, whichever it is by now.
#[derive(Debug)]
pub struct Appended {
    path: PathBuf,
    file: File,
}

impl Appended {
    /// Opens or creates the file, and the folder it lies in.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that what is written lands under the path: another file, or a new one, is opened where the one that was
    /// written so far has gone. Whether that was so.
    pub fn renew(&mut self) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(there) if is_same(&there, &self.file.metadata()?) => return Ok(false),
            Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        *self = Self::open(&self.path)?;
        Ok(true)
    }

    /// Appends in one write, so that a reader or a crash never sees parts mixed.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Appends to a file that nobody else appends to, whole or not at all: a full disk may take the first part only.
    pub fn append_whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        self.file.write_all(bytes).inspect_err(|_| {
            // What could not be taken back is torn, which readers stop at.
            let _ = self.file.set_len(before);
        })
    }

    /// Whether the file ends in the middle of a line, as a crash in the middle of a write leaves it.
    pub fn ends_mid_line(&mut self) -> io::Result<bool> {
        if !self.file.metadata()?.is_file() || self.file.metadata()?.len() == 0 {
            return Ok(false);
        }
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        Ok(last != *b"\n")
    }

    /// The file's first bytes, at most so many; none of a pipe or a device.
    pub fn beginning(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if self.file.metadata()?.is_file() {
            self.file.rewind()?;
            Read::by_ref(&mut self.file)
                .take(most)
                .read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }
}

#[cfg(unix)]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// What is open cannot be replaced there.
#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// When to speak of writes that fail, one after the other.
#[derive(Debug, Default)]
pub struct Trouble {
    /// What was lost since it was last spoken of.
    lost: u64,
    spoken: Option<Instant>,
}

impl Trouble {
    /// Notes a write that failed at this time. `Some` if it is to be spoken of, with the number of writes lost since the
    /// last time.
    pub fn failed(&mut self, now: Instant) -> Option<u64> {
        self.lost += 1;
        let due = |at: Instant| now.duration_since(at) >= SPEAK_EVERY;
        self.spoken.is_none_or(due).then(|| {
            self.spoken = Some(now);
            std::mem::take(&mut self.lost)
        })
    }

    /// Notes a write that worked. `Some` if those before failed, which is to be spoken of too.
    pub fn worked(&mut self) -> Option<u64> {
        self.spoken.take().map(|_| std::mem::take(&mut self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_spoken_of_rarely_and_its_end_is_too() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut trouble = Trouble::default();
        assert_eq!(trouble.worked(), None);
        assert_eq!(trouble.failed(at(0)), Some(1));
        assert_eq!(trouble.failed(at(1)), None);
        assert_eq!(trouble.failed(at(600)), Some(2));
        assert_eq!(trouble.failed(at(601)), None);
        assert_eq!(trouble.worked(), Some(1));
        assert_eq!(trouble.worked(), None);
    }

    #[test]
    fn what_is_written_lands_under_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/log");
        let mut log = Appended::open(&path).unwrap();
        log.append(b"a").unwrap();
        assert!(!log.renew().unwrap());
        if cfg!(windows) {
            return;
        }
        fs::rename(&path, dir.path().join("rotated")).unwrap();
        assert!(log.renew().unwrap());
        log.append(b"b").unwrap();
        fs::remove_dir_all(dir.path().join("new")).unwrap();
        assert!(log.renew().unwrap());
        log.append(b"c").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"c");
        assert_eq!(fs::read(dir.path().join("rotated")).unwrap(), b"a");
    }
}
