//! Records of a file, each with a document, and what becomes of those that cannot be understood.

use crate::corpus::CorpusFile;
use crate::documents::Documents;
use aios_base::config::{BadRecords, CorpusOptions};
use aios_base::error::{Error, Result};

/// Longest JSON object, and longest row of a table: beyond it, something that should have ended did not.
pub(super) const RECORD_BYTES: u64 = 256 << 20;
/// How many of the bad records are named.
const NAMED: usize = 3;

/// Bad records of a corpus that were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub count: u64,
    /// Where the first ones stand, and what is wrong with them.
    first: Vec<String>,
}

impl LeftOut {
    /// One more, in this place.
    pub(super) fn note(&mut self, place: &str, what: &str) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(format!("{place}: {what}"));
        }
    }

    /// Those of another part, which comes after this.
    pub(super) fn add(&mut self, others: Self) {
        self.count += others.count;
        self.first.extend(others.first);
        self.first.truncate(NAMED);
    }

    /// The count and the first ones, in words.
    pub(super) fn in_words(&self) -> String {
        let more = match self.count > self.first.len() as u64 {
            true => "; and so on",
            false => "",
        };
        let records = match self.count {
            1 => "1 bad record",
            count => &format!("{count} bad records"),
        };
        format!("{records} left out: {}{more}", self.first.join("; "))
    }
}

/// Where the records of one file go.
pub(super) struct Records<'a, 'b, 'c> {
    pub file: &'a CorpusFile,
    pub options: &'a CorpusOptions,
    /// Longest record; see [`RECORD_BYTES`].
    pub limit: u64,
    /// What the place of a record is counted in.
    pub unit: &'static str,
    /// Ids of tokens are below it.
    pub vocabulary: u32,
    pub left_out: &'a mut LeftOut,
    pub documents: &'a mut Documents<'b, 'c>,
}

impl Records<'_, '_, '_> {
    /// The field or column that holds the text.
    pub(super) fn field(&self) -> &str {
        &self.options.text_field
    }

    /// Whether the first bad record ends the reading.
    pub(super) fn bad_are_errors(&self) -> bool {
        self.options.bad_records == BadRecords::Error
    }

    /// Takes the text of a good record.
    pub(super) fn document(&mut self, text: &str) -> Result<()> {
        self.documents.push(text)?;
        self.documents.end()
    }

    /// Takes all of a good record, an object in JSON.
    pub(super) fn record(&mut self, line: u64, json: &str) -> Result<()> {
        let place = format!("{} {} {line}", self.file.name, self.unit);
        self.documents.record(&place, json)
    }

    /// Takes note of a bad one.
    ///
    /// # Errors
    /// If bad records are errors.
    pub(super) fn bad(&mut self, line: u64, what: &str) -> Result<()> {
        if self.bad_are_errors() {
            return Err(self.fail(
                line,
                &format!("{what}; --bad-records skip leaves such records out"),
            ));
        }
        let place = format!("{} {} {line}", self.file.name, self.unit);
        self.left_out.note(&place, what);
        Ok(())
    }

    /// An error at a line or row of the file.
    pub(super) fn fail(&self, line: u64, what: &str) -> Error {
        Error::failed(format!("{} {} {line}: {what}", self.file.name, self.unit))
    }
}

/// What to do where the text is not in the field where it is looked for.
pub(super) fn no_field(what: &str, field: &str, names: &[String]) -> String {
    let names = names.join(", ");
    format!("no {what} \"{field}\" among [{names}]; name the one with the text by --text-field")
}

/// Words out of a file, cut behind so many bytes.
pub(super) fn shorten(words: &str, longest: usize) -> String {
    match words.len() > longest {
        true => format!("{}…", &words[..words.floor_char_boundary(longest)]),
        false => words.to_string(),
    }
}
