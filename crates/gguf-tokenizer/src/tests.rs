//! Small tokenizers of every kind (`testdata`, made by `scripts/make_gguf_tokenizers`), there and back.

use std::collections::HashMap;
use std::str::FromStr;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::vocabulary::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::{Entry, Vocabulary, tokenizer_config, tokenizer_json, vocabulary_of};

/// Text at which tokenizers differ.
const TEXTS: [&str; 22] = [
    "",
    " ",
    "   three blanks before, two behind  ",
    "1 12 123 1234 12345 123456 1234567 3.14159 ½ ² ٣٤٥ 一二三",
    "你好，世界！我想在apple工作1314151天～ こんにちは 안녕하세요 កាន់តែពិសេស",
    "👩‍👩‍👧‍👦 😶‍🌫️ 🏳️‍🌈 🦙🦙 ✅",
    "\t\ttabs\t\tin\tbetween\t",
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n",
    "lines\r\n\r\nof Windows\r\nand a Mac\r",
    "I've you're HE'S WE'LL they'd I'M 'Tis don't DON'T 'RE you sure? 'Ve",
    "<|im_start|>user\nhello<|im_end|><|endoftext|> <|begin_of_text|>x<|eot_id|>",
    "<s>x</s> <unk> <bos>y<eos> <end_of_turn>\n<table> <think> hm </think>",
    "<0x0A> [PAD5] [EMPTY_3] <0x",
    "\u{0}\u{1}\u{7f}\u{1b}[0m \u{2028} \u{85} \u{feff} \u{fffd} \u{10ffff}",
    "caf\u{e9} cafe\u{301} \u{1e9b}\u{323} ﬁ Ä ö ß",
    "zero\u{200b}width nbsp\u{a0}narrow\u{202f}ideographic\u{3000}blank",
    "a                                                                 b",
    "=========------- !!!!!!??????...... ,,,,'''''' \"\"\"``` $$^^~~||++<<>>",
    "нещо на Български ελληνικά עברית العربية हिन्दी ไทย",
    "▁ is SentencePiece's ▁▁blank▁",
    "ĠaĠb Ċ is how bytes are written",
    "the model and the tokens of the text that the program is to learn, all the same, is in the end there",
];

const FIXTURES: [(&str, &str); 7] = [
    ("gpt2", include_str!("../testdata/gpt2.json")),
    ("smollm2", include_str!("../testdata/smollm2.json")),
    ("llama3", include_str!("../testdata/llama3.json")),
    ("qwen2", include_str!("../testdata/qwen2.json")),
    ("llama2", include_str!("../testdata/llama2.json")),
    ("gemma", include_str!("../testdata/gemma.json")),
    ("uncut", include_str!("../testdata/uncut.json")),
];

/// More than any fixture has tokens.
const ROWS: usize = 640;

fn fixture(name: &str) -> Value {
    let found = FIXTURES.iter().find(|fixture| fixture.0 == name).unwrap();
    serde_json::from_str(found.1).unwrap()
}

fn exported(name: &str) -> Vocabulary {
    vocabulary_of(&fixture(name), None, None, None, ROWS).unwrap()
}

fn loaded(json: &Value) -> Tokenizer {
    Tokenizer::from_str(&json.to_string()).unwrap()
}

fn ids(tokenizer: &Tokenizer, text: &str, special: bool) -> Vec<u32> {
    tokenizer.encode(text, special).unwrap().get_ids().to_vec()
}

#[test]
fn there_and_back_ids_and_texts_are_the_same() {
    for (name, _) in FIXTURES {
        let original = loaded(&fixture(name));
        let back = loaded(&tokenizer_json(&exported(name)).unwrap());
        for text in TEXTS {
            for special in [false, true] {
                let expected = ids(&original, text, special);
                assert_eq!(ids(&back, text, special), expected, "{name}: {text:?}");
                let decoded = |tokenizer: &Tokenizer| tokenizer.decode(&expected, true).unwrap();
                assert_eq!(decoded(&back), decoded(&original), "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn a_second_round_changes_nothing() {
    for (name, _) in FIXTURES {
        let once = exported(name);
        let json = tokenizer_json(&once).unwrap();
        let config = tokenizer_config(&once);
        let twice = vocabulary_of(&json, Some(&config), None, None, ROWS).unwrap();
        assert_eq!(twice, once, "{name}");
    }
}

#[test]
fn metadata_says_all_of_it() {
    for (name, _) in FIXTURES {
        let mut vocabulary = exported(name);
        vocabulary.eot = Some(3);
        vocabulary.chat_template = Some("{{ messages }}".to_string());
        vocabulary.more_templates = vec![("tool_use".to_string(), "{{ tools }}".to_string())];
        let all: HashMap<String, Entry> = vocabulary.metadata().into_iter().collect();
        let read = Vocabulary::read(&|key| all.get(key).cloned()).unwrap();
        assert_eq!(read, vocabulary, "{name}");
    }
}

#[test]
fn a_pre_tokenizer_gets_llama_cpps_name() {
    let expected = [
        ("gpt2", "gpt2", "gpt-2"),
        ("smollm2", "gpt2", "smollm"),
        ("llama3", "gpt2", "llama-bpe"),
        ("qwen2", "gpt2", "qwen2"),
        ("llama2", "llama", "default"),
        ("gemma", "llama", "default"),
        ("uncut", "gpt2", "gemma4"),
    ];
    for (name, model, pre) in expected {
        let vocabulary = exported(name);
        assert_eq!(vocabulary.model, model, "{name}");
        assert_eq!(vocabulary.pre.as_deref(), Some(pre), "{name}");
    }
    let mut plain = fixture("uncut");
    plain["post_processor"] = Value::Null;
    let vocabulary = vocabulary_of(&plain, None, None, None, ROWS).unwrap();
    assert_eq!(vocabulary.pre.as_deref(), Some("sarvam-moe"));
}

#[test]
fn other_spellings_of_the_same_are_known() {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
    let split = |regex: &str, behavior: &str, invert: bool| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert});
    let llama3 = fixture("llama3")["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        .as_str()
        .unwrap()
        .to_string();
    let spelled = llama3.replace(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
    );
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let short = gpt2.replace("'s|'t|'re|'ve|'m|'ll|'d", "'(?:[sdmt]|ll|ve|re)");
    for (step, pre) in [
        (split(&spelled, "Isolated", false), "dbrx"),
        (split(&llama3, "Removed", true), "dbrx"),
        (split(gpt2, "Isolated", false), "gpt-2"),
        (split(&short, "Isolated", false), "gpt-2"),
        (
            split(&gpt2.replace("(?!\\S)|\\s+", "(?!\\S)"), "Isolated", false),
            "gpt-2",
        ),
    ] {
        let mut tokenizer = fixture("gpt2");
        tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [step, bytes]});
        let vocabulary = vocabulary_of(&tokenizer, None, None, None, ROWS).unwrap();
        assert_eq!(vocabulary.pre.as_deref(), Some(pre));
    }
    let mut tokenizer = fixture("llama2");
    tokenizer["normalizer"] = Value::Null;
    tokenizer["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    let vocabulary = vocabulary_of(&tokenizer, None, None, None, ROWS).unwrap();
    assert_eq!(vocabulary.add_space_prefix, Some(true));
}

#[test]
fn merges_that_give_every_token_may_be_ignored() {
    // In these all tokens are merged, and the two names differ in nothing else.
    let mut llama3 = fixture("llama3");
    llama3["model"]["ignore_merges"] = false.into();
    let pre = |tokenizer: &Value| {
        let vocabulary = vocabulary_of(tokenizer, None, None, None, ROWS);
        vocabulary.map(|vocabulary| vocabulary.pre.unwrap())
    };
    assert_eq!(pre(&llama3).unwrap(), "dbrx");
    let mut gpt2 = fixture("gpt2");
    gpt2["model"]["ignore_merges"] = true.into();
    assert_eq!(pre(&gpt2).unwrap(), "gpt-2");
    gpt2["model"]["merges"].as_array_mut().unwrap().pop();
    let error = pre(&gpt2).unwrap_err().to_string();
    assert!(error.contains("with ignore_merges"), "{error}");
}

#[test]
fn types_are_those_of_llama_cpps_converter() {
    let kind = |vocabulary: &Vocabulary, token: &str| {
        let at = vocabulary.tokens.iter().position(|t| t == token);
        vocabulary.types[at.unwrap_or_else(|| panic!("{token}"))]
    };
    let gemma = exported("gemma");
    for (token, expected) in [
        ("<unk>", UNKNOWN),
        ("<bos>", CONTROL),
        ("  ", USER_DEFINED),
        ("\n\n", USER_DEFINED),
        ("<table>", USER_DEFINED),
        ("<0x0A>", BYTE),
        ("e", NORMAL),
        ("[PAD639]", UNUSED),
    ] {
        assert_eq!(kind(&gemma, token), expected, "{token}");
    }
    assert_eq!(gemma.add_space_prefix, Some(false));
    let mut qwen = fixture("qwen2");
    let added = qwen["added_tokens"].as_array_mut().unwrap();
    added[0]["special"] = false.into();
    let qwen = vocabulary_of(&qwen, None, None, None, ROWS).unwrap();
    assert_eq!(kind(&qwen, "<|endoftext|>"), CONTROL);
    assert_eq!(kind(&qwen, "<think>"), USER_DEFINED);
}

/// llama.cpp's tokenizer of SentencePiece's vocabularies: any two neighbours that are a token together, the highest score
/// first, the leftmost of equal ones; characters without a token as bytes.
fn by_scores(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
    let all: HashMap<&str, u32> = (0..)
        .zip(&vocabulary.tokens)
        .map(|(i, t)| (t.as_str(), i))
        .collect();
    let text = match vocabulary.add_space_prefix {
        Some(true) => format!(" {text}"),
        _ => text.to_string(),
    };
    let text = text.replace(' ', "▁");
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..parts.len() {
            let whole = format!("{}{}", parts[at - 1], parts[at]);
            let Some(id) = all.get(whole.as_str()) else {
                continue;
            };
            let score = vocabulary.scores[*id as usize];
            if best.is_none_or(|best| score > best.0) {
                best = Some((score, at));
            }
        }
        let Some((_, at)) = best else { break };
        let right = parts.remove(at);
        parts[at - 1].push_str(&right);
    }
    let byte = |byte: u8| all[format!("<0x{byte:02X}>").as_str()];
    let of = |part: &String| match all.get(part.as_str()) {
        Some(id) => vec![*id],
        None => part.bytes().map(byte).collect(),
    };
    parts.iter().flat_map(of).collect()
}

#[test]
fn scores_give_llama_cpp_the_ids_that_merges_give() {
    let vocabulary = exported("llama2");
    let original = loaded(&fixture("llama2"));
    for text in TEXTS
        .iter()
        .filter(|text| !text.is_empty() && !text.contains('<'))
    {
        assert_eq!(
            by_scores(&vocabulary, text),
            ids(&original, text, false),
            "{text:?}"
        );
    }
}

#[test]
fn control_tokens_come_from_whoever_names_them() {
    let config = json!({"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "chat_template": [
        {"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]});
    let id = |name: &str| loaded(&fixture("smollm2")).token_to_id(name).unwrap();
    let (text, start, end) = (id("<|endoftext|>"), id("<|im_start|>"), id("<|im_end|>"));
    let generation =
        json!({"eos_token_id": [end, 7, text], "pad_token_id": text, "bos_token_id": 5});
    let vocabulary = vocabulary_of(
        &fixture("smollm2"),
        Some(&config),
        Some(&generation),
        None,
        ROWS,
    );
    let vocabulary = vocabulary.unwrap();
    assert_eq!((vocabulary.bos, vocabulary.eos), (Some(start), Some(end)));
    // llama.cpp knows the other by its name.
    assert_eq!((vocabulary.eot, vocabulary.padding), (Some(7), Some(text)));
    assert_eq!(vocabulary.ends(), [end, 7, text]);
    assert_eq!(vocabulary.chat_template.as_deref(), Some("a"));
    assert_eq!(
        vocabulary.more_templates,
        [("rag".to_string(), "b".to_string())]
    );
    let back = tokenizer_config(&vocabulary);
    assert_eq!(back["bos_token"], "<|im_start|>");
    assert_eq!(back["pad_token"], "<|endoftext|>");
    assert_eq!(back["add_bos_token"], false);
    // With nothing said, by name: llama.cpp would take a comma.
    assert_eq!(exported("gpt2").eos, Some(400));
}

#[test]
fn what_is_put_around_a_text_is_what_flags_say() {
    let mut vocabulary = exported("llama2");
    let put =
        |vocabulary: &Vocabulary| ids(&loaded(&tokenizer_json(vocabulary).unwrap()), "", true);
    assert_eq!(put(&vocabulary), [1]);
    (vocabulary.add_bos, vocabulary.add_eos, vocabulary.eos) = (Some(false), Some(true), Some(2));
    assert_eq!(put(&vocabulary), [2]);
    // SentencePiece's ids and llama.cpp's flags, where a file says neither.
    (vocabulary.bos, vocabulary.add_bos, vocabulary.add_eos) = (None, None, None);
    assert_eq!(put(&vocabulary), [1]);
    let mut vocabulary = exported("gpt2");
    (vocabulary.bos, vocabulary.add_bos) = (None, Some(true));
    let error = tokenizer_json(&vocabulary).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.ggml.bos_token_id is missing"),
        "{error}"
    );
}

#[test]
fn rows_without_a_token_are_not_in_the_file() {
    let mut vocabulary = exported("qwen2");
    for kind in [UNUSED, UNKNOWN, USER_DEFINED] {
        vocabulary.types[639] = kind;
        let json = tokenizer_json(&vocabulary).unwrap();
        let table = json["model"]["vocab"].as_object().unwrap();
        assert_eq!(table.len(), 405, "{kind}");
        assert_eq!(json["added_tokens"].as_array().unwrap().len(), 5, "{kind}");
    }
    // Anybody's own token.
    vocabulary.tokens[639] = "[PAD1]".to_string();
    let json = tokenizer_json(&vocabulary).unwrap();
    assert_eq!(json["model"]["vocab"]["[PAD1]"], 639);
}

#[test]
fn phi3s_control_tokens_swallow_blanks() {
    let mut vocabulary = exported("llama2");
    let mut token = |id: usize, text: &str| {
        vocabulary.tokens.resize_with(id + 1, String::new);
        vocabulary.types.resize(id + 1, CONTROL);
        vocabulary.scores.resize(id + 1, 0.0);
        vocabulary.tokens[id] = text.to_string();
    };
    token(32000, "<|endoftext|>");
    token(32001, "<|assistant|>");
    token(32002, "<|placeholder1|>");
    for (id, token) in vocabulary.tokens.iter_mut().enumerate() {
        if token.is_empty() {
            *token = format!("[{id}]");
        }
    }
    let tokenizer = loaded(&tokenizer_json(&vocabulary).unwrap());
    assert_eq!(
        ids(&tokenizer, "<|assistant|>\n <|endoftext|>", false)[..2],
        [32001, 32000]
    );
    let behind = ids(&tokenizer, "<|endoftext|>\n", false);
    assert!(behind.len() > 1, "{behind:?}");
}

#[test]
fn a_damaged_vocabulary_is_one_line() {
    type Damage = fn(&mut Vocabulary);
    let cases: [(&str, Damage, &str); 12] = [
        (
            "gpt2",
            |v| v.model = "bert".to_string(),
            "tokenizer.ggml.model is \"bert\"",
        ),
        ("gpt2", |v| v.pre = None, "tokenizer.ggml.pre is missing"),
        (
            "gpt2",
            |v| v.pre = Some("new\n".to_string()),
            "tokenizer.ggml.pre is \"new\\n\"",
        ),
        (
            "gpt2",
            |v| v.tokens.clear(),
            "tokenizer.ggml.tokens is empty",
        ),
        (
            "gpt2",
            |v| v.types.truncate(3),
            "tokenizer.ggml.token_type has 3 values for 640",
        ),
        (
            "gpt2",
            |v| v.tokens[7] = v.tokens[9].clone(),
            "is there twice, as 7 and 9",
        ),
        (
            "gpt2",
            |v| v.eos = Some(640),
            "tokenizer.ggml.eos_token_id is 640",
        ),
        (
            "gpt2",
            |v| v.merges[2] = "a".to_string(),
            "tokenizer.ggml.merges: number 2",
        ),
        (
            "gpt2",
            |v| v.merges[2] = "é nothing".to_string(),
            "tokenizer.ggml.merges: number 2",
        ),
        (
            "gpt2",
            |v| v.merges.clear(),
            "tokenizer.ggml.merges is missing",
        ),
        (
            "llama2",
            |v| v.scores.clear(),
            "tokenizer.ggml.scores is missing",
        ),
        (
            "llama2",
            |v| v.scores[300] = f32::NAN,
            "that of token 300 is no number",
        ),
    ];
    for (name, damage, expected) in cases {
        let mut vocabulary = exported(name);
        damage(&mut vocabulary);
        let error = tokenizer_json(&vocabulary).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let long = |v: &mut Vocabulary| v.tokens[9] = "x".repeat(10_000);
    let mut vocabulary = exported("llama2");
    long(&mut vocabulary);
    assert!(tokenizer_json(&vocabulary).is_err());
}

#[test]
fn metadata_of_another_kind_is_named() {
    for (key, value) in [
        ("tokenizer.ggml.tokens", Entry::U32(1)),
        ("tokenizer.ggml.scores", Entry::Bool(true)),
        (
            "tokenizer.ggml.bos_token_id",
            Entry::Text("<s>".to_string()),
        ),
        ("tokenizer.ggml.add_bos_token", Entry::U32(1)),
    ] {
        let mut all: HashMap<String, Entry> = exported("gpt2").metadata().into_iter().collect();
        all.insert(key.to_string(), value);
        let error = Vocabulary::read(&|key| all.get(key).cloned()).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
    let error = Vocabulary::read(&|_| None).unwrap_err().to_string();
    assert!(error.contains("tokenizer.ggml.model is missing"), "{error}");
}

#[test]
fn what_a_gguf_cannot_say_is_an_error() {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
    let cases = [
        ("gpt2", "/model/type", json!("Unigram"), "\"Unigram\""),
        (
            "gpt2",
            "/model/end_of_word_suffix",
            json!("</w>"),
            "end_of_word_suffix",
        ),
        (
            "gpt2",
            "/model/merges",
            json!([["a b", "c"]]),
            "model.merges[0]",
        ),
        (
            "gpt2",
            "/model/vocab",
            json!({"a": 5, "b": 5}),
            "are both 5",
        ),
        ("gpt2", "/model/vocab", json!({"a": 640}), "has 640 rows"),
        ("gpt2", "/model/vocab", json!({"a": -1}), "\"a\" is -1"),
        (
            "gpt2",
            "/normalizer",
            json!({"type": "Lowercase"}),
            "the normalizer is",
        ),
        (
            "gpt2",
            "/pre_tokenizer/add_prefix_space",
            json!(true),
            "the pre_tokenizer is",
        ),
        (
            "gpt2",
            "/pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "[aeiou]"}, "behavior": "Isolated"}, bytes]}),
            "text is cut at [aeiou]",
        ),
        ("gpt2", "/added_tokens/0/id", json!("x"), "added_tokens[0]"),
        (
            "gpt2",
            "/added_tokens/0/single_word",
            json!(true),
            "single_word",
        ),
        (
            "llama3",
            "/post_processor",
            json!({"type": "BertProcessing"}),
            "the post_processor is",
        ),
        (
            "llama2",
            "/model/byte_fallback",
            json!(false),
            "byte_fallback",
        ),
        (
            "llama2",
            "/model/merges",
            json!([["▁", "t"]]),
            "merges are not those",
        ),
        (
            "llama2",
            "/pre_tokenizer",
            json!({"type": "Whitespace"}),
            "the pre_tokenizer is",
        ),
    ];
    for (name, place, value, expected) in cases {
        let mut tokenizer = fixture(name);
        match tokenizer.pointer_mut(place) {
            Some(there) => *there = value,
            None => panic!("{name} has no {place}"),
        }
        let error = vocabulary_of(&tokenizer, None, None, None, ROWS)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{place}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let config = json!({"bos_token": "<|eot_id|>"});
    let error = vocabulary_of(&fixture("llama3"), Some(&config), None, None, ROWS).unwrap_err();
    assert!(error.to_string().contains("before a text"), "{error}");
}

#[test]
fn an_added_token_without_a_row_is_left_out() {
    let gpt2 = fixture("gpt2");
    assert_eq!(
        vocabulary_of(&gpt2, None, None, None, 401)
            .unwrap()
            .tokens
            .len(),
        401
    );
    assert_eq!(
        vocabulary_of(&gpt2, None, None, None, 400)
            .unwrap()
            .tokens
            .len(),
        400
    );
    assert!(vocabulary_of(&gpt2, None, None, None, 399).is_err());
}

/// Numbers that look random, the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % count.max(1)
    }
}

/// Puts something else into a place of a JSON value.
fn damage(value: &mut Value, dice: &mut Dice) {
    let other = [
        json!(null),
        json!(-1),
        json!(1e30),
        json!("▁ "),
        json!([]),
        json!({}),
        json!(true),
    ];
    let stop = dice.below(4) == 0;
    match value {
        Value::Object(map) if !stop && !map.is_empty() => {
            let at = dice.below(map.len());
            if let Some(inner) = map.values_mut().nth(at) {
                damage(inner, dice);
            }
        }
        Value::Array(list) if !stop && !list.is_empty() => {
            let at = dice.below(list.len());
            damage(&mut list[at], dice);
        }
        value => *value = other[dice.below(other.len())].clone(),
    }
}

#[test]
fn a_damaged_file_is_an_error_or_a_tokenizer() {
    let mut dice = Dice(7);
    for (name, _) in FIXTURES {
        let whole = fixture(name);
        for _ in 0..150 {
            let mut broken = whole.clone();
            for _ in 0..=dice.below(3) {
                damage(&mut broken, &mut dice);
            }
            let rows = [0, 300, ROWS][dice.below(3)];
            let vocabulary = vocabulary_of(&broken, Some(&broken), Some(&broken), None, rows);
            if let Ok(vocabulary) = vocabulary {
                assert_eq!(vocabulary.tokens.len(), rows, "{name}");
                let _ = (tokenizer_json(&vocabulary), tokenizer_config(&vocabulary));
            }
        }
    }
}
