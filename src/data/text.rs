//! Bytes of a file as checked text: decompressed, UTF-8, with `\n` line ends and no byte order mark.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use super::corpus::{Compression, CorpusFile};
use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();
/// Largest window a zstd frame may ask for; `zstd --long=31` does.
const ZSTD_WINDOW_LOG_MAX: u32 = 31;

/// Bytes read from disk so far, shared with the reader deep inside.
pub(super) type ByteCount = Rc<Cell<u64>>;

/// Opens `file`; every byte read from disk is added to `count`.
///
/// # Errors
/// If the file cannot be opened or its decompressor cannot start.
pub(super) fn open(file: &CorpusFile, count: &ByteCount) -> Result<Utf8Reader<Box<dyn Read>>> {
    let fail = |error| Error::io(&file.path, "read", error);
    let counted = Counted {
        inner: File::open(&file.path).map_err(fail)?,
        count: Rc::clone(count),
    };
    let buffered = BufReader::with_capacity(BUFFER_BYTES, counted);
    let inner: Box<dyn Read> = match file.compression {
        Compression::None => Box::new(buffered),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(buffered).map_err(fail)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(fail)?;
            Box::new(decoder)
        }
    };
    Ok(Utf8Reader::new(inner))
}

struct Counted<R> {
    inner: R,
    count: ByteCount,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Lets only text through: what [`BufRead::fill_buf`] gives is whole UTF-8 characters, none of them
/// NUL, with `\n` for every `\r\n`. Anything else is an error that names the byte (of the
/// decompressed file, from 0) at which it stands.
pub(super) struct Utf8Reader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// `buffer[start..checked]` is text that waits to be read.
    start: usize,
    checked: usize,
    /// Position in the file of `buffer[checked]`.
    offset: u64,
    ended: bool,
}

impl<R: Read> Utf8Reader<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            start: 0,
            checked: 0,
            offset: 0,
            ended: false,
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

    /// Reads on and checks what can be checked; half a character at the end waits for the rest.
    fn refill(&mut self) -> io::Result<()> {
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
        let valid = self.valid_prefix()?;
        self.offset += valid as u64;
        self.checked = self.drop_carriage_returns(valid);
        if at_file_start && self.buffer[..self.checked].starts_with(BYTE_ORDER_MARK) {
            self.start = BYTE_ORDER_MARK.len();
        }
        Ok(())
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
        if let Some(at) = self.buffer[..valid].iter().position(|&byte| byte == 0) {
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

/// Refuses to go on when a single record is longer than the limit, since a record has to fit into
/// memory: one missing quote would otherwise make a record of the rest of the file.
pub(super) struct RecordLimit<R> {
    inner: R,
    limit: u64,
    read: ByteCount,
}

impl<R> RecordLimit<R> {
    /// Set the count to 0 when a record has been read.
    pub(super) fn new(inner: R, limit: u64, read: ByteCount) -> Self {
        Self { inner, limit, read }
    }

    fn check(&self) -> io::Result<()> {
        if self.read.get() > self.limit {
            let limit = self.limit >> 20;
            let message = format!(
                "a single record is longer than {limit} MiB; split it, or close a quote that was left open"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(())
    }
}

impl<R: Read> Read for RecordLimit<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let read = self.inner.read(out)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for RecordLimit<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.read.set(self.read.get() + amount as u64);
        self.inner.consume(amount);
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
        Utf8Reader::new(Dribble(bytes)).read_to_string(&mut text)?;
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
    fn a_record_beyond_the_limit_stops_the_reader() {
        let text = io::repeat(b'a').take(8 << 20);
        let mut limited = RecordLimit::new(BufReader::new(text), 1 << 20, ByteCount::default());
        let error = limited.read_until(b'\n', &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("longer than 1 MiB"));
    }
}
