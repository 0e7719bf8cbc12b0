//! Which files of a folder belong to a corpus.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::corpus::{Compression, CorpusFile, KINDS, Listing, Named, classify};
use crate::json;
use aios_base::config::{CorpusOptions, TextFormat};
use aios_base::error::{Error, Result, shown};

/// The list of a bundle's files, and the folder in a bundle that holds its checkpoints.
const MANIFEST: &str = "manifest.json";
const CHECKPOINTS: &str = "checkpoints";
/// A larger file is not looked into before it is read.
const LOOKED_INTO: u64 = 1 << 20;
/// How much of a file is read to see whether it is a metrics file: its first line.
const FIRST_LINE: u64 = 64 << 10;
/// Events of the metrics file.
const EVENTS: [&str; 9] = [
    "start",
    "step",
    "eval",
    "checkpoint",
    "oom_backoff",
    "fallback",
    "resume",
    "sample",
    "end",
];

/// The files of the corpus in the folder of `options`, in the order of their paths, and what was left out, in words.
///
/// # Errors
/// If a folder cannot be listed, a file that would be read cannot be looked at, or no file fits.
pub(super) fn list(options: &CorpusOptions) -> Result<Listing> {
    let root = &options.path;
    let canonical = std::fs::canonicalize(root).map_err(|error| Error::io(root, "read", error))?;
    let mut walk = Walk {
        options,
        outputs: outputs(options, &canonical),
        files: Vec::new(),
        left_out: LeftOut::default(),
        pending: vec![(root.clone(), canonical)],
    };
    while let Some((folder, canonical)) = walk.pending.pop() {
        for path in entries(&folder)? {
            walk.entry(path, &canonical)?;
        }
    }
    walk.files.sort_by(|a, b| a.path.cmp(&b.path));
    if walk.files.is_empty() {
        return Err(nothing(root, &walk.left_out));
    }
    let left_out = (!walk.left_out.is_empty()).then(|| {
        let left_out = walk.left_out.in_words();
        format!("dataset folder {}: left out: {left_out}", shown(root))
    });
    Ok(Listing {
        files: walk.files,
        left_out,
    })
}

fn nothing(root: &Path, left_out: &LeftOut) -> Error {
    let left_out = match left_out.is_empty() {
        true => String::new(),
        false => format!("; left out: {}", left_out.in_words()),
    };
    Error::failed(format!(
        "dataset folder {} holds no {KINDS} file (plain, .gz or .zst) to read{left_out}",
        shown(root)
    ))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|error| Error::io(folder, "list", error))
}

/// Why something in a folder is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Hidden,
    Unknown,
    LinkToNothing,
    LinkToFolder,
    Special,
    Output,
    Bundle,
    Metrics,
    NoRecords,
}

impl Reason {
    fn in_words(self) -> String {
        match self {
            Self::Hidden => "hidden (a name that begins with a dot)".to_string(),
            Self::Unknown => format!("of other kinds than {KINDS} (plain, .gz or .zst)"),
            Self::LinkToNothing => "linked to nothing".to_string(),
            Self::LinkToFolder => "linked to a folder".to_string(),
            Self::Special => "neither file nor folder".to_string(),
            Self::Output => "written by this run".to_string(),
            Self::Bundle => "of this program's bundles".to_string(),
            Self::Metrics => "of this program's metrics".to_string(),
            Self::NoRecords => "of JSON without the field of the text".to_string(),
        }
    }
}

/// What is not read, counted.
#[derive(Default)]
struct LeftOut(BTreeMap<Reason, (u64, String)>);

impl LeftOut {
    fn add(&mut self, reason: Reason, path: &Path) {
        let (count, _) = self.0.entry(reason).or_insert_with(|| (0, shown(path)));
        *count += 1;
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts, each with the first one found.
    fn in_words(&self) -> String {
        let each = self.0.iter().map(|(reason, (count, first))| {
            format!(
                "{count} {} ({first}{})",
                reason.in_words(),
                match count {
                    1 => "",
                    _ => " and others",
                }
            )
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

struct Walk<'a> {
    options: &'a CorpusOptions,
    /// Canonical paths of what this program writes.
    outputs: Vec<PathBuf>,
    files: Vec<CorpusFile>,
    left_out: LeftOut,
    /// Folders to list, as they are named and canonical.
    pending: Vec<(PathBuf, PathBuf)>,
}

impl Walk<'_> {
    fn entry(&mut self, path: PathBuf, folder: &Path) -> Result<()> {
        match self.reason(&path, folder)? {
            Some(reason) => self.left_out.add(reason, &path),
            None if path.is_dir() => {
                let canonical = folder.join(path.file_name().unwrap_or_default());
                self.pending.push((path, canonical));
            }
            None => {
                let metadata =
                    std::fs::metadata(&path).map_err(|error| Error::io(&path, "read", error))?;
                self.files.push(CorpusFile::new(&path, &metadata));
            }
        }
        Ok(())
    }

    /// Why `path` is not read, if it is not. `folder` is the canonical path of the folder it is in.
    fn reason(&self, path: &Path, folder: &Path) -> Result<Option<Reason>> {
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(b".") {
            return Ok(Some(Reason::Hidden));
        }
        let (named, compression) = classify(path);
        let fail = |error| Err(Error::io(path, "read", error));
        let link = match std::fs::symlink_metadata(path) {
            Ok(link) => link,
            Err(_) if named.is_none() => return Ok(Some(Reason::Unknown)),
            Err(error) => return fail(error),
        };
        if link.is_dir() {
            return Ok(self.folder_reason(path, &folder.join(name)));
        }
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if link.is_symlink() && error.kind() != ErrorKind::PermissionDenied => {
                return Ok(Some(Reason::LinkToNothing));
            }
            Err(_) if named.is_none() => return Ok(Some(Reason::Unknown)),
            Err(error) => return fail(error),
        };
        // A link to a folder may lead back up, so only links to files are followed.
        if metadata.is_dir() {
            return Ok(Some(Reason::LinkToFolder));
        }
        if !metadata.is_file() {
            return Ok(Some(Reason::Special));
        }
        let Some(named) = named else {
            return Ok(Some(Reason::Unknown));
        };
        if self.is_output(path, &folder.join(name), link.is_symlink()) {
            return Ok(Some(Reason::Output));
        }
        match (named, compression) {
            (Named::Json, Compression::None) => self.json_reason(path, metadata.len(), true),
            (Named::JsonLines, Compression::None) => self.json_reason(path, metadata.len(), false),
            _ => Ok(None),
        }
    }

    fn folder_reason(&self, path: &Path, canonical: &Path) -> Option<Reason> {
        if self.is_output(path, canonical, false) {
            return Some(Reason::Output);
        }
        bundle_files(path).map(|_| Reason::Bundle)
    }

    fn is_output(&self, path: &Path, canonical: &Path, is_link: bool) -> bool {
        if self.outputs.is_empty() {
            return false;
        }
        let followed = is_link.then(|| std::fs::canonicalize(path).ok()).flatten();
        let canonical = followed.as_deref().unwrap_or(canonical);
        self.outputs
            .iter()
            .any(|output| canonical.starts_with(output))
    }

    /// A JSON file that is not meant as data: metrics of ours, or, if `is_one`
    /// value, the settings and
    /// descriptions that lie beside data.
    fn json_reason(&self, path: &Path, size: u64, is_one: bool) -> Result<Option<Reason>> {
        if matches!(self.options.text_format, TextFormat::Text | TextFormat::Csv) {
            return Ok(None);
        }
        let field = &self.options.text_field;
        let first_line = head(path, FIRST_LINE)?;
        let line = first_line.split(|&byte| byte == b'\n').next();
        if line.is_some_and(|line| is_metrics(line, field)) {
            return Ok(Some(Reason::Metrics));
        }
        let is_object = first_line.trim_ascii_start().starts_with(b"{");
        if !is_object || !is_one || size > LOOKED_INTO {
            return Ok(None);
        }
        let lone = json::lacks_field(&head(path, LOOKED_INTO)?, field);
        Ok(lone.then_some(Reason::NoRecords))
    }
}

/// The first `length` bytes of a file.
fn head(path: &Path, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(length).read_to_end(&mut bytes))
        .map_err(|error| Error::io(path, "read", error))?;
    Ok(bytes)
}

/// Whether `line` is one of this program's metrics file, and not a record that only resembles it.
fn is_metrics(line: &[u8], field: &str) -> bool {
    #[derive(Deserialize)]
    struct Line {
        event: String,
        #[serde(rename = "time")]
        _time: String,
    }
    serde_json::from_slice::<Line>(line).is_ok_and(|found| {
        let is_event = EVENTS.contains(&found.event.as_str());
        is_event && (found.event == "sample" || json::lacks_field(line, field))
    })
}

/// What this program writes, as canonical paths: what the caller names, and where `root` is a bundle, its files.
fn outputs(options: &CorpusOptions, root: &Path) -> Vec<PathBuf> {
    let named = options.leave_out.iter();
    let mut outputs: Vec<PathBuf> = named
        .filter_map(|path| std::fs::canonicalize(path).ok())
        // The folder that is to be read is more than what is written into it.
        .filter(|path| !root.starts_with(path))
        .collect();
    if let Some(files) = bundle_files(root) {
        outputs.extend([MANIFEST, CHECKPOINTS].map(|name| root.join(name)));
        outputs.extend(files.iter().map(|name| root.join(name)));
    }
    outputs
}

/// The files that the manifest of a bundle names, if `folder` is one.
fn bundle_files(folder: &Path) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(rename = "format")]
        _format: u64,
        #[serde(rename = "sequence")]
        _sequence: u64,
        files: BTreeMap<String, IgnoredAny>,
    }
    let path = folder.join(MANIFEST);
    if !path.is_file() {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&head(&path, LOOKED_INTO).ok()?).ok()?;
    Some(manifest.files.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    fn names_of(options: &CorpusOptions) -> Vec<String> {
        let root = &options.path;
        let relative = |file: CorpusFile| file.path.strip_prefix(root).unwrap().to_path_buf();
        list(options)
            .unwrap()
            .files
            .into_iter()
            .map(|file| relative(file).display().to_string().replace('\\', "/"))
            .collect()
    }

    fn names(root: &Path) -> Vec<String> {
        names_of(&CorpusOptions::new(root))
    }

    #[test]
    fn folders_are_read_in_full_and_sorted() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "z.txt",
            "b/c/x.csv",
            "b/a.jsonl.gz",
            "b/n.ndjson",
            "b/t.tsv",
            "a.txt",
            "b/picture.png",
        ] {
            write(root.path(), &[(name, "x")]);
        }
        let expected = [
            "a.txt",
            "b/a.jsonl.gz",
            "b/c/x.csv",
            "b/n.ndjson",
            "b/t.tsv",
            "z.txt",
        ];
        assert_eq!(names(root.path()), expected);
    }

    #[test]
    fn what_is_hidden_is_left_out_but_not_a_hidden_root() {
        let root = tempfile::tempdir().unwrap();
        let hidden = root.path().join(".data");
        write(
            &hidden,
            &[
                ("a.txt", "x"),
                ("._a.txt", "\0\u{5}"),
                (".git/b.txt", "x"),
                (".ipynb_checkpoints/a-checkpoint.txt", "x"),
            ],
        );
        assert_eq!(names(&hidden), ["a.txt"]);
    }

    #[test]
    fn a_folder_in_which_nothing_fits_is_an_error_with_the_counts() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[("a.png", "x"), ("b.png", "x"), (".c.txt", "x")],
        );
        let error = list(&CorpusOptions::new(root.path())).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        assert!(
            text.contains("1 hidden") && text.contains("2 of other kinds"),
            "{text}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_and_special_files_are_no_obstacle() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &[("a.txt", "x")]);
        symlink(root.path(), root.path().join("up")).unwrap();
        symlink("nowhere", root.path().join("gone.txt")).unwrap();
        symlink("loop.txt", root.path().join("loop.txt")).unwrap();
        symlink("a.txt", root.path().join("b.txt")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("s.txt")).unwrap();
        assert_eq!(names(root.path()), ["a.txt", "b.txt"]);
    }

    const MANIFEST_TEXT: &str = r#"{"format":1,"sequence":3,"step":2,"files":{"trainer.json":{"bytes":1,"xxh3":"0"},"tokenizer/x.json":{"bytes":1,"xxh3":"0"}},"xxh3":"0"}"#;

    #[test]
    fn outputs_of_this_program_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("a.txt", "x"),
                ("run.jsonl", "{\"text\":\"x\"}"),
                ("board/b.txt", "x"),
                ("boards/c.txt", "x"),
                ("brain/manifest.json", MANIFEST_TEXT),
                ("brain/notes.txt", "x"),
                (
                    "old.jsonl",
                    "{\"time\":\"2026\",\"event\":\"start\",\"device\":\"cpu\"}\n",
                ),
                (
                    "events.jsonl",
                    "{\"time\":\"2026\",\"event\":\"start\",\"text\":\"mine\"}\n",
                ),
            ],
        );
        let mut options = CorpusOptions::new(root.path());
        options.leave_out = ["run.jsonl", "board", "nothing"]
            .map(|name| root.path().join(name))
            .to_vec();
        assert_eq!(
            names_of(&options),
            ["a.txt", "boards/c.txt", "events.jsonl"]
        );
    }

    /// As with `--dataset-file data --save-dir data`.
    #[test]
    fn a_root_that_became_a_bundle_is_read_without_it() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("a.txt", "x"),
                ("manifest.json", MANIFEST_TEXT),
                ("trainer.json", "{\"text\":\"x\"}"),
                ("tokenizer/x.json", "{\"text\":\"x\"}"),
                ("checkpoints/step-000002/notes.txt", "x"),
            ],
        );
        let mut options = CorpusOptions::new(root.path());
        options.leave_out = vec![root.path().to_path_buf()];
        assert_eq!(names_of(&options), ["a.txt"]);
    }

    #[test]
    fn descriptions_beside_the_data_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("dataset_info.json", "{\n \"splits\": {}\n}\n"),
                ("one.json", "{\"text\": \"x\"}"),
                ("many.json", "{\"a\": 1}\n{\"a\": 2}\n"),
                ("list.json", "[{\"a\": 1}]"),
                ("line.jsonl", "{\"a\": 1}\n"),
            ],
        );
        let expected = ["line.jsonl", "list.json", "many.json", "one.json"];
        assert_eq!(names(root.path()), expected);
    }
}
