//! The tokens of a corpus on disk: made once, then mapped into memory.

mod build;
mod name;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Once;

use memmap2::Mmap;
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};

use crate::corpus::{Listing, listed};
use crate::hash::{hex, hex_hash};
use crate::stdin::Spool;
use crate::tokenizer::Tokenizer;
use aios_base::background::Watch;
use aios_base::cache;
use aios_base::config::CorpusOptions;
use aios_base::error::{Error, Result, shown};
use aios_base::micro_batch::IGNORE;
use name::CacheName;

const MAGIC: [u8; 8] = *b"aiostok\x03";
const HEADER_BYTES: usize = 152;
const PART_SUFFIX: &str = ".part";
/// Cached tokens up to this size are hashed at each start, which then still is instant.
const HASHED_BYTES: usize = 64 << 20;
/// How much of it between two questions whether to go on.
const HASHED_AT_ONCE: usize = 4 << 20;

/// All tokens of a corpus in a file that is mapped into memory: after the header the ids, in a corpus of rows as many labels,
/// and of each document the place where it ends, as a u64.
///
/// Documents of text have an end-of-text token after them, unless they are whole files; rows are what they were.
#[derive(Debug)]
pub struct TokenCache {
    // Before `temporary`: a mapped file cannot be deleted on every system.
    map: Mmap,
    header: Header,
    fingerprint: String,
    path: PathBuf,
    reused: bool,
    /// What each id is below, and the id that stands in for one that is not.
    vocabulary: u32,
    end_of_text: u32,
    damage_told: Once,
    _temporary: Option<TempPath>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    /// Bytes of a token or label: 2 or 4.
    width: usize,
    /// Documents are rows of tokens, which have labels.
    rows: bool,
    tokens: usize,
    documents: usize,
    bytes: u64,
    /// Bad records that were left out.
    left_out: u64,
    /// SHA-256 of the tokens.
    hash: [u8; 32],
    /// SHA-256 of what follows them.
    rest: [u8; 32],
}

impl TokenCache {
    /// Maps the tokens of the corpus, after making them if none are cached for these files, their
    /// sizes and times, this tokenizer and these options.
    ///
    /// The folder is `$AIOS_CACHE_DIR`, else `aios/tokens` in the user's cache folder; where it
    /// cannot be written, a temporary file stands in, with a warning. `watch` is told the bytes
    /// read from disk so far and in all; a corpus that is cached is not read. Memory use does not
    /// grow with the corpus.
    ///
    /// # Errors
    /// If the corpus is missing, unreadable, malformed or without text, or the disk is full.
    pub fn open_or_build(
        options: &CorpusOptions,
        tokenizer: &Tokenizer,
        watch: &mut Watch,
    ) -> Result<Self> {
        Self::open_or_build_in(&directory(), options, tokenizer, watch)
    }

    /// [`TokenCache::open_or_build`] with the cache in the folder `directory`.
    ///
    /// # Errors
    /// As there.
    pub fn open_or_build_in(
        directory: &Path,
        options: &CorpusOptions,
        tokenizer: &Tokenizer,
        watch: &mut Watch,
    ) -> Result<Self> {
        if options.is_stdin() && options.stdin.is_none() {
            let spool = Spool::of_stdin(watch)?;
            let options = CorpusOptions {
                stdin: Some(spool.path().to_path_buf()),
                ..options.clone()
            };
            return Self::open_or_build_in(directory, &options, tokenizer, watch);
        }
        let vocabulary = vocabulary(options, tokenizer);
        let (listing, name) = look(options, tokenizer, watch)?;
        if let Some(left_out) = &listing.left_out {
            tracing::warn!("{left_out}");
        }
        let path = directory.join(name.file());
        if path.exists() {
            match Self::open(&path, tokenizer, vocabulary, None)
                .and_then(|cache| cache.reuse(options, watch))
            {
                Err(error @ Error::Stopped) => return Err(error),
                Err(error) => tracing::warn!("{error}: it is made again"),
                cache => return cache,
            }
        }
        let mut part = create_part(directory, "building-")?;
        build::build(listing.files, options, tokenizer, &mut part, watch)?;
        if look(options, tokenizer, watch)?.1 != name {
            tracing::warn!(
                "dataset {} was changed while it was read: this run may train on parts of both, and the next one reads \
                 it again",
                options.name()
            );
            return Self::open_temporary(part, tokenizer, vocabulary);
        }
        match part.persist(&path) {
            Ok(file) => {
                drop(file);
                name.remove_superseded(directory);
                Self::open(&path, tokenizer, vocabulary, None)
            }
            Err(error) => {
                tracing::debug!("{} stays where it is: {}", shown(&path), error.error);
                Self::open_temporary(error.file, tokenizer, vocabulary)
            }
        }
    }

    /// Maps tokens that are gone with this.
    fn open_temporary(part: NamedTempFile, tokenizer: &Tokenizer, vocabulary: u32) -> Result<Self> {
        let part = part.into_temp_path();
        let path = part.to_path_buf();
        Self::open(&path, tokenizer, vocabulary, Some(part))
    }

    fn open(
        path: &Path,
        tokenizer: &Tokenizer,
        vocabulary: u32,
        temporary: Option<TempPath>,
    ) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, "read", error))?;
        // SAFETY: a cache file is written under another name and never changed once it has this one.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| Error::io(path, "map", error))?;
        let header = Header::decode(&map).ok_or_else(|| damaged(path))?;
        Ok(Self {
            map,
            header,
            fingerprint: header.fingerprint(),
            path: path.to_path_buf(),
            reused: false,
            vocabulary,
            end_of_text: tokenizer.end_of_text(),
            damage_told: Once::new(),
            _temporary: temporary,
        })
    }

    /// Checks tokens that an earlier start has left, as far as that does not hold up this one.
    fn reuse(mut self, options: &CorpusOptions, watch: &mut Watch) -> Result<Self> {
        let data = &self.map[HEADER_BYTES..];
        if data.len() <= HASHED_BYTES {
            let (tokens, rest) = data.split_at(self.header.tokens * self.header.width);
            for (data, expected) in [(tokens, self.header.hash), (rest, self.header.rest)] {
                let mut hash = Sha256::new();
                for part in data.chunks(HASHED_AT_ONCE) {
                    hash.update(part);
                    watch(0, 0)?;
                }
                if hash.finalize()[..] != expected {
                    return Err(damaged(&self.path));
                }
            }
        }
        if self.header.left_out > 0 {
            tracing::warn!(
                "dataset {}: {} bad records were left out when its tokens were cached",
                options.name(),
                self.header.left_out
            );
        }
        self.reused = true;
        Ok(self)
    }

    /// Number of tokens, those that end documents included.
    pub fn len(&self) -> usize {
        self.header.tokens
    }

    /// Never true: a corpus without text is an error.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.header.documents
    }

    /// Whether the documents are rows of tokens that came with their labels.
    pub fn holds_rows(&self) -> bool {
        self.header.rows
    }

    /// Where the tokens of the document of this number, below [`TokenCache::documents`], lie: within `0..len()`, even if
    /// the file went bad.
    pub fn document(&self, number: usize) -> Range<usize> {
        let ends = &self.map[HEADER_BYTES + self.header.ends_at()..];
        let (ends, _) = ends.as_chunks();
        let end = |number: usize| {
            let end = usize::try_from(u64::from_le_bytes(ends[number]));
            end.map_or(self.len(), |end| end.min(self.len()))
        };
        let start = number.checked_sub(1).map_or(0, end);
        start..end(number).max(start)
    }

    /// Ids and labels of the tokens in `range`, which lies within `0..len()`: the label of an id is its own, or [`IGNORE`].
    pub fn marks(&self, range: Range<usize>) -> (Vec<u32>, Vec<i32>) {
        let (mut ids, mut labels) = (Vec::new(), Vec::new());
        self.tokens(range.clone(), &mut ids);
        self.labels(range, &mut labels);
        (ids, labels)
    }

    /// How many of a row's tokens in `range` are learnt: nothing predicts the first.
    pub fn learnt(&self, range: Range<usize>) -> u64 {
        if !self.header.rows {
            return range.len().saturating_sub(1) as u64;
        }
        let mut labels = Vec::with_capacity(range.len());
        self.labels((range.start + 1).min(range.end)..range.end, &mut labels);
        labels.iter().filter(|&&label| label != IGNORE).count() as u64
    }

    /// Appends the labels of the tokens in `range`, which lies within `0..len()`, to `out`. Of a text these are the tokens
    /// themselves, of rows they may be [`IGNORE`].
    pub fn labels(&self, range: Range<usize>, out: &mut Vec<i32>) {
        let before = out.len();
        if !self.header.rows {
            let mut tokens = Vec::with_capacity(range.len());
            self.tokens(range, &mut tokens);
            out.extend(tokens.into_iter().map(|id| id as i32));
            return;
        }
        let start = self.len();
        let mut labels = Vec::with_capacity(range.len());
        self.numbers(start + range.start..start + range.end, &mut labels);
        let ignored = ignored(self.header.width);
        out.extend(labels.into_iter().map(|label| match label {
            label if label == ignored => IGNORE,
            label => label as i32,
        }));
        let known = |label: i32| label == IGNORE || (label as u32) < self.vocabulary;
        for label in out[before..].iter_mut().filter(|label| !known(**label)) {
            *label = IGNORE;
            self.tell_damage();
        }
    }

    /// UTF-8 bytes of the text of all documents.
    pub fn bytes(&self) -> u64 {
        self.header.bytes
    }

    /// Hexadecimal hash of the tokens: the same wherever the files lie and whenever they were
    /// written.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Appends the tokens in `range`, which lies within `0..len()`, to `out`. All are ids of the
    /// tokenizer's vocabulary, even if the file went bad.
    pub fn tokens(&self, range: Range<usize>, out: &mut Vec<u32>) {
        let before = out.len();
        self.numbers(range, out);
        self.replace_unknown(&mut out[before..]);
    }

    /// Appends what stands there, tokens first.
    fn numbers(&self, range: Range<usize>, out: &mut Vec<u32>) {
        let width = self.header.width;
        let data = &self.map[HEADER_BYTES..];
        let data = &data[range.start * width..range.end * width];
        if width == 2 {
            let (tokens, _) = data.as_chunks();
            out.extend(
                tokens
                    .iter()
                    .map(|&token| u32::from(u16::from_le_bytes(token))),
            );
        } else {
            let (tokens, _) = data.as_chunks();
            out.extend(tokens.iter().map(|&token| u32::from_le_bytes(token)));
        }
    }

    /// A large cache is not hashed before it is used. An id that no embedding has would end the run,
    /// which one wrong token is no reason for.
    fn replace_unknown(&self, tokens: &mut [u32]) {
        for token in tokens.iter_mut().filter(|id| **id >= self.vocabulary) {
            *token = self.end_of_text;
            self.tell_damage();
        }
    }

    fn tell_damage(&self) {
        self.damage_told.call_once(|| {
            tracing::warn!(
                "{}: what is not a token is read as an end of text; delete the file, and the next start makes it again",
                damaged(&self.path)
            );
        });
    }

    /// The tokens were there already.
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Header {
    /// The numbers and the hashes of the rest, then a hash of all that.
    fn encode(&self) -> Vec<u8> {
        let numbers = [
            self.width as u64,
            self.tokens as u64,
            self.documents as u64,
            self.bytes,
            self.left_out,
            u64::from(self.rows),
        ];
        let numbers = numbers.map(u64::to_le_bytes).concat();
        let mut header = [&MAGIC[..], &numbers, &self.hash, &self.rest].concat();
        header.extend(Sha256::digest(&header));
        header
    }

    /// Of the content of a whole file; nothing if it is not what [`Header::encode`] wrote, followed
    /// by that many tokens and documents.
    fn decode(file: &[u8]) -> Option<Self> {
        let (magic, rest) = file.split_first_chunk()?;
        let (numbers, rest) = rest.split_first_chunk::<48>()?;
        let (&hash, rest) = rest.split_first_chunk()?;
        let (&rest, _) = rest.split_first_chunk()?;
        let (numbers, _) = numbers.as_chunks();
        let long = |at: usize| u64::from_le_bytes(numbers[at]);
        let number = |at: usize| usize::try_from(long(at)).ok();
        let header = Self {
            width: number(0)?,
            tokens: number(1)?,
            documents: number(2)?,
            bytes: long(3),
            left_out: long(4),
            rows: long(5) == 1,
            hash,
            rest,
        };
        // What follows can be counted.
        let most = header.tokens.checked_mul(2 * 4)?;
        header.documents.checked_mul(8)?.checked_add(most)?;
        let whole = *magic == MAGIC
            && [2, 4].contains(&header.width)
            && file.starts_with(&header.encode())
            && file.len() - HEADER_BYTES == header.ends_at() + 8 * header.documents;
        whole.then_some(header)
    }

    /// Where the ends of documents lie behind the header.
    fn ends_at(&self) -> usize {
        let numbers = match self.rows {
            true => 2 * self.tokens,
            false => self.tokens,
        };
        numbers * self.width
    }

    /// That of the tokens, and in a corpus of rows of what belongs to them.
    fn fingerprint(&self) -> String {
        match self.rows {
            true => hex_hash(&[&self.hash, &self.rest]),
            false => hex(&self.hash),
        }
    }
}

/// What stands for [`IGNORE`] among labels of so many bytes.
fn ignored(width: usize) -> u32 {
    match width {
        2 => u32::from(u16::MAX),
        _ => u32::MAX,
    }
}

/// What ids are below.
fn vocabulary(options: &CorpusOptions, tokenizer: &Tokenizer) -> u32 {
    let tokens = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    options.vocabulary.map_or(tokens, |most| most.max(tokens))
}

/// The folder of the token caches: `$AIOS_CACHE_DIR`, else `aios/tokens` in the user's cache folder.
pub fn directory() -> PathBuf {
    let usual = || dirs::cache_dir().map(|directory| directory.join("aios").join("tokens"));
    cache::named()
        .or_else(usual)
        .unwrap_or_else(std::env::temp_dir)
}

/// The files of the corpus and the name of its tokens.
fn look(
    options: &CorpusOptions,
    tokenizer: &Tokenizer,
    watch: &mut Watch,
) -> Result<(Listing, CacheName)> {
    let fingerprint = tokenizer.fingerprint().to_string();
    listed(options, watch, move |listing, options| {
        let name = CacheName::new(options, &fingerprint, &listing.files)?;
        Ok((listing, name))
    })
}

/// An empty file in `directory`, or in the folder for temporary files if that cannot be written. It is locked, so that
/// others can tell whether the program that made it lives.
pub(super) fn create_part(directory: &Path, prefix: &str) -> Result<NamedTempFile> {
    let part = |directory: &Path| {
        let part = tempfile::Builder::new()
            .prefix(prefix)
            .suffix(PART_SUFFIX)
            .tempfile_in(directory)?;
        // Where there are no locks, age has to tell.
        let _ = part.as_file().try_lock();
        Ok(part)
    };
    match std::fs::create_dir_all(directory).and_then(|()| part(directory)) {
        Ok(part) => Ok(part),
        Err(error) => {
            tracing::warn!(
                "token cache folder {} cannot be written ({error}): the dataset is tokenized again at each start; set {} to a folder that can",
                shown(directory),
                cache::VARIABLE
            );
            let directory = std::env::temp_dir();
            part(&directory).map_err(|error| Error::io(&directory, "write to", error))
        }
    }
}

fn damaged(path: &Path) -> Error {
    Error::failed(format!("token cache {} is damaged", shown(path)))
}

#[cfg(test)]
mod tests;
