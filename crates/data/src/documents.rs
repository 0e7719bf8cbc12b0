//! Documents of a corpus, handed out in pieces of bounded size.

use std::io::BufRead;
use std::sync::Arc;

use crate::corpus::{CorpusFile, Named, list_files};
use crate::json::Shape;
use crate::records::{LeftOut, RECORD_BYTES, Records};
use crate::text::{Meter, Text, cannot_read};
use crate::{columnar, csv, json, text};
use aios_base::config::{BadRecords, CorpusOptions, RecordForm, TextDocuments, TextFormat};
use aios_base::error::{Error, Result};
use aios_chat::Columns;

/// Ends a document wherever it stands.
const SEPARATOR: &str = "<|endoftext|>";
/// A piece is less than twice this long, so that a document of any length fits into memory.
const PIECE_BYTES: usize = 64 * 1024;

/// Where two ids of a text may be told apart by a cut: how many bytes on both sides are looked at.
pub(super) const CONTEXT_BYTES: usize = 1024;
/// How many places are tried for a cut that changes no token.
const CUTS_TRIED: usize = 16;

/// What comes out of a corpus, in order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece<'a> {
    /// More of a document, which may be nothing where it ends with that.
    Text(&'a str, End),
    /// A document as ids, and which of them are to be learnt.
    Row { ids: &'a [u32], labels: &'a [i32] },
    /// A document as an object in JSON, and where it stands.
    Record { json: &'a str, place: &'a str },
}

/// Whether a document ends with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    No,
    Yes,
    /// It is all of a file.
    OfFile,
}

/// Takes the pieces.
pub(super) type Sink<'a> = dyn FnMut(Piece) -> Result<()> + 'a;

/// Whether the tokens of a text are those of its two parts, cut at a byte.
pub(super) type Splits<'a> = dyn Fn(&str, usize) -> bool + 'a;

/// How files are read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub options: &'a CorpusOptions,
    /// Bytes read from disk are added to it.
    pub meter: &'a Arc<Meter>,
    /// Where a text that is taken whole may be cut.
    pub splits: &'a Splits<'a>,
    /// Ids of rows are below it.
    pub vocabulary: u32,
}

/// Hands the documents of a corpus to `take` as they are read, on the thread of the caller: a piece of text, and whether a
/// document ends with it, which may then be empty. Nothing is tokenized or kept; a row of tokens has no text, and a
/// conversation comes as its record, in JSON.
///
/// # Errors
/// If the corpus is missing, or a file in it cannot be read, is no text or holds a bad record where that is an error; or
/// whatever `take` gives.
pub fn each_document(
    options: &CorpusOptions,
    take: &mut dyn FnMut(&str, bool) -> Result<()>,
) -> Result<()> {
    let meter = Arc::new(Meter::default());
    let reading = Reading {
        options,
        meter: &meter,
        splits: &|_, _| true,
        vocabulary: options.vocabulary.unwrap_or(u32::MAX),
    };
    let mut left_out = LeftOut::default();
    let mut sink = |piece: Piece| match piece {
        Piece::Text(text, end) => take(text, end != End::No),
        Piece::Row { .. } => take("", true),
        Piece::Record { json, .. } => take(json, true),
    };
    for file in list_files(options)?.files {
        read_documents(&file, &reading, &mut left_out, &mut sink)?;
    }
    Ok(())
}

/// Whether a corpus without conversations has any text, or row of tokens: it is read up to its first.
///
/// # Errors
/// There is none, or what comes first is bad.
pub fn require_text(options: &CorpusOptions) -> Result<()> {
    let mut found = false;
    let read = each_document(options, &mut |text, ends| {
        found = !text.is_empty() || ends;
        match found {
            true => Err(Error::Stopped),
            false => Ok(()),
        }
    });
    match read {
        _ if found => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(no_text(options, &LeftOut::default())),
    }
}

/// What is said of a corpus that nothing came out of.
pub(super) fn no_text(options: &CorpusOptions, left_out: &LeftOut) -> Error {
    let name = options.name();
    Error::failed(if left_out.count > 0 {
        format!(
            "dataset {name} holds no good record: {}",
            left_out.in_words()
        )
    } else if options.ascii_only {
        format!("dataset {name} holds no text once --ascii-only has dropped what is not ASCII")
    } else if options.is_stdin() {
        format!("{name} is empty: pipe the text in, also where a run is resumed that read it")
    } else {
        format!("dataset {name} is empty: it holds no text")
    })
}

/// Reads the documents of `file` into `sink`. Bad records that are left out are added to `left_out`.
///
/// Line breaks at both ends of a document are dropped, documents without any visible character are
/// left out, unless documents are taken whole.
///
/// # Errors
/// If the file cannot be read, is no text, or a record in it cannot be understood; or whatever `sink` gives.
pub(super) fn read_documents(
    file: &CorpusFile,
    reading: &Reading,
    left_out: &mut LeftOut,
    sink: &mut Sink,
) -> Result<()> {
    let options = reading.options;
    let mut documents = Documents::new(reading, sink);
    let mut records = Records {
        file,
        options,
        limit: RECORD_BYTES,
        unit: "line",
        vocabulary: reading.vocabulary,
        left_out,
        documents: &mut documents,
    };
    if options.text_format == TextFormat::Auto && columnar::is_parquet(file)? {
        records.unit = "row";
        return columnar::read(reading.meter, &mut records);
    }
    // Bytes that are not text spoil only the record they are in, but a text file as a whole.
    let lossy = options.bad_records == BadRecords::Skip;
    let mut reader = text::open(file, reading.meter, lossy)?;
    let layout = layout(&mut reader, file, options)?;
    if lossy && layout == Layout::Text {
        reader = text::open(file, reading.meter, false)?;
    }
    match layout {
        Layout::Text if options.text_documents == TextDocuments::Whole => {
            read_whole(reader, file, records.documents)
        }
        Layout::Text => read_text(reader, file, options.text_documents, records.documents),
        Layout::Json(shape) => json::read(&mut reader, shape, json::Holds::Text, &mut records),
        Layout::Tokens(shape) => json::read(&mut reader, shape, json::Holds::Tokens, &mut records),
        Layout::Records(shape) => json::read(&mut reader, shape, json::Holds::Record, &mut records),
        Layout::Table(separator) => csv::read(&mut reader, separator, &mut records),
    }
}

/// How the text lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Text,
    Json(Shape),
    /// The same, with ids of tokens.
    Tokens(Shape),
    /// The same, with conversations.
    Records(Shape),
    /// With this byte between the fields.
    Table(u8),
}

/// The layout of a file, from what is asked for, its name and its beginning. Says so where the name tells otherwise.
fn layout(reader: &mut Text, file: &CorpusFile, options: &CorpusOptions) -> Result<Layout> {
    let head = reader
        .fill_text()
        .map_err(|error| cannot_read(file, &error))?
        .to_string();
    let (head, whole) = (head.as_str(), reader.is_last());
    if let Some(chat) = &options.chat {
        return conversations(head, whole, file, options, chat.form);
    }
    let shape = |fallback| json::shape(head, whole).unwrap_or(fallback);
    let json = |fallback| Layout::Json(shape(fallback));
    let tokens = |layout| match layout {
        Layout::Json(shape) if json::holds_tokens(head, &options.text_field) => {
            Layout::Tokens(shape)
        }
        layout => layout,
    };
    let table = || {
        let separator = csv::given(options.csv_separator);
        let found = || csv::separator(head, file.named, &options.text_field);
        Layout::Table(separator.unwrap_or_else(found))
    };
    Ok(match (options.text_format, file.named) {
        (TextFormat::Text, _) => Layout::Text,
        (TextFormat::Json, Some(Named::Json)) => json(Shape::Values),
        (TextFormat::Json, _) => json(Shape::Lines),
        (TextFormat::Csv, _) => table(),
        (TextFormat::Tokens, Some(Named::Json)) => Layout::Tokens(shape(Shape::Values)),
        (TextFormat::Tokens, _) => Layout::Tokens(shape(Shape::Lines)),
        (TextFormat::Auto, Some(Named::JsonLines)) => tokens(json(Shape::Lines)),
        (TextFormat::Auto, Some(Named::Json)) => tokens(json(Shape::Values)),
        (TextFormat::Auto, Some(Named::Csv | Named::Tsv)) => table(),
        (TextFormat::Auto, named) => tokens(by_content(head, whole, named, file, options)),
    })
}

/// The layout of a file of conversations.
///
/// # Errors
/// It is neither JSON objects nor a table.
fn conversations(
    head: &str,
    whole: bool,
    file: &CorpusFile,
    options: &CorpusOptions,
    form: RecordForm,
) -> Result<Layout> {
    let is_table = match (options.text_format, file.named) {
        (TextFormat::Csv, _) => true,
        (TextFormat::Auto, Some(Named::Csv | Named::Tsv)) => true,
        (TextFormat::Text | TextFormat::Tokens, _) => {
            return Err(Error::invalid(format!(
                "--format {form} is about JSON objects, tables and Parquet files, not with this --text-format"
            )));
        }
        _ => false,
    };
    if is_table {
        let field = Columns::of(form)
            .needed
            .first()
            .copied()
            .unwrap_or_default();
        let found = || csv::separator(head, file.named, field);
        let separator = csv::given(options.csv_separator).unwrap_or_else(found);
        return Ok(Layout::Table(separator));
    }
    let shape = json::shape(head, whole);
    let lines = file.named == Some(Named::JsonLines) || options.text_format == TextFormat::Json;
    match shape.or(lines.then_some(Shape::Lines)) {
        Some(shape) => Ok(Layout::Records(shape)),
        None => Err(Error::failed(format!(
            "{} holds no JSON objects, in which {form} would be: give files of one form, or name it by --format",
            file.name
        ))),
    }
}

/// The layout of a file whose name says nothing, or that it is text.
fn by_content(
    head: &str,
    whole: bool,
    named: Option<Named>,
    file: &CorpusFile,
    options: &CorpusOptions,
) -> Layout {
    let field = &options.text_field;
    let shape = match named {
        Some(_) => json::plain_shape(head, whole, field),
        None => json::shape(head, whole),
    };
    let separator = || csv::plain_separator(head, whole, field);
    let (layout, what) = match (shape, separator()) {
        (Some(shape), _) => (Layout::Json(shape), "JSON objects"),
        (None, Some(separator)) => (Layout::Table(separator), "a table"),
        (None, None) => return Layout::Text,
    };
    let said = format!(
        "{} holds {what} and is read as such: its text is in \"{field}\" (--text-field); --text-format text takes all \
         of it as text",
        file.name
    );
    match named {
        Some(_) => tracing::warn!("{said}"),
        None => tracing::info!("{said}"),
    }
    layout
}

/// Every character of a file, as one document.
fn read_whole(mut reader: Text, file: &CorpusFile, documents: &mut Documents) -> Result<()> {
    loop {
        let chunk = reader
            .fill_text()
            .map_err(|error| cannot_read(file, &error))?;
        let length = chunk.len();
        if length == 0 {
            return documents.end_whole(End::OfFile);
        }
        documents.push(chunk)?;
        reader.consume(length);
    }
}

fn read_text(
    mut reader: Text,
    file: &CorpusFile,
    mode: TextDocuments,
    documents: &mut Documents,
) -> Result<()> {
    let mut lines = Lines::new(mode);
    loop {
        let text = reader
            .fill_text()
            .map_err(|error| cannot_read(file, &error))?;
        let length = text.len();
        if length == 0 {
            return documents.end();
        }
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(line) => {
                    lines.part(line, documents)?;
                    lines.end(documents)?;
                }
                None => lines.part(part, documents)?,
            }
        }
        reader.consume(length);
    }
}

/// Cuts the lines of a text file into documents; a line may come in several parts.
struct Lines {
    mode: TextDocuments,
    /// The line so far, as long as it is blank.
    blank: String,
    line_is_blank: bool,
    /// A line stands before this one in the document.
    follows: bool,
}

impl Lines {
    fn new(mode: TextDocuments) -> Self {
        Self {
            mode,
            blank: String::new(),
            line_is_blank: true,
            follows: false,
        }
    }

    fn part(&mut self, part: &str, documents: &mut Documents) -> Result<()> {
        if self.mode != TextDocuments::Blank || !self.line_is_blank {
            return documents.push(part);
        }
        self.blank.push_str(part);
        if self.blank.trim_start().is_empty() && self.blank.len() < PIECE_BYTES {
            return Ok(());
        }
        self.line_is_blank = false;
        if self.follows {
            documents.push("\n")?;
        }
        self.follows = true;
        documents.push(&self.blank)?;
        self.blank.clear();
        Ok(())
    }

    fn end(&mut self, documents: &mut Documents) -> Result<()> {
        match self.mode {
            TextDocuments::Line => documents.end(),
            TextDocuments::File | TextDocuments::Whole => documents.push("\n"),
            TextDocuments::Blank => {
                let blank = std::mem::replace(&mut self.line_is_blank, true);
                self.blank.clear();
                if blank {
                    self.follows = false;
                    documents.end()?;
                }
                Ok(())
            }
        }
    }
}

/// Collects text into documents and passes them on in pieces.
pub(super) struct Documents<'a, 'b> {
    ascii_only: bool,
    /// Documents are taken as they are, and cut only where this says that it changes no token.
    whole: Option<&'a Splits<'a>>,
    /// Length of a text in which a place for a cut is looked for.
    enough: usize,
    /// Text of the document not yet passed on.
    text: String,
    /// A part of the document was passed on.
    begun: bool,
    sink: &'a mut Sink<'b>,
}

impl<'a, 'b> Documents<'a, 'b> {
    fn new(reading: &Reading<'a>, sink: &'a mut Sink<'b>) -> Self {
        let whole = reading.options.text_documents == TextDocuments::Whole;
        Self {
            ascii_only: reading.options.ascii_only,
            whole: whole.then_some(reading.splits),
            enough: PIECE_BYTES,
            text: String::new(),
            begun: false,
            sink,
        }
    }

    /// A document that others make tokens of.
    pub(super) fn record(&mut self, place: &str, json: &str) -> Result<()> {
        (self.sink)(Piece::Record { json, place })
    }

    /// A document of tokens.
    pub(super) fn row(&mut self, ids: &[u32], labels: &[i32]) -> Result<()> {
        (self.sink)(Piece::Row { ids, labels })
    }

    /// Adds text to the document.
    pub(super) fn push(&mut self, mut text: &str) -> Result<()> {
        while !text.is_empty() {
            let (head, rest) = text.split_at(text.floor_char_boundary(PIECE_BYTES));
            if self.ascii_only {
                self.text.extend(head.chars().filter(char::is_ascii));
            } else {
                self.text.push_str(head);
            }
            text = rest;
            match self.whole {
                Some(splits) => self.pass_on_whole(splits)?,
                None if self.text.len() >= PIECE_BYTES => self.pass_on()?,
                None => {}
            }
        }
        Ok(())
    }

    /// Ends the document.
    pub(super) fn end(&mut self) -> Result<()> {
        if self.whole.is_some() {
            return self.end_whole(End::Yes);
        }
        self.end_separated()?;
        let text = std::mem::take(&mut self.text);
        self.finish(&text)?;
        // Kept for its room.
        self.text = text;
        self.text.clear();
        Ok(())
    }

    /// Ends a document that is taken as it is.
    fn end_whole(&mut self, end: End) -> Result<()> {
        self.enough = PIECE_BYTES;
        let begun = std::mem::replace(&mut self.begun, false);
        if begun || !self.text.is_empty() {
            (self.sink)(Piece::Text(&self.text, end))?;
        }
        self.text.clear();
        Ok(())
    }

    /// Passes on what can be cut off, if there is enough of it.
    fn pass_on_whole(&mut self, splits: &Splits) -> Result<()> {
        while self.text.len() >= self.enough {
            let Some(at) = whole_cuts(&self.text).find(|&at| splits(&self.text, at)) else {
                // With a tokenizer that has no such places all of the text comes together.
                self.enough *= 2;
                return Ok(());
            };
            let rest = self.text.split_off(at);
            let piece = std::mem::replace(&mut self.text, rest);
            self.begun = true;
            self.enough = PIECE_BYTES;
            (self.sink)(Piece::Text(&piece, End::No))?;
        }
        Ok(())
    }

    /// Passes on what has come so far but for the end, which more text might belong to.
    fn pass_on(&mut self) -> Result<()> {
        self.end_separated()?;
        while self.text.len() >= PIECE_BYTES {
            let at = cut(&self.text[..self.text.floor_char_boundary(PIECE_BYTES)]);
            let rest = self.text.split_off(at);
            let piece = std::mem::replace(&mut self.text, rest);
            self.emit(&piece)?;
        }
        Ok(())
    }

    /// Ends a document at each separator in the text.
    fn end_separated(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.text);
        let mut rest = text.as_str();
        while let Some((document, after)) = rest.split_once(SEPARATOR) {
            self.finish(document)?;
            rest = after;
        }
        let done = text.len() - rest.len();
        self.text = text;
        self.text.drain(..done);
        Ok(())
    }

    fn emit(&mut self, piece: &str) -> Result<()> {
        let piece = if self.begun {
            piece
        } else {
            piece.trim_start_matches('\n')
        };
        if self.begun || !piece.trim_start().is_empty() {
            self.begun = true;
            (self.sink)(Piece::Text(piece, End::No))?;
        }
        Ok(())
    }

    /// Ends the document with its last piece.
    fn finish(&mut self, piece: &str) -> Result<()> {
        let begun = std::mem::replace(&mut self.begun, false);
        let piece = piece.trim_end_matches('\n');
        let piece = if begun {
            piece
        } else {
            piece.trim_start_matches('\n')
        };
        if begun || !piece.trim_start().is_empty() {
            (self.sink)(Piece::Text(piece, End::Yes))?;
        }
        Ok(())
    }
}

/// Where to cut a text that goes on: best before a single space between two words, since there
/// byte-level tokenizers give the two parts the very ids of the whole; else at other whitespace;
/// else just before what might be the beginning of a separator.
fn cut(text: &str) -> usize {
    let bytes = text.as_bytes();
    let word = |byte: u8| !byte.is_ascii_whitespace();
    let single_space =
        |&at: &usize| bytes[at] == b' ' && word(bytes[at - 1]) && word(bytes[at + 1]);
    let whitespace = |&at: &usize| bytes[at].is_ascii_whitespace();
    let last = bytes.len() - 1;
    (1..last)
        .rev()
        .find(single_space)
        .or_else(|| (1..=last).rev().find(whitespace))
        .unwrap_or_else(|| text.floor_char_boundary(text.len() - SEPARATOR.len()))
}

/// Places where a cut seldom changes a token, the last ones first: before a single space between two words, and at the
/// beginning of a line. What is looked at of the text behind them is there.
fn whole_cuts(text: &str) -> impl Iterator<Item = usize> + '_ {
    let bytes = text.as_bytes();
    let blank = |at: usize| bytes[at].is_ascii_whitespace();
    let fits = move |&at: &usize| {
        let space = bytes[at] == b' ' && !blank(at - 1) && !blank(at + 1);
        space || (bytes[at - 1] == b'\n' && !blank(at))
    };
    let end = text.len().saturating_sub(CONTEXT_BYTES);
    // Half of the text is enough to look through, and is passed on at least.
    (end / 2 + 1..end).rev().filter(fits).take(CUTS_TRIED)
}

#[cfg(test)]
mod tests;
