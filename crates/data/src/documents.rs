//! Documents of a corpus, handed out in pieces of bounded size.

use std::io::BufRead;
use std::sync::Arc;

use crate::corpus::{CorpusFile, Named, list_files};
use crate::json::Shape;
use crate::records::{LeftOut, RECORD_BYTES, Records};
use crate::text::{Meter, Text, cannot_read};
use crate::{csv, json, text};
use aios_base::config::{BadRecords, CorpusOptions, TextDocuments, TextFormat};
use aios_base::error::Result;

/// Ends a document wherever it stands.
const SEPARATOR: &str = "<|endoftext|>";
/// A piece is less than twice this long, so that a document of any length fits into memory.
const PIECE_BYTES: usize = 64 * 1024;

/// Takes the pieces of the documents in order; the flag says that a document ends with this piece,
/// which may then be empty.
pub(super) type Sink<'a> = dyn FnMut(&str, bool) -> Result<()> + 'a;

/// Hands the documents of a corpus to `take` as they are read, on the thread of the caller: a piece of text, and whether a
/// document ends with it, which may then be empty. Nothing is tokenized or kept.
///
/// # Errors
/// If the corpus is missing, or a file in it cannot be read, is no text or holds a bad record where that is an error; or
/// whatever `take` gives.
pub fn each_document(
    options: &CorpusOptions,
    take: &mut dyn FnMut(&str, bool) -> Result<()>,
) -> Result<()> {
    let meter = Arc::new(Meter::default());
    let mut left_out = LeftOut::default();
    for file in list_files(options)?.files {
        read_documents(&file, options, &meter, &mut left_out, take)?;
    }
    Ok(())
}

/// Reads the documents of `file` into `sink`. Bytes read from disk are added to `meter`, bad records that are left out to
/// `left_out`.
///
/// Line breaks at both ends of a document are dropped, documents without any visible character are
/// left out.
///
/// # Errors
/// If the file cannot be read, is no text, or a record in it cannot be understood; or whatever `sink` gives.
pub(super) fn read_documents(
    file: &CorpusFile,
    options: &CorpusOptions,
    meter: &Arc<Meter>,
    left_out: &mut LeftOut,
    sink: &mut Sink,
) -> Result<()> {
    // Bytes that are not text spoil only the record they are in, but a text file as a whole.
    let lossy = options.bad_records == BadRecords::Skip;
    let mut reader = text::open(file, meter, lossy)?;
    let layout = layout(&mut reader, file, options)?;
    if lossy && layout == Layout::Text {
        reader = text::open(file, meter, false)?;
    }
    let mut documents = Documents::new(options.ascii_only, sink);
    let mut records = Records {
        file,
        options,
        limit: RECORD_BYTES,
        left_out,
        documents: &mut documents,
    };
    match layout {
        Layout::Text => read_text(reader, file, options.text_documents, &mut documents),
        Layout::Json(shape) => json::read(&mut reader, shape, &mut records),
        Layout::Table(separator) => csv::read(&mut reader, separator, &mut records),
    }
}

/// How the text lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Text,
    Json(Shape),
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
    let json = |fallback| Layout::Json(json::shape(head, whole).unwrap_or(fallback));
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
        (TextFormat::Auto, Some(Named::JsonLines)) => json(Shape::Lines),
        (TextFormat::Auto, Some(Named::Json)) => json(Shape::Values),
        (TextFormat::Auto, Some(Named::Csv | Named::Tsv)) => table(),
        (TextFormat::Auto, named) => by_content(head, whole, named, file, options),
    })
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

fn read_text(
    mut reader: Text,
    file: &CorpusFile,
    mode: TextDocuments,
    documents: &mut Documents,
) -> Result<()> {
    let mut lines = Lines::new(mode);
    loop {
        let chunk = reader
            .fill_text()
            .map_err(|error| cannot_read(file, &error))?;
        let length = chunk.len();
        if length == 0 {
            return documents.end();
        }
        for part in chunk.split_inclusive('\n') {
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
            TextDocuments::File => documents.push("\n"),
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
    /// Text of the document not yet passed on.
    text: String,
    /// A part of the document was passed on.
    begun: bool,
    sink: &'a mut Sink<'b>,
}

impl<'a, 'b> Documents<'a, 'b> {
    fn new(ascii_only: bool, sink: &'a mut Sink<'b>) -> Self {
        Self {
            ascii_only,
            text: String::new(),
            begun: false,
            sink,
        }
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
            if self.text.len() >= PIECE_BYTES {
                self.pass_on()?;
            }
        }
        Ok(())
    }

    /// Ends the document.
    pub(super) fn end(&mut self) -> Result<()> {
        self.end_separated()?;
        let text = std::mem::take(&mut self.text);
        self.finish(&text)?;
        // Kept for its room.
        self.text = text;
        self.text.clear();
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
            (self.sink)(piece, false)?;
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
            (self.sink)(piece, true)?;
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

#[cfg(test)]
mod tests;
