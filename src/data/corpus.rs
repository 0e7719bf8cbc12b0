//! What to read of a corpus, and how.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::folder;
use crate::error::{Error, Result, shown};

/// The path that means standard input.
pub const STDIN: &str = "-";
/// What standard input is called in messages.
const STDIN_NAME: &str = "standard input";
/// The files that are read in a folder, for messages.
pub(super) const KINDS: &str = ".txt, .jsonl, .json, .csv or .tsv";

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
/// line (`.csv`, `.tsv`), in UTF-8 or UTF-16, also compressed by gzip or zstd. Compression and encoding
/// are told by the content alone, the format by the content where the name says nothing or something
/// that is plainly wrong; what is none of these is refused by its name. In a folder, files with other
/// names are left out, and so is what is hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusOptions {
    /// A file, a folder that is read with everything below it in the order of the paths, or [`STDIN`].
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
    /// Files and folders that this program writes, to be left out of a folder that is read.
    pub leave_out: Vec<PathBuf>,
    /// Where what came in on standard input was put, if another process read it.
    pub stdin: Option<PathBuf>,
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
            leave_out: Vec::new(),
            stdin: None,
        }
    }

    /// The path in words.
    pub(super) fn name(&self) -> String {
        match self.is_stdin() {
            true => STDIN_NAME.to_string(),
            false => shown(&self.path),
        }
    }

    pub(super) fn is_stdin(&self) -> bool {
        self.path == Path::new(STDIN)
    }
}

/// What the name of a file says about its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Text,
    /// One object a line, as far as the content does not tell otherwise.
    JsonLines,
    Json,
    Csv,
    Tsv,
}

/// Compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// One file of a corpus.
#[derive(Clone, Debug)]
pub(super) struct CorpusFile {
    pub path: PathBuf,
    /// The path, or what stands for it, in messages.
    pub name: String,
    /// Bytes on disk.
    pub size: u64,
    pub modified: Option<SystemTime>,
    /// Number of the file and time of its last change of any kind, where the system has them.
    pub identity: Option<(u64, i64, i64)>,
    /// Layout and compression that the name claims.
    pub named: Option<Named>,
    pub compression: Compression,
}

impl CorpusFile {
    pub(super) fn new(path: &Path, metadata: &Metadata) -> Self {
        let (named, compression) = classify(path);
        Self {
            path: path.to_path_buf(),
            name: shown(path),
            size: metadata.len(),
            modified: metadata.modified().ok(),
            identity: identity(metadata),
            named,
            compression,
        }
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Option<(u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<(u64, i64, i64)> {
    None
}

/// The files of a corpus in the order in which they are read.
#[derive(Debug)]
pub(super) struct Listing {
    pub files: Vec<CorpusFile>,
    /// What in a folder is not read, in words, if there is anything.
    pub left_out: Option<String>,
}

impl Listing {
    fn one(file: CorpusFile) -> Self {
        Self {
            files: vec![file],
            left_out: None,
        }
    }
}

/// The files of the corpus.
///
/// # Errors
/// If the path does not exist, cannot be listed, or is a folder without any file that fits.
pub(super) fn list_files(options: &CorpusOptions) -> Result<Listing> {
    if options.is_stdin() {
        return standard_input(options).map(Listing::one);
    }
    let path = &options.path;
    let metadata = std::fs::metadata(path).map_err(|error| missing(path, error))?;
    if metadata.is_dir() {
        return folder::list(options);
    }
    if !metadata.is_file() {
        return Err(Error::invalid(format!(
            "dataset {} is neither a file nor a folder: give one, or pipe the text into {STDIN_NAME} and give -",
            shown(path)
        )));
    }
    Ok(Listing::one(CorpusFile::new(path, &metadata)))
}

fn standard_input(options: &CorpusOptions) -> Result<CorpusFile> {
    let path = options.stdin.as_deref().ok_or_else(|| {
        Error::failed("internal error: standard input was not put aside; please report it")
    })?;
    let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, "read", error))?;
    Ok(CorpusFile {
        name: STDIN_NAME.to_string(),
        named: None,
        compression: Compression::None,
        ..CorpusFile::new(path, &metadata)
    })
}

fn missing(path: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        Error::invalid(format!(
            "dataset {} does not exist: give the path of a {KINDS} file (plain, .gz or .zst) or of a folder of them",
            shown(path)
        ))
    } else {
        Error::io(path, "read", error)
    }
}

/// Layout and compression that the name of a file tells.
pub(super) fn classify(path: &Path) -> (Option<Named>, Compression) {
    let compression = match extension(path).as_deref() {
        Some("gz" | "gzip") => Compression::Gzip,
        Some("zst" | "zstd") => Compression::Zstd,
        _ => Compression::None,
    };
    let inner = match compression {
        Compression::None => path.to_path_buf(),
        Compression::Gzip | Compression::Zstd => path.with_extension(""),
    };
    let named = match extension(&inner).as_deref() {
        Some("txt") => Some(Named::Text),
        Some("jsonl" | "ndjson" | "jsonlines") => Some(Named::JsonLines),
        Some("json") => Some(Named::Json),
        Some("csv") => Some(Named::Csv),
        Some("tsv") => Some(Named::Tsv),
        _ => None,
    };
    (named, compression)
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_layout_and_compression() {
        let cases = [
            ("a.txt", Some(Named::Text), Compression::None),
            ("A.TXT.GZ", Some(Named::Text), Compression::Gzip),
            ("a.b.jsonl.zst", Some(Named::JsonLines), Compression::Zstd),
            ("a.ndjson", Some(Named::JsonLines), Compression::None),
            ("a.json", Some(Named::Json), Compression::None),
            ("a.csv", Some(Named::Csv), Compression::None),
            ("a.tsv.gz", Some(Named::Tsv), Compression::Gzip),
            ("a.parquet", None, Compression::None),
            ("a.gz", None, Compression::Gzip),
            ("txt", None, Compression::None),
        ];
        for (name, named, compression) in cases {
            assert_eq!(classify(Path::new(name)), (named, compression), "{name}");
        }
    }

    #[test]
    fn a_missing_path_is_a_bad_argument() {
        let error = list_files(&CorpusOptions::new("/no/such/corpus.txt")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("/no/such/corpus.txt"));
    }

    #[test]
    fn a_file_named_directly_may_have_any_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("README.md");
        std::fs::write(&path, "x").unwrap();
        let files = list_files(&CorpusOptions::new(&path)).unwrap().files;
        assert_eq!((files.len(), files[0].named), (1, None));
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_is_a_bad_argument() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.txt");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = list_files(&CorpusOptions::new(&path)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains("neither a file nor a folder"),
            "{error}"
        );
    }
}
