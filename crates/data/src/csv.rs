//! Rows of a table with a header line, of which one column is wanted.
//!
//! Only the wanted field is ever held in memory, and with `--bad-records skip` the row it is in.

use std::io::{self, BufRead};

use ::csv::StringRecord;
use csv_core::{ReadFieldResult, Reader, ReaderBuilder};

use crate::corpus::Named;
use crate::records::{Records, no_field, shorten};
use crate::text::{Text, line_breaks};
use aios_base::config::CsvSeparator;
use aios_base::error::Result;
use aios_base::meter::format_bytes;
use aios_chat::Columns;

const OUTPUT_BYTES: usize = 16 * 1024;
/// How many rows have to agree before a file is taken for a table by its content.
const LOOKED_AT: usize = 20;
/// Longest header line, and how many of its names an error lists.
const HEADER_BYTES: u64 = 1 << 20;
const NAMES: usize = 20;
const NAME_BYTES: usize = 40;

/// The byte between the fields, as far as it is given.
pub(super) fn given(separator: CsvSeparator) -> Option<u8> {
    match separator {
        CsvSeparator::Auto => None,
        CsvSeparator::Comma => Some(b','),
        CsvSeparator::Semicolon => Some(b';'),
        CsvSeparator::Tab => Some(b'\t'),
        CsvSeparator::Pipe => Some(b'|'),
    }
}

/// The separator with which the header of a table that begins with `head` has the column `field`; else the one with
/// which it has most columns; else the one that goes with the name.
pub(super) fn separator(head: &str, named: Option<Named>, field: &str) -> u8 {
    let candidates = match named {
        Some(Named::Tsv) => *b"\t,;|",
        _ => *b",;\t|",
    };
    let headers = candidates.map(|separator| {
        let names = rows(head, separator).next().unwrap_or_default();
        (separator, names)
    });
    // Of several with as many columns, the first.
    let widest = |found: &mut dyn Iterator<Item = &(u8, StringRecord)>| {
        found
            .fold(None, |best: Option<(u8, usize)>, (separator, names)| {
                let wider = best.is_none_or(|(_, columns)| columns < names.len());
                if wider {
                    Some((*separator, names.len()))
                } else {
                    best
                }
            })
            .map(|(separator, _)| separator)
    };
    let with_field = |(_, names): &&(u8, StringRecord)| names.iter().any(|n| n == field);
    widest(&mut headers.iter().filter(with_field))
        .or_else(|| widest(&mut headers.iter()))
        .unwrap_or(candidates[0])
}

/// The separator of a table that begins with `head`, if it plainly is one: a header of several names with `field` among
/// them, and rows of as many fields.
pub(super) fn plain_separator(head: &str, whole: bool, field: &str) -> Option<u8> {
    let separator = separator(head, None, field);
    // What is cut off may be the last row.
    let end = if whole { head.len() } else { head.rfind('\n')? };
    let mut rows = rows(&head[..end], separator).take(LOOKED_AT);
    let names = rows.next()?;
    let is_header = names.len() > 1
        && names.iter().any(|name| name == field)
        && names
            .iter()
            .all(|name| !name.trim().is_empty() && name.len() < 64);
    let mut rows = rows.peekable();
    (is_header && rows.peek().is_some() && rows.all(|row| row.len() == names.len()))
        .then_some(separator)
}

/// The rows that `head` begins with.
fn rows(head: &str, separator: u8) -> impl Iterator<Item = StringRecord> {
    ::csv::ReaderBuilder::new()
        .delimiter(separator)
        .has_headers(false)
        .flexible(true)
        .from_reader(head.as_bytes())
        .into_records()
        .map_while(Result::ok)
}

/// Reads the rows of `reader` into `records`.
///
/// # Errors
/// If the file cannot be read, has no such column, or a row is bad and that is an error; or whatever the documents'
/// taker gives.
pub(super) fn read(reader: &mut Text, separator: u8, records: &mut Records) -> Result<()> {
    let mut table = Table {
        input: Input {
            reader,
            again: Vec::new(),
            given: 0,
            row: Vec::new(),
            keeps: false,
        },
        core: ReaderBuilder::new().delimiter(separator).build(),
        separator,
        quotes: Quotes::Before,
        output: vec![0; OUTPUT_BYTES],
        line: 1,
        length: 0,
    };
    let Some(names) = table.header(records)? else {
        return Ok(());
    };
    let mut wanted = wanted(&names, records)?;
    table.input.keeps = !records.bad_are_errors();
    while table.row(&mut wanted, names.len(), records)? {}
    Ok(())
}

/// The names in the header of a table that begins with `head`.
pub(super) fn names(head: &str, separator: u8) -> Vec<String> {
    let header = rows(head, separator).next().unwrap_or_default();
    header.iter().map(str::to_string).collect()
}

/// A column that is read.
struct Wanted {
    name: String,
    column: usize,
    text: Vec<u8>,
}

/// The columns that are read: the one with the text, or those of a conversation.
fn wanted(names: &[String], records: &Records) -> Result<Vec<Wanted>> {
    let columns = match &records.options.chat {
        Some(chat) => Columns::of(chat.form),
        None => Columns {
            needed: &[],
            others: &[],
        },
    };
    let needed: Vec<&str> = match &records.options.chat {
        Some(_) => columns.needed.to_vec(),
        None => vec![records.field()],
    };
    let found = |name: &&str| {
        let column = names.iter().position(|own| own == name)?;
        Some(Wanted {
            name: (*name).to_string(),
            column,
            text: Vec::new(),
        })
    };
    if let Some(missing) = needed.iter().find(|name| found(name).is_none()) {
        let mut shown: Vec<String> = names
            .iter()
            .take(NAMES)
            .map(|n| shorten(n, NAME_BYTES))
            .collect();
        if names.len() > NAMES {
            shown.push("…".to_string());
        }
        return Err(records.fail(1, &no_field("column", missing, &shown)));
    }
    let all = needed.iter().chain(columns.others);
    Ok(all.filter_map(found).collect())
}

/// What a file gives, parts of it perhaps twice.
struct Input<'a> {
    reader: &'a mut Text,
    /// Bytes that come before those of the reader, and how many of them were taken.
    again: Vec<u8>,
    given: usize,
    /// The bytes of the row so far, if they are kept to be read again.
    row: Vec<u8>,
    keeps: bool,
}

impl Input<'_> {
    fn fill(&mut self) -> io::Result<&[u8]> {
        match self.given < self.again.len() {
            true => Ok(&self.again[self.given..]),
            false => self.reader.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) -> io::Result<()> {
        if self.keeps {
            let bytes = &self.fill()?[..count];
            let bytes = bytes.to_vec();
            self.row.extend_from_slice(&bytes);
        }
        if self.given < self.again.len() {
            self.given += count;
            return Ok(());
        }
        // So that as long as there are any, all of the row is out of them.
        (self.again, self.given) = (Vec::new(), 0);
        self.reader.consume(count);
        Ok(())
    }

    /// Gives the row once more, but for its first `lines` lines; false if the last of them has not ended yet.
    fn rewind(&mut self, lines: u64) -> bool {
        let mut breaks = memchr::memchr_iter(b'\n', &self.row);
        let last = breaks.nth(lines as usize - 1);
        let start = last.map_or(self.row.len(), |at| at + 1);
        match self.again.is_empty() {
            true => self.again = self.row.split_off(start),
            // Not copied: there may be much behind it, and a bad row in each line of that.
            false => self.given -= self.row.len() - start,
        }
        self.row.clear();
        last.is_some()
    }
}

/// Takes a good row.
fn take(wanted: &[Wanted], line: u64, records: &mut Records) -> Result<()> {
    let mut texts = Vec::with_capacity(wanted.len());
    for Wanted { name, text, .. } in wanted {
        let text = std::str::from_utf8(text);
        texts.push((
            name.as_str(),
            text.map_err(|error| records.fail(line, &error.to_string()))?,
        ));
    }
    if records.options.chat.is_none() {
        return texts
            .iter()
            .try_for_each(|(_, text)| records.document(text));
    }
    let others = texts.iter().enumerate();
    // An empty cell of a column that may be missing is none.
    let needed = others.filter(|(at, (_, text))| *at < columns_needed(records) || !text.is_empty());
    let fields = needed.map(|(_, (name, text))| (name.to_string(), (*text).into()));
    let record = serde_json::Value::Object(fields.collect());
    records.record(line, &record.to_string())
}

fn columns_needed(records: &Records) -> usize {
    let chat = records.options.chat.as_ref();
    chat.map_or(0, |chat| Columns::of(chat.form).needed.len())
}

struct Table<'a> {
    input: Input<'a>,
    core: Reader,
    separator: u8,
    quotes: Quotes,
    output: Vec<u8>,
    /// Number of the line that is read.
    line: u64,
    /// Bytes of the row so far.
    length: u64,
}

/// Where the quotes of a field are, as `csv_core` sees them, which tells neither where they were opened nor what follows
/// them.
#[derive(Clone, Copy)]
enum Quotes {
    /// At the beginning of a field.
    Before,
    /// None: they count for nothing later on.
    Without,
    /// Opened at this line.
    Open(u64),
    /// Perhaps closed again: a second one stands for a quote.
    Closed(u64),
    /// Closed, and blanks after that, which the reader takes for a part of the text.
    Trailing(u64),
}

impl Quotes {
    /// The line in which quotes were opened that are open still.
    fn opened(self) -> Option<u64> {
        match self {
            Self::Open(line) => Some(line),
            _ => None,
        }
    }

    /// Goes on over `bytes`, of which the first is in `line`. Gives the line in which quotes were opened that close before
    /// something else than the end of their field.
    fn pass(&mut self, bytes: &[u8], separator: u8, mut line: u64) -> Option<u64> {
        for &byte in bytes {
            let ends = byte == separator || byte == b'\n' || byte == b'\r';
            *self = match (*self, byte) {
                (Self::Open(opened), b'"') => Self::Closed(opened),
                (Self::Open(opened), _) => Self::Open(opened),
                (Self::Closed(opened), b'"') => Self::Open(opened),
                (Self::Closed(opened) | Self::Trailing(opened), b' ' | b'\t') if !ends => {
                    Self::Trailing(opened)
                }
                (Self::Closed(opened) | Self::Trailing(opened), _) if !ends => return Some(opened),
                (Self::Before, b'"') => Self::Open(line),
                _ if ends => Self::Before,
                _ => Self::Without,
            };
            line += u64::from(byte == b'\n');
        }
        None
    }
}

/// How a field ended.
enum Field {
    Ended {
        row_ended: bool,
    },
    /// There is none: the file has ended.
    None,
    /// The file ended within quotes, or the row got too long.
    Open {
        /// Where quotes were opened, if any are.
        quoted: Option<u64>,
    },
    /// Quotes that were opened at this line closed within it.
    Misquoted {
        line: u64,
    },
}

impl Table<'_> {
    /// The names of the columns; `None` in an empty file.
    fn header(&mut self, records: &Records) -> Result<Option<Vec<String>>> {
        let mut names = Vec::new();
        loop {
            let mut name = Vec::new();
            let read = self.field(Some(&mut name), HEADER_BYTES);
            let field = read.map_err(|error| records.fail(self.line, &error.to_string()))?;
            match field {
                Field::None => return Ok(None),
                Field::Open { quoted } => {
                    let line = quoted.unwrap_or(1);
                    return Err(records.fail(line, &open(quoted.is_some(), HEADER_BYTES)));
                }
                Field::Misquoted { line } => return Err(records.fail(line, MISQUOTED)),
                Field::Ended { row_ended } => {
                    names.push(String::from_utf8_lossy(&name).into_owned());
                    if row_ended {
                        return Ok(Some(names));
                    }
                }
            }
        }
    }

    /// Reads one row; false at the end of the file.
    fn row(
        &mut self,
        wanted: &mut [Wanted],
        columns: usize,
        records: &mut Records,
    ) -> Result<bool> {
        wanted.iter_mut().for_each(|wanted| wanted.text.clear());
        self.input.row.clear();
        let mut fields = 0;
        self.skip_breaks(records)?;
        let first_line = self.line;
        loop {
            let own = wanted.iter_mut().find(|wanted| wanted.column == fields);
            let read = self.field(own.map(|wanted| &mut wanted.text), records.limit);
            let field = read.map_err(|error| records.fail(self.line, &error.to_string()))?;
            fields += 1;
            match field {
                Field::None => return Ok(false),
                Field::Ended { row_ended: false } => {}
                Field::Ended { row_ended: true } => break,
                Field::Open { quoted } => {
                    let line = quoted.unwrap_or(first_line);
                    records.bad(line, &open(quoted.is_some(), records.limit))?;
                    self.begin_after(first_line, line, quoted.is_some(), records)?;
                    return Ok(true);
                }
                Field::Misquoted { line } => {
                    records.bad(line, MISQUOTED)?;
                    self.begin_after(first_line, line, true, records)?;
                    return Ok(true);
                }
            }
        }
        if fields != columns {
            let fields = match fields {
                1 => "1 field".to_string(),
                fields => format!("{fields} fields"),
            };
            let what = format!("the row has {fields}, but the header has {columns}");
            records.bad(first_line, &what)?;
        } else if self.input.keeps && self.input.row.contains(&0) {
            records.bad(first_line, "it holds bytes that are not UTF-8 text")?;
        } else {
            take(wanted, first_line, records)?;
        }
        Ok(true)
    }

    /// Reads a field into `text`, if it is wanted. The row is to be no longer than `limit`.
    fn field(&mut self, mut text: Option<&mut Vec<u8>>, limit: u64) -> io::Result<Field> {
        loop {
            let quoted = self.quotes.opened();
            if self.length > limit {
                return Ok(Field::Open { quoted });
            }
            let bytes = self.input.fill()?;
            if bytes.is_empty() && quoted.is_some() {
                return Ok(Field::Open { quoted });
            }
            if bytes.is_empty() {
                // Ends the last row where no line break does, if there is one.
                let (result, ..) = self.core.read_field(b"\n", &mut self.output);
                return Ok(match result {
                    ReadFieldResult::Field { .. } => Field::Ended { row_ended: true },
                    _ => Field::None,
                });
            }
            let (result, read, written) = self.core.read_field(bytes, &mut self.output);
            let misquoted = self.quotes.pass(&bytes[..read], self.separator, self.line);
            self.line += line_breaks(&bytes[..read]);
            self.length += read as u64;
            self.input.consume(read)?;
            if let Some(line) = misquoted {
                return Ok(Field::Misquoted { line });
            }
            if let Some(text) = &mut text {
                text.extend_from_slice(&self.output[..written]);
            }
            if let ReadFieldResult::Field { record_end } = result {
                if record_end {
                    self.length = 0;
                }
                return Ok(Field::Ended {
                    row_ended: record_end,
                });
            }
        }
    }

    /// Passes over blank lines, so that a row begins at its own line.
    fn skip_breaks(&mut self, records: &Records) -> Result<()> {
        let fail = |line, error: io::Error| records.fail(line, &error.to_string());
        loop {
            let bytes = self.input.fill().map_err(|error| fail(self.line, error))?;
            let count = bytes.iter().take_while(|&&byte| byte == b'\n').count();
            if count == 0 {
                return Ok(());
            }
            self.line += count as u64;
            let consumed = self.input.consume(count);
            consumed.map_err(|error| fail(self.line, error))?;
            self.input.row.clear();
        }
    }

    /// Goes on at the line after that in which a bad row opened its quotes, or, without quotes, at the next one.
    fn begin_after(
        &mut self,
        first_line: u64,
        line: u64,
        quoted: bool,
        records: &Records,
    ) -> Result<()> {
        let line_ended = quoted && self.input.rewind(line - first_line + 1);
        if quoted {
            self.line = line + u64::from(line_ended);
        }
        if !line_ended {
            self.input.row.clear();
            self.skip_line()
                .map_err(|error| records.fail(line, &error.to_string()))?;
        }
        self.core.reset();
        self.quotes = Quotes::Before;
        self.length = 0;
        Ok(())
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.input.fill()?;
            let end = memchr::memchr(b'\n', bytes);
            let count = end.map_or(bytes.len(), |at| at + 1);
            if count == 0 {
                return Ok(());
            }
            self.input.consume(count)?;
            self.input.row.clear();
            if end.is_some() {
                self.line += 1;
                return Ok(());
            }
        }
    }
}

const MISQUOTED: &str =
    "a quote (\") is opened here and closed within its field; quotes in quoted text are doubled";

fn open(quoted: bool, limit: u64) -> String {
    match quoted {
        true => format!(
            "a quote (\") is opened here and never closed, or only after more than {}",
            format_bytes(limit)
        ),
        false => format!(
            "the row that begins here is longer than {}",
            format_bytes(limit)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_separator_is_that_which_gives_the_column() {
        let cases = [
            ("id,text\n", None, b','),
            ("id;text\n", Some(Named::Csv), b';'),
            ("id\ttext\n", Some(Named::Csv), b'\t'),
            ("id|text\n", None, b'|'),
            ("\"a,b\";text\n", None, b';'),
            ("text\n", Some(Named::Csv), b','),
            ("text\n", Some(Named::Tsv), b'\t'),
            ("id;body;x,y\n", None, b';'),
            ("", Some(Named::Csv), b','),
        ];
        for (head, named, expected) in cases {
            assert_eq!(separator(head, named, "text"), expected, "{head}");
        }
    }

    #[test]
    fn a_table_is_told_by_its_header_and_rows() {
        let cases = [
            ("id,text\n1,a\n2,\"b, c\"\n", Some(b',')),
            ("id\ttext\n1\ta\n", Some(b'\t')),
            ("id,text\n", None),
            ("text\na\n", None),
            ("id,body\n1,a\n", None),
            ("id,text\n1,a\nand so on\n", None),
            ("A word, text, and more\nof it\n", None),
        ];
        for (head, expected) in cases {
            assert_eq!(plain_separator(head, true, "text"), expected, "{head}");
        }
        assert_eq!(
            plain_separator("id,text\n1,a\n2", false, "text"),
            Some(b',')
        );
    }
}
