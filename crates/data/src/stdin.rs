//! Text that comes in on standard input: put into a file, since it has to be read more than once.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempPath;

use crate::cache::{create_part, directory};
use aios_base::background::{Watch, watched};
use aios_base::error::{Error, Result};

const BUFFER_BYTES: usize = 256 << 10;

/// What came in on standard input, in a file that is removed when this is dropped.
#[derive(Debug)]
pub struct Spool {
    path: TempPath,
    /// Locked, by which others know that it is in use.
    _file: std::fs::File,
}

impl Spool {
    /// Reads standard input to its end, into a file beside the token caches. `watch` is told the bytes read so far.
    ///
    /// # Errors
    /// If standard input is a terminal (exit code 2) or cannot be read, or the disk is full; or what `watch` gives.
    pub fn of_stdin(watch: &mut Watch) -> Result<Self> {
        if io::stdin().is_terminal() {
            return Err(Error::invalid(
                "standard input (-) is a terminal: pipe the text in, as in `zcat a.gz | aios ...`, or give the path of \
                 a file",
            ));
        }
        Self::of(io::stdin(), &directory(), watch)
    }

    fn of(
        mut input: impl Read + Send + 'static,
        directory: &Path,
        watch: &mut Watch,
    ) -> Result<Self> {
        let part = create_part(directory, "stdin-")?;
        let (file, path) = part.into_parts();
        let fail = |error| Error::io(&path, "write", error);
        let mut out = file.try_clone().map_err(fail)?;
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let shown = path.to_path_buf();
        let read = || (count.load(Ordering::Relaxed), 0);
        watched("standard input", watch, read, move || {
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                let length = match input.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(Error::io("standard input", "read", error)),
                };
                out.write_all(&buffer[..length])
                    .map_err(|error| Error::io(&shown, "write", error))?;
                counted.fetch_add(length as u64, Ordering::Relaxed);
            }
        })?;
        // Others may read it, and nobody takes it for left behind.
        let _ = file.unlock();
        let _ = file.try_lock_shared();
        Ok(Self { path, _file: file })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_holds_all_of_it_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let text = "some text ".repeat(100_000);
        let input = io::Cursor::new(text.clone());
        let spool = Spool::of(input, directory.path(), &mut |_, _| Ok(())).unwrap();
        assert_eq!(std::fs::read_to_string(spool.path()).unwrap(), text);
        drop(spool);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stop_while_nothing_comes_in_leaves_nothing() {
        struct Silent;
        impl Read for Silent {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                std::thread::sleep(std::time::Duration::from_secs(600));
                Ok(0)
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let stopped = Spool::of(Silent, directory.path(), &mut |_, _| Err(Error::Stopped));
        assert!(matches!(stopped, Err(Error::Stopped)));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
