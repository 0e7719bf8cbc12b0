use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::TokenCache;
use crate::corpus::list_files;
use crate::documents::{Piece, Reading, read_documents};
use aios_base::config::{CorpusOptions, TextDocuments};

fn of_project(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// Byte-level BPE with these parts in place of the file's own.
fn byte_level(changes: Value) -> Tokenizer {
    let file = of_project("training_data/sample_tokenizer/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    load(&json)
}

fn load(json: &Value) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::load(folder.path().to_str().unwrap()).unwrap()
}

/// The expression by which Llama 3 finds words.
fn llama_3() -> Tokenizer {
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split = json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let both = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
    byte_level(json!({"pre_tokenizer": both}))
}

/// BPE over characters, with blanks as SentencePiece has them.
fn pieces_of_text(parts: Value) -> Tokenizer {
    let mut tokens = vec![
        "<unk>".to_string(),
        "<|endoftext|>".to_string(),
        "\u{2581}".to_string(),
    ];
    tokens.extend((' '..='~').skip(1).map(|c| c.to_string()));
    let merges = [
        ("\u{2581}", "t"),
        ("h", "e"),
        ("e", "\u{2581}"),
        ("\u{2581}t", "he"),
        ("i", "n"),
    ];
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocab: serde_json::Map<_, _> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect();
    let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let mut json = json!({
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": merges},
        "decoder": {"type": "Fuse"},
    });
    for (key, value) in parts.as_object().unwrap() {
        json[key] = value.clone();
    }
    load(&json)
}

fn text() -> String {
    let text =
        std::fs::read_to_string(of_project("training_data/curated_datasets/test_sample.txt"));
    let text = text.unwrap().replace("\r\n", "\n");
    let end = text.floor_char_boundary(220_000);
    format!(
        "\n\n  Begin. {} <|endoftext|>日本 I'm  12345\n\n\t x \n",
        &text[..end]
    )
}

/// Ids of a text that is read as a file, and in how many pieces it came.
fn read(tokenizer: &Tokenizer, text: &str) -> (Vec<u32>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    std::fs::write(&path, text).unwrap();
    let options = CorpusOptions {
        text_documents: TextDocuments::Whole,
        ..CorpusOptions::new(path)
    };
    let reading = Reading {
        options: &options,
        meter: &Arc::default(),
        splits: &|text, at| tokenizer.splits_at(text, at),
        vocabulary: u32::MAX,
    };
    let mut pieces = Vec::new();
    let mut sink = |piece: Piece| {
        if let Piece::Text(piece, _) = piece {
            pieces.push(piece.to_string());
        }
        Ok(())
    };
    let files = list_files(&options).unwrap().files;
    read_documents(&files[0], &reading, &mut Default::default(), &mut sink).unwrap();
    assert!(pieces.concat() == text);
    let cache = folder.path().join("cache");
    let cache = TokenCache::open_or_build_in(&cache, &options, tokenizer, &mut |_, _| Ok(()));
    let cache = cache.unwrap();
    let mut ids = Vec::new();
    cache.tokens(0..cache.len(), &mut ids);
    (ids, pieces.len())
}

#[test]
fn a_file_has_the_ids_of_its_text_at_once() {
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let cases = [
        ("gpt2", Tokenizer::load("gpt2").unwrap(), true),
        ("byte level", byte_level(json!({})), true),
        (
            "prefixed",
            byte_level(json!({"pre_tokenizer": prefixed})),
            true,
        ),
        ("llama 3", llama_3(), true),
        (
            "metaspace",
            pieces_of_text(json!({"pre_tokenizer": metaspace})),
            true,
        ),
        (
            "no words",
            pieces_of_text(json!({"normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u{2581}"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]}})),
            false,
        ),
    ];
    let text = text();
    for (name, tokenizer, splits) in cases {
        let expected = tokenizer
            .with_control_tokens()
            .unwrap()
            .encode(&text)
            .unwrap();
        let end = expected
            .iter()
            .filter(|&&id| id == tokenizer.end_of_text())
            .count();
        assert_eq!(end, 1, "{name}");
        let (ids, pieces) = read(&tokenizer, &text);
        assert!(ids == expected, "{name}");
        assert_eq!(pieces > 2, splits, "{name}: {pieces}");
    }
}

/// A merge that crosses a blank is a reason not to cut there.
#[test]
fn a_cut_is_refused_where_it_would_change_a_token() {
    let tokenizer = pieces_of_text(
        json!({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}}),
    );
    assert!(!tokenizer.splits_at("one two", 3));
    let gpt2 = Tokenizer::load("gpt2").unwrap();
    assert!(gpt2.splits_at("one two", 3));
    assert!(!gpt2.splits_at("one two", 4));
    assert!(!gpt2.splits_at("one two", 2));
}
