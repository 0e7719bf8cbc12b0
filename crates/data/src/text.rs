//! Bytes of a file as checked text: decompressed, UTF-8, with `\n` line ends and no byte order mark.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::corpus::{Compression, CorpusFile};
use crate::detect;
use crate::detect::{Encoding, HEAD_BYTES};
use crate::utf16::Utf16Reader;
use aios_base::error::{Error, Result};

const BUFFER_BYTES: usize = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();
/// Largest window a zstd frame may ask for; `zstd --long=31` does.
const ZSTD_WINDOW_LOG_MAX: u32 = 31;

/// How far the reading is, shared by the reader and those who wait for it.
#[derive(Debug, Default)]
pub(super) struct Meter {
    read: AtomicU64,
    stopped: AtomicBool,
}

impl Meter {
    /// Bytes read from disk so far.
    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Whoever still reads shall give up: nobody waits for it any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// So many bytes more were read.
    pub(super) fn add(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// # Errors
    /// If whoever reads shall give up.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(io::Error::other("stopped")),
            false => Ok(()),
        }
    }
}

/// Text of a file, from wherever it comes.
pub(super) type Text = Utf8Reader<Box<dyn Read + Send>>;

/// Opens `file`; every byte read from disk is added to `meter`. With `lossy`, each byte that is not text becomes a NUL,
/// which no text has, instead of an error.
///
/// # Errors
/// If the file cannot be opened, its decompressor cannot start, or it is of a kind that is not read.
pub(super) fn open(file: &CorpusFile, meter: &Arc<Meter>, lossy: bool) -> Result<Text> {
    let fail = |error| cannot_read(file, &error);
    let mut raw = Metered {
        inner: File::open(&file.path).map_err(fail)?,
        meter: Arc::clone(meter),
    };
    let head = peek(&mut raw).map_err(fail)?;
    let found = detect::compression(&head);
    if found == Compression::None && file.compression != found && !head.is_empty() {
        return Err(Error::failed(format!(
            "cannot read {}: its name says that it is compressed, but it is neither gzip nor zstd data; rename it if \
             it is text",
            file.name
        )));
    }
    let raw = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(raw));
    let mut inner: Box<dyn Read + Send> = match found {
        Compression::None => Box::new(raw),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(raw).map_err(fail)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(fail)?;
            Box::new(decoder)
        }
    };
    let head = peek(&mut inner).map_err(fail)?;
    if let Some(foreign) = detect::foreign(&head) {
        return Err(Error::failed(format!(
            "cannot take {} for text: it is {}; {}",
            file.name, foreign.name, foreign.way_out
        )));
    }
    let encoding = detect::encoding(&head, head.len() < HEAD_BYTES);
    let inner: Box<dyn Read + Send> = Box::new(Cursor::new(head).chain(inner));
    let inner = match encoding {
        Encoding::Utf8 => inner,
        Encoding::Utf16Le => Box::new(Utf16Reader::new(inner, u16::from_le_bytes, lossy)),
        Encoding::Utf16Be => Box::new(Utf16Reader::new(inner, u16::from_be_bytes, lossy)),
    };
    Ok(Utf8Reader::new(inner, Arc::clone(meter), lossy))
}

/// An error of reading `file`.
pub(super) fn cannot_read(file: &CorpusFile, error: &io::Error) -> Error {
    Error::failed(format!("cannot read {}: {error}", file.name))
}

/// How many lines end in `bytes`.
pub(super) fn line_breaks(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// The beginning of what there is to read.
fn peek(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

struct Metered<R> {
    inner: R,
    meter: Arc<Meter>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.meter.check()?;
        let read = self.inner.read(buffer)?;
        self.meter.add(read as u64);
        Ok(read)
    }
}

/// Lets only text through: what [`BufRead::fill_buf`] gives is whole UTF-8 characters, none of them
/// NUL, with `\n` for every `\r\n`. Anything else is an error that names the byte (of the
/// decompressed file, from 0) at which it stands, or with `lossy` a NUL for each of its bytes.
pub(super) struct Utf8Reader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// `buffer[start..checked]` is text that waits to be read.
    start: usize,
    checked: usize,
    /// Position in the file of `buffer[checked]`.
    offset: u64,
    ended: bool,
    lossy: bool,
    meter: Arc<Meter>,
}

impl<R: Read> Utf8Reader<R> {
    fn new(inner: R, meter: Arc<Meter>, lossy: bool) -> Self {
        Self {
            inner,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            start: 0,
            checked: 0,
            offset: 0,
            ended: false,
            lossy,
            meter,
        }
    }

    /// The next text, of at most some 64 KiB; empty at the end of the file. To be followed by
    /// [`BufRead::consume`].
    ///
    /// # Errors
    /// As for [`BufRead::fill_buf`].
    pub(super) fn fill_text(&mut self) -> io::Result<&str> {
        let bytes = self.fill_buf()?;
        std::str::from_utf8(bytes).map_err(io::Error::other)
    }

    /// Whether there is no text behind what [`Utf8Reader::fill_text`] gave last.
    pub(super) fn is_last(&self) -> bool {
        self.ended
    }

    /// Reads on and checks what can be checked; half a character at the end waits for the rest.
    fn refill(&mut self) -> io::Result<()> {
        // One read from disk may hold gigabytes of compressed text.
        self.meter.check()?;
        let mut tail = self.buffer.split_off(self.checked);
        self.buffer.clear();
        self.buffer.append(&mut tail);
        (self.start, self.checked) = (0, 0);
        let at_file_start = self.offset == 0;
        let room = (BUFFER_BYTES - self.buffer.len()) as u64;
        let read = self
            .inner
            .by_ref()
            .take(room)
            .read_to_end(&mut self.buffer)?;
        self.ended = (read as u64) < room;
        if self.lossy {
            self.blank_out();
        }
        let valid = self.valid_prefix()?;
        self.offset += valid as u64;
        self.checked = self.drop_carriage_returns(valid);
        if at_file_start && self.buffer[..self.checked].starts_with(BYTE_ORDER_MARK) {
            self.start = BYTE_ORDER_MARK.len();
        }
        Ok(())
    }

    /// Puts a NUL in place of each byte that is not text.
    fn blank_out(&mut self) {
        let mut from = 0;
        while let Err(error) = std::str::from_utf8(&self.buffer[from..]) {
            let start = from + error.valid_up_to();
            let length = match error.error_len() {
                Some(length) => length,
                None if self.ended => self.buffer.len() - start,
                None => return,
            };
            self.buffer[start..start + length].fill(0);
            from = start + length;
        }
    }

    /// Length of the part of the buffer that is known to be text.
    fn valid_prefix(&self) -> io::Result<usize> {
        let broken = |at: usize, what: &str| {
            let byte = self.offset + at as u64;
            let message = format!(
                "{what} at byte {byte}, so it is not UTF-8 text; convert it to UTF-8 or leave it out"
            );
            io::Error::new(io::ErrorKind::InvalidData, message)
        };
        let mut valid = match std::str::from_utf8(&self.buffer) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() && !self.ended => error.valid_up_to(),
            Err(error) => {
                // An earlier NUL tells more about the file than where its UTF-8 breaks.
                let at = error.valid_up_to();
                let nul = self.buffer[..at].iter().position(|&byte| byte == 0);
                return Err(match nul {
                    Some(at) => broken(at, "NUL"),
                    None => broken(at, "invalid UTF-8"),
                });
            }
        };
        if let Some(at) = memchr::memchr(0, &self.buffer[..valid])
            && !self.lossy
        {
            return Err(broken(at, "NUL"));
        }
        // Whether it belongs to a line end is known only with the next byte.
        if !self.ended && self.buffer[..valid].ends_with(b"\r") {
            valid -= 1;
        }
        Ok(valid)
    }

    /// Turns `\r\n` into `\n` in the first `length` bytes; gives the length that is left of them.
    fn drop_carriage_returns(&mut self, length: usize) -> usize {
        if !self.buffer[..length].contains(&b'\r') {
            return length;
        }
        let mut kept = 0;
        for at in 0..length {
            let byte = self.buffer[at];
            if byte != b'\r' || self.buffer.get(at + 1) != Some(&b'\n') {
                self.buffer[kept] = byte;
                kept += 1;
            }
        }
        self.buffer.drain(kept..length);
        kept
    }
}

impl<R: Read> Read for Utf8Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Utf8Reader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.start == self.checked && !self.ended {
            self.refill()?;
        }
        Ok(&self.buffer[self.start..self.checked])
    }

    fn consume(&mut self, amount: usize) {
        self.start += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, so that every boundary falls everywhere.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let length = out.len().min(1);
            self.0.read(&mut out[..length])
        }
    }

    fn text(bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        Utf8Reader::new(Dribble(bytes), Arc::default(), false).read_to_string(&mut text)?;
        Ok(text)
    }

    fn error(bytes: &[u8]) -> String {
        text(bytes).unwrap_err().to_string()
    }

    #[test]
    fn byte_order_mark_and_carriage_returns_go() {
        let text = text("\u{FEFF}a\r\nb\rc\r\r\nd\r".as_bytes()).unwrap();
        assert_eq!(text, "a\nb\rc\r\nd\r");
    }

    #[test]
    fn nul_is_named_with_its_byte() {
        assert!(error(b"abc\0def").contains("NUL at byte 3"));
    }

    #[test]
    fn invalid_utf8_is_named_with_its_byte() {
        assert!(error(b"a\r\nb\xFFc").contains("invalid UTF-8 at byte 4"));
    }

    #[test]
    fn half_a_character_at_the_end_is_invalid() {
        assert!(error(b"abc\xE2\x82").contains("invalid UTF-8 at byte 3"));
    }

    #[test]
    fn bytes_are_counted_across_buffers() {
        let mut bytes = vec![b'a'; 2 * BUFFER_BYTES + 17];
        bytes.push(0);
        let place = format!("byte {}", 2 * BUFFER_BYTES + 17);
        assert!(error(&bytes).contains(&place));
    }

    #[test]
    fn text_survives_every_buffer_boundary() {
        for shift in 0..4 {
            let expected = "x".repeat(shift) + &"é\u{1F980}\n".repeat(BUFFER_BYTES / 5);
            let crlf = expected.replace('\n', "\r\n");
            assert_eq!(text(crlf.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_not_text_becomes_nul_if_that_is_asked_for() {
        let bytes = b"a\xFF\xC3\xA9\xE2\x82\nb\0\xE2\x82";
        let mut text = String::new();
        Utf8Reader::new(Dribble(bytes), Arc::default(), true)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "a\0\u{E9}\0\0\nb\0\0\0");
    }

    #[test]
    fn a_stopped_reader_reads_no_more() {
        let meter = Arc::new(Meter::default());
        let mut reader = Utf8Reader::new(io::repeat(b'a'), Arc::clone(&meter), false);
        reader.fill_buf().unwrap();
        reader.consume(BUFFER_BYTES);
        meter.stop();
        assert!(reader.fill_buf().is_err());
    }
}
