//! Under which name the tokens of a corpus are cached: whatever they depend on is in it.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use xxhash_rust::xxh3::Xxh3;

use crate::cache::PART_SUFFIX;
use crate::corpus::CorpusFile;
use crate::hash::hex_hash;
use aios_base::config::{ChatOptions, CorpusOptions};
use aios_base::error::{Error, Result};

/// To be counted up when the same text would give other tokens or another layout.
const FORMAT_VERSION: u8 = 3;
/// A file up to this size is looked at in full, a larger one at its beginning, its end, and places between.
const SMALL_BYTES: u64 = 128 << 10;
const END_BYTES: u64 = 16 << 10;
const MIDDLE_BYTES: u64 = 4 << 10;
const MIDDLES: u64 = 16;
/// A part that nobody holds and that is older than this was left behind by a program that was killed.
const YOUNG_PART: Duration = Duration::from_secs(60);
/// The same where it cannot be told whether somebody holds it.
const STALE_PART: Duration = Duration::from_secs(24 * 60 * 60);

/// Name of a cache file: what is read and how, then the state of the files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CacheName {
    corpus: String,
    state: String,
    /// What the names of the former formats began with.
    former: [String; 2],
}

impl CacheName {
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn new(
        options: &CorpusOptions,
        tokenizer_fingerprint: &str,
        files: &[CorpusFile],
    ) -> Result<Self> {
        let root = &options.path;
        let is_name = options.hub_name().is_some() || options.built_in().is_some();
        let canonical = match options.is_stdin() || is_name {
            true => root.clone(),
            false => std::fs::canonicalize(root).map_err(|error| Error::io(root, "read", error))?,
        };
        let settings = [
            options.text_documents as u8,
            u8::from(options.ascii_only),
            options.text_format as u8,
            options.csv_separator as u8,
            options.bad_records as u8,
        ];
        let place = canonical.as_os_str().as_encoded_bytes();
        let tokenizer = tokenizer_fingerprint.as_bytes();
        let field = options.text_field.as_bytes();
        let vocabulary = options.vocabulary.unwrap_or(0).to_le_bytes();
        let version = [FORMAT_VERSION];
        let mut parts = vec![
            &version[..],
            place,
            tokenizer,
            &settings,
            field,
            &vocabulary,
        ];
        let chat = options.chat.as_ref().map(of_chat).unwrap_or_default();
        parts.extend(chat.iter().map(String::as_bytes));
        let corpus = hex_hash(&parts);
        let former = [
            hex_hash(&[&[1], place, tokenizer, &settings[..2], field]),
            hex_hash(&[&[2], place, tokenizer, &settings, field]),
        ];
        let state = match options.is_stdin() {
            true => state_of_stream(files)?,
            false => state_of_files(root, files)?,
        };
        Ok(Self {
            corpus: corpus[..32].to_string(),
            state: state[..32].to_string(),
            former: former.map(|name| name[..32].to_string()),
        })
    }

    pub(super) fn file(&self) -> String {
        format!("{}-{}.tokens", self.corpus, self.state)
    }

    /// Removes from `directory` the tokens of earlier states of this corpus and stale parts. What
    /// cannot be removed stays: it only takes space.
    pub(super) fn remove_superseded(&self, directory: &Path) {
        let Ok(entries) = std::fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let superseded = name.starts_with(&self.corpus) && name != self.file();
            let former = self.former.iter().any(|former| name.starts_with(former));
            if superseded || former || (name.ends_with(PART_SUFFIX) && is_stale(&entry.path())) {
                std::fs::remove_file(entry.path()).ok();
            }
        }
    }
}

/// What tokens of conversations depend on besides.
fn of_chat(chat: &ChatOptions) -> Vec<String> {
    let template = chat.template.clone().unwrap_or_default();
    let tokens = chat.tokens.iter();
    let tokens = tokens.flat_map(|(name, token)| [name.clone(), token.clone()]);
    let how = [chat.form.as_str(), chat.train_on.as_str()].map(str::to_string);
    how.into_iter().chain([template]).chain(tokens).collect()
}

/// Whether the program that wrote a part is gone: it holds a lock on it as long as it lives.
fn is_stale(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|time| time.elapsed().ok());
    let older_than = |limit| age.is_some_and(|age| age > limit);
    match File::open(path).map(|file| file.try_lock()) {
        Ok(Ok(())) => older_than(YOUNG_PART),
        Ok(Err(TryLockError::WouldBlock)) => false,
        Ok(Err(TryLockError::Error(_))) | Err(_) => older_than(STALE_PART),
    }
}

/// What came in on standard input has no other state than its bytes.
fn state_of_stream(files: &[CorpusFile]) -> Result<String> {
    let mut hash = Xxh3::new();
    for file in files {
        File::open(&file.path)
            .and_then(|mut opened| io::copy(&mut opened, &mut Hashed(&mut hash)))
            .map_err(|error| Error::io(&file.path, "read", error))?;
    }
    Ok(hex_hash(&[&hash.digest128().to_le_bytes()]))
}

/// Sizes and times can be the same although the text is not: files are copied with their times, and written over within
/// one tick of the clock.
fn state_of_files(root: &Path, files: &[CorpusFile]) -> Result<String> {
    let mut state = Vec::new();
    for file in files {
        let relative = file.path.strip_prefix(root).unwrap_or(&file.path);
        let modified = file
            .modified
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.unwrap_or_default().as_nanos();
        let (number, seconds, nanoseconds) = file.identity.unwrap_or_default();
        let sample = sample(file).map_err(|error| Error::io(&file.path, "read", error))?;
        state.push(relative.as_os_str().as_encoded_bytes().to_vec());
        state.push(file.size.to_le_bytes().to_vec());
        state.push(modified.to_le_bytes().to_vec());
        state.push(
            [
                number.to_le_bytes(),
                seconds.to_le_bytes(),
                nanoseconds.to_le_bytes(),
            ]
            .concat(),
        );
        state.push(sample.to_le_bytes().to_vec());
    }
    let state: Vec<&[u8]> = state.iter().map(Vec::as_slice).collect();
    Ok(hex_hash(&state))
}

/// Hash of what a glance at the file shows.
fn sample(file: &CorpusFile) -> io::Result<u128> {
    let mut opened = File::open(&file.path)?;
    let mut hash = Xxh3::new();
    let mut look = |start: u64, length: u64| {
        opened.seek(SeekFrom::Start(start))?;
        io::copy(&mut (&mut opened).take(length), &mut Hashed(&mut hash))
    };
    if file.size <= SMALL_BYTES {
        look(0, SMALL_BYTES)?;
    } else {
        look(0, END_BYTES)?;
        look(file.size - END_BYTES, END_BYTES)?;
        for middle in 1..=MIDDLES {
            look(file.size / (MIDDLES + 1) * middle, MIDDLE_BYTES)?;
        }
    }
    Ok(hash.digest128())
}

/// A writer into a hash.
struct Hashed<'a>(&'a mut Xxh3);

impl io::Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path) -> CorpusFile {
        let mut file = CorpusFile::new(path, &std::fs::metadata(path).unwrap());
        // As on a system, or through a copy, that keeps all of it.
        (file.modified, file.identity) = (None, None);
        file
    }

    #[test]
    fn a_glance_sees_most_changes_of_the_same_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.txt");
        let text: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        for length in [100, 3_000_000] {
            let text = &text[..length];
            std::fs::write(&path, text).unwrap();
            let before = sample(&file(&path)).unwrap();
            assert_eq!(sample(&file(&path)).unwrap(), before);
            for at in [0, length - 1, length / 17 * 8 + 4] {
                let mut changed = text.to_vec();
                changed[at] ^= 1;
                std::fs::write(&path, &changed).unwrap();
                assert_ne!(sample(&file(&path)).unwrap(), before, "{at} of {length}");
            }
        }
    }

    #[test]
    fn a_part_is_stale_once_nobody_holds_it_and_it_is_old() {
        let part = tempfile::NamedTempFile::new().unwrap();
        let old = std::time::SystemTime::now() - 2 * YOUNG_PART;
        assert!(!is_stale(part.path()));
        part.as_file().set_modified(old).unwrap();
        assert!(is_stale(part.path()));
        part.as_file().lock_shared().unwrap();
        assert!(!is_stale(part.path()));
    }
}
