//! Data sets that the Hub's own tools have put into their cache. Nothing is downloaded.
//!
//! ```text
//! $HF_HOME/hub/datasets--OWNER--NAME/    ($HF_HUB_CACHE, ~/.cache/huggingface/hub)
//!   refs/main                            the commit
//!   snapshots/COMMIT/...                 the files
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::corpus::{CorpusFile, Named, classify};
use aios_base::config::HUB;
use aios_base::error::{Error, Result, shown};
use aios_hf::cache_folder;

/// The split that is meant if none is named.
const TRAIN: &str = "train";
/// What splits are called in the names of files and folders.
const SPLITS: [(&str, &[&str]); 3] = [
    (TRAIN, &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// Of a split that lies there in several formats, the first of these is read.
const FORMATS: [Named; 6] = [
    Named::Parquet,
    Named::JsonLines,
    Named::Json,
    Named::Csv,
    Named::Tsv,
    Named::Text,
];
/// Files that describe a data set.
const DESCRIPTIONS: [&str; 3] = ["dataset_infos.json", "dataset_info.json", "state.json"];
/// Folders in one another: more do not belong to a data set.
const DEEPEST: usize = 16;

/// The files of the data set of this name, without `hf:`.
///
/// # Errors
/// Names what was looked for, and where, if it is not there; or what there is to choose from.
pub(super) fn list(name: &str) -> Result<Vec<CorpusFile>> {
    list_in(&cache_folder(), name)
}

fn list_in(cache: &Path, name: &str) -> Result<Vec<CorpusFile>> {
    let wanted = Wanted::parse(name)?;
    let folder = cache.join(format!("datasets--{}", wanted.id.replace('/', "--")));
    let missing = |what: String| {
        Error::invalid(format!(
            "dataset {HUB}{name}: {what}; fetch it first, for example by `hf download --repo-type dataset {}`",
            wanted.id
        ))
    };
    let snapshot = snapshot(&folder)
        .ok_or_else(|| missing(format!("no snapshot of it in {}", shown(&folder))))?;
    let root = match &wanted.folder {
        Some(inner) => snapshot.join(inner),
        None => snapshot,
    };
    let mut found = Vec::new();
    walk(&root, &root, DEEPEST, &mut found);
    if found.is_empty() {
        return Err(missing(format!("no file of data in {}", shown(&root))));
    }
    // Files of which none tells a split are one to train on.
    if found.iter().all(|found| found.split.is_none()) {
        found
            .iter_mut()
            .for_each(|found| found.split = Some(TRAIN.to_string()));
    }
    let splits = names(found.iter().filter_map(|found| found.split.clone()));
    found.retain(|found| found.split.as_ref() == Some(&wanted.split));
    if found.is_empty() {
        return Err(missing(format!(
            "no split {} in {}, which has {splits}",
            wanted.split,
            shown(&root)
        )));
    }
    let parts: BTreeSet<_> = found.iter().map(|found| &found.part).collect();
    if parts.len() > 1 {
        let parts = names(
            parts
                .into_iter()
                .map(|part| format!("{HUB}{}/{part}", wanted.id)),
        );
        return Err(Error::invalid(format!(
            "dataset {HUB}{name} has several parts with a split {}: name one of {parts}",
            wanted.split
        )));
    }
    let format = FORMATS
        .iter()
        .find(|format| found.iter().any(|found| found.named == **format));
    found.retain(|found| Some(&found.named) == format);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let file = |found: Found| {
        let metadata = std::fs::metadata(&found.path);
        let metadata = metadata.map_err(|error| Error::io(&found.path, "read", error))?;
        Ok(CorpusFile::new(&found.path, &metadata))
    };
    found.into_iter().map(file).collect()
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    id: String,
    folder: Option<PathBuf>,
    split: String,
}

impl Wanted {
    fn parse(name: &str) -> Result<Self> {
        let (path, split) = name.split_once(':').unwrap_or((name, TRAIN));
        let plain = |part: &&str| {
            let letters = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(letters)
        };
        let parts: Vec<&str> = path.split('/').collect();
        if !parts.iter().all(plain) || !plain(&split) {
            return Err(Error::invalid(format!(
                "dataset {HUB}{name} is no name of a data set: use {HUB}OWNER/NAME, {HUB}OWNER/NAME:SPLIT or \
                 {HUB}OWNER/NAME/FOLDER:SPLIT"
            )));
        }
        let (id, folder) = parts.split_at(parts.len().min(2));
        Ok(Self {
            id: id.join("/"),
            folder: (!folder.is_empty()).then(|| folder.iter().collect()),
            split: canonical(split).unwrap_or(split).to_string(),
        })
    }
}

/// A file of data.
struct Found {
    path: PathBuf,
    named: Named,
    split: Option<String>,
    /// The folders above what tells the split.
    part: String,
}

/// Adds the files below `folder`; what cannot be listed holds none.
fn walk(root: &Path, folder: &Path, depth: usize, found: &mut Vec<Found>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_folder = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        match classify(&path).0 {
            _ if name.starts_with('.') || DESCRIPTIONS.contains(&&*name) => {}
            _ if is_folder && depth > 0 => walk(root, &path, depth - 1, found),
            Some(named) if path.is_file() => {
                let relative = path.strip_prefix(root).unwrap_or(&path);
                let (split, part) = split_of(relative);
                found.push(Found {
                    path,
                    named,
                    split,
                    part,
                });
            }
            _ => {}
        }
    }
}

/// The split that a file belongs to, and the folders above what tells it.
fn split_of(path: &Path) -> (Option<String>, String) {
    let components: Vec<String> = path
        .components()
        .map(|component| component.as_os_str().to_string_lossy().into_owned())
        .collect();
    let Some((file, folders)) = components.split_last() else {
        return (None, String::new());
    };
    let stem = file.split('.').next().unwrap_or(file);
    let parent = folders.join("/");
    if let Some(split) = before_shard(stem) {
        let split = canonical(split).unwrap_or(split);
        return (Some(split.to_string()), parent);
    }
    if let Some(split) = split_in(stem) {
        return (Some(split.to_string()), parent);
    }
    let told = (0..folders.len())
        .rev()
        .find_map(|at| Some((at, split_in(&folders[at])?)));
    match told {
        Some((at, split)) => (Some(split.to_string()), folders[..at].join("/")),
        None => (None, parent),
    }
}

/// `NAME` of `NAME-00000-of-00001`.
fn before_shard(stem: &str) -> Option<&str> {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    // Newer ones end in a part of a hash.
    let of = of.split('-').next().unwrap_or(of);
    (is_number(of) && is_number(number)).then_some(name)
}

/// The split that one of the words in `name` means.
fn split_in(name: &str) -> Option<&'static str> {
    name.split(|c: char| !c.is_ascii_alphabetic())
        .find_map(canonical)
}

fn canonical(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let found = SPLITS.iter().find(|(_, names)| names.contains(&&*name));
    found.map(|(split, _)| *split)
}

/// The folder of the newest snapshot.
fn snapshot(repository: &Path) -> Option<PathBuf> {
    let snapshots = repository.join("snapshots");
    let commit = std::fs::read_to_string(repository.join("refs").join("main"));
    if let Ok(commit) = commit {
        let main = snapshots.join(commit.trim());
        if main.is_dir() {
            return Some(main);
        }
    }
    let folders = std::fs::read_dir(snapshots).ok()?.flatten();
    let folders = folders
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    folders.max_by_key(|path| {
        std::fs::metadata(path)
            .and_then(|found| found.modified())
            .ok()
    })
}

fn names(names: impl Iterator<Item = String>) -> String {
    let names: BTreeSet<String> = names.collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache with these files in the one snapshot of `o/n`.
    fn cache(files: &[&str]) -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("datasets--o--n");
        for name in files {
            let path = repository.join("snapshots").join("abc").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs").join("main"), "abc").unwrap();
        cache
    }

    fn listed(files: &[&str], name: &str) -> Result<Vec<String>> {
        let cache = cache(files);
        let root = cache.path().join("datasets--o--n/snapshots/abc");
        let relative = |file: CorpusFile| {
            let path = file.path.strip_prefix(&root).unwrap().to_path_buf();
            path.display().to_string().replace('\\', "/")
        };
        list_in(cache.path(), name).map(|files| files.into_iter().map(relative).collect())
    }

    #[test]
    fn files_of_a_split_are_found_by_the_names_that_the_hub_uses() {
        let cases: [(&[&str], &str, &[&str]); 7] = [
            (
                &[
                    "README.md",
                    "dataset_infos.json",
                    "data/train-00001-of-00002.parquet",
                    "data/train-00000-of-00002.parquet",
                    "data/test-00000-of-00001.parquet",
                ],
                "o/n",
                &[
                    "data/train-00000-of-00002.parquet",
                    "data/train-00001-of-00002.parquet",
                ],
            ),
            (
                &["train.jsonl", "dev.jsonl"],
                "o/n:validation",
                &["dev.jsonl"],
            ),
            (
                &["my_train_file.csv", "my_test_file.csv"],
                "o/n:test",
                &["my_test_file.csv"],
            ),
            (
                &["train/0.json", "train/1.json", "test/0.json"],
                "o/n:train",
                &["train/0.json", "train/1.json"],
            ),
            (&["a.txt", "b.txt"], "o/n", &["a.txt", "b.txt"]),
            (
                &[
                    "data/train_sft-00000-of-00001-0a1b.parquet",
                    "data/test_sft-00000-of-00001-0a1b.parquet",
                ],
                "o/n:train_sft",
                &["data/train_sft-00000-of-00001-0a1b.parquet"],
            ),
            (
                &["en/train.parquet", "de/train.parquet", "de/train.csv"],
                "o/n/de",
                &["train.parquet"],
            ),
        ];
        for (files, name, expected) in cases {
            let root = if name.ends_with("/de") { "de/" } else { "" };
            let expected: Vec<_> = expected
                .iter()
                .map(|file| format!("{root}{file}"))
                .collect();
            assert_eq!(listed(files, name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let cases: [(&[&str], &str, &str); 5] = [
            (&["train.csv"], "o/m", "datasets--o--m"),
            (
                &["train.csv", "test.csv"],
                "o/n:validation",
                "no split validation",
            ),
            (
                &["train.csv", "test.csv"],
                "o/n:dev",
                "which has test, train",
            ),
            (&["README.md"], "o/n", "no file of data"),
            (&["a/train.csv", "b/train.csv"], "o/n", "hf:o/n/a, hf:o/n/b"),
        ];
        for (files, name, expected) in cases {
            let error = listed(files, name).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let error = error.to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
            assert!(error.contains(&format!("hf:{name}")), "{error}");
        }
    }

    #[test]
    fn names_stay_within_the_cache() {
        for name in ["", "../n", "o/..", "o/n:", "o//n", "o/n:../x", "/o/n"] {
            let error = Wanted::parse(name).unwrap_err().to_string();
            assert!(error.contains("hf:OWNER/NAME"), "{error}");
        }
        assert_eq!(Wanted::parse("squad").unwrap().id, "squad");
    }
}
