use tempfile::TempDir;

use super::*;
use aios_base::config::TextDocuments;

/// A folder for the corpus and one for the cache.
struct Place {
    root: TempDir,
    options: CorpusOptions,
}

impl Place {
    fn new(text: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("corpus.txt");
        std::fs::write(&path, text).unwrap();
        let options = CorpusOptions::new(path);
        Self { root, options }
    }

    fn cache_directory(&self) -> PathBuf {
        self.root.path().join("cache").join("tokens")
    }

    fn open(&self) -> Result<TokenCache> {
        let directory = self.cache_directory();
        TokenCache::open_or_build_in(&directory, &self.options, &gpt2(), &mut |_, _| Ok(()))
    }

    fn cached_files(&self) -> usize {
        std::fs::read_dir(self.cache_directory()).unwrap().count()
    }
}

fn gpt2() -> Tokenizer {
    Tokenizer::load("gpt2").unwrap()
}

fn all(cache: &TokenCache) -> Vec<u32> {
    let mut tokens = Vec::new();
    cache.tokens(0..cache.len(), &mut tokens);
    tokens
}

#[test]
fn documents_follow_each_other_with_end_of_text_after_each() {
    let cache = Place::new("Hello world\n\nHello").open().unwrap();
    assert_eq!(all(&cache), [15496, 995, 50256, 15496, 50256]);
    assert_eq!((cache.len(), cache.documents(), cache.bytes()), (5, 2, 16));
}

#[test]
fn ranges_are_appended() {
    let cache = Place::new("Hello world").open().unwrap();
    let mut tokens = vec![7];
    cache.tokens(1..3, &mut tokens);
    assert_eq!(tokens, [7, 995, 50256]);
}

#[test]
fn a_second_start_does_not_read_the_text() {
    let place = Place::new("Hello");
    assert!(!place.open().unwrap().reused());
    let mut read = 0;
    let directory = place.cache_directory();
    let mut progress = |bytes, _| {
        read += bytes;
        Ok(())
    };
    let cache = TokenCache::open_or_build_in(&directory, &place.options, &gpt2(), &mut progress);
    assert!(cache.unwrap().reused());
    assert_eq!(read, 0);
}

#[test]
fn progress_ends_at_the_size_of_the_corpus() {
    let place = Place::new("Hello");
    let mut last = (0, 0);
    let directory = place.cache_directory();
    let mut progress = |read, total| {
        last = (read, total);
        Ok(())
    };
    TokenCache::open_or_build_in(&directory, &place.options, &gpt2(), &mut progress).unwrap();
    assert_eq!(last, (5, 5));
}

#[test]
fn changed_text_replaces_the_cache() {
    let place = Place::new("Hello");
    let before = place.open().unwrap().fingerprint().to_string();
    std::fs::write(&place.options.path, "Hello world").unwrap();
    let cache = place.open().unwrap();
    assert!(!cache.reused());
    assert_ne!(cache.fingerprint(), before);
    assert_eq!(place.cached_files(), 1);
}

#[test]
fn changed_options_make_another_cache() {
    let mut place = Place::new("a\nb é");
    place.open().unwrap();
    place.options.text_documents = TextDocuments::Line;
    assert_eq!(place.open().unwrap().documents(), 2);
    place.options.ascii_only = true;
    assert_eq!(place.open().unwrap().bytes(), 3);
    assert_eq!(place.cached_files(), 3);
}

#[test]
fn the_fingerprint_is_that_of_the_tokens() {
    let [one, other] = [(); 2].map(|()| Place::new("Hello").open().unwrap());
    assert_ne!(one.path(), other.path());
    assert_eq!(one.fingerprint(), other.fingerprint());
}

#[test]
fn a_damaged_cache_is_made_again() {
    let place = Place::new("Hello world");
    let path = place.open().unwrap().path().to_path_buf();
    let bytes = std::fs::read(&path).unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..10], &[]] {
        std::fs::write(&path, damaged).unwrap();
        let cache = place.open().unwrap();
        assert!(!cache.reused());
        assert_eq!(cache.len(), 3);
    }
}

#[test]
fn a_flipped_bit_in_the_tokens_makes_the_cache_again() {
    let place = Place::new("Hello world");
    let path = place.open().unwrap().path().to_path_buf();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[HEADER_BYTES] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let cache = place.open().unwrap();
    assert!(!cache.reused());
    assert_eq!(all(&cache), [15496, 995, 50256]);
}

#[test]
fn what_is_not_a_token_is_read_as_an_end_of_text() {
    let place = Place::new("Hello world");
    let path = place.open().unwrap().path().to_path_buf();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[HEADER_BYTES..][..2].copy_from_slice(&50257_u16.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    // As a cache that is too large to be hashed.
    let cache = TokenCache::open(&path, &gpt2(), 50257, None).unwrap();
    let mut tokens = vec![u32::MAX];
    cache.tokens(0..3, &mut tokens);
    assert_eq!(tokens, [u32::MAX, 50256, 995, 50256]);
}

#[test]
fn an_unwritable_folder_is_replaced_by_a_temporary_file() {
    let place = Place::new("Hello");
    // A file where the folder should be stops even the administrator.
    std::fs::write(place.root.path().join("cache"), "").unwrap();
    let cache = place.open().unwrap();
    let path = cache.path().to_path_buf();
    assert_eq!(all(&cache), [15496, 50256]);
    drop(cache);
    assert!(!path.exists());
}

#[test]
fn a_failed_build_leaves_nothing_behind() {
    let place = Place::new("Hello\0");
    let error = place.open().unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("NUL at byte 5"), "{error}");
    assert_eq!(place.cached_files(), 0);
}

#[test]
fn an_empty_corpus_is_an_error() {
    let error = Place::new("\n \n<|endoftext|>\n").open().unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("corpus.txt is empty"), "{error}");
}

#[test]
fn a_corpus_without_ascii_is_an_error_with_ascii_only() {
    let mut place = Place::new("日本");
    place.options.ascii_only = true;
    let error = place.open().unwrap_err();
    assert!(error.to_string().contains("--ascii-only"), "{error}");
}

#[test]
fn tokens_of_four_bytes_are_read() {
    let header = Header {
        width: 4,
        tokens: 2,
        documents: 1,
        bytes: 3,
        left_out: 0,
        rows: false,
        hash: [9; 32],
        rest: [9; 32],
    };
    let mut tokens = [50_000_u32, 1].map(u32::to_le_bytes).concat();
    tokens.extend(2_u64.to_le_bytes());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [header.encode(), tokens].concat()).unwrap();
    let cache = TokenCache::open(file.path(), &gpt2(), 50257, None).unwrap();
    assert_eq!(all(&cache), [50_000, 1]);
}

#[test]
fn a_corpus_of_several_batches_has_the_ids_of_the_whole() {
    let text = "The quick brown fox doesn't jump. ".repeat(100_000);
    let cache = Place::new(&text).open().unwrap();
    let mut expected = gpt2().encode(&text).unwrap();
    expected.push(50256);
    assert!(all(&cache) == expected);
}

#[test]
fn numbers_of_the_header_are_covered_by_its_hash() {
    let place = Place::new("Hello world");
    let path = place.open().unwrap().path().to_path_buf();
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..HEADER_BYTES {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let cache = place.open().unwrap();
        assert!(!cache.reused(), "byte {at}");
        assert_eq!((cache.documents(), cache.bytes()), (1, 11));
    }
}

#[test]
fn tokens_of_the_former_format_are_made_again() {
    let place = Place::new("Hello world");
    let path = place.open().unwrap().path().to_path_buf();
    let mut former = b"aiostok\x01".to_vec();
    former.extend([2_u64, 2, 1, 5].map(u64::to_le_bytes).concat());
    former.extend(Sha256::digest([1, 0, 2, 0]));
    former.extend([1, 0, 2, 0]);
    std::fs::write(&path, &former).unwrap();
    let cache = place.open().unwrap();
    assert!(!cache.reused());
    assert_eq!(all(&cache), [15496, 995, 50256]);
}

#[test]
fn a_request_to_stop_is_obeyed_and_leaves_nothing() {
    let place = Place::new(&"Hello world. ".repeat(1_000_000));
    let directory = place.cache_directory();
    let mut asked = 0;
    let mut watch = |_, _| {
        asked += 1;
        if asked > 3 {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    };
    let stopped = TokenCache::open_or_build_in(&directory, &place.options, &gpt2(), &mut watch);
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(place.cached_files(), 0);
}

#[test]
fn a_text_that_changes_while_it_is_read_is_not_kept() {
    let place = Place::new(&"Hello world. ".repeat(100_000));
    let directory = place.cache_directory();
    let mut watch = |done, _| {
        if done > 0 {
            std::fs::write(&place.options.path, "Hello").unwrap();
        }
        Ok(())
    };
    let cache = TokenCache::open_or_build_in(&directory, &place.options, &gpt2(), &mut watch);
    drop(cache.unwrap());
    assert_eq!(place.cached_files(), 0);
    assert_eq!(place.open().unwrap().len(), 2);
}
