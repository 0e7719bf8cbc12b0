//! Which files make up a corpus, and how each of them is to be read.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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

/// What to read and how to cut it into documents.
///
/// Files are UTF-8 `.txt`, `.jsonl` (one object a line) or `.csv` (with a header line), each also
/// compressed as `.gz` or `.zst`. A file named directly may have any other name and is then read as
/// text; in a folder, files with other names are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusOptions {
    /// A file, or a folder that is read with everything below it in the order of the paths.
    pub path: PathBuf,
    /// Where a document of a `.txt` file ends.
    pub text_documents: TextDocuments,
    /// Field of a `.jsonl` object or column of a `.csv` file that holds the text.
    pub text_field: String,
    /// Drop every character outside ASCII; nothing is put in its place.
    pub ascii_only: bool,
}

/// Layout of a file, without its compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    JsonLines,
    Csv,
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
    /// Bytes on disk.
    pub size: u64,
    pub modified: Option<SystemTime>,
    pub format: Format,
    pub compression: Compression,
}

/// The files of the corpus in the order in which they are read.
///
/// # Errors
/// If the path does not exist, cannot be listed, or is a folder without any file that fits.
pub(super) fn list_files(path: &Path) -> Result<Vec<CorpusFile>> {
    let metadata = std::fs::metadata(path).map_err(|error| missing(path, error))?;
    if metadata.is_dir() {
        return list_directory(path);
    }
    if !metadata.is_file() {
        return Err(Error::invalid(format!(
            "dataset {} is neither a file nor a folder: tokens are cached, so it has to be one",
            path.display()
        )));
    }
    let (format, compression) = classify(path);
    let format = format.unwrap_or(Format::Text);
    Ok(vec![corpus_file(path, &metadata, format, compression)])
}

fn missing(path: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        Error::invalid(format!(
            "dataset {} does not exist: give the path of a .txt, .jsonl or .csv file (plain, .gz or .zst) or of a folder of them",
            path.display()
        ))
    } else {
        Error::io(path, "read", error)
    }
}

fn list_directory(root: &Path) -> Result<Vec<CorpusFile>> {
    let mut files = Vec::new();
    let mut skipped = 0_u64;
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for path in entries(&directory)? {
            let link = std::fs::symlink_metadata(&path)
                .map_err(|error| Error::io(&path, "read", error))?;
            if link.is_dir() {
                pending.push(path);
                continue;
            }
            // A link to a folder may lead back up, so only links to files are followed.
            let metadata =
                std::fs::metadata(&path).map_err(|error| Error::io(&path, "read", error))?;
            match classify(&path) {
                (Some(format), compression) if metadata.is_file() => {
                    files.push(corpus_file(&path, &metadata, format, compression));
                }
                _ => skipped += 1,
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    if files.is_empty() {
        return Err(Error::failed(format!(
            "dataset folder {} holds no .txt, .jsonl or .csv file (plain, .gz or .zst) among its {skipped} files",
            root.display()
        )));
    }
    if skipped > 0 {
        tracing::warn!(
            "dataset folder {}: {skipped} files left out, which are not .txt, .jsonl or .csv (plain, .gz or .zst)",
            root.display()
        );
    }
    Ok(files)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|error| Error::io(directory, "list", error))
}

fn corpus_file(
    path: &Path,
    metadata: &Metadata,
    format: Format,
    compression: Compression,
) -> CorpusFile {
    CorpusFile {
        path: path.to_path_buf(),
        size: metadata.len(),
        modified: metadata.modified().ok(),
        format,
        compression,
    }
}

/// Format and compression that the name of a file tells.
fn classify(path: &Path) -> (Option<Format>, Compression) {
    let compression = match extension(path).as_deref() {
        Some("gz") => Compression::Gzip,
        Some("zst") => Compression::Zstd,
        _ => Compression::None,
    };
    let inner = match compression {
        Compression::None => path.to_path_buf(),
        Compression::Gzip | Compression::Zstd => path.with_extension(""),
    };
    let format = match extension(&inner).as_deref() {
        Some("txt") => Some(Format::Text),
        Some("jsonl") => Some(Format::JsonLines),
        Some("csv") => Some(Format::Csv),
        _ => None,
    };
    (format, compression)
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let files = list_files(root).unwrap();
        let relative = |file: &CorpusFile| file.path.strip_prefix(root).unwrap().to_path_buf();
        files
            .iter()
            .map(|file| relative(file).display().to_string().replace('\\', "/"))
            .collect()
    }

    #[test]
    fn names_tell_format_and_compression() {
        let cases = [
            ("a.txt", Some(Format::Text), Compression::None),
            ("A.TXT.GZ", Some(Format::Text), Compression::Gzip),
            ("a.b.jsonl.zst", Some(Format::JsonLines), Compression::Zstd),
            ("a.csv", Some(Format::Csv), Compression::None),
            ("a.parquet", None, Compression::None),
            ("a.gz", None, Compression::Gzip),
            ("txt", None, Compression::None),
        ];
        for (name, format, compression) in cases {
            assert_eq!(classify(Path::new(name)), (format, compression), "{name}");
        }
    }

    #[test]
    fn folders_are_read_in_full_and_sorted() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("b/c")).unwrap();
        for name in [
            "z.txt",
            "b/c/x.csv",
            "b/a.jsonl.gz",
            "a.txt",
            "b/picture.png",
        ] {
            std::fs::write(root.path().join(name), "x").unwrap();
        }
        let expected = ["a.txt", "b/a.jsonl.gz", "b/c/x.csv", "z.txt"];
        assert_eq!(names(root.path()), expected);
    }

    #[test]
    fn a_folder_in_which_nothing_fits_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.png"), "x").unwrap();
        let error = list_files(root.path()).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("among its 1 files"), "{error}");
    }

    #[test]
    fn a_missing_path_is_a_bad_argument() {
        let error = list_files(Path::new("/no/such/corpus.txt")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("/no/such/corpus.txt"));
    }

    #[test]
    fn a_file_named_directly_may_have_any_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("README.md");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(list_files(&path).unwrap()[0].format, Format::Text);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_back_up_does_not_loop() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.txt"), "x").unwrap();
        std::os::unix::fs::symlink(root.path(), root.path().join("up")).unwrap();
        assert_eq!(names(root.path()), ["a.txt"]);
    }
}
