use super::*;
use bounds::MOST_BLANKS;
use files::CONFIG_FILE;

/// A word-level tokenizer of the given tokens, written to `directory`.
fn write_words(directory: &Path, tokens: &[&str]) {
    let vocab: serde_json::Map<_, _> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.to_string(), id.into()))
        .collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst",
            "stride": 0, "direction": "Right"},
        "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    });
    std::fs::write(directory.join(TOKENIZER_FILE), json.to_string()).unwrap();
}

fn load(directory: &Path) -> Result<Tokenizer> {
    Tokenizer::load(directory.to_str().unwrap())
}

#[test]
fn gpt2_gives_the_published_ids() {
    let gpt2 = Tokenizer::load("gpt2").unwrap();
    assert_eq!(gpt2.encode("Hello world").unwrap(), [15496, 995]);
    assert_eq!((gpt2.vocab_size(), gpt2.end_of_text()), (50257, 50256));
}

#[test]
fn gpt2_takes_the_separator_in_text_literally() {
    let gpt2 = Tokenizer::load("gpt2").unwrap();
    let ids = gpt2.encode("<|endoftext|>").unwrap();
    assert!(!ids.contains(&gpt2.end_of_text()));
    assert_eq!(gpt2.decode(&ids).unwrap(), "<|endoftext|>");
}

#[test]
fn decode_skips_control_and_unknown_ids() {
    let gpt2 = Tokenizer::load("gpt2").unwrap();
    assert_eq!(
        gpt2.decode(&[15496, 50256, 60000, 995]).unwrap(),
        "Hello world"
    );
}

#[test]
fn gpt2_survives_a_save() {
    let directory = tempfile::tempdir().unwrap();
    let gpt2 = Tokenizer::load("gpt2").unwrap();
    gpt2.save(directory.path()).unwrap();
    let back = load(directory.path()).unwrap();
    assert_eq!(
        (back.name(), back.fingerprint()),
        ("gpt2", gpt2.fingerprint())
    );
}

#[test]
fn a_json_tokenizer_survives_a_save() {
    let [source, copy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    write_words(source.path(), &["[UNK]", "cat", "dog", "stop"]);
    std::fs::write(
        source.path().join(CONFIG_FILE),
        r#"{"eos_token":{"content":"stop"}}"#,
    )
    .unwrap();
    let tokenizer = load(source.path()).unwrap();
    tokenizer.save(copy.path()).unwrap();
    let back = load(copy.path()).unwrap();
    assert_eq!(back.end_of_text(), 3);
    assert_eq!(back.fingerprint(), tokenizer.fingerprint());
    assert_eq!(back.name(), tokenizer.name());
}

#[test]
fn a_json_tokenizer_is_not_truncated() {
    let directory = tempfile::tempdir().unwrap();
    write_words(directory.path(), &["[UNK]", "cat", "dog", "</s>"]);
    let tokenizer = load(&directory.path().join(TOKENIZER_FILE)).unwrap();
    assert_eq!(tokenizer.encode("cat dog cat eel").unwrap(), [1, 2, 1, 0]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (4, 3));
}

#[test]
fn no_end_of_text_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    write_words(directory.path(), &["[UNK]", "cat"]);
    let error = load(directory.path()).err().unwrap().to_string();
    assert!(error.contains("no end-of-text token"), "{error}");
}

#[test]
fn a_folder_without_a_tokenizer_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = load(directory.path()).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("holds no tokenizer.json"));
}

#[test]
fn what_can_be_neither_path_nor_hub_id_is_refused_at_once() {
    let error = Tokenizer::load("./no/such/place").err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("./no/such/place"));
}

#[test]
fn a_stream_holds_back_half_characters() {
    let gpt2 = Tokenizer::load("gpt2").unwrap();
    let text = "naïve 🦀 日本語!";
    let mut decoder = gpt2.stream_decoder();
    let parts: Vec<String> = gpt2
        .encode(text)
        .unwrap()
        .into_iter()
        .filter_map(|id| decoder.push(id).unwrap())
        .collect();
    assert_eq!(parts.concat(), text);
    assert!(parts.iter().all(|part| !part.contains('\u{FFFD}')));
    assert_eq!(decoder.finish().unwrap(), None);
}

#[test]
fn a_stream_of_broken_bytes_comes_out_in_the_end() {
    let gpt2 = Tokenizer::load("gpt2").unwrap();
    let crab = gpt2.encode("🦀").unwrap();
    let mut decoder = gpt2.stream_decoder();
    let shown: Vec<_> = (0..40)
        .filter_map(|_| decoder.push(crab[0]).unwrap())
        .collect();
    assert!(!shown.is_empty());
    assert!(decoder.finish().unwrap().unwrap().contains('\u{FFFD}'));
}

/// A tokenizer of a few words in which the parts named are replaced; what becomes of it when it is loaded and of a
/// text.
fn outcome(parts: serde_json::Value, text: &str) -> Result<Vec<u32>> {
    let directory = tempfile::tempdir().unwrap();
    write_words(directory.path(), &["[UNK]", "a", "</s>"]);
    let path = directory.path().join(TOKENIZER_FILE);
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (name, part) in parts.as_object().unwrap() {
        json[name] = part.clone();
    }
    std::fs::write(&path, json.to_string()).unwrap();
    load(&path)?.encode(text)
}

#[track_caller]
fn assert_one_error(parts: serde_json::Value, text: &str) {
    let mut shown = parts.to_string();
    shown.truncate(200);
    let error = outcome(parts, text).expect_err(&shown);
    assert_eq!(error.exit_code(), 1, "{error}");
    let error = error.to_string();
    assert!(error.contains(TOKENIZER_FILE), "{error}");
    assert!(!error.contains('\n') && error.len() < 1000, "{error}");
}

#[test]
fn what_the_library_panics_at_is_one_error() {
    let bpe = serde_json::json!({"type": "BPE", "continuing_subword_prefix": "#".repeat(200),
        "vocab": {"a": 0, "b": 1, "ab": 3, "</s>": 2}, "merges": ["a b"]});
    for parts in [
        serde_json::json!({"model": bpe}),
        serde_json::json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}),
        serde_json::json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}),
        serde_json::json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}}),
        serde_json::json!({"normalizer": {"type": "Precompiled"}}),
        serde_json::json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["", 0.0], ["</s>", 0.0]]}}),
        serde_json::json!({"model": {"type": "Unigram", "unk_id": 9, "vocab": [["</s>", 0.0]]}}),
        serde_json::json!({"model": {"type": "Unigram", "unk_id": null, "vocab": [["</s>", 0.0]]}}),
        serde_json::json!({"added_tokens": [{"id": 0}]}),
        serde_json::json!({"model": null}),
    ] {
        assert_one_error(parts, "a b c");
    }
}

/// The library would run out of stack, or of memory.
#[test]
fn pieces_far_longer_than_any_are_refused() {
    let piece = "x".repeat(1000);
    let long = vec![serde_json::json!(["y".repeat(300_000), 0.0])];
    let many = (0..20_000).map(|i| serde_json::json!([format!("{i}{piece}"), 0.0]));
    for pieces in [long, many.collect()] {
        let pieces = [vec![serde_json::json!(["</s>", 0.0])], pieces].concat();
        let model = serde_json::json!({"type": "Unigram", "unk_id": 0, "vocab": pieces});
        assert_one_error(serde_json::json!({"model": model}), "a");
    }
    let ordinary = serde_json::json!({"type": "Unigram", "unk_id": 0,
        "vocab": [["</s>", 0.0], ["a", -1.0], [piece, -2.0]]});
    assert_eq!(
        outcome(serde_json::json!({"model": ordinary}), "a").unwrap(),
        [1]
    );
}

/// The library would look for ever.
#[test]
fn an_added_token_of_which_nothing_is_left_is_an_error() {
    let added = serde_json::json!([{"id": 3, "content": "<x>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": true, "special": false}]);
    let normalizer =
        serde_json::json!({"type": "Replace", "pattern": {"String": "<x>"}, "content": ""});
    assert_one_error(
        serde_json::json!({"added_tokens": added, "normalizer": normalizer}),
        "a b",
    );
}

/// The library would make room for as many entries as the table says to have.
#[test]
fn a_table_that_claims_to_be_huge_is_an_error() {
    let table = "/////wAAAAA=";
    let normalizer = serde_json::json!({"type": "Sequence", "normalizers": [
        {"type": "NFC"}, {"type": "Precompiled", "precompiled_charsmap": table}]});
    assert_one_error(serde_json::json!({"normalizer": normalizer}), "a");
}

#[test]
fn ids_far_beyond_every_vocabulary_are_refused() {
    for id in [4_294_967_295_u32, 1 << 22] {
        let model = serde_json::json!({"type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {"[UNK]": 0, "</s>": 1, "x": id}});
        assert_one_error(serde_json::json!({"model": model}), "a");
    }
}

#[test]
fn rules_that_make_gigabytes_of_a_text_are_stopped() {
    let many = |rule: serde_json::Value| vec![rule; 40];
    let sequence = |rules| serde_json::json!({"type": "Sequence", "normalizers": rules});
    let replace = |pattern: serde_json::Value, content: &str| {
        serde_json::json!({
        "type": "Replace", "pattern": pattern, "content": content})
    };
    let string = |from: &str| serde_json::json!({"String": from});
    let regex = |from: &str| serde_json::json!({"Regex": from});
    let nested = many(replace(string("a"), "aa"))
        .into_iter()
        .fold(serde_json::json!({"type": "NFC"}), |inner, rule| {
            sequence(vec![sequence(vec![rule]), inner])
        });
    for normalizer in [
        sequence(many(replace(string("a"), "aa"))),
        sequence(many(replace(regex("a"), "aa"))),
        sequence(many(replace(regex("(?=a)"), "a"))),
        sequence(many(serde_json::json!({"type": "ByteLevel"}))),
        sequence(many(
            serde_json::json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)}),
        )),
        replace(string("a"), &"b".repeat(1 << 20)),
        nested,
    ] {
        let parts = serde_json::json!({"normalizer": normalizer, "pre_tokenizer": null});
        assert_one_error(parts, &"é a ".repeat(10_000));
    }
    let levels = many(
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": true,
        "trim_offsets": true, "use_regex": false}),
    );
    let pre_tokenizer = serde_json::json!({"type": "Sequence", "pretokenizers": levels});
    assert_one_error(
        serde_json::json!({"pre_tokenizer": pre_tokenizer}),
        &"é a ".repeat(10_000),
    );
}

#[test]
fn rules_of_ordinary_tokenizers_have_room() {
    let replace = |from: &str, to: &str| {
        serde_json::json!({
        "type": "Replace", "pattern": {"String": from}, "content": to})
    };
    let mut rules = vec![
        serde_json::json!({"type": "NFKC"}),
        serde_json::json!({"type": "Prepend", "prepend": "▁"}),
    ];
    rules.extend([".", ",", "!", "?", ":", ";"].map(|mark| replace(mark, &format!(" {mark} "))));
    rules.push(replace(" ", "▁"));
    let parts = serde_json::json!({"normalizer": {"type": "Sequence", "normalizers": rules}, "pre_tokenizer": null});
    for text in ["", "\u{FDFA}", &"!".repeat(5000), &"\u{FDFA} ".repeat(1000)] {
        outcome(parts.clone(), text).unwrap();
    }
}

#[test]
fn files_nested_as_deep_as_json_may_be_are_no_obstacle() {
    for depth in [50, 100_000] {
        let open = r#"{"type":"Sequence","normalizers":["#.repeat(depth);
        let close = "]}".repeat(depth);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(TOKENIZER_FILE);
        let text = format!(r#"{{"normalizer":{open}{{"type":"NFC"}}{close},"model":{{}}}}"#);
        std::fs::write(&path, text).unwrap();
        let error = load(&path).err().unwrap().to_string();
        assert!(error.contains("not a tokenizer file"), "{error}");
    }
}

#[test]
fn a_text_keeps_its_ids_whatever_is_left_to_chance() {
    let model = serde_json::json!({"type": "BPE", "dropout": 0.9, "merges": ["a b"],
        "vocab": {"a": 0, "b": 1, "ab": 2, "</s>": 3}});
    let ids = outcome(serde_json::json!({"model": model}), &"ab".repeat(50)).unwrap();
    assert_eq!(ids, [2; 50]);
}

/// The library would take all that follows for one piece, without a word.
#[test]
fn more_blanks_than_a_regular_expression_takes_are_an_error() {
    let byte_level = |regex| {
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": regex})
    };
    let pattern = r"[^\S\r\n]?\p{L}+| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split = serde_json::json!({"type": "Split", "pattern": {"Regex": pattern},
        "behavior": "Isolated", "invert": false});
    let both = serde_json::json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]});
    let model = serde_json::json!({"type": "BPE", "merges": ["a ."],
        "vocab": {"a": 0, ".": 1, "a.": 2, "\u{120}": 3, "\u{10a}": 4, "</s>": 5}});
    for pre_tokenizer in [byte_level(true), both] {
        let ids = |blanks: usize| {
            let parts = serde_json::json!({"model": model, "pre_tokenizer": pre_tokenizer});
            outcome(parts, &format!("a.{}a.", " ".repeat(blanks)))
        };
        for blanks in [1, MOST_BLANKS] {
            let ids = ids(blanks).unwrap();
            assert_eq!(
                (ids.len(), &ids[ids.len() - 2..]),
                (blanks + 4, &[0, 1][..])
            );
        }
        let error = ids(MOST_BLANKS + 1).unwrap_err().to_string();
        assert!(error.contains("blanks in a row"), "{error}");
    }
}

#[test]
fn tokens_that_surround_a_text_are_left_off() {
    let twice = serde_json::json!({"type": "TemplateProcessing", "pair": [], "special_tokens": {},
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]});
    let ids = outcome(serde_json::json!({"post_processor": twice}), "a").unwrap();
    assert_eq!(ids, [1]);
}

#[test]
fn what_stands_before_a_text_is_told() {
    use crate::tokenizer::pipeline::Before;
    let template = serde_json::json!({"type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]},
            "</s>": {"id": "</s>", "ids": [8], "tokens": ["</s>"]}}});
    let bytes = serde_json::json!({"type": "ByteLevel"});
    let both = serde_json::json!({"type": "Sequence", "processors": [bytes, template]});
    let bert =
        serde_json::json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
    for (described, want) in [
        (template, vec![7]),
        (both, vec![7]),
        (bert, vec![2]),
        (bytes, vec![]),
        (serde_json::Value::Null, vec![]),
        (
            serde_json::json!({"type": "TemplateProcessing", "single": 3}),
            vec![],
        ),
    ] {
        let before: Before = serde_json::from_value(described.clone()).unwrap();
        assert_eq!(before.0, want, "{described}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_does_not_block() {
    use std::os::unix::net::UnixListener;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket.json");
    let _socket = UnixListener::bind(&path).unwrap();
    let error = load(&path).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("neither a file"), "{error}");
    assert_eq!(load(Path::new("/dev/zero")).err().unwrap().exit_code(), 2);
}
