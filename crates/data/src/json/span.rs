//! The bytes of one JSON record out of a longer text.

use std::io::{self, BufRead, Read};

use serde::de::IgnoredAny;

use crate::json::field::{Found, names, wanted};
use crate::json::row::{Fields, IDS, Row};
use crate::records::{no_field, shorten};
use crate::text::{Text, line_breaks};
use aios_base::meter::format_bytes;

/// A shorter record is parsed where it lies, which is faster.
const SHORT_BYTES: u64 = 1 << 20;
/// Deepest nesting of objects and arrays.
const DEEPEST: usize = 128;
pub(super) const NO_OBJECT: &str = "not a JSON object";

/// Where a record ends.
#[derive(Clone, Copy)]
pub(super) enum Ends {
    AtLineBreak,
    /// With the bracket that closes its first one.
    WithValue,
}

/// Why there is no text.
pub(super) enum Flaw {
    /// The record is bad; what is wrong, and in which of its lines.
    Record { line: u64, what: String },
    /// The file cannot be read.
    File(io::Error),
}

/// The bytes of one record, as they are read.
pub(super) struct Span<'a> {
    reader: &'a mut Text,
    ends: Ends,
    limit: u64,
    nesting: Nesting,
    length: u64,
    pub(super) lines: u64,
    pub(super) has_nul: bool,
    /// All of it was read.
    ended: bool,
    /// The file ended first.
    cut_off: bool,
    /// What is too much about it.
    excess: Option<String>,
}

impl<'a> Span<'a> {
    /// A record longer than `limit` bytes is a bad one.
    pub(super) fn new(reader: &'a mut Text, ends: Ends, limit: u64) -> Self {
        Self {
            reader,
            ends,
            limit,
            nesting: Nesting::default(),
            length: 0,
            lines: 0,
            has_nul: false,
            ended: false,
            cut_off: false,
            excess: None,
        }
    }

    /// The text in `field`. What of the record is in `buffer` afterwards is all of a short one, else the beginning.
    pub(super) fn text(&mut self, buffer: &mut Vec<u8>, field: &str) -> Result<String, Flaw> {
        let found = match self.is_short(buffer)? {
            true => {
                let record = buffer.trim_ascii_end();
                wanted(&mut serde_json::Deserializer::from_slice(record), field)
            }
            false => {
                let record = buffer.chain(self.by_ref());
                wanted(&mut serde_json::Deserializer::from_reader(record), field)
            }
        };
        match found {
            Ok(Found::Text(text)) => Ok(text),
            Ok(Found::Missing) => Err(bad(no_field("field", field, &names(buffer)))),
            Ok(Found::NoObject) => Err(bad(NO_OBJECT)),
            Ok(Found::Other(kind)) => {
                Err(bad(format!("field \"{field}\" is not a string but {kind}")))
            }
            Err(error) => Err(self.unreadable(error)),
        }
    }

    /// The tokens, with ids below `vocabulary`. `buffer` as for [`Span::text`].
    pub(super) fn row(&mut self, buffer: &mut Vec<u8>, vocabulary: u32) -> Result<Row, Flaw> {
        let fields: Result<Fields, _> = match self.is_short(buffer)? {
            true => serde_json::from_slice(buffer.trim_ascii_end()),
            false => serde_json::from_reader(buffer.chain(self.by_ref())),
        };
        let fields = fields.map_err(|error| self.unreadable(error))?;
        match fields.row(vocabulary) {
            Ok(Some(row)) => Ok(row),
            Ok(None) => Err(bad(no_field("field", IDS, &names(buffer)))),
            Err(what) => Err(bad(what)),
        }
    }

    /// All of the record, which is JSON. `buffer` as for [`Span::text`].
    pub(super) fn record(&mut self, buffer: &mut Vec<u8>) -> Result<String, Flaw> {
        if !self.is_short(buffer)? {
            let read = self.by_ref().read_to_end(buffer);
            read.map_err(|error| self.flaw(error))?;
        }
        let record = buffer.trim_ascii();
        let read: Result<IgnoredAny, _> = serde_json::from_slice(record);
        read.map_err(|error| self.unreadable(error))?;
        match std::str::from_utf8(record) {
            Ok(text) if text.starts_with('{') => Ok(text.to_string()),
            _ => Err(bad(NO_OBJECT)),
        }
    }

    /// Reads the beginning of the record into `buffer`; whether that is all of it.
    fn is_short(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Flaw> {
        buffer.clear();
        match self.by_ref().take(SHORT_BYTES).read_to_end(buffer) {
            Ok(_) => Ok(self.ended),
            Err(error) => Err(self.flaw(error)),
        }
    }

    fn unreadable(&mut self, error: serde_json::Error) -> Flaw {
        if error.is_io() {
            return self.flaw(error.into());
        }
        match self.cut_off && matches!(self.ends, Ends::WithValue) {
            true => bad("the object that begins here has no end"),
            false => not_json(&error),
        }
    }

    fn flaw(&mut self, error: io::Error) -> Flaw {
        self.excess.take().map_or(Flaw::File(error), bad)
    }

    /// Reads on to the end of the record.
    pub(super) fn skip_rest(&mut self) -> io::Result<()> {
        while !self.ended {
            self.advance(usize::MAX, None)?;
        }
        Ok(())
    }

    /// Takes up to `most` bytes of the record, into `out` if they are wanted.
    fn advance(&mut self, most: usize, out: Option<&mut [u8]>) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let bytes = self.reader.fill_buf()?;
        if bytes.is_empty() {
            (self.ended, self.cut_off) = (true, true);
            return Ok(0);
        }
        let bytes = &bytes[..bytes.len().min(most)];
        let value_end = self.nesting.scan(bytes);
        let end = match self.ends {
            Ends::AtLineBreak => memchr::memchr(b'\n', bytes).map(|at| at + 1),
            Ends::WithValue => value_end,
        };
        let bytes = &bytes[..end.unwrap_or(bytes.len())];
        if let Some(out) = out {
            out[..bytes.len()].copy_from_slice(bytes);
        }
        self.ended = end.is_some();
        self.lines += line_breaks(bytes);
        self.has_nul |= bytes.contains(&0);
        let taken = bytes.len();
        self.length += taken as u64;
        self.reader.consume(taken);
        Ok(taken)
    }
}

impl Read for Span<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.advance(out.len(), Some(out))?;
        if self.length > self.limit {
            let limit = format_bytes(self.limit);
            self.excess = Some(format!("longer than {limit}; split it"));
        } else if self.nesting.deepest > DEEPEST {
            self.excess = Some(format!("nested deeper than {DEEPEST} levels"));
        }
        match self.excess {
            Some(_) => Err(io::Error::other("too much")),
            None => Ok(read),
        }
    }
}

fn bad(what: impl Into<String>) -> Flaw {
    let what = what.into();
    Flaw::Record { line: 0, what }
}

fn not_json(error: &serde_json::Error) -> Flaw {
    let cause = error.to_string();
    // The library counts lines within the one record that it sees.
    let cause = cause
        .rsplit_once(" at line ")
        .map_or(&*cause, |(head, _)| head);
    Flaw::Record {
        line: (error.line() as u64).saturating_sub(1),
        what: format!(
            "not valid JSON at column {}: {}",
            error.column(),
            shorten(cause, 100)
        ),
    }
}

/// How deep one is in the objects and arrays of a JSON value.
#[derive(Default)]
pub(super) struct Nesting {
    depth: usize,
    pub(super) deepest: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Goes on through `bytes`; gives the place behind the bracket that closes the first one, if it is there.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.in_string {
                at += self.scan_string(&bytes[at..]);
                continue;
            }
            match bytes[at] {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    self.deepest = self.deepest.max(self.depth);
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
            at += 1;
        }
        None
    }

    /// How many of the bytes belong to the string that one is in.
    fn scan_string(&mut self, bytes: &[u8]) -> usize {
        if std::mem::take(&mut self.escaped) {
            return 1;
        }
        match memchr::memchr2(b'"', b'\\', bytes) {
            Some(at) => {
                self.in_string = bytes[at] != b'"';
                self.escaped = self.in_string;
                at + 1
            }
            None => bytes.len(),
        }
    }
}
