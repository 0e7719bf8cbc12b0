//! Texts and a tokenizer that are part of the program: a first run needs no download and no clone.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::ZlibDecoder;

use crate::cache::directory;
use crate::corpus::CorpusFile;
use crate::hash::hex_hash;
use aios_base::config::BUILT_IN;
use aios_base::error::{Error, Result};

/// A text of the program's own.
struct Text {
    name: &'static str,
    /// By which readers tell its layout.
    extension: &'static str,
    compressed: &'static [u8],
}

const TEXTS: [Text; 2] = [
    // Half a megabyte of short stories.
    Text {
        name: "stories",
        extension: "txt",
        compressed: include_bytes!(concat!(env!("OUT_DIR"), "/test_sample.zlib")),
    },
    // Conversations whose every answer is a JSON object of one form.
    Text {
        name: "chat",
        extension: "jsonl",
        compressed: include_bytes!(concat!(env!("OUT_DIR"), "/chat_sample.zlib")),
    },
];

/// 1,024 tokens of the stories' own words.
const TOKENIZER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tokenizer.zlib"));

/// What can be named, for messages.
pub(super) fn names() -> String {
    let [first, second] = TEXTS.map(|text| text.name);
    format!("{BUILT_IN}{first} or {BUILT_IN}{second} for a text that is part of this program")
}

/// The text `builtin:NAME`, as a file beside the token caches, which is written unless it is there.
///
/// # Errors
/// There is none of that name (exit code 2), or no place to write it.
pub(super) fn text(name: &str) -> Result<CorpusFile> {
    text_in(&directory(), name)
}

fn text_in(directory: &Path, name: &str) -> Result<CorpusFile> {
    let Some(text) = TEXTS.iter().find(|text| text.name == name) else {
        return Err(Error::invalid(format!(
            "dataset {BUILT_IN}{name} does not exist: give {}",
            names()
        )));
    };
    let bytes = unpacked(text.compressed)?;
    let hash = hex_hash(&[&bytes]);
    let file = format!("builtin-{name}-{}.{}", &hash[..16], text.extension);
    let path = placed(directory, &file, &bytes)
        .or_else(|_| placed(&std::env::temp_dir(), &file, &bytes))?;
    let metadata = std::fs::metadata(&path).map_err(|error| Error::io(&path, "read", error))?;
    Ok(CorpusFile {
        name: format!("{BUILT_IN}{name}"),
        ..CorpusFile::new(&path, &metadata)
    })
}

/// The tokenizer.json of `builtin:NAME`.
///
/// # Errors
/// There is none of that name (exit code 2).
pub(super) fn tokenizer(name: &str) -> Result<Vec<u8>> {
    let own = TEXTS[0].name;
    match name == own {
        true => unpacked(TOKENIZER),
        false => Err(Error::invalid(format!(
            "tokenizer {BUILT_IN}{name} does not exist: give {BUILT_IN}{own}, gpt2, a folder with a tokenizer.json, or a Hub id"
        ))),
    }
}

fn unpacked(compressed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = ZlibDecoder::new(compressed).read_to_end(&mut bytes);
    read.map_err(|cause| Error::failed(format!("this program is damaged: {cause}")))?;
    Ok(bytes)
}

/// A file with these bytes in `directory`: one that is there and holds them, else a new one in its place.
fn placed(directory: &Path, file: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = directory.join(file);
    if std::fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(path);
    }
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let mut part = tempfile::NamedTempFile::new_in(directory)?;
        part.write_all(bytes)?;
        part.persist(&path)?;
        Ok(())
    };
    write().map_err(|error| Error::io(&path, "write", error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokenizer;
    use crate::corpus::Named;

    fn of_the_project(file: &str) -> Vec<u8> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../training_data");
        std::fs::read(root.join(file)).unwrap()
    }

    #[test]
    fn texts_are_those_of_the_project() {
        let folder = tempfile::tempdir().unwrap();
        for (name, file, named) in [
            ("stories", "test_sample.txt", Named::Text),
            ("chat", "chat_sample.jsonl", Named::JsonLines),
        ] {
            let text = text_in(folder.path(), name).unwrap();
            let expected = of_the_project(&format!("curated_datasets/{file}"));
            assert!(std::fs::read(&text.path).unwrap() == expected, "{name}");
            assert_eq!(text.named, Some(named));
            assert_eq!(text.name, format!("builtin:{name}"));
        }
    }

    #[test]
    fn the_tokenizer_is_that_of_the_project_under_its_own_name() {
        assert!(tokenizer("stories").unwrap() == of_the_project("sample_tokenizer/tokenizer.json"));
        let tokenizer = Tokenizer::load("builtin:stories").unwrap();
        assert_eq!(
            (tokenizer.name(), tokenizer.vocab_size()),
            ("builtin:stories", 1024)
        );
    }

    #[test]
    fn an_unknown_name_is_a_bad_argument_that_names_the_known() {
        let errors = [text("tales").unwrap_err(), tokenizer("tales").unwrap_err()];
        for error in errors {
            assert_eq!(error.exit_code(), 2);
            let message = error.to_string();
            assert!(message.contains("builtin:tales"), "{message}");
            assert!(message.contains("builtin:stories"), "{message}");
        }
    }

    #[test]
    fn what_was_changed_is_written_again_and_what_is_right_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        let path = placed(&inner, "t.txt", b"text").unwrap();
        std::fs::write(&path, "other").unwrap();
        placed(&inner, "t.txt", b"text").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        placed(&inner, "t.txt", b"text").unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().modified().unwrap(),
            before
        );
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1);
    }
}
