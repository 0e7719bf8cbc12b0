//! JSON objects of a file, of which one field is wanted: one a line, one after the other, or in an array.
//!
//! Only the wanted field is ever held in memory besides a mebibyte of the record.

mod field;
mod row;
mod span;

use std::io::BufRead;

use serde::de::{DeserializeSeed, IgnoredAny};

use crate::records::Records;
use crate::text::{Text, line_breaks};
use aios_base::error::Result;
use field::{Found, Wanted, names, names_up_to, wanted};
pub(super) use row::{IDS, Row};
use span::{Ends, Flaw, NO_OBJECT, Span};

/// How many lines of the beginning are looked at.
const LOOKED_AT: usize = 32;
/// How many fields of the first object.
const MOST_FIELDS: usize = 256;

/// How JSON objects follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One a line.
    Lines,
    /// One after the other over any number of lines, or in arrays.
    Values,
}

/// What the objects hold that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    Tokens,
    /// All that stands in them.
    Record,
}

/// Whether the first object of a file that begins with `head` holds ids of tokens and no text in `field`.
pub(super) fn holds_tokens(head: &str, field: &str) -> bool {
    let object = head.trim_start().trim_start_matches('[').trim_start();
    let names = names(object.as_bytes());
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let outer = field.split('.').next().unwrap_or(field);
    has(row::IDS) && !has(field) && !has(outer)
}

/// Names of the fields of the first object of a file that begins with `head`, as far as they are there.
pub(super) fn first_names(head: &str) -> Vec<String> {
    let object = head.trim_start().trim_start_matches('[').trim_start();
    names_up_to(object.as_bytes(), MOST_FIELDS)
}

/// How the objects follow each other in a file that begins with `head`, `whole` if that is all of it; `None` if it does
/// not look like JSON objects at all.
pub(super) fn shape(head: &str, whole: bool) -> Option<Shape> {
    let text = head.trim_start();
    if let Some(first) = text.strip_prefix('[').map(str::trim_start) {
        let is_array = match first.starts_with('{') {
            true => begins_with_value(first, whole) != Some(false),
            false => first.starts_with(']') || (first.is_empty() && !whole),
        };
        return is_array.then_some(Shape::Values);
    }
    if !text.starts_with('{') {
        return None;
    }
    let mut lines = whole_lines(text, whole);
    if lines.next().is_some_and(is_object) {
        return Some(Shape::Lines);
    }
    match begins_with_value(text, whole) {
        Some(true) => Some(Shape::Values),
        _ if lines.any(|line| line.starts_with('{') && is_object(line)) => Some(Shape::Lines),
        Some(false) => None,
        None => Some(Shape::Values),
    }
}

/// The same for a file whose name says that it is something else: several objects, or one that has `field`.
pub(super) fn plain_shape(head: &str, whole: bool, field: &str) -> Option<Shape> {
    let shape = shape(head, whole)?;
    let mut lines = whole_lines(head.trim_start(), whole);
    let has_field = || {
        let text = head.trim_start().trim_start_matches('[');
        let mut values = serde_json::Deserializer::from_str(text);
        matches!(
            Wanted::of(field).deserialize(&mut values),
            Ok(Found::Text(_))
        )
    };
    let are_objects = shape == Shape::Lines
        && lines.clone().count() > 1
        && lines.by_ref().take(LOOKED_AT).all(is_object);
    (are_objects || has_field()).then_some(shape)
}

/// Lines that are not blank and not cut off.
fn whole_lines(text: &str, whole: bool) -> impl Iterator<Item = &str> + Clone {
    let end = match whole {
        true => text.len(),
        false => text.rfind('\n').unwrap_or(0),
    };
    text[..end]
        .lines()
        .filter(|line| !line.trim().is_empty())
        .take(LOOKED_AT)
}

fn is_object(line: &str) -> bool {
    line.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(line).is_ok()
}

/// Whether a JSON value stands at the beginning; `None` if the text is cut off within it.
fn begins_with_value(text: &str, whole: bool) -> Option<bool> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Some(true),
        Some(Err(error)) if error.is_eof() && !whole => None,
        _ => Some(false),
    }
}

/// Whether `record` is one JSON object, and without the field.
pub(super) fn lacks_field(record: &[u8], field: &str) -> bool {
    let mut object = serde_json::Deserializer::from_slice(record);
    matches!(wanted(&mut object, field), Ok(Found::Missing))
}

/// Reads the objects of `reader` into `records`.
///
/// # Errors
/// If the file cannot be read, or a record is bad and that is an error; or whatever the documents' taker gives.
pub(super) fn read(
    reader: &mut Text,
    shape: Shape,
    holds: Holds,
    records: &mut Records,
) -> Result<()> {
    let mut json = Json {
        reader,
        holds,
        line: 1,
        buffer: Vec::new(),
    };
    match shape {
        Shape::Lines => json.lines(records),
        Shape::Values => json.values(records),
    }
}

struct Json<'a> {
    reader: &'a mut Text,
    holds: Holds,
    /// Number of the line that comes next.
    line: u64,
    /// The record, if it is short; kept for its room.
    buffer: Vec<u8>,
}

impl Json<'_> {
    fn lines(&mut self, records: &mut Records) -> Result<()> {
        while self.peek(records)?.is_some() {
            self.record(Ends::AtLineBreak, records)?;
        }
        Ok(())
    }

    fn values(&mut self, records: &mut Records) -> Result<()> {
        let mut place = Place::Top;
        loop {
            self.skip_blanks(records)?;
            let next = self.peek(records)?;
            place = match (next, place) {
                (None, Place::Top) => return Ok(()),
                (None, _) => {
                    return Err(
                        records.fail(self.line, "the array has no end: the file is cut off")
                    );
                }
                (Some(b'['), Place::Top) => self.pass(Place::Begun),
                (Some(b']'), Place::Begun | Place::After) => self.pass(Place::Top),
                (Some(b','), Place::After) => self.pass(Place::Before),
                (Some(_), Place::After) => {
                    return Err(records.fail(self.line, "no comma between two values of the array"));
                }
                (Some(b'{'), Place::Top) => {
                    self.record(Ends::WithValue, records)?;
                    Place::Top
                }
                (Some(b'{' | b'['), Place::Begun | Place::Before) => {
                    self.record(Ends::WithValue, records)?;
                    Place::After
                }
                (Some(_), Place::Top) => {
                    records.bad(self.line, NO_OBJECT)?;
                    self.skip_while(|byte| byte != b'\n', records)?;
                    Place::Top
                }
                (Some(first), _) => {
                    records.bad(self.line, NO_OBJECT)?;
                    self.skip_scalar(first, records)?;
                    Place::After
                }
            };
        }
    }

    fn peek(&mut self, records: &Records) -> Result<Option<u8>> {
        match self.reader.fill_buf() {
            Ok(bytes) => Ok(bytes.first().copied()),
            Err(error) => Err(records.fail(self.line, &error.to_string())),
        }
    }

    fn pass(&mut self, place: Place) -> Place {
        self.reader.consume(1);
        place
    }

    fn skip_blanks(&mut self, records: &Records) -> Result<()> {
        self.skip_while(|byte| byte.is_ascii_whitespace(), records)
    }

    fn skip_while(&mut self, mut skip: impl FnMut(u8) -> bool, records: &Records) -> Result<()> {
        loop {
            let bytes = match self.reader.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) => return Err(records.fail(self.line, &error.to_string())),
            };
            let end = bytes.iter().position(|&byte| !skip(byte));
            let skipped = end.unwrap_or(bytes.len());
            self.line += line_breaks(&bytes[..skipped]);
            self.reader.consume(skipped);
            if end.is_some() || skipped == 0 {
                return Ok(());
            }
        }
    }

    /// Passes over a string, number or name within an array.
    fn skip_scalar(&mut self, first: u8, records: &Records) -> Result<()> {
        if first != b'"' {
            return self.skip_while(|byte| !b",]".contains(&byte), records);
        }
        let (mut quotes, mut escaped) = (0, false);
        self.skip_while(
            |byte| {
                quotes += u32::from(byte == b'"' && !escaped);
                escaped = byte == b'\\' && !escaped;
                quotes < 2
            },
            records,
        )?;
        // At the end of the file there is no quote to pass over.
        if self.peek(records)?.is_some() {
            self.reader.consume(1);
        }
        Ok(())
    }

    /// Reads one record, to its end whatever is in it.
    fn record(&mut self, ends: Ends, records: &mut Records) -> Result<()> {
        let mut span = Span::new(self.reader, ends, records.limit);
        let found = match self.holds {
            Holds::Text => (span.text(&mut self.buffer, records.field())).map(Content::Text),
            Holds::Tokens => (span.row(&mut self.buffer, records.vocabulary)).map(Content::Row),
            Holds::Record => span.record(&mut self.buffer).map(Content::Record),
        };
        // A bad record that ends the reading may be the beginning of gigabytes.
        let ended = match found.is_err() && records.bad_are_errors() {
            true => Ok(()),
            false => span.skip_rest(),
        };
        let (first_line, has_nul) = (self.line, span.has_nul);
        self.line += span.lines;
        match (found, ended) {
            (Err(Flaw::File(error)), _) | (_, Err(error)) => {
                Err(records.fail(first_line, &error.to_string()))
            }
            _ if self.buffer.trim_ascii().is_empty() => Ok(()),
            (Ok(Content::Text(text)), Ok(())) => records.document(&text),
            (Ok(Content::Row(row)), Ok(())) => records.documents.row(&row.ids, &row.labels),
            (Ok(Content::Record(json)), Ok(())) => records.record(first_line, &json),
            (Err(Flaw::Record { .. }), Ok(())) if has_nul => {
                records.bad(first_line, "it holds bytes that are not UTF-8 text")
            }
            (Err(Flaw::Record { line, what }), Ok(())) => records.bad(first_line + line, &what),
        }
    }
}

/// What is wanted of an object.
enum Content {
    Text(String),
    Row(row::Row),
    Record(String),
}

/// Where the next value stands.
#[derive(Clone, Copy)]
enum Place {
    /// Outside of an array.
    Top,
    /// Behind `[`, behind a comma, behind a value of an array.
    Begun,
    Before,
    After,
}

#[cfg(test)]
mod tests;
