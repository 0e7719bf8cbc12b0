//! JSON objects of a file, of which one field is wanted: one a line, one after the other, or in an array.
//!
//! Only the wanted field is ever held in memory besides a mebibyte of the record.

use std::fmt;
use std::io::{self, BufRead, Read};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::records::{RECORD_BYTES, Records, no_field, shorten};
use super::text::{Text, line_breaks};
use crate::error::Result;

/// A shorter record is parsed where it lies, which is faster.
const SHORT_BYTES: u64 = 1 << 20;
/// Deepest nesting of objects and arrays.
const DEEPEST: usize = 128;
/// How many names of fields an error lists, and how much of each.
const NAMES: usize = 12;
const NAME_BYTES: usize = 40;
/// How many lines of the beginning are looked at.
const LOOKED_AT: usize = 32;

/// How JSON objects follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One a line.
    Lines,
    /// One after the other over any number of lines, or in arrays.
    Values,
}

/// How the objects follow each other in a file that begins with `head`, `whole` if that is all of it; `None` if it does
/// not look like JSON objects at all.
pub(super) fn shape(head: &str, whole: bool) -> Option<Shape> {
    let text = head.trim_start();
    if text.starts_with('[') {
        let first = text[1..].trim_start();
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
pub(super) fn read(reader: &mut Text, shape: Shape, records: &mut Records) -> Result<()> {
    let mut json = Json {
        reader,
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
        self.reader.consume(1);
        Ok(())
    }

    /// Reads one record, to its end whatever is in it.
    fn record(&mut self, ends: Ends, records: &mut Records) -> Result<()> {
        let mut span = Span::new(self.reader, ends);
        let text = span.text(&mut self.buffer, records.field());
        // A bad record that ends the reading may be the beginning of gigabytes.
        let ended = match text.is_err() && records.bad_are_errors() {
            true => Ok(()),
            false => span.skip_rest(),
        };
        let (first_line, has_nul) = (self.line, span.has_nul);
        self.line += span.lines;
        match (text, ended) {
            (Err(Flaw::File(error)), _) | (_, Err(error)) => {
                Err(records.fail(first_line, &error.to_string()))
            }
            _ if self.buffer.trim_ascii().is_empty() => Ok(()),
            (Ok(text), Ok(())) => records.document(&text),
            (Err(Flaw::Record { .. }), Ok(())) if has_nul => {
                records.bad(first_line, "it holds bytes that are not UTF-8 text")
            }
            (Err(Flaw::Record { line, what }), Ok(())) => records.bad(first_line + line, &what),
        }
    }
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

/// Where a record ends.
#[derive(Clone, Copy)]
enum Ends {
    AtLineBreak,
    /// With the bracket that closes its first one.
    WithValue,
}

/// Why there is no text.
enum Flaw {
    /// The record is bad; what is wrong, and in which of its lines.
    Record { line: u64, what: String },
    /// The file cannot be read.
    File(io::Error),
}

const NO_OBJECT: &str = "not a JSON object";

/// The bytes of one record, as they are read.
struct Span<'a> {
    reader: &'a mut Text,
    ends: Ends,
    nesting: Nesting,
    length: u64,
    lines: u64,
    has_nul: bool,
    /// All of it was read.
    ended: bool,
    /// The file ended first.
    cut_off: bool,
    /// What is too much about it.
    excess: Option<String>,
}

impl<'a> Span<'a> {
    fn new(reader: &'a mut Text, ends: Ends) -> Self {
        Self {
            reader,
            ends,
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
    fn text(&mut self, buffer: &mut Vec<u8>, field: &str) -> Result<String, Flaw> {
        buffer.clear();
        let read = self.by_ref().take(SHORT_BYTES).read_to_end(buffer);
        let found = match read {
            Err(error) => return Err(self.flaw(error)),
            Ok(_) if self.ended => {
                let record = buffer.trim_ascii_end();
                wanted(&mut serde_json::Deserializer::from_slice(record), field)
            }
            Ok(_) => {
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
            Err(error) if error.is_io() => Err(self.flaw(error.into())),
            Err(_) if self.cut_off && matches!(self.ends, Ends::WithValue) => {
                Err(bad("the object that begins here has no end"))
            }
            Err(error) => Err(not_json(&error)),
        }
    }

    fn flaw(&mut self, error: io::Error) -> Flaw {
        self.excess.take().map_or(Flaw::File(error), bad)
    }

    /// Reads on to the end of the record.
    fn skip_rest(&mut self) -> io::Result<()> {
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
        if self.length > RECORD_BYTES {
            let limit = RECORD_BYTES >> 20;
            self.excess = Some(format!("longer than {limit} MiB; split it"));
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

/// Names of the first fields of the object that `record` begins with.
fn names(record: &[u8]) -> Vec<String> {
    struct Names<'a>(&'a mut Vec<String>);
    impl<'de> Visitor<'de> for Names<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<String>()? {
                if self.0.len() == NAMES {
                    self.0.push("…".to_string());
                    return Ok(());
                }
                self.0.push(shorten(&name, NAME_BYTES));
                map.next_value::<IgnoredAny>()?;
            }
            Ok(())
        }
    }
    let mut names = Vec::new();
    let mut object = serde_json::Deserializer::from_slice(record);
    // Where the record is cut off or bad, those before have been found.
    let _ = object.deserialize_map(Names(&mut names));
    names
}

/// How deep one is in the objects and arrays of a JSON value.
#[derive(Default)]
struct Nesting {
    depth: usize,
    deepest: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Goes on through `bytes`; gives the place behind the bracket that closes the first one, if it is there.
    fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
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

/// What is in the wanted field.
enum Found {
    Text(String),
    Missing,
    NoObject,
    /// Something else than a string.
    Other(&'static str),
}

/// What `json`, which is one object, has in `field`.
fn wanted<'de, R: serde_json::de::Read<'de>>(
    json: &mut serde_json::Deserializer<R>,
    field: &str,
) -> Result<Found, serde_json::Error> {
    let found = Wanted::of(field).deserialize(&mut *json)?;
    json.end()?;
    Ok(found)
}

/// Looks for a field, or, without a path, takes the value itself.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    path: Option<&'a str>,
    /// This is the record, which has to be an object.
    is_record: bool,
}

impl<'a> Wanted<'a> {
    fn of(field: &'a str) -> Self {
        Self {
            path: Some(field),
            is_record: true,
        }
    }

    fn inside(path: Option<&'a str>) -> Self {
        Self {
            path,
            is_record: false,
        }
    }

    /// What is found in a value that has no fields.
    fn plain(self, kind: &'static str) -> Found {
        match (self.is_record, self.path) {
            (true, _) => Found::NoObject,
            (_, Some(_)) => Found::Missing,
            (_, None) => Found::Other(kind),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(self.plain("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(self.plain("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(self.plain("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(self.plain("a number"))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(self.plain("null"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(match self.path {
            None => Found::Text(text.to_string()),
            Some(_) => self.plain("a string"),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Found, A::Error> {
        let (first, rest) = match self.path {
            Some(path) => path
                .split_once('.')
                .map_or((path, None), |(first, rest)| (first, Some(rest))),
            None => ("", None),
        };
        let index = first.parse().ok().filter(|_| !self.is_record);
        let mut found = self.plain("an array");
        for at in 0_usize.. {
            let there_is = match index == Some(at) {
                true => {
                    let element = array.next_element_seed(Wanted::inside(rest))?;
                    element.map(|element| found = element)
                }
                false => array.next_element::<IgnoredAny>()?.map(drop),
            };
            if there_is.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// A name that is all of the path comes before one that is a part of it, whichever stands first.
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Found, A::Error> {
        let mut best = 0;
        let mut found = match self.path {
            Some(_) => Found::Missing,
            None => Found::Other("an object"),
        };
        while let Some(matched) = object.next_key_seed(Name(self.path))? {
            let (Some(path), Some(length)) = (self.path, matched.filter(|&length| length >= best))
            else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            let rest = path.get(length + 1..);
            let inner = object.next_value_seed(Wanted::inside(rest))?;
            if !matches!(inner, Found::Missing) {
                (best, found) = (length, inner);
            }
        }
        Ok(found)
    }
}

/// Compares a name with the beginning of a path; gives its length if it matches.
struct Name<'a>(Option<&'a str>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let rest = self.0.and_then(|path| path.strip_prefix(name));
        let matches = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        Ok(matches.then_some(name.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(record: &str, field: &str) -> Option<String> {
        let mut json = serde_json::Deserializer::from_str(record);
        match wanted(&mut json, field).unwrap() {
            Found::Text(text) => Some(text),
            _ => None,
        }
    }

    #[test]
    fn a_field_may_lie_in_others() {
        let record = r#"{"a": {"b": "in", "c": [{"d": "first"}, {"d": "second"}]}, "a.b": "literal", "n": 1}"#;
        for (field, expected) in [
            ("a.b", Some("literal")),
            ("a.c.1.d", Some("second")),
            ("a.c.2.d", None),
            ("a.c.d", None),
            ("a", None),
            ("n", None),
            ("n.x", None),
            ("b", None),
        ] {
            assert_eq!(text(record, field).as_deref(), expected, "{field}");
        }
        let nested = r#"{"x.y": {"z": "longest"}, "x": {"y.z": "short", "y": {"z": "shorter"}}}"#;
        assert_eq!(text(nested, "x.y.z").as_deref(), Some("longest"));
        assert_eq!(
            text(r#"{"t":"one","t":"two"}"#, "t").as_deref(),
            Some("two")
        );
    }

    #[test]
    fn shapes_are_told_by_the_beginning() {
        for (head, whole, expected) in [
            ("{\"a\":1}\n{\"a\":2}\n", true, Some(Shape::Lines)),
            ("\n {\"a\":1}", true, Some(Shape::Lines)),
            (
                "{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}",
                true,
                Some(Shape::Values),
            ),
            (
                "{\n  \"a\": [\n    {\"b\": 1}\n",
                false,
                Some(Shape::Values),
            ),
            ("[{\"a\": 1}, {", false, Some(Shape::Values)),
            ("[\n{\"a\": 1},\n{\"a\": 2}\n]\n", true, Some(Shape::Values)),
            ("[]", true, Some(Shape::Values)),
            ("{\"a\": \"bro\n{\"a\": 1}\n", true, Some(Shape::Lines)),
            ("{\"a\": \"a long te", false, Some(Shape::Values)),
            ("{ x }", true, None),
            ("[1] A footnote", true, None),
            ("[{x}]", true, None),
            ("text", true, None),
            ("", true, None),
        ] {
            assert_eq!(shape(head, whole), expected, "{head}");
        }
    }

    #[test]
    fn a_text_is_json_only_if_that_is_plain() {
        let cases = [
            ("{\"a\":1}\n{\"a\":2}\n", Some(Shape::Lines)),
            ("{\"a\":1}\n", None),
            ("{\"text\":\"x\"}\n", Some(Shape::Lines)),
            ("[{\"text\":\"x\"}]", Some(Shape::Values)),
            ("{\"a\":1}\nand then\n", None),
            ("[{\"a\":1}]", None),
        ];
        for (head, expected) in cases {
            assert_eq!(plain_shape(head, true, "text"), expected, "{head}");
        }
    }

    #[test]
    fn the_end_of_a_value_is_found_across_pieces() {
        let value = br#"{"a": "}\\\"]", "b": [{}, 1]}"#;
        for cut in 0..value.len() {
            let mut nesting = Nesting::default();
            assert_eq!(nesting.scan(&value[..cut]), None, "{cut}");
            let rest = [&value[cut..], b" {"].concat();
            assert_eq!(nesting.scan(&rest), Some(value.len() - cut), "{cut}");
            assert_eq!(nesting.deepest, 3);
        }
    }
}
