//! A file that is looked at where it is mapped into memory, as it was when it was opened.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use memmap2::Mmap;

/// The map of a file that is read alone, made when it is first looked at.
///
/// The file's length is looked at before its bytes are given: if it shrinks after that, the system ends the process (SIGBUS) when
/// they are looked at.
#[derive(Debug)]
pub struct Mapped {
    /// Of the file when it was opened, in bytes.
    length: u64,
    map: OnceLock<Mmap>,
}

impl Mapped {
    /// Of a file that has so many bytes.
    pub fn new(length: u64) -> Self {
        Self {
            length,
            map: OnceLock::new(),
        }
    }

    /// So many of the file's bytes, from one on.
    ///
    /// # Errors
    /// It cannot be mapped, or was cut off.
    pub fn bytes(&self, file: &File, start: u64, length: usize) -> io::Result<&[u8]> {
        let map = self.map(file)?;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let bytes = map.get(start..start.saturating_add(length));
        bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Lets the system have back the memory of bytes that were looked at. They can be looked at again. Does nothing where the
    /// system has no such call, or nothing was looked at.
    ///
    /// # Errors
    /// The system's.
    pub fn release(&self, start: u64, length: usize) -> io::Result<()> {
        #[cfg(unix)]
        if let Some(map) = self.map.get()
            && let Ok(start) = usize::try_from(start)
            && start.saturating_add(length) <= map.len()
        {
            // SAFETY: the range is within the map, which is of a file and only read: pages that are given back are read
            // from the file again, with the same bytes.
            unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, length)?;
            }
        }
        #[cfg(not(unix))]
        let _ = (start, length);
        Ok(())
    }

    /// The file as it was when it was opened, if it still has its length.
    fn map(&self, file: &File) -> io::Result<&Mmap> {
        if file.metadata()?.len() < self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        // SAFETY: the map is only read. Another process may still write into the file, and then its bytes change, which
        // they may, for any bytes are numbers; or cut it off, which ends this process when they are looked at. That it has
        // not been cut off so far was just seen.
        let map = unsafe { Mmap::map(file) }?;
        Ok(self.map.get_or_init(|| map))
    }
}
