//! A metrics file that is read as it grows: once, however often one looks.

use crate::report::run::{Lines, Run};
use aios_base::error::{Error, Result};
use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Longest line that is read. A longer one is none of ours, and passed over without being held.
const LONGEST_LINE: usize = 16 << 20;
/// Bytes read at once.
const READ_AT_ONCE: usize = 256 << 10;
/// Bytes at the beginning and at the end of what was read, by which a file is known again.
const KNOWN: usize = 1024;

/// A metrics file and what it says, as far as it was read.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    read: Progress,
}

/// What was read of a file.
#[derive(Debug, Default)]
struct Progress {
    lines: Lines,
    /// Bytes read.
    offset: u64,
    /// When the file was written, as of then.
    written: Option<SystemTime>,
    identity: Identity,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// The line in the making.
    line: Vec<u8>,
    /// It is longer than any of ours.
    too_long: bool,
}

/// What tells a file from another one in its place.
#[derive(Debug, Default, PartialEq, Eq)]
struct Identity {
    created: Option<SystemTime>,
    /// Device and number on it, where a file has one.
    inode: Option<(u64, u64)>,
}

impl MetricsFile {
    /// A file of which nothing has been read yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            read: Progress::default(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The runs to show.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.read.lines.runs()
    }

    /// Lines that are none of ours; the last one may be in the making.
    pub fn unreadable(&self) -> usize {
        self.read.lines.unreadable
    }

    /// Read what was appended since the last time, or all of a file that is another one, shorter or rewritten.
    ///
    /// # Errors
    /// What is no file, or cannot be read.
    pub fn update(&mut self) -> Result<()> {
        check(&self.path)?;
        let updated = File::open(&self.path).and_then(|file| self.read.update(file, &self.path));
        updated.map_err(|cause| Error::io(&self.path, "read the metrics file", cause))
    }
}

/// Refuse what is there and no regular file: a pipe may keep its reader waiting for ever, a device has no end.
///
/// # Errors
/// Says what it is.
pub fn check(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => Err(Error::failed(format!(
            "{} is {}, not a file: name a metrics file (aios train --log-file)",
            path.display(),
            kind_of(meta.file_type())
        ))),
        // Reading it says why not.
        _ => Ok(()),
    }
}

/// What is no regular file, in words.
pub fn kind_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    match kind.is_dir() {
        true => "a directory",
        false => "something else",
    }
}

impl Progress {
    fn update(&mut self, mut file: File, path: &Path) -> io::Result<()> {
        let meta = file.metadata()?;
        let written = meta.modified().ok();
        let identity = Identity::of(&meta);
        if !self.known_again(&mut file, meta.len(), written, &identity)? {
            *self = Self {
                identity,
                ..Self::default()
            };
        }
        self.written = written;
        // What is appended meanwhile is for the next time, so that length and time belong together.
        file.seek(SeekFrom::Start(self.offset))?;
        self.append(file.take(meta.len() - self.offset), path)
    }

    /// Whether the file begins with what was read.
    fn known_again(
        &self,
        file: &mut File,
        length: u64,
        written: Option<SystemTime>,
        identity: &Identity,
    ) -> io::Result<bool> {
        if *identity != self.identity || length < self.offset {
            return Ok(false);
        }
        if length == self.offset {
            return Ok(written == self.written);
        }
        let tail = self.offset - self.tail.len() as u64;
        Ok(has(file, 0, &self.head)? && has(file, tail, &self.tail)?)
    }

    fn append(&mut self, mut source: impl Read, path: &Path) -> io::Result<()> {
        let mut buffer = vec![0; READ_AT_ONCE];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => self.take(&buffer[..bytes], path),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        // A whole line whose end is missing, as when an editor wrote the file.
        if !self.line.is_empty() && self.lines.take_event(&self.line, path) {
            self.line.clear();
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8], path: &Path) {
        self.remember(bytes);
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.extend_line(&bytes[..end]);
            match self.too_long {
                true => self.lines.unreadable += 1,
                false => self.lines.take(&self.line, path),
            }
            self.too_long = false;
            self.line.clear();
            bytes = &bytes[end + 1..];
        }
        self.extend_line(bytes);
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        self.too_long |= self.line.len() + bytes.len() > LONGEST_LINE;
        match self.too_long {
            true => self.line = Vec::new(),
            false => self.line.extend_from_slice(bytes),
        }
    }

    fn remember(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        let missing = KNOWN.saturating_sub(self.head.len());
        self.head
            .extend_from_slice(&bytes[..missing.min(bytes.len())]);
        self.tail
            .extend_from_slice(&bytes[bytes.len().saturating_sub(KNOWN)..]);
        let surplus = self.tail.len().saturating_sub(KNOWN);
        self.tail.drain(..surplus);
    }
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = {
            use std::os::unix::fs::MetadataExt;
            Some((meta.dev(), meta.ino()))
        };
        #[cfg(not(unix))]
        let inode = None;
        Self {
            created: meta.created().ok(),
            inode,
        }
    }
}

fn has(file: &mut File, at: u64, wanted: &[u8]) -> io::Result<bool> {
    let mut found = vec![0; wanted.len()];
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut found) {
        Ok(()) => Ok(found == wanted),
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use tempfile::TempDir;

    const START: &str = "{\"event\":\"start\"}\n";

    fn step(number: u64) -> String {
        format!("{{\"event\":\"step\",\"step\":{number},\"ce\":{number}.5}}\n")
    }

    struct Followed {
        dir: TempDir,
        file: MetricsFile,
    }

    impl Followed {
        fn new(text: impl AsRef<[u8]>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = MetricsFile::new(&dir.path().join("m.jsonl"));
            let followed = Self { dir, file };
            followed.write(text);
            followed
        }

        fn write(&self, text: impl AsRef<[u8]>) {
            fs::write(&self.file.path, text).unwrap();
        }

        fn append(&self, text: impl AsRef<[u8]>) {
            let mut file = OpenOptions::new().append(true).open(&self.file.path);
            file.as_mut().unwrap().write_all(text.as_ref()).unwrap();
        }

        /// Steps of each run, by their numbers; and lines that are none of ours.
        fn read(&mut self) -> (Vec<Vec<f64>>, usize) {
            self.file.update().unwrap();
            let runs = self.file.runs();
            let steps = runs.map(|run| run.numbers("step").collect()).collect();
            (steps, self.file.unreadable())
        }
    }

    #[test]
    fn what_is_appended_is_added_wherever_it_is_cut() {
        let text = format!("{START}{}nonsense\n{}", step(1), step(2));
        for cut in 0..text.len() {
            let mut followed = Followed::new(&text[..cut]);
            followed.file.update().unwrap();
            followed.append(&text[cut..]);
            assert_eq!(followed.read(), (vec![vec![1.0, 2.0]], 1), "cut at {cut}");
            assert_eq!(followed.read(), (vec![vec![1.0, 2.0]], 1), "cut at {cut}");
        }
    }

    #[test]
    fn only_what_was_appended_is_read() {
        let mut followed = Followed::new(format!("{START}{}", step(1)));
        followed.read();
        // A mark where nothing should look again.
        followed.file.read.lines = Lines::default();
        followed.append(step(2));
        assert_eq!(followed.read(), (vec![vec![2.0]], 0));
    }

    #[test]
    fn a_file_that_is_another_one_is_read_anew() {
        let old = format!("{START}{}", step(1));
        let mut followed = Followed::new(&old);
        followed.read();
        followed.write(START);
        assert_eq!(followed.read().0, [[0.0; 0]], "shorter");
        let longer = format!("{START}{}{}{}", step(7), step(8), step(9));
        followed.write(&longer);
        assert_eq!(followed.read().0, [[7.0, 8.0, 9.0]], "rewritten and longer");
        let other = followed.dir.path().join("other");
        fs::write(&other, longer.replace('7', "6") + &step(10)).unwrap();
        fs::rename(&other, followed.file.path()).unwrap();
        assert_eq!(followed.read().0, [[6.0, 8.0, 9.0, 10.0]], "replaced");
        fs::remove_file(followed.file.path()).unwrap();
        assert!(followed.file.update().is_err());
        followed.write(&old);
        assert_eq!(followed.read().0, [[1.0]], "back again");
    }

    #[test]
    fn a_last_line_without_its_end_counts_once() {
        let mut followed = Followed::new(format!("{START}{}", step(1).trim_end()));
        assert_eq!(followed.read(), (vec![vec![1.0]], 0));
        followed.append(format!("\n{}", step(2)));
        assert_eq!(followed.read(), (vec![vec![1.0, 2.0]], 0));
    }

    #[test]
    fn a_line_longer_than_any_of_ours_is_passed_over() {
        let long = vec![b'x'; LONGEST_LINE + 2 * READ_AT_ONCE];
        let mut followed = Followed::new(START);
        followed.append(&long);
        assert_eq!(followed.read(), (vec![vec![]], 0));
        assert!(followed.file.read.line.capacity() == 0, "it is held");
        followed.append(format!("\n{}\0\u{1}\n", step(1)));
        assert_eq!(followed.read(), (vec![vec![1.0]], 2));
    }

    #[test]
    fn what_is_no_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let said = MetricsFile::new(dir.path()).update().unwrap_err();
        assert!(said.to_string().contains("is a directory"), "{said}");
        let said = MetricsFile::new(&dir.path().join("gone")).update();
        assert!(said.unwrap_err().to_string().contains("gone"));
    }
}
