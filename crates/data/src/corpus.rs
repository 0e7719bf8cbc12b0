//! What to read of a corpus, and how.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::{builtin, datasets, folder};
use aios_base::background::{Watch, watched};
use aios_base::config::{CorpusOptions, STDIN_NAME};
use aios_base::error::{Error, Result, shown};

/// The files that are read in a folder, for messages.
pub(super) const KINDS: &str = ".txt, .jsonl, .json, .csv, .tsv or .parquet";

/// What the name of a file says about its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Text,
    /// One object a line, as far as the content does not tell otherwise.
    JsonLines,
    Json,
    Csv,
    Tsv,
    Parquet,
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

/// What `work` finds in the files of the corpus, on a thread of its own: folders may be large, or far away.
///
/// # Errors
/// The corpus is missing or cannot be listed; or what `work` and `watch` give.
pub(super) fn listed<T: Send + 'static>(
    options: &CorpusOptions,
    watch: &mut Watch,
    work: impl FnOnce(Listing, &CorpusOptions) -> Result<T> + Send + 'static,
) -> Result<T> {
    let owned = options.clone();
    watched(
        &options.name(),
        watch,
        || (0, 0),
        move || work(list_files(&owned)?, &owned),
    )
}

/// Whether there is anything where the corpus is to be: for those who have long work before they read it.
///
/// # Errors
/// There is not.
pub fn look_for(options: &CorpusOptions) -> Result<()> {
    if options.is_stdin() || options.hub_name().is_some() || options.built_in().is_some() {
        return Ok(());
    }
    let found = std::fs::metadata(&options.path);
    found
        .map(drop)
        .map_err(|error| missing(&options.path, error))
}

/// Bytes of the corpus, as its files have them: packed ones hold more.
///
/// # Errors
/// As there is nothing, or it cannot be listed.
pub fn size(options: &CorpusOptions) -> Result<u64> {
    let files = list_files(options)?.files;
    Ok(files.iter().map(|file| file.size).sum())
}

/// The files of the corpus.
///
/// # Errors
/// If the path does not exist, cannot be listed, or is a folder without any file that fits.
pub(super) fn list_files(options: &CorpusOptions) -> Result<Listing> {
    if options.is_stdin() {
        return standard_input(options).map(Listing::one);
    }
    if let Some(name) = options.hub_name() {
        return datasets::list(name).map(|files| Listing {
            files,
            left_out: None,
        });
    }
    if let Some(name) = options.built_in() {
        return builtin::text(name).map(Listing::one);
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
            "dataset {} does not exist: give the path of a {KINDS} file (plain, .gz or .zst) or of a folder of them, hf:OWNER/NAME \
             for a data set in the Hugging Face cache, or {}",
            shown(path),
            builtin::names()
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
        Some("parquet") => Some(Named::Parquet),
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
            ("a.parquet", Some(Named::Parquet), Compression::None),
            ("a.arrow", None, Compression::None),
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
