//! What to read of a corpus, and how.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::config::ChatOptions;
use crate::error::{Error, Result, shown};

/// The path that means standard input.
pub const STDIN: &str = "-";
/// What standard input is called in messages.
pub const STDIN_NAME: &str = "standard input";
/// What the name of a data set in the Hugging Face cache begins with.
pub const HUB: &str = "hf:";
/// What the name of a text or a tokenizer that is part of the program begins with.
pub const BUILT_IN: &str = "builtin:";

/// Where a document of a `.txt` file ends. `<|endoftext|>` ends one in any case, in any format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum TextDocuments {
    /// At a line that is empty or blank.
    #[default]
    Blank,
    /// At the end of each line.
    Line,
    /// At the end of the file.
    File,
    /// At the end of the file, of which every character counts: nothing is dropped or put in, and names of control tokens,
    /// `<|endoftext|>` too, are these tokens. So are the texts of records. An end of text stands between two files and
    /// after each record.
    Whole,
}

/// How the text lies in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum TextFormat {
    /// As the name and the content tell.
    #[default]
    Auto,
    /// All of the file is text.
    Text,
    /// JSON objects, one a line, one after the other or in an array.
    Json,
    /// A table with a header line.
    Csv,
    /// JSON objects with `input_ids`, and `labels` where they are not the same.
    Tokens,
}

/// What stands between the fields of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum CsvSeparator {
    /// The one with which the header has the column of the text.
    #[default]
    Auto,
    Comma,
    Semicolon,
    Tab,
    /// `|`
    Pipe,
}

/// What becomes of a record that cannot be understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum BadRecords {
    /// It is an error.
    #[default]
    Error,
    /// It is left out and counted.
    Skip,
}

/// What to read and how to cut it into documents.
///
/// A file is text, JSON objects (`.jsonl`, `.ndjson`, `.jsonlines`, `.json`) or a table with a header
/// line (`.csv`, `.tsv`), in UTF-8 or UTF-16, also compressed by gzip or zstd; or a Parquet table
/// (`.parquet`). Compression, encoding and Parquet are told by the content alone, the format by the content
/// where the name says nothing or something that is plainly wrong; what is none of these is refused by its
/// name. In a folder, files with other names are left out, and so is what is hidden.
///
/// JSON objects may hold the ids of tokens instead of text: `input_ids`, and `labels` of the same length, in
/// which -100 marks what is not to be learnt. Label `t` belongs to id `t`, so that the first one is never
/// predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusOptions {
    /// A file, a folder that is read with everything below it in the order of the paths, [`STDIN`], or
    /// `hf:OWNER/NAME[/FOLDER][:SPLIT]`: the files of a split (`train`) of a data set in the Hugging Face cache; or
    /// `builtin:NAME`, a text that is part of the program.
    pub path: PathBuf,
    /// Where a document of a text file ends.
    pub text_documents: TextDocuments,
    /// Field of a JSON object or column of a table that holds the text; a field inside a field as `a.b`.
    pub text_field: String,
    /// How the text lies in the files.
    pub text_format: TextFormat,
    /// What stands between the fields of a table.
    pub csv_separator: CsvSeparator,
    /// What becomes of a bad JSON object or row.
    pub bad_records: BadRecords,
    /// Drop every character outside ASCII; nothing is put in its place.
    pub ascii_only: bool,
    /// Ids that rows of tokens may hold are below it. `None`: below the tokenizer's number of ids.
    pub vocabulary: Option<u32>,
    /// Files and folders that this program writes, to be left out of a folder that is read.
    pub leave_out: Vec<PathBuf>,
    /// Where what came in on standard input was put, if another process read it.
    pub stdin: Option<PathBuf>,
    /// The records are conversations, or prompts and what completes them, which become rows of tokens.
    pub chat: Option<ChatOptions>,
}

impl CorpusOptions {
    /// The defaults for the text in `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            text_documents: TextDocuments::default(),
            text_field: "text".to_string(),
            text_format: TextFormat::default(),
            csv_separator: CsvSeparator::default(),
            bad_records: BadRecords::default(),
            ascii_only: false,
            vocabulary: None,
            leave_out: Vec::new(),
            stdin: None,
            chat: None,
        }
    }

    /// The path in words.
    pub fn name(&self) -> String {
        match self.is_stdin() {
            true => STDIN_NAME.to_string(),
            false => shown(&self.path),
        }
    }

    /// What stands behind `hf:`, if it is a data set in the Hugging Face cache.
    pub fn hub_name(&self) -> Option<&str> {
        self.path.to_str()?.strip_prefix(HUB)
    }

    /// What stands behind `builtin:`, if it is a text of the program's own.
    pub fn built_in(&self) -> Option<&str> {
        self.path.to_str()?.strip_prefix(BUILT_IN)
    }

    /// Whether it is standard input.
    pub fn is_stdin(&self) -> bool {
        self.path == Path::new(STDIN)
    }
}

/// Whether a text is to be read from standard input.
///
/// # Errors
/// If two are: there is only one (exit code 2). `flags` are their names.
pub fn wants_stdin(paths: [Option<&Path>; 2], flags: [&str; 2]) -> Result<bool> {
    match paths.map(|path| path == Some(Path::new(STDIN))) {
        [true, true] => Err(Error::invalid(format!(
            "{} - and {} - both read standard input: give a file to one of them",
            flags[0], flags[1]
        ))),
        [one, other] => Ok(one || other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_text_can_come_in() {
        let flags = ["--a", "--b"];
        let (stdin, file) = (Some(Path::new("-")), Some(Path::new("./-")));
        assert!(wants_stdin([stdin, None], flags).unwrap());
        assert!(wants_stdin([file, stdin], flags).unwrap());
        assert!(!wants_stdin([file, None], flags).unwrap());
        let error = wants_stdin([stdin, stdin], flags).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
