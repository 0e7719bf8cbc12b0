use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Tokens in which everything occurs that a decoder looks at.
const TOKENS: [&str; 44] = [
    "[UNK]", "</s>", "<pad>", "a", "b", "▁a", "▁", "▁▁", "##b", "##", "Ġc", "Ċ", "ð", "Ł", "¦",
    "Ģ", "<0xE6>", "<0x97>", "<0xA5>", "<0x41>", "<0xFF>", "<0x4>", "<0xé>", ".", "n't", "'", "do",
    "not", "|", "H", "HH", "é日", "\u{FFFD}", "e</w>", "</w>", " ", "  x  ", "aab", "ab", "aa",
    "<|x|>", "Ń", "!", "ba",
];

fn tokenizer(decoder: &Value) -> Tokenizer {
    let vocab: serde_json::Map<_, _> = TOKENS
        .iter()
        .enumerate()
        .map(|(id, token)| (token.to_string(), id.into()))
        .collect();
    let special = |id: usize| {
        json!({"id": id, "content": TOKENS[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "added_tokens": [special(0), special(1), special(2)], "post_processor": null, "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    Tokenizer::load(path.to_str().unwrap()).unwrap()
}

fn replace(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

fn regex(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"Regex": from}, "content": to})
}

fn strip(content: &str, start: usize, stop: usize) -> Value {
    json!({"type": "Strip", "content": content, "start": start, "stop": stop})
}

fn chain(decoders: &[Value]) -> Value {
    json!({"type": "Sequence", "decoders": decoders})
}

/// Single steps and chains of them, as published tokenizers have them and as none has.
fn decoders() -> Vec<Value> {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let word_piece =
        |cleanup: bool| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let ctc = |cleanup: bool| json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": cleanup});
    let bpe = json!({"type": "BPEDecoder", "suffix": "</w>"});
    let fallback = json!({"type": "ByteFallback"});
    let fuse = json!({"type": "Fuse"});
    let mut all = vec![
        Value::Null,
        byte_level.clone(),
        word_piece(true),
        word_piece(false),
        metaspace("always"),
        metaspace("first"),
        metaspace("never"),
        ctc(true),
        ctc(false),
        bpe.clone(),
        fallback.clone(),
        fuse.clone(),
        strip("H", 1, 0),
        replace("aa", "b"),
        replace("a", ""),
        regex("a+", "x"),
        regex("(?=b)", "-"),
    ];
    let llama = [
        replace("▁", " "),
        fallback.clone(),
        fuse.clone(),
        strip(" ", 1, 0),
    ];
    all.push(chain(&llama));
    let behind =
        |first: &Value, then: &[Value]| chain(&[std::slice::from_ref(first), then].concat());
    for first in [&fuse, &byte_level] {
        for then in [
            vec![replace("aab", "H")],
            vec![replace("ab", ""), replace("ba", "abab")],
            vec![replace(" ", "")],
            vec![regex("a+", "")],
            vec![regex("\\s+$", "")],
            vec![strip("H", 2, 1)],
            vec![strip(" ", 0, 2), strip("a", 1, 1)],
            vec![metaspace("first"), strip(" ", 1, 0)],
            vec![word_piece(true)],
            vec![ctc(true)],
            vec![bpe.clone()],
            vec![fallback.clone()],
            vec![byte_level.clone()],
            vec![chain(&[fuse.clone(), metaspace("always")])],
        ] {
            all.push(behind(first, &then));
        }
    }
    all.extend([
        chain(&[ctc(false), metaspace("always")]),
        chain(&[metaspace("never"), word_piece(true), bpe]),
        chain(&[fallback, word_piece(false), metaspace("first")]),
        chain(&[]),
    ]);
    all
}

/// What the library makes of all ids at once, where it does not fail.
fn whole(tokenizer: &Tokenizer, ids: &[u32]) -> Option<String> {
    let Kind::Json { pipeline, .. } = &*tokenizer.kind else {
        panic!("it has no library");
    };
    aios_base::fault::contained(|| pipeline.decode(ids, true).ok()).ok()?
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pieces_are_the_whole_for_every_decoder(
        ids in proptest::collection::vec(0..TOKENS.len() as u32 + 2, 0..24))
    {
        thread_local! {
            static ALL: Vec<(Value, Tokenizer)> =
                decoders().into_iter().map(|d| (d.clone(), tokenizer(&d))).collect();
        }
        ALL.with(|all| -> Result<(), TestCaseError> {
            for (decoder, tokenizer) in all {
                let mut stream = tokenizer.stream_decoder();
                let mut text = String::new();
                for &id in &ids {
                    text.extend(stream.push(id).unwrap());
                }
                text.extend(stream.finish().unwrap());
                prop_assert_eq!(&text, &tokenizer.decode(&ids).unwrap());
                if let Some(whole) = whole(tokenizer, &ids) {
                    prop_assert_eq!(&text, &whole, "{}", decoder);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn pieces_are_the_whole_for_gpt2(ids in proptest::collection::vec(0..50_260_u32, 0..40)) {
        let gpt2 = Tokenizer::load("gpt2").unwrap();
        let known = ids.iter().filter(|&&id| id < GPT2_END_OF_TEXT);
        let core = tiktoken_rs::r50k_base_singleton();
        let bytes: Vec<u8> = known.flat_map(|&id| core.decode_bytes(&[id]).unwrap()).collect();
        prop_assert_eq!(gpt2.decode(&ids).unwrap(), String::from_utf8_lossy(&bytes));
    }
}

/// What an ordinary decoder holds back is at most a character.
#[test]
fn ordinary_text_comes_at_once() {
    let llama = chain(&[
        replace("▁", " "),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
        strip(" ", 1, 0),
    ]);
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let word_piece = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    for decoder in [llama, metaspace, word_piece, byte_level, Value::Null] {
        let tokenizer = tokenizer(&decoder);
        let mut stream = tokenizer.stream_decoder();
        for id in [3, 4, 27, 28, 3] {
            assert!(stream.push(id).unwrap().is_some(), "{decoder}");
        }
    }
}

#[test]
fn a_run_of_bytes_is_shown_once_it_is_certain() {
    let tokenizer = tokenizer(&json!({"type": "ByteFallback"}));
    let id = |token| TOKENS.iter().position(|t| *t == token).unwrap() as u32;
    let mut stream = tokenizer.stream_decoder();
    for token in ["<0xE6>", "<0x97>", "<0xA5>"] {
        assert_eq!(stream.push(id(token)).unwrap(), None);
    }
    assert_eq!(stream.push(id("a")).unwrap().as_deref(), Some("日a"));
    assert_eq!(stream.push(id("<0xFF>")).unwrap(), None);
    assert_eq!(stream.finish().unwrap().as_deref(), Some("\u{FFFD}"));
}

#[test]
fn decoders_that_make_gigabytes_are_stopped() {
    let double = || replace("a", "aa");
    let grows = |first: Vec<Value>| chain(&[first, (0..40).map(|_| double()).collect()].concat());
    let spaces = json!({"type": "BPEDecoder", "suffix": ""});
    for decoder in [
        grows(vec![]),
        grows(vec![json!({"type": "Fuse"})]),
        chain(&vec![spaces; 40]),
        chain(&vec![regex("a", "aa"); 40]),
        chain(&vec![regex("", "bb"); 40]),
        chain(&[json!({"type": "Fuse"}), chain(&vec![regex("a", "aa"); 40])]),
    ] {
        let error = tokenizer(&decoder).decode(&[3; 10]).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("decoder"), "{error}");
    }
}

#[test]
fn every_literal_is_replaced_as_it_stands() {
    for character in (b'!'..=b'~').map(char::from).chain(['é', '▁', '\n']) {
        let pattern = format!("a{character}");
        let replace: tokenizers::normalizers::Replace =
            serde_json::from_value(replace(&pattern, "x")).unwrap();
        let rule = Rule::of(&replace).unwrap();
        let text = format!("ba{character}b a {character}a");
        assert_eq!(rule.apply(&text, 100).unwrap(), text.replace(&pattern, "x"));
    }
}
